//! A candidate pool: distinct texts in the order in which they were first seen.

use std::collections::HashMap;

use crate::data::identity::TextId;
use crate::data::row_list::Distinct;
use crate::data::stored::StoredTexts;
use crate::error::Result;

/// Distinct texts, by [`TextId`]; of equal ones the first is kept.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    texts: Vec<String>,
    ids: Vec<TextId>,
    read_as: Vec<u32>,
    row_of: HashMap<TextId, u32>,
    n_duplicates: usize,
}

impl Pool {
    /// Collects the distinct ones of `texts`.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Pool {
        let mut pool = Pool::default();
        for (read, text) in texts.into_iter().enumerate() {
            let id = TextId::of(&text);
            if pool.row_of.contains_key(&id) {
                pool.n_duplicates += 1;
                continue;
            }
            pool.row_of.insert(id, pool.texts.len() as u32);
            pool.texts.push(text);
            pool.ids.push(id);
            pool.read_as.push(read as u32);
        }
        pool
    }

    /// The texts; a row of the pool is an index into them.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The identity of each text.
    pub fn ids(&self) -> &[TextId] {
        &self.ids
    }

    /// For each text, how many came before it when the pool was made, equal ones included.
    pub fn read_as(&self) -> &[u32] {
        &self.read_as
    }

    /// Where a text is.
    pub fn row(&self, id: TextId) -> Option<u32> {
        self.row_of.get(&id).copied()
    }

    /// Number of distinct texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// How many texts were left out because an equal one was there already.
    pub fn n_duplicates(&self) -> usize {
        self.n_duplicates
    }
}

/// As a [`Pool`], however many texts there are: in memory are some 30 bytes for each. Texts are told apart by [half](TextId::half) of
/// their [`TextId`].
#[derive(Debug, Default)]
pub struct StoredPool {
    texts: StoredTexts,
    numbers: Distinct,
    read_as: Vec<u32>,
    n_read: usize,
}

impl StoredPool {
    /// The distinct ones of `texts`.
    ///
    /// # Errors
    /// Where the temporary file can't be written.
    pub fn new<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<StoredPool> {
        let mut pool = StoredPool::default();
        texts.into_iter().try_for_each(|text| pool.add(text.as_ref()).map(drop))?;
        Ok(pool)
    }

    /// Adds a text at the end unless it is there; its row.
    ///
    /// # Errors
    /// Where the temporary file can't be written.
    pub fn add(&mut self, text: &str) -> Result<u32> {
        let (row, is_new) = self.numbers.number(TextId::of(text).half());
        if is_new {
            self.texts.push(text)?;
            self.read_as.push(self.n_read as u32);
        }
        self.n_read += 1;
        Ok(row)
    }

    /// The texts of some rows, in their order.
    ///
    /// # Errors
    /// Where the temporary file can't be read.
    pub fn read(&self, rows: impl IntoIterator<Item = u32>) -> Result<Vec<String>> {
        self.texts.read(rows)
    }

    /// The text of a row.
    ///
    /// # Errors
    /// Where the temporary file can't be read.
    pub fn text(&self, row: u32) -> Result<String> {
        Ok(self.read([row])?.swap_remove(0))
    }

    /// For each text, how many came before it when the pool was made, equal ones included.
    pub fn read_as(&self) -> &[u32] {
        &self.read_as
    }

    /// Where a text is.
    pub fn row(&self, id: TextId) -> Option<u32> {
        self.numbers.get(id.half())
    }

    /// Number of distinct texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// How many texts were left out because an equal one was there already.
    pub fn n_duplicates(&self) -> usize {
        self.n_read - self.len()
    }
}
