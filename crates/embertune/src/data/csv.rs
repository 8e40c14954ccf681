//! CSV and TSV (RFC 4180), one record at a time, with its line and its bytes.
//!
//! Of our own, since what is wrong with quotes has to be said with its place, where the crate `csv` takes any input and gives what it can,
//! and since a record has to be written back byte for byte.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads records of the width of the first one, the heading.
pub struct CsvReader {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    delimiter: u8,
    /// Lines read so far.
    line: usize,
    /// Bytes of the record at hand, with its line end.
    raw: Vec<u8>,
    columns: Vec<String>,
    heading: Vec<u8>,
}

/// Where in a record a byte stands.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Start,
    Plain,
    Quoted,
    /// After a quotation mark within quotes: the end of the cell, or the first half of a doubled mark.
    Mark,
}

impl CsvReader {
    /// Reads the heading. `path` is for errors.
    ///
    /// # Errors
    /// A heading that can't be read, or has a name twice or none.
    pub fn open(path: &Path, reader: Box<dyn BufRead>, delimiter: u8) -> Result<CsvReader> {
        let mut csv = CsvReader {
            path: path.to_path_buf(),
            reader,
            delimiter,
            line: 0,
            raw: Vec::new(),
            columns: Vec::new(),
            heading: Vec::new(),
        };
        let (line, columns) = csv.record()?.unwrap_or_default();
        for (i, name) in columns.iter().enumerate() {
            if name.is_empty() && i > 0 || columns[..i].contains(name) {
                let problem = match name.as_str() {
                    "" => format!("column {} has no name", i + 1),
                    name => format!("two columns are called `{name}`"),
                };
                return Err(csv.error(line, problem, "the first line names the columns, as in `query,positive`"));
            }
        }
        csv.columns = columns;
        csv.heading = csv.raw.clone();
        Ok(csv)
    }

    /// The names of the columns. The first may be empty, as that of the row numbers of pandas.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The bytes of the heading, with its line end.
    pub fn heading(&self) -> &[u8] {
        &self.heading
    }

    /// The bytes of the last record, with its line end.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The next record, as the line that it begins in and its cells, one for each column.
    ///
    /// # Errors
    /// Quotation marks that do not fit, another number of cells than the heading has, text that is not UTF-8.
    pub fn next(&mut self) -> Result<Option<(usize, Vec<String>)>> {
        let Some((line, cells)) = self.record()? else { return Ok(None) };
        if cells.len() != self.columns.len() {
            let name = if self.delimiter == b'\t' { "a tab" } else { "the separator" };
            return Err(self.error(
                line,
                format!("{} cells, the heading has {} columns", cells.len(), self.columns.len()),
                &format!("put a text with {name} or a line break in it between quotation marks"),
            ));
        }
        Ok(Some((line, cells)))
    }

    fn record(&mut self) -> Result<Option<(usize, Vec<String>)>> {
        loop {
            self.raw.clear();
            let first = self.line + 1;
            let mut cells = Vec::new();
            let mut cell = Vec::new();
            let (mut at, mut done) = (At::Start, 0);
            let mut opened = (first, 1);
            loop {
                let n = self.reader.read_until(b'\n', &mut self.raw).map_err(Error::io(&self.path, "read"))?;
                if n == 0 {
                    break;
                }
                self.line += 1;
                if self.line == 1 && self.raw.starts_with(BYTE_ORDER_MARK) {
                    self.raw.drain(..BYTE_ORDER_MARK.len());
                }
                let end = if self.raw.ends_with(b"\r\n") {
                    self.raw.len() - 2
                } else {
                    self.raw.len() - usize::from(self.raw.ends_with(b"\n"))
                };
                for i in done..end {
                    let byte = self.raw[i];
                    at = match (at, byte) {
                        (At::Start, b'"') => {
                            opened = (self.line, cells.len() + 1);
                            At::Quoted
                        }
                        (At::Quoted, b'"') => At::Mark,
                        (At::Start | At::Plain | At::Mark, byte) if byte == self.delimiter => {
                            cells.push(std::mem::take(&mut cell));
                            At::Start
                        }
                        (At::Mark, byte) if byte != b'"' => {
                            let problem =
                                format!("text after the closing quotation mark of {}", self.named(cells.len()));
                            let hint =
                                "write a quotation mark within a quoted text twice, as in `\"say \"\"hello\"\"\"`";
                            return Err(self.error(self.line, problem, hint));
                        }
                        (At::Start | At::Plain, byte) => {
                            cell.push(byte);
                            At::Plain
                        }
                        (At::Quoted | At::Mark, byte) => {
                            cell.push(byte);
                            At::Quoted
                        }
                    };
                }
                if at != At::Quoted {
                    break;
                }
                // The line break belongs to the text.
                cell.extend_from_slice(&self.raw[end..]);
                done = self.raw.len();
            }
            if at == At::Quoted {
                let (line, column) = opened;
                let problem = format!("the quotation mark that opens {} is never closed", self.named(column - 1));
                let hint = "close it, and write a quotation mark within a quoted text twice";
                return Err(self.error(line, problem, hint));
            }
            if self.raw.is_empty() {
                return Ok(None);
            }
            cells.push(cell);
            // An empty line, not an empty cell: that would stand in quotes.
            if cells.len() > 1 || !self.raw.iter().all(u8::is_ascii_whitespace) {
                let cells = cells.into_iter().enumerate().map(|(i, cell)| self.text(first, i, cell));
                return Ok(Some((first, cells.collect::<Result<_>>()?)));
            }
        }
    }

