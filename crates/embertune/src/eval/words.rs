//! What can be said about a query from its letters alone: its words and its script.

/// The words of a text in lower case: runs of letters and digits. A character of a script that is written without spaces
/// (Chinese, Japanese, Thai, ...) is a word.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars().chain(std::iter::once(' ')) {
        let stands_alone = is_without_spaces(c);
        if stands_alone || !c.is_alphanumeric() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            if stands_alone {
                words.push(c.to_string());
            }
        } else {
            word.extend(c.to_lowercase());
        }
    }
    words
}

/// First and last character of the main blocks of the scripts that most languages are written in.
const SCRIPTS: [(&str, char, char); 22] = [
    ("Latin", 'A', 'Z'),
    ("Latin", 'a', 'z'),
    ("Latin", '\u{c0}', '\u{24f}'),
    ("Latin", '\u{1e00}', '\u{1eff}'),
    ("Greek", '\u{370}', '\u{3ff}'),
    ("Cyrillic", '\u{400}', '\u{52f}'),
    ("Armenian", '\u{530}', '\u{58f}'),
    ("Hebrew", '\u{590}', '\u{5ff}'),
    ("Arabic", '\u{600}', '\u{6ff}'),
    ("Arabic", '\u{750}', '\u{77f}'),
    ("Devanagari", '\u{900}', '\u{97f}'),
    ("Bengali", '\u{980}', '\u{9ff}'),
    ("Tamil", '\u{b80}', '\u{bff}'),
    ("Telugu", '\u{c00}', '\u{c7f}'),
    ("Thai", '\u{e00}', '\u{e7f}'),
    ("Georgian", '\u{10a0}', '\u{10ff}'),
    ("Kana", '\u{3040}', '\u{30ff}'),
    ("Han", '\u{3400}', '\u{4dbf}'),
    ("Han", '\u{4e00}', '\u{9fff}'),
    ("Han", '\u{f900}', '\u{faff}'),
    ("Hangul", '\u{1100}', '\u{11ff}'),
    ("Hangul", '\u{ac00}', '\u{d7af}'),
];

/// The script of most letters of a text, `other` where it is none of those known here, `none` where there are no letters.
pub fn script(text: &str) -> &'static str {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        let name = script_of(c);
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, n)) => *n += 1,
            None => counts.push((name, 1)),
        }
    }
    // Of equal counts the first that was seen.
    counts.iter().rev().max_by_key(|(_, n)| *n).map_or("none", |(name, _)| name)
}

fn script_of(c: char) -> &'static str {
    SCRIPTS.iter().find(|(_, first, last)| (*first..=*last).contains(&c)).map_or("other", |(name, _, _)| name)
}

fn is_without_spaces(c: char) -> bool {
    c.is_alphabetic() && matches!(script_of(c), "Han" | "Kana" | "Thai")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_single_characters_of_scripts_without_spaces() {
        assert_eq!(words("  Split a PDF-file, v2!"), ["split", "a", "pdf", "file", "v2"]);
        assert_eq!(words("分割PDF文件"), ["分", "割", "pdf", "文", "件"]);
        assert_eq!(words("Straße ÉTÉ"), ["straße", "été"]);
        assert_eq!(words(" -- "), [] as [&str; 0]);
    }

    #[test]
    fn the_script_is_that_of_most_letters() {
        for (text, expected) in [
            ("how to split a PDF", "Latin"),
            ("как разделить PDF", "Cyrillic"),
            ("分割文件 PDF", "Han"),
            ("ファイルを分割する", "Kana"),
            ("파일 나누기", "Hangul"),
            ("ሰላም", "other"),
            ("42 + 1", "none"),
        ] {
            assert_eq!(script(text), expected, "{text}");
        }
    }
}
