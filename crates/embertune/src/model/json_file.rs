//! A JSON file of a model folder, read with errors that name the file and the key.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result};

/// A JSON object and where it was read. A key with `null` counts as missing.
pub struct JsonFile {
    /// The file.
    pub path: PathBuf,
    /// Its content.
    pub value: Value,
}

impl JsonFile {
    /// Reads a file that has to be there.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        let value = serde_json::from_str(&text).map_err(|e| Error::Model {
            path: path.to_owned(),
            problem: format!("is not valid JSON: {e}"),
            hint: Some("the file may be cut off: copy or download it again".to_owned()),
        })?;
        Ok(JsonFile { path: path.to_owned(), value })
    }

    /// Reads a file that may be missing; it then is an empty object.
    pub fn read_optional(path: &Path) -> Result<Self> {
        if path.exists() { Self::read(path) } else { Ok(JsonFile { path: path.to_owned(), value: Value::Null }) }
    }

    /// The value of a key, if it is there and not `null`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// A text, if the key is there.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a text", Value::as_str)
    }

    /// A truth value, if the key is there.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A number, if the key is there.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A size of `1..=2^31`, if the key is there.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number from 1 to 2147483648", |value| {
            value.as_u64().filter(|n| (1..=1 << 31).contains(n)).map(|n| n as usize)
        })
    }

    /// A size that has to be there.
    pub fn required_size(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.error(format!("`{key}` is missing"), None))
    }

    /// An error about this file.
    pub fn error(&self, problem: String, hint: Option<&str>) -> Error {
        Error::Model { path: self.path.clone(), problem, hint: hint.map(str::to_owned) }
    }

    fn typed<'a, T>(&'a self, key: &str, allowed: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key)
            .map(|value| {
                read(value).ok_or_else(|| self.error(format!("`{key}` is {value}, it should be {allowed}"), None))
            })
            .transpose()
    }
}
