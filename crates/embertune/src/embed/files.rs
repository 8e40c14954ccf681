//! Vectors as files: NumPy's `.npy` and safetensors, written in the type that is asked for. [`stored`](super::stored) reads them.

use std::io::{self, Write};
use std::path::Path;

use half::{bf16, f16};
use serde_json::json;

use super::Vectors;
use crate::data::atomic::write_file;
use crate::error::{Error, Result};

/// A file format for vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// NumPy's format, version 1.0: `numpy.load`.
    Npy,
    /// One tensor named [`EMBEDDINGS`], for bytes a second one named [`SCALES`].
    Safetensors,
}

/// The tensor of the vectors, `[n_rows, dim]`.
pub const EMBEDDINGS: &str = "embeddings";
/// What the bytes of each vector are multiplied by, `[n_rows]` of f32.
pub const SCALES: &str = "scales";

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
                hint: Some("the ending of a file of vectors chooses its format".into()),
            }),
        }
    }
}

/// What the values of a file are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueType {
    /// As they were computed.
    #[default]
    F32,
    /// Half the size; off by up to 1 in 2,048.
    F16,
    /// Half the size; off by up to 1 in 256. For values beyond 65,504, which f16 does not have.
    Bf16,
    /// A quarter of the size: each vector's largest value is 127 or -127, and the others are rounded to what lies between.
    Int8,
}

impl ValueType {
    /// Its name in safetensors.
    fn name(self) -> &'static str {
        match self {
            ValueType::F32 => "F32",
            ValueType::F16 => "F16",
            ValueType::Bf16 => "BF16",
            ValueType::Int8 => "I8",
        }
    }

    fn bytes(self) -> usize {
        match self {
            ValueType::F32 => 4,
            ValueType::F16 | ValueType::Bf16 => 2,
            ValueType::Int8 => 1,
        }
    }

    /// # Errors
    /// Where files of this format have no such values.
    pub fn check(self, format: Format) -> Result<()> {
        match (format, self) {
            (Format::Npy, ValueType::Bf16 | ValueType::Int8) => Err(Error::Setting {
                problem: format!("a `.npy` file holds f32 or f16, not {}", self.name().to_lowercase()),
                hint: Some("name the file `.safetensors`".into()),
            }),
            _ => Ok(()),
        }
    }
}

/// Writes `vectors` as a tensor `[n_rows, dim]` of little-endian values, whole or not at all.
///
/// # Errors
/// Where the file can't be written, or its format has no such values.
pub fn write_vectors(path: &Path, format: Format, values: ValueType, vectors: &Vectors) -> Result<()> {
    values.check(format)?;
    let shape = [vectors.n_rows(), vectors.dim];
    let rows = || vectors.values.chunks_exact(vectors.dim.max(1));
    write_file(path, |out| {
        match format {
            Format::Npy => out.write_all(&npy_header(shape, values))?,
            Format::Safetensors => out.write_all(&safetensors_header(shape, values)?)?,
        }
        if values == ValueType::Int8 {
            rows().try_for_each(|row| out.write_all(&scale(row).to_le_bytes()))?;
        }
        rows().try_for_each(|row| write_row(out, row, values))
    })
}

fn write_row(out: &mut dyn Write, row: &[f32], values: ValueType) -> io::Result<()> {
    let bytes: Vec<u8> = match values {
        ValueType::F32 => row.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ValueType::F16 => row.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        ValueType::Bf16 => row.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        ValueType::Int8 => {
            let scale = scale(row);
            // A vector of zeros has the scale 0, and 0 / 0 becomes the code 0.
            row.iter().map(|x| ((x / scale).round() as i8).cast_unsigned()).collect()
        }
    };
    out.write_all(&bytes)
}

/// What the code 1 stands for.
fn scale(row: &[f32]) -> f32 {
    row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())) / 127.0
}

/// Length of the header as eight bytes, then the header, padded with spaces so that the data begin at a multiple of 8.
/// The scales come first, so that they are aligned whatever the number of bytes is.
fn safetensors_header([n_rows, dim]: [usize; 2], values: ValueType) -> io::Result<Vec<u8>> {
    let scales_end = if values == ValueType::Int8 { n_rows * size_of::<f32>() } else { 0 };
    let end = scales_end + n_rows * dim * values.bytes();
    let mut header =
        json!({ EMBEDDINGS: {"dtype": values.name(), "shape": [n_rows, dim], "data_offsets": [scales_end, end]} });
    if values == ValueType::Int8 {
        header[SCALES] = json!({"dtype": "F32", "shape": [n_rows], "data_offsets": [0, scales_end]});
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header].concat())
}

/// Magic, version, length, then a Python dict padded with spaces so that the data begin at a multiple of 64.
/// Source: `numpy.lib.format`.
fn npy_header([n_rows, dim]: [usize; 2], values: ValueType) -> Vec<u8> {
    const PREFIX: usize = 10;
    let descr = format!("<f{}", values.bytes());
    let mut dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({n_rows}, {dim}), }}");
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
    use std::fs;

    use safetensors::SafeTensors;
    use safetensors::tensor::Dtype;

    use super::*;

    fn written(name: &str, values: ValueType) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let vectors = Vectors::new(vec![1.0, -2.5, 3.0, 0.25, 0.0, 7.0], 3);
        write_vectors(&path, Format::of(&path).unwrap(), values, &vectors).unwrap();
        fs::read(&path).unwrap()
    }

    /// `numpy.save` of the same array with NumPy 2.4.6 begins with the same 128 bytes.
    #[test]
    fn npy_is_what_numpy_writes() {
        let bytes = written("v.npy", ValueType::F32);
        let dict = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(&bytes[10..10 + dict.len()], dict);
        assert_eq!(bytes[127], b'\n');
        assert_eq!(bytes.len(), 128 + 6 * 4);
        assert_eq!(&bytes[132..136], (-2.5_f32).to_le_bytes());
    }

    #[test]
    fn safetensors_hold_one_tensor_and_for_bytes_their_scales() {
        let bytes = written("v.safetensors", ValueType::F32);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor("embeddings").unwrap();
        assert_eq!((view.dtype(), view.shape(), file.len()), (Dtype::F32, &[2, 3][..], 1));
        assert_eq!(&view.data()[4..8], (-2.5_f32).to_le_bytes());
        let bytes = written("v.safetensors", ValueType::Int8);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let [codes, scales] = ["embeddings", "scales"].map(|name| file.tensor(name).unwrap());
        assert_eq!((codes.dtype(), codes.shape()), (Dtype::I8, &[2, 3][..]));
        assert_eq!((scales.dtype(), scales.shape()), (Dtype::F32, &[2][..]));
        // 1, -2.5 and 3 of 3 / 127 each.
        assert_eq!(codes.data(), [42, -106, 127, 5, 0, 127].map(|code: i8| code.cast_unsigned()));
        assert_eq!(scales.data()[4..], (7.0_f32 / 127.0).to_le_bytes());
    }

    #[test]
    fn another_ending_and_values_that_a_format_does_not_have_are_refused() {
        let error = Format::of(Path::new("v.csv")).unwrap_err().to_string();
        assert_eq!(error, "`v.csv` ends in neither `.npy` nor `.safetensors`");
        for values in [ValueType::Bf16, ValueType::Int8] {
            let error = values.check(Format::Npy).unwrap_err();
            assert!(error.to_string().starts_with("a `.npy` file holds f32 or f16, not ") && error.hint().is_some());
            values.check(Format::Safetensors).unwrap();
        }
    }
}
