//! Files of vectors, from `embertune embed` or other tools, read as a whole or a few rows at a time: a pool may be larger than memory.
//!
//! Values are read by plain file reads rather than through a memory map: a file that shrinks meanwhile then gives an error instead of a
//! crash, and what the system keeps of a file in memory serves both.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};

use super::Vectors;
use super::files::{EMBEDDINGS, Format, SCALES};
use crate::error::{Error, Result};

/// Read at once.
const BLOCK_BYTES: usize = 1 << 20;
/// The header of a safetensors file may not be longer; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A file of vectors that is open.
#[derive(Debug)]
pub struct VectorFile {
    path: PathBuf,
    file: Mutex<File>,
    dtype: Dtype,
    n_rows: usize,
    dim: usize,
    /// Where the values begin.
    start: u64,
    /// What the bytes of each vector are multiplied by; empty for floats.
    scales: Vec<f32>,
}

impl VectorFile {
    /// Opens vectors `[n_rows, dim]`: a `.npy` file, or the tensor `embeddings` or only tensor of a `.safetensors` file. Types are f16, f32
    /// and f64, in safetensors bf16 as well, and bytes where a tensor `scales` is beside them.
    ///
    /// # Errors
    /// Where the file can't be read, or is of another form, shape, length or type.
    pub fn open(path: &Path) -> Result<VectorFile> {
        let format = Format::of(path)?;
        let mut file = File::open(path).map_err(Error::io(path, "read"))?;
        let length = file.metadata().map_err(Error::io(path, "read"))?.len();
        let layout = match format {
            Format::Npy => npy(&mut file, length),
            Format::Safetensors => safetensors(&mut file, length),
        };
        let Layout { shape, dtype, start, scales } = layout.map_err(|problem| unusable(path, problem))?;
        let [n_rows, dim] = shape[..] else {
            return Err(unusable(
                path,
                format!("the shape is {shape:?}, expected two numbers: vectors and their width"),
            ));
        };
        if dim == 0 {
            return Err(unusable(path, format!("the shape is {shape:?}: vectors without values")));
        }
        let path = path.to_path_buf();
        let mut vectors = VectorFile { path, file: Mutex::new(file), dtype, n_rows, dim, start, scales: Vec::new() };
        if let Some(at) = scales {
            vectors.scales = vectors.floats(at, n_rows, Dtype::F32)?;
        }
        Ok(vectors)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of vectors.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Width of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Some of the vectors.
    ///
    /// # Errors
    /// Where the file can't be read, or one of them has a value that is no finite number.
    ///
    /// # Panics
    /// Where `rows` are not in the file.
    pub fn read(&self, rows: Range<usize>) -> Result<Vectors> {
        assert!(rows.start <= rows.end && rows.end <= self.n_rows, "rows {rows:?} of {}", self.n_rows);
        let row_bytes = self.dim * self.dtype.bitsize() / 8;
        let start = self.start + rows.start as u64 * row_bytes as u64;
        let mut values = self.floats(start, rows.len() * self.dim, self.dtype)?;
        if let Some(scales) = self.scales.get(rows.clone()) {
            for (row, scale) in values.chunks_exact_mut(self.dim).zip(scales) {
                row.iter_mut().for_each(|x| *x *= scale);
            }
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => {
                let vector = rows.start + at / self.dim + 1;
                Err(unusable(&self.path, format!("vector {vector} holds the value {}", values[at])))
            }
            None => Ok(Vectors::new(values, self.dim)),
        }
    }

    fn floats(&self, start: u64, n: usize, dtype: Dtype) -> Result<Vec<f32>> {
        let read = || {
            // A thread that panicked left nothing half-done: the place is set anew.
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(start))?;
            let mut values = Vec::with_capacity(n);
            let mut left = n * dtype.bitsize() / 8;
            let mut block = vec![0; left.min(BLOCK_BYTES)];
            while left > 0 {
                let block = &mut block[..left.min(BLOCK_BYTES)];
                file.read_exact(block)?;
                left -= block.len();
                widen(block, dtype, &mut values);
            }
            Ok(values)
        };
        read().map_err(Error::io(&self.path, "read"))
    }
}

/// Reads all vectors of a file.
///
/// # Errors
/// Those of [`VectorFile::open`] and [`VectorFile::read`].
pub fn read_vectors(path: &Path) -> Result<Vectors> {
    let file = VectorFile::open(path)?;
    file.read(0..file.n_rows())
}

