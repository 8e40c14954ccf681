//! Vectors as files: NumPy's `.npy` and safetensors, written in f32; read in any float type, from other tools, too.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::SafeTensors;
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
                hint: Some("the ending of a file of vectors chooses its format".into()),
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

/// Reads vectors `[n_rows, dim]`: from a `.npy` file, or the tensor `embeddings` or only tensor of a `.safetensors` file. Types are f16, f32
/// and f64, in safetensors bf16 as well.
///
/// # Errors
/// Where the file can't be read, is of another form, shape or type, or holds values that are no finite numbers.
pub fn read_vectors(path: &Path) -> Result<Vectors> {
    let format = Format::of(path)?;
    let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
    let read = match format {
        Format::Npy => read_npy(&bytes),
        Format::Safetensors => read_safetensors(&bytes),
    };
    read.and_then(|(shape, values)| match shape[..] {
        [_, dim] if dim > 0 => match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(format!("vector {} holds the value {}", at / dim + 1, values[at])),
            None => Ok(Vectors::new(values, dim)),
        },
        _ => Err(format!("the shape is {shape:?}, expected two numbers: vectors and their width")),
    })
    .map_err(|problem| Error::Data {
        path: path.into(),
        problem,
        hint: Some("save an array `[texts, width]` of floats, as `embertune embed` and `numpy.save` do".into()),
    })
}

/// Shape and values, or what is wrong.
type Array = std::result::Result<(Vec<usize>, Vec<f32>), String>;

fn read_npy(bytes: &[u8]) -> Array {
    let cut = || "the file is cut off".to_string();
    let after_magic = bytes.strip_prefix(b"\x93NUMPY").ok_or("this is no file of NumPy")?;
    // Version 1 has two bytes for the length of the header, later ones four.
    let (length, rest) = match after_magic {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err("the version of the file's format is none of 1, 2 and 3".into()),
    };
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = String::from_utf8_lossy(header);
    let field = |name: &str| header.split_once(&format!("'{name}':")).map(|(_, value)| value.trim_start());
    if !field("fortran_order").is_some_and(|value| value.starts_with("False")) {
        return Err("the array is in Fortran order".into());
    }
    let shape =
        field("shape").and_then(|value| value.strip_prefix('(')?.split_once(')')).ok_or("the shape is missing")?.0;
    let numbers = shape.split(',').map(str::trim).filter(|number| !number.is_empty()).map(str::parse);
    let shape: Vec<usize> =
        numbers.collect::<std::result::Result<_, _>>().map_err(|_| format!("the shape is ({shape})"))?;
    let descr = field("descr").and_then(|value| value.split('\'').nth(1)).unwrap_or_default();
    let dtype = match descr {
        "<f2" => Dtype::F16,
        "<f4" => Dtype::F32,
        "<f8" => Dtype::F64,
        other => return Err(format!("the type is `{other}`, expected `<f4`, `<f2` or `<f8`")),
    };
    let n_values = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
    if n_values.and_then(|n| n.checked_mul(dtype.bitsize() / 8)) != Some(data.len()) {
        return Err(format!("{} bytes of data do not fit the shape {shape:?} of `{descr}`", data.len()));
    }
    Ok((shape, floats(data, dtype)?))
}

fn read_safetensors(bytes: &[u8]) -> Array {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("this is no safetensors file: {error}"))?;
    let view = match (file.tensor("embeddings"), &file.tensors()[..]) {
        (Ok(view), _) => view,
        (Err(_), [(name, _)]) => file.tensor(name).map_err(|error| error.to_string())?,
        (Err(_), all) => return Err(format!("it has {} tensors, none of them named `embeddings`", all.len())),
    };
    Ok((view.shape().to_vec(), floats(view.data(), view.dtype())?))
}

fn floats(data: &[u8], dtype: Dtype) -> std::result::Result<Vec<f32>, String> {
    Ok(match dtype {
        Dtype::F16 => data.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        Dtype::F32 => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
        other => return Err(format!("the type is {other:?}, expected F32, F16, BF16 or F64")),
    })
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
        fs::read(&path).unwrap()
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
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor("embeddings").unwrap();
        assert_eq!((view.dtype(), view.shape()), (Dtype::F32, &[2, 3][..]));
        assert_eq!(&view.data()[4..8], (-2.5_f32).to_le_bytes());
    }

    #[test]
    fn another_ending_is_an_error_that_names_both_formats() {
        let error = Format::of(Path::new("v.csv")).unwrap_err().to_string();
        assert_eq!(error, "`v.csv` ends in neither `.npy` nor `.safetensors`");
    }

    #[test]
    fn vectors_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let vectors = Vectors::new(vec![1.0, -2.5, 3.0, 0.25, 0.0, 7.0], 3);
        for name in ["v.npy", "v.safetensors"] {
            let path = folder.path().join(name);
            write_vectors(&path, Format::of(&path).unwrap(), &vectors).unwrap();
            assert_eq!(read_vectors(&path).unwrap(), vectors);
        }
    }

    /// `numpy.save` of float16 and float64 arrays writes these headers; later versions of the format have longer lengths.
    #[test]
    fn other_floats_and_versions_are_read_and_the_rest_is_refused() {
        let file = |version: &[u8], dict: &str, data: &[u8]| {
            let length = (dict.len() as u32).to_le_bytes();
            let length = if version[0] == 1 { &length[..2] } else { &length[..] };
            [b"\x93NUMPY", version, length, dict.as_bytes(), data].concat()
        };
        let dict =
            |descr: &str, shape: &str| format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let halves: Vec<u8> = [0.5_f32, -2.0].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let doubles: Vec<u8> = [0.5_f64, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        for (descr, data) in [("<f2", &halves), ("<f8", &doubles)] {
            for version in [&[1, 0], &[2, 0]] {
                let read = read_npy(&file(version, &dict(descr, "(2, 1)"), data)).unwrap();
                assert_eq!(read, (vec![2, 1], vec![0.5, -2.0]));
            }
        }
        for (bytes, problem) in [
            (file(&[1, 0], &dict("<i8", "(2, 1)"), &doubles), "the type is `<i8`"),
            (file(&[1, 0], &dict("<f8", "(3, 1)"), &doubles), "16 bytes of data do not fit"),
            (file(&[1, 0], &dict("<f8", "(18446744073709551615, 9)"), &doubles), "do not fit"),
            (file(&[1, 0], &dict("<f8", "(2, 1)").replace("False", "True"), &doubles), "Fortran"),
            (file(&[9, 0], "", b""), "version"),
            (b"\x93NUMPY\x01\x00\xff\xff".to_vec(), "cut off"),
            (b"PK".to_vec(), "no file of NumPy"),
        ] {
            let error = read_npy(&bytes).unwrap_err();
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }

    #[test]
    fn values_that_are_no_numbers_and_other_shapes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.safetensors");
        for (values, shape, problem) in [
            (vec![1.0_f32, 2.0, f32::NAN, 4.0], vec![2, 2], "vector 2 holds the value NaN"),
            (vec![1.0, 2.0], vec![2], "the shape is [2]"),
        ] {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let view = TensorView::new(Dtype::F32, shape, &bytes).unwrap();
            fs::write(&path, safetensors::serialize([("x", view)], None).unwrap()).unwrap();
            let error = read_vectors(&path).unwrap_err();
            assert!(error.to_string().contains(problem) && error.hint().is_some(), "{error}");
        }
    }
}
