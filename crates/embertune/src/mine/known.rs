//! Rows by numbers, and what they say about each query together: several rows may have the same query, and the positives of one are none of
//! the negatives of another.

use crate::data::row_list::{Distinct, Row, RowList};
use crate::data::{Example, RowsOf, StoredPool, TextId};
use crate::error::Result;

/// Rows with numbers for their queries and positives. A positive that is a candidate has its row in the pool, others have numbers behind
/// those.
pub struct Numbered<'a> {
    pool: &'a StoredPool,
    rows: RowList,
    others: StoredPool,
    /// All rows, those with the same query together, in their order.
    by_query: Vec<u32>,
    /// Most positives of a query, equal ones counted each time.
    max_positives: usize,
}

impl<'a> Numbered<'a> {
    /// Of rows that negatives are to be mined for from `pool`.
    ///
    /// # Errors
    /// Where a temporary file can't be read or written.
    pub fn of(examples: &dyn RowsOf<Example>, pool: &'a StoredPool) -> Result<Numbered<'a>> {
        let (mut rows, mut others, mut queries) = (RowList::default(), StoredPool::default(), Distinct::default());
        for example in examples.rows() {
            let example = example?;
            let (query, _) = queries.number(TextId::of(&example.query).half());
            let positives = example.positives.iter().map(|text| match pool.row(TextId::of(text)) {
                Some(row) => Ok(row),
                None => Ok(pool.len() as u32 + others.add(text)?),
            });
            let positives = positives.collect::<Result<Vec<_>>>()?;
            rows.push(Row { query, positives: &positives, line: example.line, ..Row::default() });
        }
        let mut by_query: Vec<_> = (0..rows.len() as u32).collect();
        by_query.sort_by_key(|&row| rows.get(row as usize).query);
        let of_query = by_query.chunk_by(|&a, &b| rows.get(a as usize).query == rows.get(b as usize).query);
        let n_positives = |of_query: &[u32]| of_query.iter().map(|&row| rows.get(row as usize).positives.len()).sum();
        let max_positives = of_query.map(n_positives).max().unwrap_or(0);
        Ok(Numbered { pool, rows, others, by_query, max_positives })
    }

    /// The candidates.
    pub fn pool(&self) -> &'a StoredPool {
        self.pool
    }

    /// Positives that are no candidates. The number of the first one is that of all candidates.
    pub fn others(&self) -> &StoredPool {
        &self.others
    }

    /// The rows.
    pub fn rows(&self) -> &RowList {
        &self.rows
    }

    /// Most positives of a query, equal ones counted each time.
    pub fn max_positives(&self) -> usize {
        self.max_positives
    }

    /// The same rows with these scores, one for each positive of all rows in their order.
    pub fn with_scores(self, scores: Vec<f32>) -> Self {
        Numbered { rows: self.rows.with_scores(scores), ..self }
    }

    /// The number of a text, where it has one.
    pub fn number(&self, id: TextId) -> Option<u32> {
        self.pool.row(id).or_else(|| Some(self.pool.len() as u32 + self.others.row(id)?))
    }

    /// The text of a number.
    ///
    /// # Errors
    /// Where the temporary file can't be read.
    pub fn text(&self, number: u32) -> Result<String> {
        match number.checked_sub(self.pool.len() as u32) {
            None => self.pool.text(number),
            Some(other) => self.others.text(other),
        }
    }

    /// All rows with the query of this row, in their order.
    fn of_query(&self, row: usize) -> &[u32] {
        let query = self.rows.get(row).query;
        let of = |row: &u32| self.rows.get(*row as usize).query;
        let start = self.by_query.partition_point(|row| of(row) < query);
        let n = self.by_query[start..].partition_point(|row| of(row) == query);
        &self.by_query[start..start + n]
    }

    /// How many rows before this one have the same query.
    pub fn n_before(&self, row: usize) -> usize {
        self.of_query(row).partition_point(|&other| (other as usize) < row)
    }

    /// The positives of all rows with the query of this row, each once, ascending.
    pub fn positives(&self, row: usize) -> Vec<u32> {
        let of_query = self.of_query(row).iter();
        let mut positives: Vec<_> = of_query.flat_map(|&row| self.rows.get(row as usize).positives).copied().collect();
        positives.sort_unstable();
        positives.dedup();
        positives
    }

    /// The lowest score of these positives, where they have scores.
    pub fn lowest_positive(&self, row: usize) -> Option<f32> {
        let scores = self.of_query(row).iter().flat_map(|&row| self.rows.get(row as usize).positive_scores);
        scores.copied().min_by(f32::total_cmp)
    }
}
