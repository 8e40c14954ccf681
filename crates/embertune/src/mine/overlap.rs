//! Near-duplicates: texts that a positive's words make up, so that they answer the query as the positive does.
//!
//! Pools hold the same passage with other punctuation, as a longer and a shorter version, or with a sentence moved. A model gives
//! such a passage nearly the score of the positive, so it would be the first to be mined.

use std::sync::OnceLock;

use super::words::words;
use crate::data::{Pool, TextId};

/// Share of the shorter text's words that must be in the longer one. On Debian's package descriptions, shares from 0.8 to 0.93 are
/// mostly texts after one pattern that mean different things ("translating between the Spanish and ... languages"); at 0.95 and
/// above they are versions of one text, as on FeedbackQA (the same guidance on pages for different readers).
const MIN_SHARE: f32 = 0.95;
/// The shorter text has at least this share of the longer one's words. A text with half of a positive's sentences is about the same;
/// a single sentence that another text happens to hold too is not.
const MIN_SIZE: f32 = 0.5;
/// Shorter texts are near-duplicates only if they have the same words: below, one word more is another meaning ("print a file").
const MIN_WORDS: usize = 8;

/// The words of a text, sorted: their order in the text does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bag(Vec<u64>);

impl Bag {
    /// The words of `text`.
    pub fn of(text: &str) -> Bag {
        let mut words = words(text);
        words.sort_unstable();
        Bag(words)
    }

    /// Whether one of the texts is nearly the other or a large part of it. Texts without words are like none.
    pub fn is_near(&self, other: &Bag) -> bool {
        let (short, long) = if self.0.len() <= other.0.len() { (&self.0, &other.0) } else { (&other.0, &self.0) };
        if short.len() < MIN_WORDS {
            return !short.is_empty() && short == long;
        }
        (short.len() as f32) >= MIN_SIZE * long.len() as f32
            && (n_shared(short, long) as f32) >= MIN_SHARE * short.len() as f32
    }
}

/// How many words two sorted bags have in common, a word as often as both have it.
fn n_shared(a: &[u64], b: &[u64]) -> usize {
    let (mut i, mut j, mut n) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        let equal = a[i] == b[j];
        n += usize::from(equal);
        (i, j) = (i + usize::from(a[i] <= b[j]), j + usize::from(b[j] <= a[i]));
    }
    n
}

/// The bags of a pool, each made when it is first asked for: most candidates are near no query.
pub struct Bags<'a> {
    pool: &'a Pool,
    bags: Vec<OnceLock<Bag>>,
}

impl<'a> Bags<'a> {
    /// None made yet.
    pub fn new(pool: &'a Pool) -> Bags<'a> {
        Bags { pool, bags: pool.texts().iter().map(|_| OnceLock::new()).collect() }
    }

    fn of_row(&self, row: u32) -> &Bag {
        self.bags[row as usize].get_or_init(|| Bag::of(&self.pool.texts()[row as usize]))
    }

    /// What looks like one of `positives`, which need not be in the pool.
    pub fn like<'p>(&'a self, positives: impl IntoIterator<Item = &'p str>) -> Lookalikes<'a> {
        let bag = |text| match self.pool.row(TextId::of(text)) {
            Some(row) => self.of_row(row).clone(),
            None => Bag::of(text),
        };
        Lookalikes { bags: self, positives: positives.into_iter().map(bag).collect() }
    }
}

/// The candidates that are near-duplicates of a query's positives.
pub struct Lookalikes<'a> {
    bags: &'a Bags<'a>,
    positives: Vec<Bag>,
}

impl Lookalikes<'_> {
    /// Whether the candidate is one.
    pub fn contains(&self, row: u32) -> bool {
        let bag = self.bags.of_row(row);
        self.positives.iter().any(|positive| positive.is_near(bag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "Lzip compresses files without loss. It is safer than gzip and bzip2. Its interface is that of gzip.";

    fn near(a: &str, b: &str) -> bool {
        let [a, b] = [a, b].map(Bag::of);
        assert_eq!(a.is_near(&b), b.is_near(&a), "near is symmetric");
        a.is_near(&b)
    }

    #[test]
    fn case_punctuation_order_and_a_lost_sentence_make_near_duplicates() {
        for same in [
            "LZIP compresses files, without loss! it is safer than GZIP and BZIP2; its interface is that of GZIP",
            "Its interface is that of gzip. It is safer than gzip and bzip2. Lzip compresses files without loss.",
            "Lzip compresses files without loss. It is safer than gzip and bzip2.",
        ] {
            assert!(near(TEXT, same), "{same}");
        }
    }

    #[test]
    fn texts_after_one_pattern_and_small_parts_are_none() {
        for other in [
            "Lzip compresses files without loss.",
            "Xz compresses files quickly. It is smaller than gzip and bzip2. Its interface is that of lzma.",
            "",
        ] {
            assert!(!near(TEXT, other), "{other}");
        }
    }

    #[test]
    fn short_texts_need_the_same_words() {
        assert!(near("print a file", "File: a print"));
        assert!(!near("print a file", "print a file twice"));
        assert!(!near("a a b", "a b b"));
        assert!(!near("--", "!"));
    }
}
