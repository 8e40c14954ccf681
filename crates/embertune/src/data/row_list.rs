//! Rows whose texts are numbers, in a few long lists, since there may be millions of rows; and numbers for texts by their hashes.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// One row, with numbers for its texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Row<'a> {
    /// The query.
    pub query: u32,
    /// At least one.
    pub positives: &'a [u32],
    /// Maybe none.
    pub negatives: &'a [u32],
    /// A number about each positive; empty where nobody reads any.
    pub positive_scores: &'a [f32],
    /// A number about each negative; empty where nobody reads any.
    pub negative_scores: &'a [f32],
    /// Line in the data file, from 1.
    pub line: usize,
}

impl<'a> Row<'a> {
    /// Positives, then negatives.
    pub fn passages(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.positives.iter().chain(self.negatives).copied()
    }
}

/// Rows in their order.
#[derive(Clone, Debug, Default)]
pub struct RowList {
    heads: Vec<Head>,
    /// Of all rows, positives before negatives.
    passages: Vec<u32>,
    /// Of each passage; empty where no row has any. A row without scores has NaN, which no score is.
    scores: Vec<f32>,
}

#[derive(Clone, Debug)]
struct Head {
    query: u32,
    n_positives: u32,
    line: usize,
    /// Where its passages end.
    end: usize,
}

impl RowList {
    /// Adds a row at the end.
    pub fn push(&mut self, row: Row<'_>) {
        let n_before = self.passages.len();
        self.passages.extend(row.positives.iter().chain(row.negatives));
        if !row.positive_scores.is_empty() || !self.scores.is_empty() {
            self.scores.resize(n_before, f32::NAN);
            self.scores.extend(row.positive_scores.iter().chain(row.negative_scores));
            self.scores.resize(self.passages.len(), f32::NAN);
        }
        let (n_positives, end) = (row.positives.len() as u32, self.passages.len());
        self.heads.push(Head { query: row.query, n_positives, line: row.line, end });
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// A row.
    ///
    /// # Panics
    /// Where there are not so many.
    pub fn get(&self, row: usize) -> Row<'_> {
        let Head { query, n_positives, line, end } = self.heads[row];
        let start = if row == 0 { 0 } else { self.heads[row - 1].end };
        let n_positives = n_positives as usize;
        let (positives, negatives) = self.passages[start..end].split_at(n_positives);
        let scores = self.scores.get(start..end).filter(|scores| !scores[0].is_nan()).unwrap_or_default();
        let (positive_scores, negative_scores) = scores.split_at(n_positives.min(scores.len()));
        Row { query, positives, negatives, positive_scores, negative_scores, line }
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// The rows with these scores, one for each passage of all of them in their order.
    ///
    /// # Panics
    /// Where they are not as many.
    pub fn with_scores(self, scores: Vec<f32>) -> RowList {
        assert_eq!(scores.len(), self.passages.len(), "a score for each passage");
        RowList { scores, ..self }
    }

    /// Adds `to_query` to the number of each query, `to_passage` to that of each passage.
    pub fn shift(&mut self, to_query: u32, to_passage: u32) {
        self.heads.iter_mut().for_each(|head| head.query += to_query);
        self.passages.iter_mut().for_each(|passage| *passage += to_passage);
    }

    /// Adds other rows at the end.
    pub fn append(&mut self, others: &RowList) {
        others.iter().for_each(|row| self.push(row));
    }
}

/// Numbers of distinct texts, in the order of their first appearance.
#[derive(Debug, Default)]
pub struct Distinct {
    /// Of each number the hash of its text. Two of 15 million texts have the same one with a probability of 6e-6.
    hashes: Vec<u64>,
    numbers: HashTable<u32>,
}

impl Distinct {
    /// The number of the text with this hash, where there is one.
    pub fn get(&self, hash: u64) -> Option<u32> {
        self.numbers.find(hash, |number| self.hashes[*number as usize] == hash).copied()
    }

    /// The number of the text with this hash, and whether it is new.
    pub fn number(&mut self, hash: u64) -> (u32, bool) {
        let of = |number: &u32| self.hashes[*number as usize];
        match self.numbers.entry(hash, |number| of(number) == hash, of) {
            Entry::Occupied(known) => (*known.get(), false),
            Entry::Vacant(free) => {
                let number = self.hashes.len() as u32;
                free.insert(number);
                self.hashes.push(hash);
                (number, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_was_added_with_scores_or_without() {
        let plain = Row { query: 7, positives: &[1, 2], negatives: &[3], line: 4, ..Row::default() };
        let scored =
            Row { negatives: &[5, 6], positive_scores: &[0.5, -1.0], negative_scores: &[0.0, 2.0], line: 9, ..plain };
        let bare = Row { positives: &[8], negatives: &[], ..plain };
        let (mut first, mut second) = (RowList::default(), RowList::default());
        [bare, plain].into_iter().for_each(|row| first.push(row));
        [plain, scored, bare].into_iter().for_each(|row| second.push(row));
        first.append(&second);
        assert_eq!(first.iter().collect::<Vec<_>>(), [bare, plain, plain, scored, bare]);
        first.shift(10, 100);
        assert_eq!((first.get(3).query, first.get(3).negatives), (17, &[105, 106][..]));
        assert!(first.len() == 5 && RowList::default().is_empty());
        let scored = first.with_scores((0..12).map(|i| i as f32).collect());
        assert_eq!((scored.get(0).positive_scores, scored.get(4).negative_scores), (&[0.0][..], &[][..]));
        assert_eq!((scored.get(1).positive_scores, scored.get(1).negative_scores), (&[1.0, 2.0][..], &[3.0][..]));
    }

    #[test]
    fn a_text_has_the_number_of_its_first_appearance() {
        let mut distinct = Distinct::default();
        // Equal but for one bit, in the places that a table looks at first.
        let hashes = [1 << 63, 1, 0, 1 << 57, u64::MAX];
        for is_new in [true, false] {
            let numbers = hashes.map(|hash| distinct.number(hash));
            assert_eq!(numbers, [0, 1, 2, 3, 4].map(|number| (number, is_new)));
        }
        assert_eq!((distinct.get(0), distinct.get(7)), (Some(2), None));
    }
}
