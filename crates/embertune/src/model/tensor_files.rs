//! The files of weights in a folder, read tensor by tensor: safetensors, or PyTorch's `.bin` where there are none; one file or
//! several shards. Weights are written as safetensors, F32.
//!
//! Tensors are read with plain file reads rather than through a memory map: each is converted once anyway, and a file
//! that shrinks meanwhile then gives an error instead of a crash.

mod pickle;
mod state_dict;
mod zip;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};

use super::json_file::JsonFile;
use crate::{Error, Result};

/// Length of the number at the start of a file that says how long the header is.
const LENGTH_BYTES: u64 = 8;
/// The header may not be longer; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The tensors in the files of a folder.
pub struct TensorFiles {
    folder: PathBuf,
    tensors: Tensors,
}

type Tensors = BTreeMap<String, Stored>;

/// Where a tensor is. What it says has been checked against the length of the file.
struct Stored {
    path: PathBuf,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes of the file from its first value to its last.
    range: Range<u64>,
    /// Values from one index to the next, for each dimension; `None` where they are in order without gaps.
    strides: Option<Vec<usize>>,
}

impl TensorFiles {
    /// Reads the headers of `model.safetensors`, or of the shards that `model.safetensors.index.json` lists; where there is
    /// neither, of `pytorch_model.bin` in the same two ways.
    ///
    /// # Errors
    /// If there are none, or a header is broken or does not fit its file.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut tensors = Tensors::new();
        for (name, read) in [("model.safetensors", read_header as ReadFile), ("pytorch_model.bin", state_dict::read)] {
            let (single, index) = (folder.join(name), folder.join(format!("{name}.index.json")));
            if single.exists() {
                add_file(&single, read, &mut tensors)?;
            } else if index.exists() {
                add_shards(folder, &JsonFile::read(&index)?, read, &mut tensors)?;
            } else {
                continue;
            }
            return Ok(TensorFiles { folder: folder.to_owned(), tensors });
        }
        Err(Error::Model {
            path: folder.to_owned(),
            problem: "there is no `model.safetensors` and no `pytorch_model.bin`".to_owned(),
            hint: Some("give the folder of a model, or its name on the hub".to_owned()),
        })
    }

    /// Reads the header of one file, of any name.
    ///
    /// # Errors
    /// If it is broken or does not fit the file.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut tensors = Tensors::new();
        add_file(path, read_header, &mut tensors)?;
        Ok(TensorFiles { folder: path.to_owned(), tensors })
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Shape of a tensor, if there is one of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.shape.as_slice())
    }

    /// The values of a tensor. F16 and BF16 are widened.
    ///
    /// # Errors
    /// If there is no such tensor, or it has another type, or values that are not finite.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let (Stored { path, dtype, .. }, bytes) = self.bytes(name)?;
        let dtype = *dtype;
        if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let problem = format!("the tensor `{name}` has the type {dtype:?}; supported are F32, F16 and BF16");
            return Err(Error::Model { path: path.to_owned(), problem, hint: None });
        }
        let values = widen(&bytes, dtype);
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(broken(path, format!("the tensor `{name}` holds the value {value}")));
        }
        Ok(values)
    }

    /// A tensor as it is in the file, of whatever type.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn read_untouched(&self, name: &str) -> Result<Untouched> {
        let (stored, bytes) = self.bytes(name)?;
        Ok(Untouched { name: name.to_owned(), dtype: stored.dtype, shape: stored.shape.clone(), bytes })
    }

    fn bytes(&self, name: &str) -> Result<(&Stored, Vec<u8>)> {
        let Some(stored) = self.tensors.get(name) else {
            return Err(broken(&self.folder, format!("the tensor `{name}` is missing")));
        };
        let path = &stored.path;
        let mut bytes = vec![0; (stored.range.end - stored.range.start) as usize];
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        file.seek(SeekFrom::Start(stored.range.start)).map_err(Error::io(path, "read"))?;
        file.read_exact(&mut bytes).map_err(Error::io(path, "read"))?;
        Ok((stored, stored.in_order(bytes)))
    }
}

impl Stored {
    /// The values of `bytes`, the tensor's range of the file, in order and without gaps.
    fn in_order(&self, bytes: Vec<u8>) -> Vec<u8> {
        let Some(strides) = self.strides.as_ref().filter(|strides| !is_in_order(&self.shape, strides)) else {
            return bytes;
        };
        let element = self.dtype.bitsize() / 8;
        let mut ordered = Vec::with_capacity(self.shape.iter().product::<usize>() * element);
        let mut index = vec![0; self.shape.len()];
        let mut at = 0;
        while ordered.len() < ordered.capacity() {
            ordered.extend_from_slice(&bytes[at * element..][..element]);
            // To the next index, the last dimension first.
            for (dim, (&n, &stride)) in self.shape.iter().zip(strides).enumerate().rev() {
                index[dim] += 1;
                at += stride;
                if index[dim] < n {
                    break;
                }
                index[dim] = 0;
                at -= n * stride;
            }
        }
        ordered
    }
}

/// Whether values with these strides lie in order and without gaps. The stride of a dimension of one index means nothing.
fn is_in_order(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == expected;
        expected *= n;
        fits
    })
}

/// A tensor as it is in a file.
pub struct Untouched {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn widen(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    }
}

fn broken(path: &Path, problem: String) -> Error {
    let hint = Some("the file may be cut off or damaged: copy or download it again".to_owned());
    Error::Model { path: path.to_owned(), problem, hint }
}

/// Reads where the tensors of one file are.
type ReadFile = fn(&Path) -> Result<Vec<(String, Stored)>>;

