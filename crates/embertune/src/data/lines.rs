//! The lines of a UTF-8 text file, packed or not, with their numbers, one at a time.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::packed;
use crate::error::{Error, Result};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Iterates over `(line number from 1, text)`. A byte order mark at the start and `\r` before `\n` are taken off.
pub struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    line: usize,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// Where the path does not exist, can't be read, or is a folder.
    pub fn open(path: &Path) -> Result<Lines> {
        Ok(Lines::of(path, packed::open(path)?.0))
    }

    /// The lines of `reader`; `path` is for errors.
    pub fn of(path: &Path, reader: Box<dyn BufRead>) -> Lines {
        Lines { path: path.to_path_buf(), reader, line: 0 }
    }

    fn read(&mut self) -> Result<Option<(usize, String)>> {
        let mut bytes = Vec::new();
        if self.reader.read_until(b'\n', &mut bytes).map_err(Error::io(&self.path, "read"))? == 0 {
            return Ok(None);
        }
        self.line += 1;
        if self.line == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        if bytes.ends_with(b"\n") {
            bytes.pop();
        }
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some((self.line, text))),
            Err(error) => Err(Error::Row {
                path: self.path.clone(),
                line: self.line,
                problem: format!("not valid UTF-8 (byte {} of the line)", error.utf8_error().valid_up_to() + 1),
                hint: Some("save the file as UTF-8, e.g. `iconv -f latin1 -t utf-8 in.jsonl > out.jsonl`".into()),
            }),
        }
    }
}

impl Iterator for Lines {
    type Item = Result<(usize, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
