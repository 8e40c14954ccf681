//! A `pytorch_model.bin`: an archive with a pickle that describes the tensors, and a file for each storage.
//!
//! Nothing of the pickle is executed, see [`pickle`](super::pickle). All that it claims is checked against the file before
//! anything is allocated.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::pickle::{self, Tensor};
use super::{Stored, broken, zip};
use crate::{Error, Result};

/// A pickle takes about 150 bytes for a tensor, so this is enough for a hundred thousand of them.
const MAX_PICKLE_BYTES: u64 = 16 << 20;
/// How files begin that PyTorch wrote before version 1.6: a pickle of the number 0x1950a86a20f9469cfc6c.
const OLDER_FORMAT: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// The tensors of one file, by name.
///
/// # Errors
/// If the file is damaged, of the older format, or holds anything else than a dictionary of tensors.
pub fn read(path: &Path) -> Result<Vec<(String, Stored)>> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    refuse_older_format(path, &mut file)?;
    let entries = zip::entries(path, &mut file)?;
    let Some((folder, range)) = entries.iter().find_map(|(name, range)| Some((name.strip_suffix("data.pkl")?, range)))
    else {
        return Err(unreadable(path, "it is an archive without `data.pkl`"));
    };
    if let Some(order) = entries.get(&format!("{folder}byteorder"))
        && read_range(path, &mut file, order)? != b"little"
    {
        return Err(unreadable(path, "its numbers have the highest byte first; supported is `little` in `byteorder`"));
    }
    let pickle = read_range(path, &mut file, range)?;
    let tensors = pickle::state_dict(&pickle).map_err(|problem| unreadable(path, &problem))?;
    let place = |(name, tensor): (String, Tensor)| match stored(path, folder, &entries, &tensor) {
        Ok(stored) => Ok((name, stored)),
        Err(problem) => Err(broken(path, format!("the tensor `{name}` {problem}"))),
    };
    tensors.into_iter().map(place).collect()
}

fn refuse_older_format(path: &Path, file: &mut File) -> Result<()> {
    let mut start = Vec::new();
    file.take(OLDER_FORMAT.len() as u64).read_to_end(&mut start).map_err(Error::io(path, "read"))?;
    if start != OLDER_FORMAT {
        return Ok(());
    }
    Err(Error::Model {
        path: path.to_owned(),
        problem: "is of the format that PyTorch wrote before version 1.6, which is not read".to_owned(),
        hint: Some(
            "convert it once in Python: `AutoModel.from_pretrained(folder).save_pretrained(folder)` writes `model.safetensors`"
                .to_owned(),
        ),
    })
}

fn read_range(path: &Path, file: &mut File, range: &Range<u64>) -> Result<Vec<u8>> {
    let len = range.end - range.start;
    if len > MAX_PICKLE_BYTES {
        return Err(unreadable(path, &format!("its pickle has {len} bytes; supported are {MAX_PICKLE_BYTES}")));
    }
    let mut bytes = vec![0; len as usize];
    file.seek(SeekFrom::Start(range.start)).map_err(Error::io(path, "read"))?;
    file.read_exact(&mut bytes).map_err(Error::io(path, "read"))?;
    Ok(bytes)
}

/// Where a tensor lies, or what is wrong with it.
fn stored(
    path: &Path,
    folder: &str,
    entries: &BTreeMap<String, Range<u64>>,
    tensor: &Tensor,
) -> std::result::Result<Stored, String> {
    let storage = &tensor.storage;
    let entry = format!("{folder}data/{}", storage.key);
    let range = entries.get(&entry).ok_or_else(|| format!("has its values in `{entry}`, which is missing"))?;
    let element = storage.dtype.bitsize() as u64 / 8;
    if storage.len.checked_mul(element) != Some(range.end - range.start) {
        let there = range.end - range.start;
        return Err(format!(
            "is in a storage of {} values of {element} bytes, but {there} bytes are there",
            storage.len
        ));
    }

    let shape = &tensor.shape;
    let n_values = shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
    // Index of the last value, where there is one.
    let last = shape
        .iter()
        .zip(&tensor.strides)
        .try_fold(tensor.offset, |sum, (&n, &stride)| sum.checked_add(n.saturating_sub(1).checked_mul(stride)?));
    let (first, end) = match (n_values, last) {
        (Some(0), _) => (0, 0),
        // More values than the storage has would be repetitions of them, which no weight is.
        (Some(n), Some(last)) if last < storage.len && n <= storage.len => (tensor.offset, last + 1),
        _ => return Err(format!("of shape {shape:?} does not fit into its storage of {} values", storage.len)),
    };
    // In memory already: everything is at most the length of a file.
    let sizes = |sizes: &[u64]| sizes.iter().map(|&size| size as usize).collect::<Vec<_>>();
    Ok(Stored {
        path: path.to_owned(),
        dtype: storage.dtype,
        shape: sizes(shape),
        range: range.start + first * element..range.start + end * element,
        strides: Some(sizes(&tensor.strides)),
    })
}

fn unreadable(path: &Path, problem: &str) -> Error {
    Error::Model {
        path: path.to_owned(),
        problem: format!("is not weights as `torch.save(model.state_dict())` writes them: {problem}"),
        hint: Some("take `model.safetensors` of the same model if there is one".to_owned()),
    }
}
