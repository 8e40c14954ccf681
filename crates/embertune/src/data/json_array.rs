//! The elements of a JSON list, one at a time, as text: a list of a million objects is never in memory as a whole.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Reads the elements of the list that a file is.
pub struct JsonArray {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    line: usize,
    place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Before,
    First,
    /// After an element: a comma or the end comes.
    Between,
    /// After a comma.
    Next,
    After,
}

impl JsonArray {
    /// Nothing is read yet. `path` is for errors.
    pub fn of(path: &Path, reader: Box<dyn BufRead>) -> JsonArray {
        JsonArray { path: path.to_path_buf(), reader, line: 1, place: Place::Before }
    }

    /// The next element, as the line that it begins in and its text.
    ///
    /// # Errors
    /// What is no list, or ends too early. Whether an element is valid is for whoever parses it.
    pub fn next(&mut self) -> Result<Option<(usize, String)>> {
        while let Some(byte) = self.peek()? {
            let place = match (self.place, byte) {
                (place, b' ' | b'\t' | b'\r' | b'\n') => place,
                // A byte order mark.
                (Place::Before, 0xEF | 0xBB | 0xBF) => Place::Before,
                (Place::Before, b'[') => Place::First,
                (Place::Between, b',') => Place::Next,
                (Place::First | Place::Between, b']') => Place::After,
                (Place::First | Place::Next, b'{') => {
                    self.place = Place::Between;
                    return self.object().map(Some);
                }
                (place, byte) => {
                    let expected = match place {
                        Place::Before => "a list in brackets",
                        Place::First | Place::Next => "an object in braces",
                        Place::Between => "a comma or the closing bracket",
                        Place::After => "nothing after the closing bracket",
                    };
                    let problem = format!("found `{}`, expected {expected}", char::from(byte).escape_default());
                    return Err(self.error(problem, "the file is a list of objects: [{...}, {...}]"));
                }
            };
            self.place = place;
            self.take(byte);
        }
        match self.place {
            Place::After => Ok(None),
            _ => {
                Err(self.error("the list is not closed: the file is cut off".into(), "copy or download the file again"))
            }
        }
    }

    fn object(&mut self) -> Result<(usize, String)> {
        let first = self.line;
        let mut bytes = Vec::new();
        let (mut depth, mut is_string, mut is_escaped) = (0_usize, false, false);
        while let Some(byte) = self.peek()? {
            bytes.push(byte);
            self.take(byte);
            match (byte, is_string) {
                _ if is_escaped => is_escaped = false,
                (b'\\', true) => is_escaped = true,
                (b'"', _) => is_string = !is_string,
                (b'{' | b'[', false) => depth += 1,
                (b'}' | b']', false) => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return match String::from_utf8(bytes) {
                    Ok(text) => Ok((first, text)),
                    Err(_) => Err(self.error(
                        "not valid UTF-8".into(),
                        "save the file as UTF-8, e.g. `iconv -f latin1 -t utf-8 in.json > out.json`",
                    )),
                };
            }
        }
        self.line = first;
        Err(self.error(
            "the object that begins here is not closed: the file is cut off".into(),
            "copy or download the file again",
        ))
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        let path = &self.path;
        Ok(self.reader.fill_buf().map_err(|error| Error::io(path, "read")(error))?.first().copied())
    }

    fn take(&mut self, byte: u8) {
        self.reader.consume(1);
        self.line += usize::from(byte == b'\n');
    }

    fn error(&self, problem: String, hint: &str) -> Error {
        Error::Row { path: self.path.clone(), line: self.line, problem, hint: Some(hint.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(usize, String)>> {
        let mut array = JsonArray::of(Path::new("a.json"), Box::new(std::io::Cursor::new(text.to_string())));
        std::iter::from_fn(|| array.next().transpose()).collect()
    }

    #[test]
    fn elements_come_with_their_lines_whatever_is_in_their_strings() {
        let text = "\u{feff} [\n{\"a\": \"}]\\\"\"},\n\n{\"b\":\n[{}]} ] \n";
        let found = read(text).unwrap();
        assert_eq!(found, [(2, r#"{"a": "}]\""}"#.to_string()), (4, "{\"b\":\n[{}]}".to_string())]);
        assert_eq!(read("[]").unwrap(), []);
    }

    #[test]
    fn what_is_no_list_of_objects_is_said_with_its_line() {
        for (text, line, problem) in [
            ("[\n1]", 2, "found `1`, expected an object in braces"),
            ("[{}\n{}]", 2, "found `{`, expected a comma or the closing bracket"),
            ("[{},]", 1, "found `]`, expected an object in braces"),
            ("[{}] x", 1, "found `x`, expected nothing after the closing bracket"),
            ("[{}\n", 2, "the list is not closed: the file is cut off"),
            ("[{},\n{\"a\": \"\n", 2, "the object that begins here is not closed: the file is cut off"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), format!("a.json:{line}: {problem}"));
        }
    }
}
