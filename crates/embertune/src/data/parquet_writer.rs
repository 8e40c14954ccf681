//! Rows as a Parquet file: columns of texts, numbers or truth values, or of lists of these, each of which may be missing in a row.
//!
//! Lists are what the format calls so, three levels deep with the names `list` and `element`, as pyarrow writes and expects them. The rows of
//! a group are in memory until they are written, column by column.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value};

/// A group of rows ends when it has so many bytes: a few are read at once, and many are written with one set of statistics.
const GROUP_BYTES: usize = 1 << 25;

/// What the values of a column are, as far as they were seen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Bool,
    Int,
    Float,
    /// Texts; of anything else, its JSON.
    Text,
}

/// The columns of a file: all fields of its rows, in the order in which they come up.
#[derive(Debug, Default)]
pub struct Layout(Vec<Column>);

/// A column with the values of the present group.
#[derive(Debug, Default)]
struct Column {
    name: String,
    /// None where all values are null or empty lists.
    kind: Option<Kind>,
    is_list: bool,
    /// See [`Column::push`].
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    bools: Vec<bool>,
    ints: Vec<i64>,
    floats: Vec<f64>,
    texts: Vec<ByteArray>,
}

impl Layout {
    /// Takes a row's fields into account. A column with a list in any row is one of lists; integers beside other numbers are such numbers;
    /// values of several kinds are texts.
    pub fn see(&mut self, fields: &Map<String, Value>) {
        for (name, value) in fields.iter().filter(|(name, _)| !name.is_empty()) {
            let at = self.0.iter().position(|column| column.name == *name).unwrap_or_else(|| {
                self.0.push(Column { name: name.clone(), ..Column::default() });
                self.0.len() - 1
            });
            self.0[at].see(value);
        }
    }

    fn schema(&self) -> ParquetResult<TypePtr> {
        let fields = self.0.iter().map(|column| column.schema().map(Arc::new)).collect::<ParquetResult<_>>()?;
        Type::group_type_builder("schema").with_fields(fields).build().map(Arc::new)
    }
}

impl Column {
    fn see(&mut self, value: &Value) {
        let kind = match value {
            Value::Null => return,
            Value::Array(items) if !self.is_list => {
                self.is_list = true;
                return items.iter().for_each(|item| self.see(item));
            }
            Value::Array(items) if !items.iter().any(|item| item.is_array()) => {
                return items.iter().for_each(|item| self.see(item));
            }
            Value::Bool(_) => Kind::Bool,
            Value::Number(number) if number.is_i64() => Kind::Int,
            // No column of numbers holds it to the last digit.
            Value::Number(number) if number.is_u64() => Kind::Text,
            Value::Number(_) => Kind::Float,
            Value::String(_) | Value::Array(_) | Value::Object(_) => Kind::Text,
        };
        self.kind = Some(match (self.kind, kind) {
            (None, kind) => kind,
            (Some(known), kind) if known == kind => kind,
            (Some(Kind::Int | Kind::Float), Kind::Int | Kind::Float) => Kind::Float,
            _ => Kind::Text,
        });
    }

