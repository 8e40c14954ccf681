//! Vectors that were made before, in a folder: the same texts, by the same model, are not embedded again.
//!
//! A model has two files: `<model>.vectors` with its vectors one after another, and `<model>.keys` with an entry for each of them.
//! Both only grow. A vector counts once its entry is whole, so a process may be killed at any time, and the next one goes on where it
//! was. Entries have a checksum of their vector; what does not fit is embedded again.
//!
//! Of several ranks, rank 0 alone has the folder: it hands out what is there, and keeps what all of them make.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use embertune_kernels::Ops;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::among::{check_alike, take_from_first};
use super::{Job, Vectors, embed, note_truncated, plural};
use crate::comm::{Alone, Communicator, by_first};
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::progress::{Progress, Silent};
use crate::text::Role;

/// Changes whenever the files are laid out otherwise.
const FORMAT: u8 = 1;
/// So many new vectors are made at most, then written.
pub(crate) const SLICE: usize = 4096;
/// A slice of texts ends at so many bytes of them: what an interruption loses at most. About 250,000 tokens, which a BERT-base takes a
/// minute or two for on two cores.
const SLICE_BYTES: usize = 1 << 20;
/// Key (16 bytes), checksum of the vector (8), whether its text was cut (1).
const ENTRY: usize = 25;
/// The most that its files may take, where nobody says, in GB.
pub const LIMIT_GB: f64 = 10.0;
/// Shows in its last bits how this machine computes: in f32 or bf16, and with which instructions.
const PROBE: &str = "the vector of this text tells apart what computes otherwise";

/// A folder of vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorCache {
    /// The folder; it is made where there is none.
    pub folder: PathBuf,
    /// The most that its files may take together. What was not used for the longest time goes first, model by model.
    pub limit_bytes: u64,
}

/// How many texts go through a model at once, where vectors are kept, and who makes them; from a number, they are not kept, and this process
/// makes them alone.
#[derive(Clone, Copy)]
pub struct Embedding<'a> {
    /// Texts that go through the model at once.
    pub batch_size: usize,
    /// Vectors that are there already, and where new ones go.
    pub cache: Option<&'a VectorCache>,
    /// The ranks that make the vectors together; all of them get all vectors.
    pub ranks: &'a dyn Communicator,
}

impl VectorCache {
    /// One whose files may take `limit_gb` together.
    pub fn new(folder: PathBuf, limit_gb: f64) -> Self {
        VectorCache { folder, limit_bytes: (limit_gb * 1e9) as u64 }
    }
}

impl From<usize> for Embedding<'_> {
    fn from(batch_size: usize) -> Self {
        Embedding { batch_size, cache: None, ranks: &Alone }
    }
}

impl Embedding<'_> {
    /// As [`embed`] with the model's own maximum length; vectors that are in the cache are read from it, bit for bit as they were made.
    /// All ranks call it with the same texts, and get what one process would get, to the last bit where their processors are alike.
    ///
    /// # Errors
    /// Those of [`embed`], on any rank, and of the cache's files; ranks that have other texts or another model than rank 0.
    pub fn embed<O: Ops>(
        self,
        model: &EmbeddingModel<O>,
        texts: &[&str],
        role: Role,
        progress: &dyn Progress,
    ) -> Result<Vectors> {
        let job = Job { role, max_len: None, batch_size: self.batch_size, ranks: self.ranks };
        match self.cache {
            None => job.embed(model, texts, progress),
            Some(cache) => cache.embed(job, model, texts, progress),
        }
    }
}

