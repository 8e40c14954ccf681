//! Rows that are gone through several times: a list in memory, or, however many they are, a [`Spool`] of them. And texts by number.

use std::borrow::Cow;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::example::Example;
use super::spool::Spool;
use crate::error::{Error, Result};

/// Read at once.
const BLOCK_BYTES: u64 = 1 << 20;
/// Texts that lie within so many bytes are read at once, unless so many bytes that are not wanted lie between two of them.
const READ_BYTES: u64 = 1 << 23;
const GAP_BYTES: u64 = 1 << 12;

/// Rows in their order: each an [`Example`], or a [`Row`](super::Row).
pub trait RowsOf<T: Clone> {
    /// Their number.
    fn n_rows(&self) -> usize;

    /// One after the other. An error is one of reading a temporary file.
    fn rows(&self) -> Box<dyn Iterator<Item = Result<Cow<'_, T>>> + '_>;
}

impl<T: Clone, L: AsRef<[T]> + ?Sized> RowsOf<T> for L {
    fn n_rows(&self) -> usize {
        self.as_ref().len()
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<Cow<'_, T>>> + '_> {
        Box::new(self.as_ref().iter().map(|row| Ok(Cow::Borrowed(row))))
    }
}

/// Rows outside of memory, unless they are few: each a line of JSON.
#[derive(Debug)]
pub struct Stored<T> {
    lines: Spool,
    n: usize,
    of: PhantomData<T>,
}

/// Rows as texts.
pub type StoredExamples = Stored<Example>;

impl<T> Default for Stored<T> {
    fn default() -> Self {
        Stored { lines: Spool::default(), n: 0, of: PhantomData }
    }
}

impl<T: Serialize> Stored<T> {
    /// Adds a row at the end.
    ///
    /// # Errors
    /// Where the temporary file can't be written.
    pub fn push(&mut self, row: &T) -> Result<()> {
        let mut line = serde_json::to_vec(row).map_err(|error| damaged(error.into()))?;
        line.push(b'\n');
        self.n += 1;
        self.lines.write(&line)
    }
}

impl<T: Clone + DeserializeOwned> RowsOf<T> for Stored<T> {
    fn n_rows(&self) -> usize {
        self.n
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<Cow<'_, T>>> + '_> {
        let (mut block, mut at, mut read) = (Vec::new(), 0, 0);
        let mut next = move || -> Result<Option<T>> {
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

/// Texts by number, outside of memory, unless they are few.
#[derive(Debug, Default)]
pub struct StoredTexts {
    bytes: Spool,
    ends: Vec<u64>,
}

impl StoredTexts {
    /// Adds a text. Numbers ascend from 0.
    ///
    /// # Errors
    /// Where the temporary file can't be written.
    pub fn push(&mut self, text: &str) -> Result<()> {
        self.bytes.write(text.as_bytes())?;
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Some of them, in any order; those that follow each other are read together.
    ///
    /// # Errors
    /// Where the temporary file can't be read.
    ///
    /// # Panics
    /// Where there are not so many.
    pub fn read(&self, numbers: impl IntoIterator<Item = u32>) -> Result<Vec<String>> {
        let (mut texts, mut places) = (Vec::new(), Vec::new());
        for number in numbers {
            let place = self.place(number as usize);
            if let (Some(first), Some(last)) = (places.first(), places.last()) {
                let (Range { start, .. }, Range { end, .. }): (&Range<u64>, &Range<u64>) = (first, last);
                if place.start < *end || place.start - end > GAP_BYTES || place.end - start > READ_BYTES {
                    self.read_places(&mut places, &mut texts)?;
                }
            }
            places.push(place);
        }
        self.read_places(&mut places, &mut texts)?;
        Ok(texts)
    }

    fn place(&self, number: usize) -> Range<u64> {
        (if number == 0 { 0 } else { self.ends[number - 1] })..self.ends[number]
    }

    /// Moves what is at `places`, which ascend, to `texts`.
    fn read_places(&self, places: &mut Vec<Range<u64>>, texts: &mut Vec<String>) -> Result<()> {
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(()) };
        let start = first.start;
        let bytes = self.bytes.read(start..last.end)?;
        let of = |place: Range<u64>| &bytes[(place.start - start) as usize..(place.end - start) as usize];
        texts.extend(places.drain(..).map(|place| String::from_utf8_lossy(of(place)).into_owned()));
        Ok(())
    }
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

    #[test]
    fn texts_are_read_as_they_were_added_in_any_order() {
        let list: Vec<_> = (0..6000).map(|i| format!("Text {i} {}", "\u{e9}".repeat(i * 31 % 5000))).collect();
        let mut texts = StoredTexts::default();
        list.iter().for_each(|text| texts.push(text).unwrap());
        assert!(texts.bytes.len() > 2 * READ_BYTES && texts.len() == 6000, "not all of them are read at once");
        for numbers in
            [(0..6000).collect::<Vec<u32>>(), vec![5999, 3, 4, 3, 3], (0..6000).rev().step_by(7).collect(), vec![]]
        {
            let read = texts.read(numbers.iter().copied()).unwrap();
            assert!(read.iter().eq(numbers.iter().map(|&number| &list[number as usize])));
        }
    }
}
