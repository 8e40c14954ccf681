//! Exact search: every query against every candidate by dot product, in blocks, with a running list of the best per query.
//!
//! The score matrix of a real pool (10,000 queries by a million candidates: 40 GB) never exists; one block of it does at a time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use embertune_kernels::cpu::matmul::matmul_nt;
use rayon::prelude::*;

use crate::embed::Vectors;
use crate::progress::Progress;

/// Queries per block. Together with [`CANDIDATES`] it bounds the scores in memory to 4 MB, which the second-level caches of a
/// few cores hold, and is large enough that the product runs at full speed.
const QUERIES: usize = 256;
/// Candidates per block.
const CANDIDATES: usize = 4096;

/// A candidate that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Row of the candidate.
    pub row: u32,
    /// Dot product with the query: the cosine where vectors are normalised.
    pub score: f32,
}

impl Hit {
    /// A score that is no number becomes the lowest, so that every two hits have an order.
    fn new(row: u32, score: f32) -> Hit {
        Hit { row, score: if score.is_nan() { f32::NEG_INFINITY } else { score } }
    }

    /// Best first: by score, higher first, then by row, lower first.
    fn order(&self, other: &Hit) -> Ordering {
        other.score.partial_cmp(&self.score).unwrap_or(Ordering::Equal).then(self.row.cmp(&other.row))
    }
}

/// The `k` best candidates of each query, best first: by score, then by row. Fewer where the pool has fewer.
///
/// Runs in the current rayon pool; the result does not depend on its size. Reports progress in queries.
///
/// # Shapes
/// `queries`: `[n_queries, dim]`, `pool`: `[n_candidates, dim]`. Returns one list per query.
///
/// # Panics
/// Where the dims differ.
pub fn top_k(queries: &Vectors, pool: &Vectors, k: usize, progress: &dyn Progress) -> Vec<Vec<Hit>> {
    assert_eq!(queries.dim, pool.dim, "dim of the queries and of the pool");
    let dim = queries.dim;
    progress.start("searching", queries.n_rows() as u64);
    let mut found = Vec::with_capacity(queries.n_rows());
    let mut scores = vec![0.0; QUERIES * CANDIDATES];
    for block in queries.values.chunks(QUERIES * dim) {
        let n_queries = block.len() / dim;
        let mut best: Vec<_> = (0..n_queries).map(|_| Best::new(k.min(pool.n_rows()))).collect();
        for (i, candidates) in pool.values.chunks(CANDIDATES * dim).enumerate() {
            let n_candidates = candidates.len() / dim;
            let scores = &mut scores[..n_queries * n_candidates];
            matmul_nt(scores, block, candidates, n_queries, n_candidates, dim);
            best.par_iter_mut().zip(scores.par_chunks(n_candidates)).for_each(|(best, scores)| {
                for (j, &score) in scores.iter().enumerate() {
                    best.offer(Hit::new((i * CANDIDATES + j) as u32, score));
                }
            });
        }
        found.extend(best.into_iter().map(Best::into_sorted));
        progress.advance(n_queries as u64);
    }
    progress.finish();
    found
}

/// The best `k` hits so far: a heap whose top is the worst of them.
struct Best {
    k: usize,
    heap: BinaryHeap<Ranked>,
}

struct Ranked(Hit);

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.0.order(&other.0)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

impl Best {
    fn new(k: usize) -> Best {
        Best { k, heap: BinaryHeap::with_capacity(k) }
    }

    /// Hits come in the order of their rows.
    fn offer(&mut self, hit: Hit) {
        if self.heap.len() < self.k {
            self.heap.push(Ranked(hit));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && hit.score > worst.0.score
        {
            // An equal score would come after the worst, since its row is higher.
            *worst = Ranked(hit);
        }
    }

    fn into_sorted(self) -> Vec<Hit> {
        self.heap.into_sorted_vec().into_iter().map(|ranked| ranked.0).collect()
    }
}
