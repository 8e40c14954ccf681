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
}
