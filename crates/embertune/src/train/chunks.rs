//! How the texts of a micro batch are cut into chunks that go through the model one after the other, and which chunks keep their
//! activations.
//!
//! Where the cuts are is a function of the texts alone. How much memory there is decides only what is kept, and what is kept
//! changes no bit of the result: a chunk without its activations is computed again, with the same dropout.

use std::ops::Range;

/// A batch has as many chunks as it has times this many tokens, rounded up. Smaller chunks need less memory while they are computed,
/// and less of them is lost where a chunk does not fit; larger ones are no faster: see docs/LOG.md.
pub const CHUNK_TOKENS: usize = 2048;

/// Some consecutive texts of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Their places in the batch.
    pub texts: Range<usize>,
    /// Their tokens.
    pub n_tokens: usize,
}

/// The chunks of texts of these lengths in tokens: about equal, of [`CHUNK_TOKENS`] and the longest text at most.
pub fn cut(lengths: &[usize]) -> Vec<Chunk> {
    let total: usize = lengths.iter().sum();
    let n_chunks = total.div_ceil(CHUNK_TOKENS);
    let mut chunks: Vec<Chunk> = Vec::with_capacity(n_chunks);
    let (mut start, mut last) = (0, None);
    for (text, &length) in lengths.iter().enumerate() {
        // A text is in the part of the tokens where it begins.
        let part = start * n_chunks / total;
        match chunks.last_mut() {
            Some(chunk) if last == Some(part) => {
                chunk.texts.end += 1;
                chunk.n_tokens += length;
            }
            _ => chunks.push(Chunk { texts: text..text + 1, n_tokens: length }),
        }
        (start, last) = (start + length, Some(part));
    }
    chunks
}

/// The texts that `rank` of `n_ranks` takes of texts of these lengths in tokens: those that begin in its part of the tokens, so that all
/// ranks have about the same to compute. It may have none.
pub fn share(lengths: &[usize], rank: usize, n_ranks: usize) -> Range<usize> {
    let total = lengths.iter().sum::<usize>().max(1);
    let ranks = lengths.iter().scan(0, |start, &length| {
        *start += length;
        Some((*start - length) * n_ranks / total)
    });
    let ranks: Vec<_> = ranks.collect();
    ranks.partition_point(|&of| of < rank)..ranks.partition_point(|&of| of <= rank)
}

/// The first of the chunks that keep their activations: from there on they have `kept_tokens` together at most, but for the last
/// chunk, which always keeps its own, since its backward comes next.
pub fn first_kept(chunks: &[Chunk], kept_tokens: usize) -> usize {
    let mut tokens = 0_usize;
    let fits = |chunk: &&Chunk| {
        tokens += chunk.n_tokens;
        tokens <= kept_tokens
    };
    let n_kept = chunks.iter().rev().take_while(fits).count().max(1);
    chunks.len().saturating_sub(n_kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_texts_in_order_and_are_about_equal() {
        for (n, longest) in [(1, 9000), (7, 9000), (100, 60), (3000, 128), (5000, 1)] {
            let lengths: Vec<_> = (0..n).map(|i| 1 + i * i * 7 % longest).collect();
            let (total, longest) = (lengths.iter().sum::<usize>(), lengths.iter().copied().fold(0, usize::max));
            let chunks = cut(&lengths);
            assert_eq!(
                chunks.iter().flat_map(|chunk| chunk.texts.clone()).collect::<Vec<_>>(),
                (0..n).collect::<Vec<_>>()
            );
            let share = total / total.div_ceil(CHUNK_TOKENS);
            for chunk in &chunks {
                assert_eq!(chunk.n_tokens, lengths[chunk.texts.clone()].iter().sum::<usize>());
                assert!(chunk.n_tokens <= share + longest && chunk.n_tokens + longest >= share, "{chunk:?} of {share}");
            }
        }
        assert_eq!(cut(&[]), []);
    }

    #[test]
    fn a_batch_of_few_tokens_is_one_chunk() {
        assert_eq!(cut(&[CHUNK_TOKENS / 2, CHUNK_TOKENS / 2]).len(), 1);
        assert_eq!(cut(&[CHUNK_TOKENS / 2, CHUNK_TOKENS / 2, 1]).len(), 2);
    }

    #[test]
    fn ranks_share_the_texts_in_order_and_about_equally() {
        for (n, longest) in [(0, 1), (1, 90), (2, 90), (7, 900), (100, 60), (3000, 128)] {
            let lengths: Vec<_> = (0..n).map(|i| 1 + i * i * 7 % longest).collect();
            let total = lengths.iter().sum::<usize>();
            for n_ranks in 1..6 {
                let shares: Vec<_> = (0..n_ranks).map(|rank| share(&lengths, rank, n_ranks)).collect();
                assert_eq!(shares.iter().cloned().flatten().collect::<Vec<_>>(), (0..n).collect::<Vec<_>>());
                for texts in shares {
                    assert!(lengths[texts].iter().sum::<usize>() <= total.div_ceil(n_ranks) + longest);
                }
            }
        }
    }

    #[test]
    fn the_last_chunks_are_kept_as_far_as_they_fit() {
        let chunks = cut(&[CHUNK_TOKENS; 4]);
        for (kept_tokens, first) in [(0, 3), (1, 3), (2 * CHUNK_TOKENS, 2), (3 * CHUNK_TOKENS - 1, 2), (usize::MAX, 0)]
        {
            assert_eq!(first_kept(&chunks, kept_tokens), first, "{kept_tokens}");
        }
    }
}
