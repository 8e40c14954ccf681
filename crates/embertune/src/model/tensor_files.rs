//! The safetensors files of a folder: one file or several shards, read tensor by tensor; weights are written as F32.
//!
//! Tensors are read with plain file reads rather than through a memory map: each is converted once anyway, and a file
//! that shrinks meanwhile then gives an error instead of a crash.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use super::json_file::JsonFile;
use crate::{Error, Result};

/// Length of the number at the start of a file that says how long the header is.
const LENGTH_BYTES: u64 = 8;
/// The header may not be longer; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The tensors in the safetensors files of a folder.
pub struct TensorFiles {
    folder: PathBuf,
    tensors: BTreeMap<String, Stored>,
}

struct Stored {
    path: PathBuf,
    /// Where the data of the file begin.
    data_start: u64,
    info: TensorInfo,
}

impl TensorFiles {
    /// Reads the headers of `model.safetensors`, or of the shards that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// If there are none, or a header is broken or does not fit its file.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let mut tensors = BTreeMap::new();
        if single.exists() {
            read_header(&single, &mut tensors)?;
        } else if index.exists() {
            read_shards(folder, &JsonFile::read(&index)?, &mut tensors)?;
        } else {
            return Err(no_weights(folder));
        }
        Ok(TensorFiles { folder: folder.to_owned(), tensors })
    }

    /// Reads the header of one file, of any name.
    ///
    /// # Errors
    /// If it is broken or does not fit the file.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        read_header(path, &mut tensors)?;
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
        self.tensors.get(name).map(|stored| stored.info.shape.as_slice())
    }

    /// The values of a tensor. F16 and BF16 are widened.
    ///
    /// # Errors
    /// If there is no such tensor, or it has another type, or values that are not finite.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let (path, info, bytes) = self.bytes(name)?;
        let dtype = info.dtype;
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
        let (_, info, bytes) = self.bytes(name)?;
        Ok(Untouched { name: name.to_owned(), dtype: info.dtype, shape: info.shape.clone(), bytes })
    }

    fn bytes(&self, name: &str) -> Result<(&Path, &TensorInfo, Vec<u8>)> {
        let Some(Stored { path, data_start, info }) = self.tensors.get(name) else {
            return Err(broken(&self.folder, format!("the tensor `{name}` is missing")));
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        file.seek(SeekFrom::Start(data_start + start as u64)).map_err(Error::io(path, "read"))?;
        file.read_exact(&mut bytes).map_err(Error::io(path, "read"))?;
        Ok((path, info, bytes))
    }
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

fn no_weights(folder: &Path) -> Error {
    let bin = ["pytorch_model.bin", "pytorch_model.bin.index.json"].into_iter().find(|name| folder.join(name).exists());
    let (problem, hint) = match bin {
        Some(name) => (
            format!("there is `{name}` but no `model.safetensors`; pickled weights are not read"),
            "convert them once in Python: `AutoModel.from_pretrained(folder).save_pretrained(folder)` writes `model.safetensors`",
        ),
        None => ("there is no `model.safetensors`".to_owned(), "give the folder of a model, or its name on the hub"),
    };
    Error::Model { path: folder.to_owned(), problem, hint: Some(hint.to_owned()) }
}

/// Adds the tensors of one file. Nothing larger than the file is ever allocated for what its header claims.
fn read_header(path: &Path, tensors: &mut BTreeMap<String, Stored>) -> Result<()> {
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
    for (name, info) in metadata.tensors() {
        let stored = Stored { path: path.to_owned(), data_start, info: info.clone() };
        if tensors.insert(name.clone(), stored).is_some() {
            return Err(broken(path, format!("the tensor `{name}` is also in another shard")));
        }
    }
    Ok(())
}

fn read_shards(folder: &Path, index: &JsonFile, tensors: &mut BTreeMap<String, Stored>) -> Result<()> {
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
        read_header(&folder.join(shard), tensors)?;
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
    bytes: Box<dyn Fn() -> Cow<'a, [u8]> + 'a>,
}

impl<'a> Output<'a> {
    /// A tensor of weights, written as F32. `values` is called once.
    pub fn weights(name: String, shape: Vec<usize>, values: impl Fn() -> Vec<f32> + 'a) -> Self {
        let bytes = move || values().into_iter().flat_map(f32::to_le_bytes).collect();
        Output { name, dtype: Dtype::F32, shape, bytes: Box::new(bytes) }
    }

    /// A tensor as it was in another file.
    pub fn untouched(tensor: &'a Untouched) -> Self {
        let bytes = || Cow::Borrowed(tensor.bytes.as_slice());
        let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
        Output { name, dtype: tensor.dtype, shape, bytes: Box::new(bytes) }
    }
}

/// Writes a safetensors file and makes sure that it has reached the disk.
///
/// The crate's own writer is not used: it makes files that only their owner may read.
pub fn write(path: &Path, mut tensors: Vec<Output<'_>>) -> Result<()> {
    // Widest types first, so that every tensor is aligned; that is the order of the crate's writer, too.
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
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

    let write_all = || -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for tensor in &tensors {
            file.write_all(&(tensor.bytes)())?;
        }
        file.into_inner()?.sync_all()
    };
    write_all().map_err(Error::io(path, "write"))
}
