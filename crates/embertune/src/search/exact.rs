//! Exact search: every query against every candidate by dot product, with a running list of the best per query.
//!
//! The score matrix of a real pool (10,000 queries by a million candidates: 40 GB) never exists. A first pass makes approximate
//! scores whose error is bounded, from one byte per element or in blocks of f32 products; what cannot be among the best is
//! dropped. The rest is scored by one f32 dot product per pair, always the same, so that hits and scores depend on neither
//! the first pass, nor the blocks, nor the number of threads.

use std::cmp::Ordering;

use embertune_kernels::cpu::scan::MultiplyBytes;

use super::{bytes, products};
use crate::embed::Vectors;
use crate::progress::Progress;

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
    pub(super) fn new(row: u32, score: f32) -> Hit {
        Hit { row, score: if score.is_nan() { f32::NEG_INFINITY } else { score } }
    }

    /// Best first: by score, higher first, then by row, lower first.
    pub(super) fn order(&self, other: &Hit) -> Ordering {
        other.score.partial_cmp(&self.score).unwrap_or(Ordering::Equal).then(self.row.cmp(&other.row))
    }
}

/// How the first pass computes scores. The hits are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPass {
    /// Products in f32.
    Products,
    /// Products of bytes where there are enough queries and candidates, so that coding them pays. Queries whose candidates the
    /// bytes don't tell apart are searched by [`FirstPass::Products`].
    Bytes(MultiplyBytes),
}

impl FirstPass {
    /// The fastest on this machine.
    pub fn fastest() -> FirstPass {
        MultiplyBytes::native().map_or(FirstPass::Products, FirstPass::Bytes)
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
    top_k_by(FirstPass::fastest(), queries, pool, k, progress)
}

/// [`top_k`] with this first pass.
///
/// # Panics
/// Where the dims differ.
pub fn top_k_by(
    first_pass: FirstPass,
    queries: &Vectors,
    pool: &Vectors,
    k: usize,
    progress: &dyn Progress,
) -> Vec<Vec<Hit>> {
    assert_eq!(queries.dim, pool.dim, "dim of the queries and of the pool");
    progress.start("searching", queries.n_rows() as u64);
    let mut found = vec![None; queries.n_rows()];
    if let FirstPass::Bytes(how) = first_pass {
        bytes::search(how, queries, pool, k, &mut found, progress);
    }
    products::search(queries, pool, k, &mut found, progress);
    progress.finish();
    found.into_iter().map(Option::unwrap_or_default).collect()
}
