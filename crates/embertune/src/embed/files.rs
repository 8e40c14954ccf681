//! Vectors as files: NumPy's `.npy` and safetensors.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use super::Vectors;
use crate::data::atomic::write_file;
use crate::error::{Error, Result};

/// A file format for vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// NumPy's format, version 1.0: `numpy.load`.
    Npy,
    /// One tensor named `embeddings`.
    Safetensors,
}

impl Format {
    /// The format that the ending of a file name asks for.
    ///
    /// # Errors
    /// Where the file name ends in neither `.npy` nor `.safetensors`.
    pub fn of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("npy") => Ok(Format::Npy),
            Some("safetensors") => Ok(Format::Safetensors),
            _ => Err(Error::Setting {
                problem: format!("`{}` ends in neither `.npy` nor `.safetensors`", path.display()),
                hint: Some("the ending of the output file chooses its format".into()),
            }),
        }
    }
}

/// Writes `vectors` as a tensor `[n_rows, dim]` of little-endian f32, whole or not at all.
///
/// # Errors
/// Where the file can't be written.
pub fn write_vectors(path: &Path, format: Format, vectors: &Vectors) -> Result<()> {
    let bytes: Vec<u8> = vectors.values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let shape = [vectors.n_rows(), vectors.dim];
    match format {
        Format::Npy => write_file(path, |out| {
            out.write_all(&npy_header(shape))?;
            out.write_all(&bytes)
        }),
        Format::Safetensors => {
            let encoded = TensorView::new(Dtype::F32, shape.to_vec(), &bytes)
                .and_then(|view| safetensors::serialize([("embeddings", view)], None))
                .map_err(|error| Error::Data { path: path.into(), problem: error.to_string(), hint: None })?;
            write_file(path, |out| out.write_all(&encoded))
        }
    }
}

/// Magic, version, length, then a Python dict padded with spaces so that the data begin at a multiple of 64.
/// Source: `numpy.lib.format`.
fn npy_header([n_rows, dim]: [usize; 2]) -> Vec<u8> {
    const PREFIX: usize = 10;
    let mut dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n_rows}, {dim}), }}");
    let padded = (PREFIX + dict.len() + 1).next_multiple_of(64) - PREFIX;
    dict.push_str(&" ".repeat(padded - 1 - dict.len()));
    dict.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((dict.len() as u16).to_le_bytes());
    header.extend(dict.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let vectors = Vectors::new(vec![1.0, -2.5, 3.0, 0.25, 0.0, 7.0], 3);
        write_vectors(&path, Format::of(&path).unwrap(), &vectors).unwrap();
        std::fs::read(&path).unwrap()
    }

    /// `numpy.save` of the same array with NumPy 2.4.6 begins with the same 128 bytes.
    #[test]
    fn npy_is_what_numpy_writes() {
        let bytes = written("v.npy");
        let dict = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(&bytes[10..10 + dict.len()], dict);
        assert_eq!(bytes[127], b'\n');
        assert_eq!(bytes.len(), 128 + 6 * 4);
        assert_eq!(&bytes[132..136], (-2.5_f32).to_le_bytes());
    }

    #[test]
    fn safetensors_hold_one_tensor() {
        let bytes = written("v.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor("embeddings").unwrap();
        assert_eq!((view.dtype(), view.shape()), (Dtype::F32, &[2, 3][..]));
        assert_eq!(&view.data()[4..8], (-2.5_f32).to_le_bytes());
    }

    #[test]
    fn another_ending_is_an_error_that_names_both_formats() {
        let error = Format::of(Path::new("v.csv")).unwrap_err().to_string();
        assert_eq!(error, "`v.csv` ends in neither `.npy` nor `.safetensors`");
    }
}