    fn text(&self, line: usize, column: usize, cell: Vec<u8>) -> Result<String> {
        String::from_utf8(cell).map_err(|error| {
            let problem =
                format!("not valid UTF-8 (byte {} of {})", error.utf8_error().valid_up_to() + 1, self.named(column));
            self.error(line, problem, "save the file as UTF-8, e.g. `iconv -f latin1 -t utf-8 in.csv > out.csv`")
        })
    }

    fn named(&self, column: usize) -> String {
        match self.columns.get(column) {
            Some(name) => format!("column `{name}`"),
            None => format!("column {}", column + 1),
        }
    }

    fn error(&self, line: usize, problem: String, hint: &str) -> Error {
        Error::Row { path: self.path.clone(), line, problem, hint: Some(hint.into()) }
    }
}

/// A cell as it has to be written.
pub fn escaped(cell: &str, delimiter: u8) -> String {
    let is_special = |byte: u8| byte == delimiter || matches!(byte, b'"' | b'\n' | b'\r');
    match cell.bytes().any(is_special) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<(usize, Vec<String>)>> {
        let mut csv = CsvReader::open(Path::new("a.csv"), Box::new(std::io::Cursor::new(text.to_vec())), b',')?;
        std::iter::from_fn(|| csv.next().transpose()).collect()
    }

    #[test]
    fn quotes_line_breaks_and_line_ends_are_read_and_written_back() {
        let text = "\u{feff}a,b\r\n1,\"x, \"\"y\"\"\r\nz\"\r\n\r\n,\"\"\n\"\",é";
        let rows = read(text.as_bytes()).unwrap();
        let cells = |a: &str, b: &str| vec![a.to_string(), b.to_string()];
        assert_eq!(rows, [(2, cells("1", "x, \"y\"\r\nz")), (5, cells("", "")), (6, cells("", "\u{e9}"))]);
        for (_, cells) in rows {
            let line: Vec<_> = cells.iter().map(|cell| escaped(cell, b',')).collect();
            assert_eq!(read(format!("a,b\n{}\n", line.join(",")).as_bytes()).unwrap()[0].1, cells);
        }
    }

    #[test]
    fn the_bytes_of_heading_and_records_make_up_the_file() {
        let text = "a,b\n1,\"x\ny\"\n2,z";
        let mut csv = CsvReader::open(Path::new("a.csv"), Box::new(std::io::Cursor::new(text)), b',').unwrap();
        let mut bytes = csv.heading().to_vec();
        while csv.next().unwrap().is_some() {
            bytes.extend_from_slice(csv.raw());
        }
        assert_eq!(bytes, text.as_bytes());
    }

    #[test]
    fn what_is_broken_is_said_with_its_place() {
        for (text, place, problem) in [
            ("a,b\n1,\"x\n2,y\n", 2, "the quotation mark that opens column `b` is never closed"),
            ("a,b\n1,2\n\"x\"y,z\n", 3, "text after the closing quotation mark of column `a`"),
            ("a,b\n1,2,3\n", 2, "3 cells, the heading has 2 columns"),
            ("a,a\n", 1, "two columns are called `a`"),
            ("a,\n", 1, "column 2 has no name"),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), format!("a.csv:{place}: {problem}"));
            assert!(error.hint().is_some());
        }
        let error = read(b"a,b\n1,caf\xe9\n").unwrap_err();
        assert_eq!(error.to_string(), "a.csv:2: not valid UTF-8 (byte 4 of column `b`)");
    }
}
