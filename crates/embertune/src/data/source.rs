//! A data file of any form as one JSON object after the other. The form is found in the content; the name decides only where that
//! says nothing.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::columns::Columns;
use super::csv::CsvReader;
use super::json_array::JsonArray;
use super::lines::Lines;
use super::object::Object;
use super::packed::{self, Packing};
use super::parquet;
use crate::error::{Error, Result};

/// Names of fields that are told about a file.
const MAX_NAMED: usize = 12;
/// Bytes that are looked at for zeros, which no text has.
const LOOKED_AT: usize = 4096;

/// What to do with a folder of Arrow files.
pub const ARROW_HINT: &str =
    "write it as Parquet or JSON lines: `datasets.load_from_disk(FOLDER)[\"train\"].to_json(\"train.jsonl\")`";

/// How a file holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object per line.
    JsonLines,
    /// A list of JSON objects.
    JsonArray,
    /// Cells between commas or semicolons, below a line of headings.
    Csv,
    /// Cells between tabs, below a line of headings.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

impl Form {
    /// Its name in sentences.
    pub fn name(self) -> &'static str {
        match self {
            Form::JsonLines => "JSON lines",
            Form::JsonArray => "JSON list",
            Form::Csv => "CSV",
            Form::Tsv => "TSV",
            Form::Parquet => "Parquet",
        }
    }
}

/// The bytes of a row, for writing it as it was.
#[derive(Clone, Copy, Debug)]
pub enum Raw<'a> {
    /// A JSON object on one line, without line end.
    Json(&'a str),
    /// A CSV record with its line end, and the heading of its file.
    Csv(&'a [u8], &'a [u8]),
    /// The form has none, or none that fit on a line.
    None,
}

/// What a file was, once it is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Form and packing, as in `CSV in gzip`.
    pub what: String,
    /// The names of the fields of the first row.
    pub columns: Vec<String>,
    /// Number of rows.
    pub n_rows: usize,
    /// Whether it is JSON lines, not packed.
    pub is_plain: bool,
    /// Columns that the user has named, and that no row has.
    pub unseen: Vec<String>,
}

impl Reading {
    /// All of it in one line: `CSV, columns query, positive; 8,000 rows`.
    pub fn sentence(&self) -> String {
        let mut columns: Vec<_> = self.columns.iter().take(MAX_NAMED).map(String::as_str).collect();
        if self.columns.len() > MAX_NAMED {
            columns.push("...");
        }
        let columns = if columns.is_empty() { String::new() } else { format!(", columns {}", columns.join(", ")) };
        format!("{}{columns}; {} rows", self.what, thousands(self.n_rows))
    }
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// Reads a file to its end.
///
/// # Errors
/// A file of no known form, a row that is not what its form says, and those of `take`.
pub fn for_each_object(
    path: &Path,
    columns: &Columns,
    mut take: impl FnMut(Object<'_>, Raw<'_>) -> Result<()>,
) -> Result<Reading> {
    let (mut reader, packing) = packed::open(path)?;
    let start = reader.fill_buf().map_err(Error::io(path, "read"))?;
    let (form, delimiter) = sniff(path, start, columns)?;
    let what = match packing {
        Packing::None => form.name().to_string(),
        packing => format!("{} in {}", form.name(), packing.name()),
    };
    let is_plain = form == Form::JsonLines && packing == Packing::None;
    let mut reading = Reading { what, is_plain, ..Reading::default() };
    let mut take = |object: Object<'_>, raw: Raw<'_>| {
        if reading.n_rows == 0 {
            reading.columns = object.fields.keys().cloned().collect();
        }
        reading.n_rows += 1;
        take(object, raw)
    };
    match form {
        Form::JsonLines => {
            for entry in Lines::of(path, reader) {
                let (line, text) = entry?;
                if !text.trim().is_empty() {
                    take(Object::parse(path, line, &text)?, Raw::Json(&text))?;
                }
            }
        }
        Form::JsonArray => {
            let mut array = JsonArray::of(path, reader);
            while let Some((line, text)) = array.next()? {
                let raw = if text.contains(['\n', '\r']) { Raw::None } else { Raw::Json(&text) };
                take(Object::parse(path, line, &text)?, raw)?;
            }
        }
        Form::Csv | Form::Tsv => {
            let mut csv = CsvReader::open(path, reader, delimiter)?;
            let cells: Vec<_> = csv.columns().iter().map(|name| Cell::of(name, columns)).collect();
            let names = csv.columns().to_vec();
            while let Some((line, texts)) = csv.next()? {
                let mut fields = Map::new();
                for ((name, cell), text) in names.iter().zip(&cells).zip(texts) {
                    // The row numbers of pandas.
                    if !name.is_empty() {
                        fields.insert(name.clone(), cell.value(text));
                    }
                }
                take(Object::of(path, line, fields), Raw::Csv(csv.raw(), csv.heading()))?;
            }
        }
        Form::Parquet => {
            parquet::for_each_row(path, packing, |row, fields| take(Object::of(path, row, fields), Raw::None))?
        }
    }
    Ok(reading)
}

/// What the cells of a column hold.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    Text,
    /// A text, or a JSON list of texts.
    Texts,
    /// The same, or empty where a negative is not there.
    Negatives,
    /// A number, or a JSON list of numbers. May be empty.
    Numbers,
}

