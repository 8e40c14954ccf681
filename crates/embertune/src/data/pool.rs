//! A candidate pool: distinct texts in the order in which they were first seen.

use std::collections::HashMap;

use crate::data::identity::TextId;

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
