//! Near-duplicates: texts that a positive's words make up, so that they answer the query as the positive does.
//!
//! Pools hold the same passage with other punctuation, as a longer and a shorter version, or with a sentence moved. A model gives
//! such a passage nearly the score of the positive, so it would be the first to be mined.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::known::Numbered;
use super::words::words;
use crate::error::Result;

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

/// Some of what a bag is, for telling at once that it is not near another: a bit for each of its words, which several may share.
#[derive(Clone, Copy, Debug, Default)]
struct Sketch(u128);

impl Sketch {
    fn of(bag: &Bag) -> Sketch {
        Sketch(bag.0.iter().fold(0, |bits, word| bits | 1 << (word % u64::from(u128::BITS))))
    }

    /// Whether a bag with this sketch may be near one of `n_words` words with the `other`: of the shorter one, no more words are missing in
    /// the longer one, so no more bits.
    fn may_be_near(self, other: Sketch, n_words: usize) -> bool {
        let n_missing = (self.0 & !other.0).count_ones().min((other.0 & !self.0).count_ones());
        // One more than there may be, for rounding.
        n_missing as f32 <= (1.0 - MIN_SHARE) * n_words as f32 + 1.0
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

/// So many bags are kept at most: of a pool that is no larger, each is made once.
const N_KEPT: usize = 1 << 16;
/// Texts that are read at once.
const BLOCK: usize = 1 << 14;

/// The bags of passages by number, each made when it is asked for: sketches rule most of them out. In a large pool a bag gives its place to
/// another one.
pub struct Bags<'a> {
    numbered: &'a Numbered<'a>,
    /// Of each candidate.
    sketches: Vec<Sketch>,
    kept: Vec<Mutex<Kept>>,
}

/// A bag and the number of its passage.
type Kept = Option<(u32, Arc<Bag>)>;

impl<'a> Bags<'a> {
    /// Of the candidates and positives of rows.
    ///
    /// # Errors
    /// Where a text can't be read.
    pub fn new(numbered: &'a Numbered<'a>) -> Result<Bags<'a>> {
        let pool = numbered.pool();
        let mut sketches = Vec::with_capacity(pool.len());
        for start in (0..pool.len()).step_by(BLOCK) {
            let texts = pool.read(start as u32..pool.len().min(start + BLOCK) as u32)?;
            sketches.par_extend(texts.par_iter().map(|text| Sketch::of(&Bag::of(text))));
        }
        let kept = (0..pool.len().clamp(1, N_KEPT)).map(|_| Mutex::default()).collect();
        Ok(Bags { numbered, sketches, kept })
    }

    fn of(&self, number: u32) -> Result<Arc<Bag>> {
        let place = &self.kept[number as usize % self.kept.len()];
        let place = || place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bag)) = place().as_ref().filter(|(kept, _)| *kept == number) {
            return Ok(bag.clone());
        }
        let bag = Arc::new(Bag::of(&self.numbered.text(number)?));
        *place() = Some((number, bag.clone()));
        Ok(bag)
    }

    /// What looks like one of `positives`, which need not be in the pool.
    ///
    /// # Errors
    /// Where a text can't be read.
    pub fn like(&self, positives: impl IntoIterator<Item = u32>) -> Result<Lookalikes<'_>> {
        let bag = |number| self.of(number).map(|bag| (Sketch::of(&bag), bag));
        Ok(Lookalikes { bags: self, positives: positives.into_iter().map(bag).collect::<Result<_>>()? })
    }
}

/// The candidates that are near-duplicates of a query's positives.
pub struct Lookalikes<'a> {
    bags: &'a Bags<'a>,
    positives: Vec<(Sketch, Arc<Bag>)>,
}

impl Lookalikes<'_> {
    /// Whether the candidate is one.
    ///
    /// # Errors
    /// Where its text can't be read.
    pub fn contains(&self, row: u32) -> Result<bool> {
        let sketch = self.bags.sketches[row as usize];
        let may_be = |(of, bag): &&(Sketch, Arc<Bag>)| sketch.may_be_near(*of, bag.0.len());
        let mut positives = self.positives.iter().filter(may_be).peekable();
        if positives.peek().is_none() {
            return Ok(false);
        }
        let bag = self.bags.of(row)?;
        Ok(positives.any(|(_, positive)| positive.is_near(&bag)))
    }
}

#[cfg(test)]
mod tests {
    use embertune_kernels::dropout::splitmix64;

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

    #[test]
    fn sketches_rule_out_most_bags_that_are_not_near_and_none_that_are() {
        let mut state = 1;
        let mut random = |n: usize| {
            state = splitmix64(state);
            state as usize % n
        };
        let (mut n_near, mut n_ruled_out) = (0, 0);
        for _ in 0..20_000 {
            let n = 1 + random(120);
            let mut words: Vec<u64> = (0..n).map(|_| splitmix64(random(5000) as u64)).collect();
            let mut others = words.clone();
            // Some words exchanged, some left out.
            (0..random(1 + n / 8)).for_each(|_| others[random(n)] = splitmix64(random(5000) as u64));
            others.truncate(n - random(1 + n / 2));
            words.sort_unstable();
            others.sort_unstable();
            let (words, others) = (Bag(words), Bag(others));
            let unlike = Bag((0..n).map(|_| splitmix64(random(5000) as u64)).collect());
            let may_be = |a: &Bag, b: &Bag| Sketch::of(a).may_be_near(Sketch::of(b), b.0.len());
            if words.is_near(&others) {
                n_near += 1;
                assert!(may_be(&words, &others) && may_be(&others, &words), "{words:?} {others:?}");
            }
            n_ruled_out += usize::from(!may_be(&words, &unlike));
        }
        assert!(n_near > 5_000 && n_ruled_out > 19_000, "{n_near} {n_ruled_out}");
    }
}
