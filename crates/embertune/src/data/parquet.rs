//! The rows of a Parquet file, in builds with the feature `parquet`; the others say so.
//!
//! A feature, since the crate costs more than a minute of CPU time to build (docs/LOG.md). Rows are read through its record API, one at
//! a time: it is not the fastest, but knows lists, nulls and every encoding.

use std::path::Path;

use serde_json::{Map, Value};

use super::packed::Packing;
use crate::error::{Error, Result};

/// Reads the rows of a file; each comes with its number, from 1. Dates, times, decimals and bytes come as texts.
///
/// # Errors
/// A file that is damaged or packed as a whole; errors of `take`.
#[cfg(feature = "parquet")]
pub fn for_each_row(
    path: &Path,
    packing: Packing,
    mut take: impl FnMut(usize, Map<String, Value>) -> Result<()>,
) -> Result<()> {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    let damaged = |error: parquet::errors::ParquetError, row: usize| Error::Row {
        path: path.to_path_buf(),
        line: row,
        problem: format!("the Parquet data can't be read: {error}"),
        hint: Some("copy or download the file again, or write it anew, e.g. with pandas".into()),
    };
    if packing != Packing::None {
        let hint = Some(format!(
            "unpack it first: Parquet packs its columns itself, {} around it wins nothing",
            packing.name()
        ));
        return Err(Error::Data {
            path: path.to_path_buf(),
            problem: "a Parquet file that is packed as a whole".into(),
            hint,
        });
    }
    let file = std::fs::File::open(path).map_err(Error::io(path, "read"))?;
    let reader = SerializedFileReader::new(file).map_err(|error| damaged(error, 1))?;
    for (i, row) in reader.get_row_iter(None).map_err(|error| damaged(error, 1))?.enumerate() {
        let fields = row.map_err(|error| damaged(error, i + 1))?.into_columns();
        take(i + 1, fields.iter().map(|(name, field)| (name.clone(), value(field))).collect())?;
    }
    Ok(())
}

#[cfg(feature = "parquet")]
fn value(field: &parquet::record::Field) -> Value {
    use parquet::record::Field;

    match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => Value::from(*flag),
        Field::Byte(number) => Value::from(*number),
        Field::Short(number) => Value::from(*number),
        Field::Int(number) => Value::from(*number),
        Field::Long(number) => Value::from(*number),
        Field::UByte(number) => Value::from(*number),
        Field::UShort(number) => Value::from(*number),
        Field::UInt(number) => Value::from(*number),
        Field::ULong(number) => Value::from(*number),
        Field::Float16(number) => Value::from(number.to_f32()),
        Field::Float(number) => Value::from(*number),
        Field::Double(number) => Value::from(*number),
        Field::Str(text) => Value::from(text.as_str()),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::Group(row) => row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect(),
        other => Value::from(other.to_string()),
    }
}

/// Says that this build reads no Parquet.
///
/// # Errors
/// Always.
#[cfg(not(feature = "parquet"))]
pub fn for_each_row(
    path: &Path,
    _packing: Packing,
    _take: impl FnMut(usize, Map<String, Value>) -> Result<()>,
) -> Result<()> {
    Err(Error::Data {
        path: path.to_path_buf(),
        problem: "this is a Parquet file, and this program was built without the feature `parquet`".into(),
        hint: Some(
            "build with `cargo build --release --features parquet`, or make JSON lines of it: \
             `pandas.read_parquet(\"in.parquet\").to_json(\"out.jsonl\", orient=\"records\", lines=True)`"
                .into(),
        ),
    })
}