fn unusable(path: &Path, problem: String) -> Error {
    let hint = "save an array `[texts, width]` of floats, as `embertune embed` and `numpy.save` do";
    Error::Data { path: path.into(), problem, hint: Some(hint.into()) }
}

fn widen(bytes: &[u8], dtype: Dtype, to: &mut Vec<f32>) {
    match dtype {
        Dtype::I8 => to.extend(bytes.iter().map(|&b| f32::from(b.cast_signed()))),
        Dtype::F16 => to.extend(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => to.extend(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32())),
        Dtype::F64 => to.extend(bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
        _ => to.extend(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
    }
}

/// What a header says, checked against the length of the file.
#[derive(Debug)]
struct Layout {
    shape: Vec<usize>,
    dtype: Dtype,
    start: u64,
    scales: Option<u64>,
}

/// A layout, or what is wrong.
type Found = std::result::Result<Layout, String>;

fn bytes(file: &mut File, n: u64, length: u64) -> std::result::Result<Vec<u8>, String> {
    let cut_off = "the file is cut off";
    // Else a broken header could ask for any amount of memory.
    if n > length {
        return Err(cut_off.into());
    }
    let mut bytes = vec![0; n as usize];
    file.read_exact(&mut bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => cut_off.into(),
        _ => error.to_string(),
    })?;
    Ok(bytes)
}

fn npy(file: &mut File, length: u64) -> Found {
    if bytes(file, 6, length).ok().as_deref() != Some(&b"\x93NUMPY"[..]) {
        return Err("this is no file of NumPy".into());
    }
    // Version 1 has two bytes for the length of the header, later ones four.
    let (n, prefix) = match bytes(file, 2, length)?[..] {
        [1, _] => (bytes(file, 2, length)?, 10),
        [2 | 3, _] => (bytes(file, 4, length)?, 12),
        _ => return Err("the version of the file's format is none of 1, 2 and 3".into()),
    };
    let n = n.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let header = bytes(file, n, length)?;
    let header = String::from_utf8_lossy(&header);
    let field = |name: &str| header.split_once(&format!("'{name}':")).map(|(_, value)| value.trim_start());
    if !field("fortran_order").is_some_and(|value| value.starts_with("False")) {
        return Err("the array is in Fortran order: `numpy.ascontiguousarray` turns it".into());
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
    let (start, n_values) = (prefix + n, shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size)));
    let n_bytes = n_values.and_then(|n| n.checked_mul(dtype.bitsize() / 8));
    if n_bytes.map(|n| n as u64) != length.checked_sub(start) {
        let there = length.saturating_sub(start);
        return Err(format!("{there} bytes of data do not fit the shape {shape:?} of `{descr}`"));
    }
    Ok(Layout { shape, dtype, start, scales: None })
}