impl VectorCache {
    fn embed<O: Ops>(
        &self,
        job: Job<'_>,
        model: &EmbeddingModel<O>,
        texts: &[&str],
        progress: &dyn Progress,
    ) -> Result<Vectors> {
        let Job { role, batch_size, ranks, .. } = job;
        check_alike(model, texts, batch_size, ranks)?;
        let keys: Vec<_> = texts.iter().map(|text| key_of(text, role)).collect();
        let mut vectors = Vectors { values: vec![0.0; texts.len() * model.dim()], dim: model.dim(), n_truncated: 0 };
        let mut store = None;
        // Of each text that has a vector, whether it was cut.
        let mut known = by_first(ranks, || {
            let store = store.insert(Store::open(self, model)?);
            let is_made = store.read(&keys, &mut vectors)?;
            let of_text = |(key, is_made): (&u128, &bool)| is_made.then(|| store.entries[key].is_cut);
            Ok(keys.iter().zip(&is_made).map(of_text).collect::<Vec<_>>())
        })?;
        let made: Vec<_> = (0..texts.len()).filter(|&text| known[text].is_some()).collect();
        take_from_first(&made, ranks, &mut vectors)?;
        let mut first_of = HashMap::new();
        let mut missing = Vec::new();
        for (text, key) in keys.iter().enumerate().filter(|(text, _)| known[*text].is_none()) {
            if *first_of.entry(*key).or_insert(text) == text {
                missing.push(text);
            }
        }
        if !made.is_empty() {
            let (n_known, n, what) = (made.len(), texts.len(), plural(role));
            progress.note(&format!("vectors of {n_known} of {n} {what} are in {}", self.folder.display()));
        }
        if !missing.is_empty() {
            progress.start(&format!("embedding {}", plural(role)), missing.len() as u64);
            // The longest first, as within a call.
            missing.sort_by_key(|text| std::cmp::Reverse(texts[*text].len()));
            for slice in slices(&missing, |text| texts[text].len()) {
                let of_slice: Vec<_> = slice.iter().map(|text| texts[*text]).collect();
                let (new, is_cut) = job.compute(model, &of_slice, progress)?;
                for ((&text, vector), &is_cut) in slice.iter().zip(new.chunks_exact(model.dim())).zip(&is_cut) {
                    vectors.values[text * model.dim()..][..model.dim()].copy_from_slice(vector);
                    known[text] = Some(is_cut);
                }
                by_first(ranks, || {
                    let Some(store) = &store else { return Ok(()) };
                    store.append(slice.iter().map(|text| keys[*text]), &new, &is_cut)?;
                    self.make_room(&store.name)
                })?;
            }
            progress.finish();
        }
        for (text, key) in keys.iter().enumerate() {
            let first = first_of.get(key).copied().unwrap_or(text);
            vectors.values.copy_within(first * model.dim()..(first + 1) * model.dim(), text * model.dim());
            vectors.n_truncated += usize::from(known[first] == Some(true));
        }
        note_truncated(model, &vectors, role, None, progress);
        Ok(vectors)
    }

    /// Deletes what was not used for the longest time until the rest fits; never the files of `in_use`.
    fn make_room(&self, in_use: &str) -> Result<()> {
        let mut models: HashMap<String, (SystemTime, u64)> = HashMap::new();
        for file in fs::read_dir(&self.folder).map_err(Error::io(&self.folder, "read"))? {
            let file = file.map_err(Error::io(&self.folder, "read"))?;
            let (name, data) = (file.file_name(), file.metadata().map_err(Error::io(&file.path(), "read"))?);
            let Some((model, "keys" | "vectors")) = name.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            let (last_used, bytes) = models.entry(model.into()).or_insert((SystemTime::UNIX_EPOCH, 0));
            *last_used = data.modified().map_or(*last_used, |time| time.max(*last_used));
            *bytes += data.len();
        }
        let mut total: u64 = models.values().map(|(_, bytes)| bytes).sum();
        let mut oldest: Vec<_> = models.into_iter().filter(|(model, _)| model != in_use).collect();
        oldest.sort_unstable_by_key(|(model, (last_used, _))| (*last_used, model.clone()));
        for (model, (_, bytes)) in oldest {
            if total <= self.limit_bytes {
                break;
            }
            for path in paths(&self.folder, &model) {
                // Another process may have been faster.
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io(&path, "delete")(error)),
                    _ => {}
                }
            }
            total -= bytes;
        }
        Ok(())
    }
}

