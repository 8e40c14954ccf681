//! The words of a text for comparing and ranking by words: in lower case, without punctuation, as hashes.

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;
use xxhash_rust::xxh3::xxh3_64;

/// The words of `text` in their order. Compatibility forms (`ﬁ`, full-width letters) count as the plain ones; in scripts without
/// spaces every character is a word. No stemming, no stop words: they would tie the result to one language.
pub fn words(text: &str) -> Vec<u64> {
    let plain: String;
    let text = if text.is_ascii() {
        text
    } else {
        plain = text.nfkc().collect();
        &plain
    };
    let mut lower = String::new();
    let hash = |word: &str| {
        lower.clear();
        lower.extend(word.chars().flat_map(char::to_lowercase));
        xxh3_64(lower.as_bytes())
    };
    // Unicode keeps `can't`, `1.2` and `and:or` together; a text with other punctuation would have other words.
    let is_mark = |c: char| c.is_ascii_punctuation() || c == '\u{2019}';
    text.unicode_words().flat_map(|word| word.split(is_mark)).filter(|part| !part.is_empty()).map(hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_punctuation_and_compatibility_forms_do_not_matter() {
        let plain = words("the file is \u{e9}t\u{e9} full");
        for same in ["The FILE: is e\u{301}t\u{e9}, full!", "(the) \u{fb01}le\u{2014}is \u{c9}T\u{c9} \u{ff46}ull"] {
            assert_eq!(words(same), plain, "{same}");
        }
        assert_ne!(words("the files is \u{e9}t\u{e9} full"), plain);
        assert_eq!(words(" -- "), [] as [u64; 0]);
    }

    #[test]
    fn marks_within_words_do_not_matter() {
        assert_eq!(words("can't and:or e.g. 1.2"), words("can\u{2019}t and or, e g; 1-2"));
    }

    #[test]
    fn text_without_spaces_has_words_too() {
        assert_eq!(words("\u{6570}\u{636e}\u{5e93}").len(), 3);
    }
}
