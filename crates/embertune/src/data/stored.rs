//! Rows that are gone through several times: a list in memory, or, however many they are, a [`Spool`] of them.

use std::borrow::Cow;
use std::io;

use super::example::Example;
use super::spool::Spool;
use crate::error::{Error, Result};

/// Read at once.
const BLOCK_BYTES: u64 = 1 << 20;

/// Rows in their order.
pub trait Examples {
    /// Their number.
    fn n_rows(&self) -> usize;

    /// One after the other. An error is one of reading a temporary file.
    fn rows(&self) -> Box<dyn Iterator<Item = Result<Cow<'_, Example>>> + '_>;
}

impl<T: AsRef<[Example]> + ?Sized> Examples for T {
    fn n_rows(&self) -> usize {
        self.as_ref().len()
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<Cow<'_, Example>>> + '_> {
        Box::new(self.as_ref().iter().map(|example| Ok(Cow::Borrowed(example))))
    }
}

/// Rows outside of memory, unless they are few: each a line of JSON.
#[derive(Debug, Default)]
pub struct StoredExamples {
    lines: Spool,
    n: usize,
}

impl StoredExamples {
    /// Adds a row at the end.
    ///
    /// # Errors
    /// Where the temporary file can't be written.
    pub fn push(&mut self, example: &Example) -> Result<()> {
        let mut line = serde_json::to_vec(example).map_err(|error| damaged(error.into()))?;
        line.push(b'\n');
        self.n += 1;
        self.lines.write(&line)
    }
}

impl Examples for StoredExamples {
    fn n_rows(&self) -> usize {
        self.n
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<Cow<'_, Example>>> + '_> {
        let (mut block, mut at, mut read) = (Vec::new(), 0, 0);
        let mut next = move || -> Result<Option<Example>> {
            let mut n_searched = 0;
            let end = loop {
                if let Some(end) = block[at + n_searched..].iter().position(|&byte| byte == b'\n') {
                    break at + n_searched + end;
                }
                n_searched = block.len() - at;
                if read == self.lines.len() {
                    return Ok(None);
                }
                let end = self.lines.len().min(read + BLOCK_BYTES);
                block.drain(..at);
                block.extend(self.lines.read(read..end)?);
                (at, read) = (0, end);
            };
            let line = &block[std::mem::replace(&mut at, end + 1)..end];
            serde_json::from_slice(line).map(Some).map_err(|error| damaged(error.into()))
        };
        Box::new(std::iter::from_fn(move || next().transpose().map(|row| row.map(Cow::Owned))))
    }
}

fn damaged(error: io::Error) -> Error {
    Error::io("rows", "keep in a temporary file")(error)
}

#[cfg(test)]
mod tests {
    use super::super::example::Scores;
    use super::*;

    #[test]
    fn rows_come_back_as_often_as_wanted_and_bit_for_bit() {
        let example = |i: usize| Example {
            query: format!("query\n\"{i}\" \u{e9}\u{0}"),
            positives: vec!["p".repeat(i * 37 % 5000 + 1), "\u{2028}".into()],
            negatives: (0..i % 3).map(|n| format!("n{n}")).collect(),
            scores: match i % 3 {
                0 => Scores::None,
                1 => Scores::Pair(0.1 + i as f32 / 7.0),
                _ => Scores::Teacher { positives: vec![f32::MIN_POSITIVE, 1e30], negatives: vec![-1.0 / 3.0, 0.0] },
            },
            line: i + 1,
        };
        let mut list: Vec<_> = (0..9000).map(example).collect();
        // Its line ends with the first byte of the second block.
        let room = BLOCK_BYTES as usize - serde_json::to_vec(&list[0]).unwrap().len();
        list[0].query += &"q".repeat(room);
        let mut stored = StoredExamples::default();
        list.iter().for_each(|example| stored.push(example).unwrap());
        assert!(stored.lines.len() > 18 * BLOCK_BYTES, "some of them are in a file");
        for _ in 0..2 {
            let rows: Vec<_> = stored.rows().map(|row| row.unwrap().into_owned()).collect();
            assert!(rows == list && stored.n_rows() == list.n_rows());
        }
        assert!(StoredExamples::default().rows().next().is_none());
    }
}
