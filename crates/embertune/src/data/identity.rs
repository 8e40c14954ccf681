//! When two texts are the same text: by a hash of their normalised form.
//!
//! Positives, pools and queries come from different files and tools, which differ in Unicode composition, line ends and
//! spaces. Comparing raw strings would make a positive with a stray space its own negative.

use unicode_normalization::UnicodeNormalization;
use xxhash_rust::xxh3::Xxh3Default;

/// The identity of a text: xxh3-128 of its NFC form, trimmed, with every run of white space as one space.
///
/// Case and punctuation count: texts that differ in them may mean different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TextId(pub u128);

impl TextId {
    /// The identity of `text`.
    pub fn of(text: &str) -> TextId {
        let mut hash = Xxh3Default::new();
        for (i, word) in text.split_whitespace().enumerate() {
            if i > 0 {
                hash.update(b" ");
            }
            // ASCII is its own NFC, and most words are ASCII.
            if word.is_ascii() {
                hash.update(word.as_bytes());
            } else {
                hash.update(word.nfc().collect::<String>().as_bytes());
            }
        }
        TextId(hash.digest128())
    }

    /// Half of it, for as many texts as there are rows in memory: of 15 million texts, two are confused with a probability of 6e-6.
    pub fn half(self) -> u64 {
        self.0 as u64
    }

    /// The identity of what `text` says: without case, and without punctuation at the ends of its words. For texts that should
    /// not be told apart when in doubt: it is no harm to miss a negative, and much to push a positive away.
    ///
    /// Signs inside of words count, and those of a text that has nothing else.
    pub fn near(text: &str) -> TextId {
        const OPENING: &[char] = &['"', '\'', '(', '[', '\u{201c}', '\u{2018}'];
        const CLOSING: &[char] =
            &['"', '\'', ')', ']', '\u{201d}', '\u{2019}', '.', ',', ';', ':', '!', '?', '\u{2026}'];
        let words = text.split_whitespace().map(|word| word.trim_start_matches(OPENING).trim_end_matches(CLOSING));
        let words: Vec<_> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
        if words.is_empty() { TextId::of(text) } else { TextId::of(&words.join(" ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_unicode_composition_do_not_matter() {
        let id = TextId::of("caf\u{e9} au lait");
        for same in ["cafe\u{301} au lait", "  caf\u{e9}\tau \r\n lait\n", "caf\u{e9}\u{a0}au\u{3000}lait"] {
            assert_eq!(TextId::of(same), id, "{same:?}");
        }
    }

    #[test]
    fn case_punctuation_and_word_borders_matter() {
        let id = TextId::of("caf\u{e9} au lait");
        for other in ["Caf\u{e9} au lait", "caf\u{e9} au lait.", "caf\u{e9} aulait", "cafe au lait", ""] {
            assert_ne!(TextId::of(other), id, "{other:?}");
        }
    }

    #[test]
    fn near_texts_differ_in_case_and_punctuation_at_the_ends_of_words_alone() {
        let id = TextId::near("Caf\u{e9} (au lait), please!");
        for near in ["cafe\u{301} au lait please", "\u{201c}CAF\u{c9} AU LAIT\u{201d}: please..."] {
            assert_eq!(TextId::near(near), id, "{near:?}");
        }
        for (a, b) in [("C++", "C"), (".NET", "net"), ("e-mail", "email"), ("?", "!"), ("?", "")] {
            assert_ne!(TextId::near(a), TextId::near(b), "{a:?} {b:?}");
        }
    }
}
