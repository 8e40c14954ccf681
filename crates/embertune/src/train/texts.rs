//! The distinct texts of a training set: what they say by a hash, and their tokens, which are in a temporary file where they are many.

use std::ops::Range;
use std::sync::Arc;

use crate::data::spool::Spool;
use crate::error::Result;
use crate::text::Tokens;

/// Bytes of a token.
const WORD: u64 = size_of::<u32>() as u64;
/// Texts that are read at once where all of them are.
const BLOCK: usize = 4096;

/// Texts in the order of their numbers.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    ids: Vec<u64>,
    /// Of each text, where it ends in the words of all parts: one for what it is, then its tokens.
    ends: Vec<u64>,
    parts: Vec<Part>,
}

/// Some of the texts. Copies of a set share it.
#[derive(Clone, Debug)]
struct Part {
    first_text: usize,
    first_word: u64,
    n_truncated: usize,
    words: Arc<Spool>,
}

/// Texts that are being added.
#[derive(Debug, Default)]
pub struct NewTexts {
    ends: Vec<u64>,
    n_truncated: usize,
    words: Spool,
}

impl NewTexts {
    /// Adds the tokens of a text at the end.
    ///
    /// # Errors
    /// Where the temporary file can't be written.
    pub fn push(&mut self, tokens: &Tokens) -> Result<()> {
        let what = tokens.prompt_len << 1 | u32::from(tokens.truncated);
        let bytes: Vec<_> = [what].iter().chain(&tokens.ids).flat_map(|word| word.to_le_bytes()).collect();
        self.words.write(&bytes)?;
        self.n_truncated += usize::from(tokens.truncated);
        self.ends.push(self.words.len() / WORD);
        Ok(())
    }

    /// How many of them were longer than the limit.
    pub fn n_truncated(&self) -> usize {
        self.n_truncated
    }

    /// All of them, with what they say, see [`Texts::id`].
    pub fn that_say(self, ids: Vec<u64>) -> Texts {
        let NewTexts { ends, n_truncated, words } = self;
        assert_eq!(ids.len(), ends.len(), "a hash for each text");
        Texts { ids, ends, parts: vec![Part { first_text: 0, first_word: 0, n_truncated, words: words.into() }] }
    }
}

impl Texts {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// What a text says: [half](crate::data::TextId::half) of [`TextId::near`](crate::data::TextId::near).
    pub fn id(&self, text: u32) -> u64 {
        self.ids[text as usize]
    }

    /// Number of tokens of a text, prompt included.
    pub fn n_tokens(&self, text: u32) -> usize {
        let text = text as usize;
        (self.ends[text] - self.start(text)) as usize - 1
    }

    /// Number of tokens of each text.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        (0..self.len() as u32).map(|text| self.n_tokens(text))
    }

    /// Texts that were longer than the limit.
    pub fn n_truncated(&self) -> usize {
        self.parts.iter().map(|part| part.n_truncated).sum()
    }

    fn start(&self, text: usize) -> u64 {
        if text == 0 { 0 } else { self.ends[text - 1] }
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// Where the temporary file can't be read.
    pub fn tokens(&self, text: u32) -> Result<Tokens> {
        let text = text as usize;
        Ok(self.read(text..text + 1)?.swap_remove(0))
    }

    /// The tokens of some texts, one after the other.
    ///
    /// # Errors
    /// Where the temporary file can't be read.
    pub fn read(&self, texts: Range<usize>) -> Result<Vec<Tokens>> {
        let mut found = Vec::with_capacity(texts.len());
        while found.len() < texts.len() {
            let first = texts.start + found.len();
            let n_begun = self.parts.partition_point(|part| part.first_text <= first);
            let part = &self.parts[n_begun - 1];
            let end = self.parts.get(n_begun).map_or(texts.end, |next| next.first_text.min(texts.end));
            let at = |word: u64| (word - part.first_word) * WORD;
            let bytes = part.words.read(at(self.start(first))..at(self.start(end)))?;
            let mut words = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
            for text in first..end {
                let what = words.next().unwrap_or_default();
                let ids = words.by_ref().take(self.n_tokens(text as u32)).collect();
                found.push(Tokens { ids, prompt_len: what >> 1, truncated: what & 1 == 1 });
            }
        }
        Ok(found)
    }

    /// The tokens of all texts, some thousand at once.
    pub fn blocks(&self) -> impl Iterator<Item = Result<Vec<Tokens>>> {
        (0..self.len()).step_by(BLOCK).map(|first| self.read(first..self.len().min(first + BLOCK)))
    }

    /// Adds other texts at the end.
    pub fn append(&mut self, others: Texts) {
        let (n_texts, n_words) = (self.len(), self.start(self.len()));
        self.ids.extend(others.ids);
        self.ends.extend(others.ends.into_iter().map(|end| end + n_words));
        self.parts.extend(others.parts.into_iter().map(|part| Part {
            first_text: part.first_text + n_texts,
            first_word: part.first_word + n_words,
            ..part
        }));
    }

    /// Leaves the first `n` texts: those before some that were [appended](Self::append).
    pub fn truncate(&mut self, n: usize) {
        self.ids.truncate(n);
        self.ends.truncate(n);
        self.parts.retain(|part| part.first_text < n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(i: usize) -> Tokens {
        let ids = (0..1 + i * i % 700).map(|at| (at * i) as u32).collect();
        Tokens { ids, prompt_len: (i % 2) as u32, truncated: i.is_multiple_of(3) }
    }

    fn of(texts: Range<usize>) -> Texts {
        let mut new = NewTexts::default();
        texts.clone().for_each(|i| new.push(&tokens(i)).unwrap());
        new.that_say(texts.map(|i| i as u64).collect())
    }

    #[test]
    fn tokens_come_back_whatever_was_added_and_taken_off() {
        // More of them than are kept in memory.
        let mut texts = of(0..20_000);
        texts.append(of(0..0));
        texts.append(of(20_000..20_010));
        texts.append(of(1..9));
        texts.truncate(20_010);
        texts.append(of(20_010..20_100));
        assert!(texts.len() == 20_100 && texts.n_truncated() == 6_700);
        for range in [0..3, 19_990..20_030, 20_099..20_100, 5..5] {
            assert!(texts.read(range.clone()).unwrap() == range.map(tokens).collect::<Vec<_>>());
        }
        for i in [0, 7, 19_999, 20_000, 20_050] {
            let text = i as u32;
            assert!(texts.tokens(text).unwrap() == tokens(i) && texts.n_tokens(text) == tokens(i).ids.len());
            assert_eq!(texts.id(text), i as u64);
        }
        let all = texts.blocks().flat_map(|block| block.unwrap());
        assert!(all.eq((0..20_100).map(tokens)) && texts.lengths().eq((0..20_100).map(|i| tokens(i).ids.len())));
    }
}
