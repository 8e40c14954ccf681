//! Writing a model folder: complete, readable by sentence-transformers and by `transformers`, and proven before anybody sees it.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use embertune_kernels::Ops;
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3Default;

use super::embedding_model::EmbeddingModel;
use super::folder::{DenseConfig, Overrides};
use super::head::dense_prefix;
use super::json_file::JsonFile;
use super::lora::merged;
use super::params::Part;
use super::tensor_files::{self, Output};
use crate::progress::Silent;
use crate::text::{Batch, Role};
use crate::{Error, Result};

/// Files of the base model that are written as they were. They lie in memory, so that the base may change or vanish
/// during a long training.
const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
];
const CONFIG: &str = "config.json";

/// Largest difference of a vector's element between the model in memory and the folder. They run the same program on the
/// same numbers, so even this is more than should be.
const SAME_VECTORS: f32 = 1e-6;

/// The same where adapters are merged into the weights, relative to a vector's largest element: sums are rounded in another order. In f32, and
/// in units of the rounding of products where that is coarser.
const SAME_MERGED: f32 = 1e-4;
const SAME_MERGED_ROUNDINGS: f32 = 16.0;

/// Texts whose vectors are compared. Nothing of the user's data.
const PROBES: [&str; 6] = [
    "",
    "hello",
    "How do I fine-tune an embedding model?",
    "The quick brown fox jumps over the lazy dog, 1234567890 times.",
    "naïve café, Ünïcödé, 东京",
    "A longer text takes more positions than a short one, and a text that goes on and on, sentence after sentence, takes \
     more still: it shows whether the tables of positions and of distances were written as they are in memory.",
];

/// The files of the base model that travel with the tuned one, unchanged.
pub struct CopiedFiles {
    files: Vec<(&'static str, Vec<u8>)>,
}

impl CopiedFiles {
    /// Reads them from the folder of the encoder.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut files = vec![(CONFIG, config_for_f32(&folder.join(CONFIG))?)];
        for name in TOKENIZER_FILES {
            let path = folder.join(name);
            if path.exists() {
                files.push((name, fs::read(&path).map_err(Error::io(&path, "read"))?));
            }
        }
        Ok(CopiedFiles { files })
    }
}

