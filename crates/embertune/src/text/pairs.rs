//! Two texts as one: what a cross-encoder reads.
//!
//! How they are joined (`[CLS] a [SEP] b [SEP]`, `<s> a </s></s> b </s>`) and which token types they get is the tokenizer's business.
//! Pairs that are too long are cut as transformers does it with `truncation="longest_first"`, by the same code.

use rayon::prelude::*;
use tokenizers::{PostProcessor, TruncationParams, TruncationStrategy};

use super::Tokenizer;
use crate::{Error, Result};

/// The tokens of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairTokens {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token type of each: 0 in the first text, 1 in the second, where the tokenizer tells them apart.
    pub types: Vec<u32>,
    /// Whether the pair was longer than the limit.
    pub truncated: bool,
}

/// What turns pairs of texts into token ids.
pub struct PairTokenizer {
    inner: tokenizers::Tokenizer,
    max_len: usize,
}

impl PairTokenizer {
    /// Gives pairs of at most `max_len` tokens, special tokens included. The longer text of a pair loses its end first, both where that
    /// is not enough.
    ///
    /// # Errors
    /// If `max_len` leaves no room for a token of each text.
    pub fn new(tokenizer: Tokenizer, max_len: usize) -> Result<Self> {
        let mut inner = tokenizer.inner;
        let least = inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true)) + 2;
        if max_len < least {
            return Err(Error::Setting {
                problem: format!(
                    "a maximum length of {max_len} tokens leaves no room for two texts; the least is {least}"
                ),
                hint: None,
            });
        }
        let longest_first = TruncationParams {
            max_length: max_len,
            strategy: TruncationStrategy::LongestFirst,
            ..TruncationParams::default()
        };
        inner.with_truncation(Some(longest_first)).map_err(|e| Error::Setting {
            problem: format!("the tokenizer cannot cut at {max_len} tokens: {e}"),
            hint: None,
        })?;
        Ok(PairTokenizer { inner, max_len })
    }

    /// Most tokens of a pair.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// The tokens of each of `pairs`. Runs in the current rayon pool.
    ///
    /// # Errors
    /// If the tokenizer fails on a pair.
    pub fn encode(&self, pairs: &[(&str, &str)]) -> Result<Vec<PairTokens>> {
        pairs
            .par_iter()
            .map(|&(first, second)| {
                let encoding =
                    self.inner.encode_fast((first, second), true).map_err(|e| Tokenizer::failure(first, e))?;
                Ok(PairTokens {
                    ids: encoding.get_ids().to_vec(),
                    types: encoding.get_type_ids().to_vec(),
                    truncated: !encoding.get_overflowing().is_empty(),
                })
            })
            .collect()
    }
}