fn safetensors(file: &mut File, length: u64) -> Found {
    let broken = |problem: String| format!("this is no safetensors file: {problem}");
    let n = bytes(file, 8, length).map_err(broken)?.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let header = bytes(file, n, length.min(MAX_HEADER_BYTES)).map_err(broken)?;
    // Reading it as `Metadata` checks that the tensors fill the data without gaps and fit their types and shapes.
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| broken(error.to_string()))?;
    let start = 8 + n;
    if Some(metadata.data_len() as u64) != length.checked_sub(start) {
        return Err(broken(format!("its tensors should take {} bytes", metadata.data_len())));
    }
    let tensors = metadata.tensors();
    let info = match (tensors.get(EMBEDDINGS), tensors.values().next()) {
        (Some(info), _) => info,
        (None, Some(info)) if tensors.len() == 1 => info,
        _ => return Err(format!("it has {} tensors, none of them named `{EMBEDDINGS}`", tensors.len())),
    };
    let at = |offset: usize| start + offset as u64;
    let scales = match info.dtype {
        Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64 => None,
        Dtype::I8 => match tensors.get(SCALES) {
            Some(scales)
                if scales.dtype == Dtype::F32
                    && scales.shape.len() == 1
                    && scales.shape.first() == info.shape.first() =>
            {
                Some(at(scales.data_offsets.0))
            }
            _ => return Err(format!("it has bytes, but no tensor `{SCALES}` of F32 with one number per vector")),
        },
        other => return Err(format!("the type is {other:?}, expected F32, F16, BF16, F64, or I8 with scales")),
    };
    Ok(Layout { shape: info.shape.clone(), dtype: info.dtype, start: at(info.data_offsets.0), scales })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::tensor::TensorView;

    use super::*;
    use crate::embed::files::{ValueType, write_vectors};

    const VALUES: [f32; 6] = [1.0, -2.5, 3.0, 0.25, 0.0, 7.0];

    #[test]
    fn vectors_are_read_as_they_were_written_as_a_whole_and_by_rows() {
        let folder = tempfile::tempdir().unwrap();
        let vectors = Vectors::new(VALUES.to_vec(), 3);
        for (name, values, off) in [
            ("v.npy", ValueType::F32, 0.0),
            ("v.safetensors", ValueType::F32, 0.0),
            // These values have few digits.
            ("v.npy", ValueType::F16, 0.0),
            ("v.safetensors", ValueType::F16, 0.0),
            ("v.safetensors", ValueType::Bf16, 0.0),
            // Half of the largest value's 127th.
            ("v.safetensors", ValueType::Int8, 3.5 / 127.0),
        ] {
            let path = folder.path().join(name);
            write_vectors(&path, Format::of(&path).unwrap(), values, &vectors).unwrap();
            let read = read_vectors(&path).unwrap();
            let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= off;
            assert!(read.values.iter().zip(&VALUES).all(is_near), "{name}, {values:?}: {read:?}");
            let file = VectorFile::open(&path).unwrap();
            assert_eq!((file.n_rows(), file.dim()), (2, 3));
            assert_eq!(file.read(1..2).unwrap().values, read.values[3..]);
            assert_eq!(file.read(0..0).unwrap().n_rows(), 0);
        }
    }

    #[test]
    fn a_vector_of_zeros_stays_one_as_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.safetensors");
        let vectors = Vectors::new(vec![0.0; 4], 2);
        write_vectors(&path, Format::Safetensors, ValueType::Int8, &vectors).unwrap();
        assert_eq!(read_vectors(&path).unwrap(), vectors);
    }

    /// `numpy.save` of float16 and float64 arrays writes these headers; later versions of the format have longer lengths.
    #[test]
    fn other_floats_and_versions_are_read_and_the_rest_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let read = |bytes: Vec<u8>| {
            let path = folder.path().join("v.npy");
            fs::write(&path, bytes).unwrap();
            read_vectors(&path)
        };
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
                let vectors = read(file(version, &dict(descr, "(2, 1)"), data)).unwrap();
                assert_eq!(vectors, Vectors::new(vec![0.5, -2.0], 1));
            }
        }
        for (bytes, problem) in [
            (file(&[1, 0], &dict("<i8", "(2, 1)"), &doubles), "the type is `<i8`"),
            (file(&[1, 0], &dict("<f8", "(3, 1)"), &doubles), "16 bytes of data do not fit"),
            (file(&[1, 0], &dict("<f8", "(18446744073709551615, 9)"), &doubles), "do not fit"),
            (file(&[1, 0], &dict("<f8", "(2, 1)").replace("False", "True"), &doubles), "Fortran"),
            (file(&[1, 0], &dict("<f8", "(2,)"), &doubles), "the shape is [2]"),
            (file(&[1, 0], &dict("<f8", "(2, 0)"), b""), "vectors without values"),
            (file(&[9, 0], "", b""), "version"),
            (b"\x93NUMPY\x01\x00\xff\xff".to_vec(), "cut off"),
            (b"PK".to_vec(), "no file of NumPy"),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(error.to_string().contains(problem) && error.hint().is_some(), "{problem}: {error}");
        }
    }

    #[test]
    fn values_that_are_no_numbers_and_bytes_without_scales_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.safetensors");
        let nan: Vec<u8> = [1.0_f32, 2.0, f32::NAN, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        for (dtype, data, problem) in [
            (Dtype::F32, &nan[..], "vector 2 holds the value NaN"),
            (Dtype::I8, &[1, 2, 3, 4], "no tensor `scales`"),
            (Dtype::U8, &[1, 2, 3, 4], "the type is U8"),
        ] {
            let view = TensorView::new(dtype, vec![2, 2], data).unwrap();
            fs::write(&path, safetensors::serialize([("x", view)], None).unwrap()).unwrap();
            let error = read_vectors(&path).unwrap_err();
            assert!(error.to_string().contains(problem) && error.hint().is_some(), "{error}");
        }
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(read_vectors(&path).unwrap_err().to_string().contains("its tensors should take 4 bytes"));
    }
}