fn add_file(path: &Path, read: ReadFile, tensors: &mut Tensors) -> Result<()> {
    for (name, stored) in read(path)? {
        if let Some(other) = tensors.insert(name.clone(), stored) {
            let place = if other.path == path { "there twice" } else { "also in another shard" };
            return Err(broken(path, format!("the tensor `{name}` is {place}")));
        }
    }
    Ok(())
}

/// The tensors of one safetensors file. Nothing larger than the file is ever allocated for what its header claims.
fn read_header(path: &Path) -> Result<Vec<(String, Stored)>> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let file_len = file.metadata().map_err(Error::io(path, "read"))?.len();
    let mut length = [0; LENGTH_BYTES as usize];
    if file_len < LENGTH_BYTES {
        return Err(broken(path, format!("is no safetensors file: it has {file_len} bytes")));
    }
    file.read_exact(&mut length).map_err(Error::io(path, "read"))?;
    let header_len = u64::from_le_bytes(length);
    let room = file_len - LENGTH_BYTES;
    if header_len > room.min(MAX_HEADER_BYTES) {
        return Err(broken(path, format!("its header claims {header_len} bytes, but only {room} follow")));
    }
    let mut header = vec![0; header_len as usize];
    file.read_exact(&mut header).map_err(Error::io(path, "read"))?;
    // Reading it as `Metadata` checks that the tensors fill the data without gaps and fit their types and shapes.
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|e| broken(path, format!("its header is broken: {e}")))?;
    let data_start = LENGTH_BYTES + header_len;
    if metadata.data_len() as u64 != file_len - data_start {
        let (claimed, there) = (metadata.data_len(), file_len - data_start);
        return Err(broken(path, format!("its tensors should take {claimed} bytes, but {there} are there")));
    }
    let stored = metadata.tensors().into_iter().map(|(name, info)| {
        let (start, end) = info.data_offsets;
        let range = data_start + start as u64..data_start + end as u64;
        (name, Stored { path: path.to_owned(), dtype: info.dtype, shape: info.shape.clone(), range, strides: None })
    });
    Ok(stored.collect())
}

fn add_shards(folder: &Path, index: &JsonFile, read: ReadFile, tensors: &mut Tensors) -> Result<()> {
    let Some(weight_map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(index.error("`weight_map` is missing".to_owned(), None));
    };
    let mut shards = BTreeSet::new();
    for (name, shard) in weight_map {
        let plain = shard.as_str().filter(|shard| !shard.is_empty() && !shard.contains(['/', '\\']));
        let Some(shard) = plain else {
            return Err(index.error(format!("the shard of `{name}` is {shard}, it should be a file name"), None));
        };
        shards.insert(shard);
    }
    for shard in shards {
        add_file(&folder.join(shard), read, tensors)?;
    }
    match weight_map.keys().find(|name| !tensors.contains_key(*name)) {
        Some(name) => Err(index.error(format!("the tensor `{name}` is in none of the shards"), None)),
        None => Ok(()),
    }
}

/// A tensor to be written.
pub struct Output<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Gives the bytes when their turn comes, so that only one tensor is in memory at a time.
    bytes: Box<dyn Fn() -> Result<Cow<'a, [u8]>> + 'a>,
}

impl<'a> Output<'a> {
    /// A tensor of weights, written as F32. `values` is called once.
    pub fn weights(name: String, shape: Vec<usize>, values: impl Fn() -> Vec<f32> + 'a) -> Self {
        Self::gathered(name, shape, move || Ok(values()))
    }

    /// The same of values that others have a part in, and may not give.
    pub fn gathered(name: String, shape: Vec<usize>, values: impl Fn() -> Result<Vec<f32>> + 'a) -> Self {
        let bytes = move || Ok(values()?.into_iter().flat_map(f32::to_le_bytes).collect());
        Output { name, dtype: Dtype::F32, shape, bytes: Box::new(bytes) }
    }

    /// A tensor as it was in another file.
    pub fn untouched(tensor: &'a Untouched) -> Self {
        let bytes = || Ok(Cow::Borrowed(tensor.bytes.as_slice()));
        let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
        Output { name, dtype: tensor.dtype, shape, bytes: Box::new(bytes) }
    }
}

/// Writes a safetensors file and makes sure that it has reached the disk.
///
/// The crate's own writer is not used: it makes files that only their owner may read.
///
/// # Errors
/// What the file system says; those of values that are [gathered](Output::gathered).
pub fn write(path: &Path, mut tensors: Vec<Output<'_>>) -> Result<()> {
    in_order_of_file(&mut tensors);
    let mut header = Map::new();
    // `transformers` wants to know that the layout is PyTorch's.
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in &tensors {
        let start = end;
        end += tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8;
        let info = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(tensor.name.clone(), info);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    let failed = || Error::io(path, "write");
    let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path).map_err(failed())?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed())?;
    file.write_all(&header).map_err(failed())?;
    for tensor in &tensors {
        file.write_all(&(tensor.bytes)()?).map_err(failed())?;
    }
    let file = file.into_inner().map_err(|error| failed()(error.into_error()))?;
    file.sync_all().map_err(failed())
}

/// Makes the values of all tensors in the order in which [`write`] does, and writes nothing: where somebody else writes them who needs this
/// process for it.
///
/// # Errors
/// Those of values that are [gathered](Output::gathered).
pub fn make(mut tensors: Vec<Output<'_>>) -> Result<()> {
    in_order_of_file(&mut tensors);
    tensors.iter().try_for_each(|tensor| (tensor.bytes)().map(drop))
}

/// Widest types first, so that every tensor is aligned; that is the order of the crate's writer, too.
fn in_order_of_file(tensors: &mut [Output<'_>]) {
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
}
