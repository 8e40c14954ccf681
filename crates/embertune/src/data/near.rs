//! Near-duplicates among many texts: which say nearly the same in nearly the same letters.
//!
//! Two texts are near if of all runs of four bytes that either has, without case and punctuation, both have 75 %: a word more, a
//! plural, a slip of the pen in a question of eight words. Pairs are found by MinHash with bands (Broder, "On the resemblance and
//! containment of documents", 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3) and then compared exactly, so
//! that none is wrong; of pairs at 75 % one in 80 is missed, of pairs at 80 % one in 1,000. Mining has a rule of its own for passages
//! (`mine::overlap`), which sees a sentence that was moved and needs no pairs found.

use std::borrow::Cow;
use std::ops::Range;

use embertune_kernels::dropout::splitmix64;
use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization;

/// Share of all pieces that both texts have. For runs of four bytes, 0.75 is one letter in a text of 30 letters; unrelated questions
/// share 0.1.
const MIN_SHARED: f64 = 0.75;
/// Length of a piece in bytes. Shorter ones are shared by any two long texts, longer ones make a single letter count for more.
const PIECE: usize = 4;
/// Bands, and minima that have to agree in one of them: 1 - (1 - s^7)^30 of the pairs that share s are compared.
const BANDS: usize = 30;
const BAND_WIDTH: usize = 7;
/// Bands whose keys are in memory at once: 4 bytes each per text. More are faster, since a text is cut into pieces once for all of them.
const BANDS_AT_ONCE: usize = 5;
/// Of texts with the same key, each is compared with this many before it: their number stays linear where thousands of texts
/// follow one pattern, and what is near to many of them is found in other bands.
const LOOK_BACK: usize = 4;

/// Texts that are read at once.
const BLOCK: usize = 1024;

/// Texts in memory or elsewhere.
pub trait TextList: Sync {
    /// Their number.
    fn n_texts(&self) -> usize;

    /// Some of them.
    fn read(&self, texts: Range<usize>) -> Vec<Cow<'_, str>>;
}

impl<S: AsRef<str> + Sync> TextList for [S] {
    fn n_texts(&self) -> usize {
        self.len()
    }

    fn read(&self, texts: Range<usize>) -> Vec<Cow<'_, str>> {
        self[texts].iter().map(|text| text.as_ref().into()).collect()
    }
}

/// Sets of numbers that grow together; the name of a set is its smallest number.
#[derive(Clone, Debug)]
pub struct Groups {
    parents: Vec<u32>,
}

impl Groups {
    /// `n` sets of one number each.
    pub fn new(n: usize) -> Groups {
        Groups { parents: (0..n as u32).collect() }
    }

    /// The name of the set that `member` is in.
    pub fn name(&mut self, member: u32) -> u32 {
        let mut at = member;
        while self.parents[at as usize] != at {
            // Halves the path, for the next one who comes along.
            self.parents[at as usize] = self.parents[self.parents[at as usize] as usize];
            at = self.parents[at as usize];
        }
        at
    }

    /// Makes one set of two. Whether they were two.
    pub fn join(&mut self, a: u32, b: u32) -> bool {
        let (a, b) = (self.name(a), self.name(b));
        self.parents[a.max(b) as usize] = a.min(b);
        a != b
    }

    /// The name of the set of each number.
    pub fn names(mut self) -> Vec<u32> {
        (0..self.parents.len() as u32).map(|member| self.name(member)).collect()
    }
}

/// Groups of near-duplicates: whatever a chain of near pairs connects. Texts without letters and digits are near to none. Runs in the
/// current rayon pool; the result does not depend on its size.
///
/// Beside the texts it takes some 40 bytes of memory per text.
pub fn near_groups(texts: &(impl TextList + ?Sized)) -> Groups {
    let n = texts.n_texts();
    let mut groups = Groups::new(n);
    let are_near = |pair: [u32; 2]| {
        let [a, b] = pair.map(|at| texts.read(at as usize..at as usize + 1).swap_remove(0));
        is_near(&a, &b)
    };
    for first in (0..BANDS).step_by(BANDS_AT_ONCE) {
        let mut of_texts: Vec<Option<[u32; BANDS_AT_ONCE]>> = vec![None; n];
        of_texts.par_chunks_mut(BLOCK).enumerate().for_each(|(block, of_block)| {
            let block = texts.read(block * BLOCK..block * BLOCK + of_block.len());
            of_block.iter_mut().zip(&block).for_each(|(of_text, text)| *of_text = keys(text, first));
        });
        for band in 0..BANDS_AT_ONCE {
            let keyed = |(at, keys): (usize, &Option<[u32; BANDS_AT_ONCE]>)| {
                keys.map(|keys| u64::from(keys[band]) << 32 | at as u64)
            };
            let mut order: Vec<u64> = of_texts.iter().enumerate().filter_map(keyed).collect();
            order.par_sort_unstable();
            let mut pairs = Vec::new();
            for bucket in order.chunk_by(|a, b| a >> 32 == b >> 32) {
                for (i, &member) in bucket.iter().enumerate() {
                    for &other in &bucket[i.saturating_sub(LOOK_BACK)..i] {
                        let (a, b) = (other as u32, member as u32);
                        if groups.name(a) != groups.name(b) {
                            pairs.push([a, b]);
                        }
                    }
                }
            }
            let near: Vec<_> = pairs.into_par_iter().filter(|&pair| are_near(pair)).collect();
            for [a, b] in near {
                groups.join(a, b);
            }
        }
    }
    groups
}