impl Cell {
    fn of(column: &str, columns: &Columns) -> Cell {
        match columns.part(column) {
            "neg" => Cell::Negatives,
            "pos" | "context" => Cell::Texts,
            "score" | "label" | "pos_scores" | "neg_scores" | "scores" => Cell::Numbers,
            _ => Cell::Text,
        }
    }

    fn value(self, text: String) -> Value {
        match self {
            Cell::Negatives | Cell::Numbers if text.is_empty() => Value::Null,
            Cell::Texts | Cell::Negatives if text.starts_with('[') => {
                serde_json::from_str::<Vec<String>>(&text).map_or_else(|_| Value::String(text), Value::from)
            }
            Cell::Numbers => match serde_json::from_str(text.trim()) {
                Ok(value @ (Value::Number(_) | Value::Array(_))) => value,
                _ => Value::String(text),
            },
            Cell::Text | Cell::Texts | Cell::Negatives => Value::String(text),
        }
    }
}

/// The form of a file that begins with `start`, and the delimiter of its cells.
fn sniff(path: &Path, start: &[u8], columns: &Columns) -> Result<(Form, u8)> {
    let fail = |problem: &str, hint: &str| {
        Err(Error::Data { path: path.into(), problem: problem.into(), hint: Some(hint.into()) })
    };
    let ending = ending(path);
    if start.starts_with(b"PAR1") {
        return Ok((Form::Parquet, 0));
    }
    if start.starts_with(b"ARROW1") || start.starts_with(b"\xFF\xFF\xFF\xFF") || ending == "arrow" {
        return fail("this is an Arrow file, which is not read", ARROW_HINT);
    }
    if start.starts_with(b"\xFF\xFE") || start.starts_with(b"\xFE\xFF") {
        return fail("the text is UTF-16, expected UTF-8", "`iconv -f utf-16 -t utf-8 in.csv > out.csv`");
    }
    if start.starts_with(b"PK\x03\x04") {
        return fail("this is a zip archive", "unpack it, and name a file or the folder");
    }
    if let Some(at) = start.iter().take(LOOKED_AT).position(|&byte| byte == 0) {
        return fail(
            &format!("this is no text: byte {} is zero", at + 1),
            "expected JSON lines, a JSON list, CSV, TSV or Parquet, packed with gzip or zstd or not",
        );
    }
    let text = start.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(start).trim_ascii_start();
    match text.first() {
        None | Some(b'{') => return Ok((Form::JsonLines, 0)),
        Some(b'[') => return Ok((Form::JsonArray, 0)),
        Some(_) => {}
    }
    let heading = String::from_utf8_lossy(text.split(|&byte| byte == b'\n').next().unwrap_or_default());
    let names =
        |delimiter: char| heading.split(delimiter).map(|name| name.trim().trim_matches('"')).collect::<Vec<_>>();
    let delimiter = ['\t', ',', ';'].into_iter().max_by_key(|&delimiter| (names(delimiter).len(), delimiter == ','));
    let delimiter = delimiter.unwrap_or(',');
    let names = names(delimiter);
    let is_named_so = matches!(ending.as_str(), "csv" | "tsv");
    let is_json_by_name = matches!(ending.as_str(), "jsonl" | "ndjson" | "json");
    if is_named_so || names.len() > 1 && (!is_json_by_name || names.iter().any(|name| columns.knows(name))) {
        let form = if delimiter == '\t' || ending == "tsv" && names.len() == 1 { Form::Tsv } else { Form::Csv };
        return Ok((form, if form == Form::Tsv { b'\t' } else { delimiter as u8 }));
    }
    Ok((Form::JsonLines, 0))
}

/// What the name of a file ends in, in lower case, apart from the packing.
pub fn ending(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = [".gz", ".zst"].iter().find_map(|packing| name.strip_suffix(packing)).unwrap_or(&name);
    PathBuf::from(name).extension().unwrap_or_default().to_string_lossy().into_owned()
}
