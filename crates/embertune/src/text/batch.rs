//! A ragged batch: the token ids of several texts, one after the other, without padding.

use std::ops::Range;

use embertune_kernels::ops::Ragged;

/// The tokens of several texts, and what each text brings with it.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids of all texts, `[n_tokens]`.
    pub ids: Vec<u32>,
    /// Offsets, `[n_texts + 1]`; text `i` is `ids[cu_seqlens[i]..cu_seqlens[i + 1]]`.
    pub cu_seqlens: Vec<u32>,
    /// Number of leading tokens of each text that pooling leaves out (a prompt with `include_prompt: false`), `[n_texts]`.
    pub skip: Vec<u32>,
    /// The key of each text's dropout masks, `[n_texts]`. Zero where nothing is dropped.
    pub keys: Vec<u64>,
    /// The token type of each token, `[n_tokens]`: 1 in the second text of a pair. Empty where all are 0.
    pub types: Vec<u32>,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { ids: Vec::new(), cu_seqlens: vec![0], skip: Vec::new(), keys: Vec::new(), types: Vec::new() }
    }
}

impl Batch {
    /// Adds a text. `ids` is not empty.
    pub fn push(&mut self, ids: &[u32], skip: u32, key: u64) {
        self.ids.extend_from_slice(ids);
        self.cu_seqlens.push(self.ids.len() as u32);
        self.skip.push(skip);
        self.keys.push(key);
        if !self.types.is_empty() {
            self.types.resize(self.ids.len(), 0);
        }
    }

    /// Adds a text of several token types, `[ids.len()]`, of which nothing is dropped.
    pub fn push_typed(&mut self, ids: &[u32], types: &[u32]) {
        assert_eq!(ids.len(), types.len(), "one token type for each token");
        self.types.resize(self.ids.len(), 0);
        self.types.extend_from_slice(types);
        self.push(ids, 0, 0);
    }

    /// Some of the texts as a batch of their own.
    pub fn part(&self, texts: Range<usize>) -> Batch {
        let offsets = &self.cu_seqlens[texts.start..=texts.end];
        let first = offsets[0];
        Batch {
            ids: self.ids[first as usize..offsets[texts.len()] as usize].to_vec(),
            cu_seqlens: offsets.iter().map(|offset| offset - first).collect(),
            skip: self.skip[texts.clone()].to_vec(),
            keys: self.keys[texts].to_vec(),
            types: match self.types.as_slice() {
                [] => Vec::new(),
                types => types[first as usize..offsets[offsets.len() - 1] as usize].to_vec(),
            },
        }
    }

    /// Number of texts.
    pub fn n_texts(&self) -> usize {
        self.keys.len()
    }

    /// Number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// The form that the kernels take.
    pub fn ragged(&self) -> Ragged<'_> {
        Ragged { cu_seqlens: &self.cu_seqlens, keys: &self.keys }
    }
}