/// Whether two texts are near-duplicates.
pub fn is_near(a: &str, b: &str) -> bool {
    let [a, b] = [a, b].map(|text| {
        let mut pieces: Vec<_> = pieces(&plain(text)).collect();
        pieces.sort_unstable();
        pieces.dedup();
        pieces
    });
    let (mut i, mut j, mut n_shared) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        let equal = a[i] == b[j];
        n_shared += usize::from(equal);
        (i, j) = (i + usize::from(a[i] <= b[j]), j + usize::from(b[j] <= a[i]));
    }
    let n_all = a.len() + b.len() - n_shared;
    n_all > 0 && n_shared as f64 >= MIN_SHARED * n_all as f64
}

/// The words of a text in lower case with one blank before, between and after them; nothing where there are no words.
fn plain(text: &str) -> Vec<u8> {
    let mut plain = String::with_capacity(text.len() + 2);
    let mut push = |c: char| {
        // `C++` and `C#` are not `C`.
        if c.is_alphanumeric() || c == '+' || c == '#' {
            plain.extend(c.to_lowercase());
        } else if !plain.ends_with(' ') {
            plain.push(' ');
        }
    };
    push(' ');
    if text.is_ascii() {
        text.chars().for_each(&mut push)
    } else {
        text.nfkc().for_each(&mut push)
    }
    push(' ');
    if plain.len() > 1 { plain.into_bytes() } else { Vec::new() }
}

/// All runs of [`PIECE`] bytes; of a shorter text the whole of it.
fn pieces(plain: &[u8]) -> impl Iterator<Item = u32> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte));
    let short = (1..PIECE).contains(&plain.len()).then(|| number(plain));
    plain.windows(PIECE).map(number).chain(short)
}

/// The keys of [`BANDS_AT_ONCE`] bands, `None` for a text without words: near texts agree in some of them.
fn keys(text: &str, first_band: usize) -> Option<[u32; BANDS_AT_ONCE]> {
    const N: usize = BANDS_AT_ONCE * BAND_WIDTH;
    // Hash functions x -> a x + b modulo 2^32, with a odd, of pieces that are mixed already.
    let constant = |i: usize| splitmix64((first_band * BAND_WIDTH + i) as u64);
    let factors: [u32; N] = std::array::from_fn(|i| constant(i) as u32 | 1);
    let offsets: [u32; N] = std::array::from_fn(|i| (constant(i) >> 32) as u32);
    let mut minima = [u32::MAX; N];
    let plain = plain(text);
    for piece in pieces(&plain) {
        let mixed = splitmix64(u64::from(piece)) as u32;
        for ((minimum, factor), offset) in minima.iter_mut().zip(factors).zip(offsets) {
            *minimum = (*minimum).min(mixed.wrapping_mul(factor).wrapping_add(offset));
        }
    }
    let key = |band: usize| {
        let minima = &minima[band * BAND_WIDTH..][..BAND_WIDTH];
        minima.iter().fold(0, |key, &minimum| splitmix64(key ^ u64::from(minimum))) as u32
    };
    (!plain.is_empty()).then(|| std::array::from_fn(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_punctuation_a_slip_and_a_small_word_make_near_duplicates() {
        let text = "How do I split a large PDF file into pages?";
        for near in [
            "how do i split a large pdf-file into pages",
            "How do I split the large PDF file into pages",
            "How do I split a large PDF file into pagse?",
            "How do I split a large PDF file into \u{ff50}ages",
        ] {
            assert!(is_near(text, near) && is_near(near, text), "{near}");
        }
        for other in
            ["How do I join large PDF files?", "How do I split a large video file into scenes?", "PDF", "", "?"]
        {
            assert!(!is_near(text, other), "{other}");
        }
        for (a, b) in [("C++", "C"), ("?", "!"), ("", "")] {
            assert!(!is_near(a, b), "{a} {b}");
        }
        assert!(is_near("\u{6570}\u{636e}\u{5e93}\u{3002}", "\u{6570}\u{636e}\u{5e93}"));
    }

    /// Made of numbered words, so that only the texts that are changed by a letter are near to another.
    #[test]
    fn groups_are_those_of_all_pairs_and_do_not_depend_on_the_threads() {
        let word = |i: u64| format!("{:x}", splitmix64(i) >> 40);
        let mut texts: Vec<String> =
            (0..300).map(|i| (0..6).map(|j| word(i * 6 + j)).collect::<Vec<_>>().join(" ")).collect();
        for i in (0..300).step_by(7) {
            texts.push(format!("{}!", texts[i].to_uppercase()));
            texts.push(format!("{}s", texts[i]));
        }
        texts.extend(["?".to_string(), "!".to_string()]);
        let mut expected = Groups::new(texts.len());
        for (i, a) in texts.iter().enumerate() {
            for (j, b) in texts[..i].iter().enumerate() {
                if is_near(a, b) {
                    expected.join(j as u32, i as u32);
                }
            }
        }
        let expected = expected.names();
        assert_eq!(expected.iter().enumerate().filter(|(i, name)| *i as u32 != **name).count(), 86);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| near_groups(texts.as_slice())).names(), expected);
        }
    }

    #[test]
    fn a_set_is_called_after_its_smallest_number() {
        let mut groups = Groups::new(5);
        assert!(groups.join(4, 2) && groups.join(2, 1) && !groups.join(1, 4));
        assert_eq!(groups.names(), [0, 1, 1, 3, 1]);
    }
}