/// `config.json` byte for byte; only a half-precision type becomes `float32`, which is what we write.
fn config_for_f32(path: &Path) -> Result<Vec<u8>> {
    let mut file = JsonFile::read(path)?;
    let mut is_changed = false;
    for key in ["torch_dtype", "dtype"] {
        if file.get(key).is_some_and(|dtype| dtype != "float32") {
            file.value[key] = Value::from("float32");
            is_changed = true;
        }
    }
    if is_changed { Ok(pretty(&file.value)) } else { fs::read(path).map_err(Error::io(path, "read")) }
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// A folder that is removed again unless it is [`kept`](PartialFolder::keep_as).
struct PartialFolder {
    path: PathBuf,
}

impl PartialFolder {
    /// Makes a folder beside `target`, with the permissions that any new folder has.
    fn beside(target: &Path) -> Result<Self> {
        let parent = parent_of(target);
        fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = parent.join(format!(".{name}.partial-{}", std::process::id()));
        fs::create_dir(&path).map_err(Error::io(&path, "create"))?;
        Ok(PartialFolder { path })
    }

    /// Makes sure that everything has reached the disk, and gives the folder its name.
    fn keep_as(self, target: &Path) -> Result<()> {
        sync_folder(&self.path)?;
        refuse_existing(target)?;
        fs::rename(&self.path, target).map_err(Error::io(target, "create"))?;
        sync_folder(parent_of(target))
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        // After a rename there is nothing under this name; otherwise an error is already on its way to the user.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Asks the system to write the entries of a folder to disk, where it knows how.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(Error::io(path, "write"))?;
    }
    Ok(())
}

fn refuse_existing(target: &Path) -> Result<()> {
    if fs::symlink_metadata(target).is_err() {
        return Ok(());
    }
    Err(Error::Model {
        path: target.to_owned(),
        problem: "exists already; a model is only written to a new folder".to_owned(),
        hint: Some("choose another output path, or remove the folder".to_owned()),
    })
}

/// See [`EmbeddingModel::save_with`].
pub fn save<O: Ops>(model: &EmbeddingModel<O>, target: &Path, add: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    refuse_existing(target)?;
    let partial = PartialFolder::beside(target)?;
    write_files(model, &partial.path)?;
    compare_with_folder(model, &partial.path)?;
    add(&partial.path)?;
    partial.keep_as(target)
}

/// See [`EmbeddingModel::hash`].
pub fn hash<O: Ops>(model: &EmbeddingModel<O>) -> u128 {
    let mut hash = Xxh3Default::new();
    for (name, content) in described_files(model) {
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update(&content);
    }
    for param in &model.parameters().list {
        model.ops().with_values(&param.value, &mut |values| {
            for block in values.chunks(1 << 14) {
                hash.update(&block.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
            }
        });
    }
    if let Some(adapters) = &model.adapters {
        hash.update(&adapters.factor.to_le_bytes());
    }
    hash.digest128()
}

/// All files but the weights, by their names from the folder on.
fn described_files<O: Ops>(model: &EmbeddingModel<O>) -> Vec<(PathBuf, Cow<'_, [u8]>)> {
    let transformer = Path::new(&model.modules.transformer);
    let copied = model.copied.files.iter().map(|(name, content)| (transformer.join(name), Cow::Borrowed(&content[..])));
    let described = model.modules.files(model.config.hidden_size).into_iter().chain(model.text.files(&model.modules));
    copied.chain(described.map(|(name, content)| (PathBuf::from(name), Cow::Owned(pretty(&content))))).collect()
}

fn write_files<O: Ops>(model: &EmbeddingModel<O>, folder: &Path) -> Result<()> {
    for (name, content) in described_files(model) {
        write_file(folder, &name, &content)?;
    }
    write_weights(model, folder)
}

fn write_file(folder: &Path, name: &Path, content: &[u8]) -> Result<()> {
    let path = folder.join(name);
    let parent = parent_of(&path);
    fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
    File::create_new(&path)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .map_err(Error::io(&path, "write"))
}

/// The encoder's tensors under the names that the base gave them, those of dense layers in their own folders.
fn write_weights<O: Ops>(model: &EmbeddingModel<O>, folder: &Path) -> Result<()> {
    let mut encoder = Vec::new();
    let mut dense: Vec<Vec<Output<'_>>> = model.modules.dense.iter().map(|_| Vec::new()).collect();
    for param in model.parameters().own() {
        let mut start = 0;
        for part in &param.parts {
            let range = start..start + part.len();
            start = range.end;
            let values = move || merged(model.ops(), model.parameters(), param)[range.clone()].to_vec();
            let output = |name: String| Output::weights(name, part.shape.clone(), values);
            match module_of(model, part) {
                Some((module, name)) => dense[module].push(output(name.to_owned())),
                None => encoder.push(output(model.naming.stored_name(&part.name))),
            }
        }
    }
    encoder.extend(model.naming.passengers.iter().map(Output::untouched));
    tensor_files::write(&folder.join(&model.modules.transformer).join("model.safetensors"), encoder)?;
    for (config, outputs) in model.modules.dense.iter().zip(dense) {
        tensor_files::write(&folder.join(&config.folder).join("model.safetensors"), outputs)?;
    }
    Ok(())
}

/// The dense layer that a tensor belongs to, and its name there.
fn module_of<'a, O: Ops>(model: &EmbeddingModel<O>, part: &'a Part) -> Option<(usize, &'a str)> {
    let find = |(module, config): (usize, &DenseConfig)| {
        part.name.strip_prefix(&dense_prefix(&config.folder)).map(|name| (module, name))
    };
    model.modules.dense.iter().enumerate().find_map(find)
}

/// Reads the folder as any program would, and compares the vectors of [`PROBES`].
fn compare_with_folder<O: Ops>(model: &EmbeddingModel<O>, folder: &Path) -> Result<()> {
    let written = EmbeddingModel::load_on(model.shared_ops(), folder, &Overrides::default(), &Silent)?;
    let merged = SAME_MERGED.max(SAME_MERGED_ROUNDINGS * model.ops().product_epsilon());
    for role in [Role::Query, Role::Passage] {
        let (ours, theirs) = (probe(model, role)?, probe(&written, role)?);
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let is_finite = ours.iter().chain(&theirs).all(|value| value.is_finite());
        if !is_finite {
            return Err(Error::Model {
                path: folder.to_owned(),
                problem: "the model gives vectors that are no finite numbers; it is not saved".to_owned(),
                hint: Some("the training has diverged: choose a smaller `--learning_rate`".to_owned()),
            });
        }
        let largest = ours.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let allowed = if model.has_adapters() { merged * largest } else { SAME_VECTORS };
        if ours.len() != theirs.len() || worst > allowed {
            let hint = "this is a bug, or the disk does not give back what was written; nothing was saved";
            return Err(Error::Model {
                path: folder.to_owned(),
                problem: format!("the folder gives other vectors than the model in memory, by {worst:e}"),
                hint: Some(hint.to_owned()),
            });
        }
    }
    Ok(())
}

fn probe<O: Ops>(model: &EmbeddingModel<O>, role: Role) -> Result<Vec<f32>> {
    let mut batch = Batch::default();
    for tokens in model.tokenize(&PROBES, role, None)? {
        batch.push(&tokens.ids, tokens.prompt_len, 0);
    }
    Ok(model.encode(&batch))
}