/// What there is of a model.
struct Store {
    name: String,
    keys: PathBuf,
    vectors: PathBuf,
    dim: usize,
    limit_bytes: u64,
    entries: HashMap<u128, Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    row: u64,
    checksum: u64,
    is_cut: bool,
}

impl Store {
    fn open<O: Ops>(cache: &VectorCache, model: &EmbeddingModel<O>) -> Result<Self> {
        fs::create_dir_all(&cache.folder).map_err(Error::io(&cache.folder, "create"))?;
        let name = format!("{:032x}", model_key(model)?);
        let [keys, vectors] = paths(&cache.folder, &name);
        // Both are there from now on, and were used just now.
        for path in [&keys, &vectors] {
            let touch = || OpenOptions::new().create(true).append(true).open(path)?.set_modified(SystemTime::now());
            touch().map_err(Error::io(path, "write"))?;
        }
        cache.make_room(&name)?;
        let mut store =
            Store { name, keys, vectors, dim: model.dim(), limit_bytes: cache.limit_bytes, entries: HashMap::new() };
        let bytes = fs::read(&store.keys).map_err(Error::io(&store.keys, "read"))?;
        let n_vectors =
            fs::metadata(&store.vectors).map_err(Error::io(&store.vectors, "read"))?.len() / store.row_bytes();
        for (row, bytes) in (0..n_vectors).zip(bytes.chunks_exact(ENTRY)) {
            let (key, entry) = Entry::read(row, bytes);
            store.entries.insert(key, entry);
        }
        Ok(store)
    }

    fn row_bytes(&self) -> u64 {
        (self.dim * size_of::<f32>()) as u64
    }

    /// Fills in the vectors that are there; says of each text whether it is. A vector that is damaged is not.
    fn read(&mut self, keys: &[u128], vectors: &mut Vectors) -> Result<Vec<bool>> {
        let known = |(text, key): (usize, &u128)| self.entries.get(key).map(|entry| (*entry, text));
        let mut known: Vec<_> = keys.iter().enumerate().filter_map(known).collect();
        let mut is_made = vec![false; keys.len()];
        // Another process may have needed the room since the entries were read.
        if known.is_empty() || !self.vectors.exists() {
            return Ok(is_made);
        }
        // In the order of the file.
        known.sort_unstable_by_key(|(entry, text)| (entry.row, *text));
        let fill = || {
            let mut file = BufReader::with_capacity(1 << 20, File::open(&self.vectors)?);
            let mut bytes = vec![0; self.dim * size_of::<f32>()];
            let mut place = 0;
            for (entry, text) in known {
                let start = entry.row * bytes.len() as u64;
                file.seek_relative(start as i64 - place as i64)?;
                file.read_exact(&mut bytes)?;
                place = start + bytes.len() as u64;
                is_made[text] = xxh3_64(&bytes) == entry.checksum;
                if is_made[text] {
                    let values = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                    vectors.values[text * self.dim..][..self.dim].iter_mut().zip(values).for_each(|(to, x)| *to = x);
                }
            }
            Ok(())
        };
        fill().map_err(Error::io(&self.vectors, "read"))?;
        Ok(is_made)
    }

