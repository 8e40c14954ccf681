//! [`Geometry`]: where the texts of a batch lie, on the device, and which of them attention computes together.

use std::sync::{Arc, PoisonError};

use burn_cubecl::CubeRuntime;
use embertune_kernels::ops::Ragged;

use crate::Gpu;
use crate::tensors::Indices;

/// Texts are computed together whose lengths are equal after rounding up to a multiple of this: of 16 up to 128 tokens, of 64 above. Smaller
/// steps compute fewer padded positions in more launches.
const SHORT_STEP: usize = 16;
const SHORT: usize = 128;
const LONG_STEP: usize = 64;
/// At most this many scores per head are in memory at once, unless a single text has more: 100 MB in 12 heads.
const MAX_SCORES: usize = 1 << 21;

/// A batch of texts on the device.
pub(crate) struct Geometry<R: CubeRuntime> {
    cu_seqlens: Vec<u32>,
    keys: Vec<u64>,
    /// The text of each token, `[n_tokens]`.
    pub text_of: Indices<R>,
    /// The first token of each text, and the number of tokens, `[n_texts + 1]`.
    pub starts: Indices<R>,
    /// The key of each text: its lower half, then its upper half, `[n_texts, 2]`.
    pub key_words: Indices<R>,
    /// What attention computes together.
    pub buckets: Vec<Bucket<R>>,
}

/// Texts of similar lengths.
pub(crate) struct Bucket<R: CubeRuntime> {
    /// Which texts.
    pub texts: Indices<R>,
    /// How many.
    pub n_texts: usize,
    /// Length of the longest of them, to which attention pads the others.
    pub len: usize,
}

impl<R: CubeRuntime> Gpu<R> {
    /// The geometry of `texts`, uploaded once for all operations in a row that ask for it.
    pub(crate) fn geometry(&self, texts: Ragged<'_>) -> Arc<Geometry<R>> {
        let mut last = self.last_geometry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(geometry) = last.as_ref().filter(|geometry| geometry.is_of(texts)) {
            return Arc::clone(geometry);
        }
        let geometry = Arc::new(Geometry::new(self, texts));
        *last = Some(Arc::clone(&geometry));
        geometry
    }
}

impl<R: CubeRuntime> Geometry<R> {
    fn new(gpu: &Gpu<R>, texts: Ragged<'_>) -> Self {
        let lengths: Vec<usize> = (0..texts.n_texts()).map(|text| texts.range(text).len()).collect();
        let buckets = together(&lengths).into_iter().map(|members| Bucket {
            len: members.iter().map(|&text| lengths[text as usize]).max().unwrap_or(0),
            n_texts: members.len(),
            texts: gpu.indices(members),
        });
        let repeated = lengths.iter().zip(0..).flat_map(|(&len, text)| std::iter::repeat_n(text, len));
        Geometry {
            cu_seqlens: texts.cu_seqlens.to_vec(),
            keys: texts.keys.to_vec(),
            text_of: gpu.indices(repeated),
            starts: gpu.indices(texts.cu_seqlens.iter().copied()),
            key_words: gpu.indices(texts.keys.iter().flat_map(|&key| [key as u32, (key >> 32) as u32])),
            buckets: buckets.collect(),
        }
    }

    fn is_of(&self, texts: Ragged<'_>) -> bool {
        self.cu_seqlens == texts.cu_seqlens && self.keys == texts.keys
    }
}

/// The texts of each bucket, shorter ones first. Texts without tokens are in none.
fn together(lengths: &[usize]) -> Vec<Vec<u32>> {
    let rounded = |text: u32| {
        let len = lengths[text as usize];
        len.next_multiple_of(if len <= SHORT { SHORT_STEP } else { LONG_STEP })
    };
    let mut order: Vec<u32> = (0..lengths.len() as u32).filter(|&text| lengths[text as usize] > 0).collect();
    order.sort_by_key(|&text| rounded(text));
    let equal = order.chunk_by(|&a, &b| rounded(a) == rounded(b));
    let parts = equal.flat_map(|texts| texts.chunks((MAX_SCORES / rounded(texts[0]).pow(2)).max(1)));
    parts.map(<[u32]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_in_one_bucket_with_texts_of_its_rounded_length() {
        let lengths = [3, 40, 0, 16, 17, 33, 500, 512, 100];
        let buckets = together(&lengths);
        assert_eq!(buckets, [vec![0, 3], vec![4], vec![1, 5], vec![8], vec![6, 7]]);
    }

    #[test]
    fn many_long_texts_are_computed_in_parts() {
        let buckets = together(&[512; 20]);
        let sizes: Vec<_> = buckets.iter().map(Vec::len).collect();
        assert_eq!(sizes, [8, 8, 4]);
    }
}