    fn schema(&self) -> ParquetResult<Type> {
        let (physical, logical) = match self.kind {
            Some(Kind::Bool) => (Physical::BOOLEAN, None),
            Some(Kind::Int) => (Physical::INT64, None),
            Some(Kind::Float) => (Physical::DOUBLE, None),
            Some(Kind::Text) | None => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let values = |name: &str| {
            let builder = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
            builder.with_logical_type(logical.clone()).build()
        };
        if !self.is_list {
            return values(&self.name);
        }
        let items = Type::group_type_builder("list").with_repetition(Repetition::REPEATED);
        let items = items.with_fields(vec![Arc::new(values("element")?)]).build()?;
        let list = Type::group_type_builder(&self.name).with_repetition(Repetition::OPTIONAL);
        list.with_logical_type(Some(LogicalType::List)).with_fields(vec![Arc::new(items)]).build()
    }

    /// Adds the value of a row. What is defined of it is a level, 0 for null; of a list 1 for an empty one, 2 for an item that is null. Items
    /// after the first repeat at level 1.
    fn push(&mut self, value: Option<&Value>) {
        let top = if self.is_list { 3 } else { 1 };
        let items = match value {
            Some(Value::Array(items)) if self.is_list => items.as_slice(),
            None | Some(Value::Null) => return self.level(0, 0),
            Some(value) => std::slice::from_ref(value),
        };
        if items.is_empty() {
            self.level(0, 1);
        }
        for (i, item) in items.iter().enumerate() {
            self.level(i16::from(i > 0), if item.is_null() { top - 1 } else { top });
            match (self.kind, item) {
                (_, Value::Null) => {}
                (Some(Kind::Bool), item) => self.bools.push(item.as_bool().unwrap_or_default()),
                (Some(Kind::Int), item) => self.ints.push(item.as_i64().unwrap_or_default()),
                (Some(Kind::Float), item) => self.floats.push(item.as_f64().unwrap_or_default()),
                (_, Value::String(text)) => self.texts.push(text.as_str().into()),
                (_, other) => self.texts.push(other.to_string().as_str().into()),
            }
        }
    }

    fn level(&mut self, repetition: i16, definition: i16) {
        self.repetitions.push(repetition);
        self.definitions.push(definition);
    }

    fn clear(&mut self) {
        self.definitions.clear();
        self.repetitions.clear();
        self.bools.clear();
        self.ints.clear();
        self.floats.clear();
        self.texts.clear();
    }
}

/// A file in the making.
pub struct ParquetWriter<W: Write + Send> {
    columns: Vec<Column>,
    writer: SerializedFileWriter<W>,
    n_bytes: usize,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Begins a file of rows that `layout` has seen.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn new(out: W, layout: Layout) -> io::Result<Self> {
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let schema = layout.schema().map_err(as_io)?;
        let writer = SerializedFileWriter::new(out, schema, properties.into()).map_err(as_io)?;
        Ok(ParquetWriter { columns: layout.0, writer, n_bytes: 0 })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn write(&mut self, fields: &Map<String, Value>) -> io::Result<()> {
        for column in &mut self.columns {
            column.push(fields.get(&column.name));
        }
        self.n_bytes += fields.values().map(n_bytes).sum::<usize>();
        if self.n_bytes > GROUP_BYTES { self.end_group().map_err(as_io) } else { Ok(()) }
    }

    fn end_group(&mut self) -> ParquetResult<()> {
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column()? else { break };
            let definitions = Some(column.definitions.as_slice());
            let repetitions = column.is_list.then_some(column.repetitions.as_slice());
            match column.kind {
                Some(Kind::Bool) => writer.typed::<BoolType>().write_batch(&column.bools, definitions, repetitions)?,
                Some(Kind::Int) => writer.typed::<Int64Type>().write_batch(&column.ints, definitions, repetitions)?,
                Some(Kind::Float) => {
                    writer.typed::<DoubleType>().write_batch(&column.floats, definitions, repetitions)?
                }
                Some(Kind::Text) | None => {
                    writer.typed::<ByteArrayType>().write_batch(&column.texts, definitions, repetitions)?
                }
            };
            writer.close()?;
            column.clear();
        }
        group.close()?;
        self.n_bytes = 0;
        Ok(())
    }

    /// Writes what is left, and the end of the file.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn finish(mut self) -> io::Result<()> {
        let is_open = self.columns.iter().any(|column| !column.definitions.is_empty());
        let ended = if is_open { self.end_group() } else { Ok(()) };
        ended.and_then(|()| self.writer.close().map(drop)).map_err(as_io)
    }
}

/// About what a value takes.
fn n_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(n_bytes).sum(),
        Value::Object(fields) => fields.values().map(n_bytes).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => size_of::<f64>(),
    }
}

fn as_io(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => error.downcast::<io::Error>().map_or_else(io::Error::other, |error| *error),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use serde_json::json;

    use super::super::packed::Packing;
    use super::super::parquet::for_each_row;
    use super::*;

    #[test]
    fn fields_of_every_kind_are_read_back_from_several_groups() {
        let long = "long ".repeat(GROUP_BYTES / 8);
        let rows = [
            json!({"text": "a", "mixed": 1, "list": [], "int": 1, "float": 1, "flag": true, "scores": [1, 2.5], "big": u64::MAX, "": "no column"}),
            json!({"text": long, "mixed": {"a": ["b"]}, "list": null, "int": null, "floats": [], "late": [true, null]}),
            json!({"text": long, "mixed": "c", "list": ["d", null, ""], "int": i64::MIN, "float": 0.1, "flag": false}),
            json!({"text": "\u{e9}", "list": "alone", "nested": [[1], "e"], "int": 7}),
        ];
        let expected = [
            json!({"text": "a", "mixed": "1", "list": [], "int": 1, "float": 1.0, "flag": true, "scores": [1.0, 2.5],
                "big": u64::MAX.to_string()}),
            json!({"text": long, "mixed": "{\"a\":[\"b\"]}", "floats": [], "late": [true, null]}),
            json!({"text": long, "mixed": "c", "list": ["d", null, ""], "int": i64::MIN, "float": 0.1, "flag": false}),
            json!({"text": "\u{e9}", "list": ["alone"], "nested": ["[1]", "e"], "int": 7}),
        ];
        let mut layout = Layout::default();
        rows.iter().for_each(|row| layout.see(row.as_object().unwrap()));
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = ParquetWriter::new(file.as_file(), layout).unwrap();
        rows.iter().for_each(|row| writer.write(row.as_object().unwrap()).unwrap());
        writer.finish().unwrap();
        let reader = SerializedFileReader::new(file.reopen().unwrap()).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 2);
        let mut n = 0;
        for_each_row(file.path(), Packing::None, |row, mut fields| {
            fields.retain(|_, value| !value.is_null());
            assert!(Value::Object(fields) == expected[row - 1], "row {row}");
            n += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(n, 4);
    }
}