    /// Adds the vectors `new`; to the files only where they may grow. Another process may have added some meanwhile, or deleted the files
    /// for the room that they take.
    fn append(&self, keys: impl Iterator<Item = u128>, new: &[f32], is_cut: &[bool]) -> Result<()> {
        let bytes: Vec<u8> = new.iter().flat_map(|value| value.to_le_bytes()).collect();
        let entry = |(key, (bytes, &is_cut))| (key, Entry { row: 0, checksum: xxh3_64(bytes), is_cut });
        let entries: Vec<_> = keys.zip(bytes.chunks_exact(self.row_bytes() as usize).zip(is_cut)).map(entry).collect();
        let write = || {
            let mut keys = OpenOptions::new().create(true).append(true).open(&self.keys)?;
            let mut vectors = OpenOptions::new().create(true).truncate(false).write(true).open(&self.vectors)?;
            keys.lock()?;
            let n_rows = keys.metadata()?.len() / ENTRY as u64;
            let end = n_rows * self.row_bytes();
            let grow_to = (n_rows + entries.len() as u64) * (self.row_bytes() + ENTRY as u64);
            if grow_to <= self.limit_bytes {
                // What an interrupted process left half-written goes.
                keys.set_len(n_rows * ENTRY as u64)?;
                vectors.set_len(end)?;
                vectors.seek(SeekFrom::Start(end))?;
                vectors.write_all(&bytes)?;
                vectors.sync_data()?;
                keys.write_all(&entries.iter().flat_map(|(key, entry)| entry.bytes(*key)).collect::<Vec<_>>())?;
            }
            Ok(())
        };
        write().map_err(Error::io(&self.vectors, "write"))
    }
}

impl Entry {
    fn read(row: u64, bytes: &[u8]) -> (u128, Entry) {
        let (key, rest) = bytes.split_at(16);
        let (checksum, is_cut) = rest.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number: u128, byte| number << 8 | u128::from(*byte));
        (number(key), Entry { row, checksum: number(checksum) as u64, is_cut: is_cut[0] == 1 })
    }

    fn bytes(&self, key: u128) -> Vec<u8> {
        [&key.to_le_bytes()[..], &self.checksum.to_le_bytes(), &[u8::from(self.is_cut)]].concat()
    }
}

/// Cuts a list of texts into parts of at most [`SLICE`] texts and [`SLICE_BYTES`], but at least one text.
fn slices(texts: &[usize], n_bytes: impl Fn(usize) -> usize) -> impl Iterator<Item = &[usize]> {
    let mut rest = texts;
    std::iter::from_fn(move || {
        let mut sum = n_bytes(*rest.first()?);
        let more = rest[1..].iter().take(SLICE - 1).take_while(|&&text| {
            sum += n_bytes(text);
            sum <= SLICE_BYTES
        });
        let (slice, after) = rest.split_at(1 + more.count());
        rest = after;
        Some(slice)
    })
}

fn paths(folder: &Path, model: &str) -> [PathBuf; 2] {
    ["keys", "vectors"].map(|kind| folder.join(format!("{model}.{kind}")))
}

/// Everything that makes the vectors of `model` on this machine.
fn model_key<O: Ops>(model: &EmbeddingModel<O>) -> Result<u128> {
    let probe = embed(model, &[PROBE], Role::Query, None, 1, &Silent)?;
    let mut hash = Xxh3Default::new();
    hash.update(&[FORMAT]);
    hash.update(&model.hash().to_le_bytes());
    probe.values.iter().for_each(|value| hash.update(&value.to_le_bytes()));
    Ok(hash.digest128())
}

fn key_of(text: &str, role: Role) -> u128 {
    let mut hash = Xxh3Default::new();
    hash.update(&[match role {
        Role::Query => 0,
        Role::Passage => 1,
    }]);
    hash.update(text.as_bytes());
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_hold_every_text_once_within_both_bounds() {
        let cut = |n_bytes: &[usize]| {
            let texts: Vec<_> = (0..n_bytes.len()).collect();
            let slices: Vec<_> = slices(&texts, |text| n_bytes[text]).map(<[usize]>::to_vec).collect();
            assert_eq!(slices.concat(), texts);
            slices.iter().map(Vec::len).collect::<Vec<_>>()
        };
        let half = SLICE_BYTES / 2;
        assert_eq!(cut(&[3 * half, half + 1, half, half, 1, half - 1]), [1, 1, 2, 2]);
        assert_eq!(cut(&vec![1; 2 * SLICE + 1]), [SLICE, SLICE, 1]);
        assert_eq!(cut(&[]), [0; 0]);
    }
}
