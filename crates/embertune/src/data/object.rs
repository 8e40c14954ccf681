//! One row of a file as an object whose fields are texts, with errors that name the place.

use std::path::Path;

use serde_json::{Map, Value};

use super::columns::Columns;
use crate::error::{Error, Result};

const TEXTS: &str = "put texts in quotation marks";
const NUMBERS: &str = "write numbers without quotation marks";

/// An object and where it stands.
pub struct Object<'a> {
    path: &'a Path,
    line: usize,
    /// The fields in the order of the file.
    pub fields: Map<String, Value>,
    /// What the file calls a field, where it is another name.
    names: Vec<(&'static str, String)>,
    /// What the user says the file calls them.
    columns: Option<&'a Columns>,
}

/// The texts of a list field, and how the file spelled them.
pub struct TextList {
    /// The texts, none empty.
    pub texts: Vec<String>,
    /// Whether the file has one string in the place of the list.
    pub was_string: bool,
}

impl<'a> Object<'a> {
    /// An object that stands in `line`, from 1; where there are no lines, its number.
    pub fn of(path: &'a Path, line: usize, fields: Map<String, Value>) -> Object<'a> {
        Object { path, line, fields, names: Vec::new(), columns: None }
    }

    /// The object with the parts of a row by their names, see [`Columns::row`].
    pub fn into_row(self, columns: &'a Columns) -> Object<'a> {
        let renamed = columns.row(self.fields);
        Object { fields: renamed.fields, names: renamed.names, columns: Some(columns), ..self }
    }

    /// The object with the columns that the user has named by the names of their parts.
    pub fn into_text(self, columns: &Columns) -> Object<'a> {
        Object { fields: columns.text(self.fields), ..self }
    }

    /// Where it stands.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Parses one line.
    ///
    /// # Errors
    /// Where the line is not valid JSON or no object.
    pub fn parse(path: &'a Path, line: usize, text: &str) -> Result<Object<'a>> {
        let mut object = Object::of(path, line, Map::new());
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => object.fields = fields,
            Ok(other) => {
                let hint = match other {
                    Value::Array(_) => "put each row on its own line: `jq -c '.[]' in.json > out.jsonl`",
                    _ => "every line is one object in braces",
                };
                return Err(object.error(format!("found {}, expected a JSON object", kind_of(&other)), hint));
            }
            Err(error) => {
                // serde_json counts lines within this one; only its column helps.
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or_default();
                let rest = text.get(error.column().saturating_sub(1)..).unwrap_or_default();
                let hint = match (text.trim_end(), error.is_eof()) {
                    _ if ["NaN", "Infinity"].iter().any(|no_number| rest.starts_with(no_number)) => {
                        "Python writes NaN and Infinity where JSON has no such numbers: leave these rows out"
                    }
                    ("[", _) => "put each row on its own line: `jq -c '.[]' in.json > out.jsonl`",
                    (text, _) if line == 1 && !text.trim_start().starts_with(['{', '[']) => {
                        "expected JSON lines, a JSON list, CSV, TSV or Parquet; a CSV file begins with the names of its columns"
                    }
                    (_, true) => "every object stands on one line, whole: `jq -c . in.json > out.jsonl`",
                    (_, false) => "every line is one JSON object",
                };
                return Err(object.error(format!("not valid JSON: {what} at column {}", error.column()), hint));
            }
        }
        Ok(object)
    }

    /// Whether the field is there and not `null`.
    pub fn has(&self, field: &str) -> bool {
        self.fields.get(field).is_some_and(|value| !value.is_null())
    }

    /// A field that must be a string that is not blank.
    pub fn text(&self, field: &str) -> Result<String> {
        match self.get(field)? {
            Value::String(text) => self.not_blank(text, &format!("field `{}`", self.shown(field))),
            other => Err(self.wrong_type(field, other, "a string", TEXTS)),
        }
    }

    /// A field that must be a list of strings, none blank. A string is taken as a list of one.
    pub fn texts(&self, field: &str) -> Result<TextList> {
        match self.get(field)? {
            Value::String(text) => Ok(TextList {
                texts: vec![self.not_blank(text, &format!("field `{}`", self.shown(field)))?],
                was_string: true,
            }),
            Value::Array(items) => {
                let texts = items.iter().enumerate().map(|(i, item)| match item {
                    Value::String(text) if items.len() == 1 && self.shown(field) != field => {
                        self.not_blank(text, &format!("field `{}`", self.shown(field)))
                    }
                    Value::String(text) => self.not_blank(text, &format!("item {} of field `{field}`", i + 1)),
                    other => Err(self.wrong_type(field, other, "strings as items", TEXTS)),
                });
                Ok(TextList { texts: texts.collect::<Result<_>>()?, was_string: false })
            }
            other => Err(self.wrong_type(field, other, "a list of strings", TEXTS)),
        }
    }

    /// A field that must be a finite number.
    pub fn number(&self, field: &str) -> Result<f32> {
        self.as_number(field, "a number", self.get(field)?)
    }

    /// A field that must be a list of `n` finite numbers.
    pub fn numbers(&self, field: &str, n: usize) -> Result<Vec<f32>> {
        match self.get(field)? {
            Value::Array(items) if items.len() == n => {
                items.iter().map(|item| self.as_number(field, "numbers as items", item)).collect()
            }
            Value::Array(items) => Err(self.error(
                format!("field `{field}` has {} items, expected {n}", items.len()),
                "every passage has one score, in the order of the passages",
            )),
            other => Err(self.wrong_type(field, other, "a list of numbers", NUMBERS)),
        }
    }

    /// An error at this line.
    pub fn error(&self, problem: String, hint: &str) -> Error {
        Error::Row { path: self.path.to_path_buf(), line: self.line, problem, hint: Some(hint.into()) }
    }

    /// A field as the file calls it.
    fn shown<'n>(&'n self, field: &'n str) -> &'n str {
        self.names.iter().find(|(name, _)| *name == field).map_or(field, |(_, name)| name)
    }

    fn get(&self, field: &str) -> Result<&Value> {
        let value = self.fields.get(field);
        value.filter(|value| !value.is_null()).ok_or_else(|| {
            if value.is_some() {
                return self
                    .error(format!("field `{}` is null", self.shown(field)), "fill it in, or leave the row out");
            }
            let seen: Vec<_> = self.fields.keys().map(|key| format!("`{}`", self.shown(key))).collect();
            let seen = if seen.is_empty() { "no fields".into() } else { seen.join(", ") };
            if let Some(column) = self.columns.and_then(|columns| columns.given(field).next()) {
                let problem = format!("column `{column}`, which is `{field}` by `--columns`, is missing; found {seen}");
                return self.error(problem, "name a column that the row has");
            }
            let hint = match field {
                "query" | "pos" => {
                    format!("name the field that it is with `--columns {field}=...`, or rename it, or add it")
                }
                _ => "rename the field, or add it".into(),
            };
            self.error(format!("field `{field}` is missing; found {seen}"), &hint)
        })
    }

    fn not_blank(&self, text: &str, what: &str) -> Result<String> {
        if text.trim().is_empty() {
            return Err(self.error(format!("{what} is an empty string"), "fill it in, or remove it"));
        }
        Ok(text.to_string())
    }

    fn as_number(&self, field: &str, expected: &str, value: &Value) -> Result<f32> {
        let number = value.as_f64().ok_or_else(|| self.wrong_type(field, value, expected, NUMBERS))? as f32;
        if !number.is_finite() {
            return Err(self.error(format!("field `{field}` has {value}, which is no f32"), "scale the scores down"));
        }
        Ok(number)
    }

    fn wrong_type(&self, field: &str, seen: &Value, expected: &str, hint: &str) -> Error {
        self.error(format!("field `{}` has {}, expected {expected}", self.shown(field), kind_of(seen)), hint)
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
