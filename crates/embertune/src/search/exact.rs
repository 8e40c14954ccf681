//! Exact search: every query against every candidate by dot product, with a running list of the best per query. The candidates may come
//! in parts, so that not all of them have to be in memory.
//!
//! The score matrix of a real pool (10,000 queries by a million candidates: 40 GB) never exists. A first pass makes approximate
//! scores whose error is bounded, from one byte per element or in blocks of f32 products, here or on a GPU; what cannot be among the best is
//! dropped. The rest is scored by one f32 dot product per pair, always the same, so that hits and scores depend on neither
//! the first pass, nor the parts, nor the number of threads.

use std::cmp::Ordering;

use embertune_kernels::cpu::scan::MultiplyBytes;
use embertune_kernels::search::SearchDevice;

use super::{bytes, groups, products};
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

/// Some of a pool's vectors that follow each other.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) first_row: u32,
    /// `[n, dim]`
    pub(super) values: &'a [f32],
}

impl Part<'_> {
    /// The row in the pool of a row of the part.
    pub(super) fn row(&self, row: u32) -> u32 {
        self.first_row + row
    }

    pub(super) fn n_rows(&self, dim: usize) -> usize {
        self.values.len() / dim.max(1)
    }
}

/// What a first pass looks for: the best `k` of some queries.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) queries: &'a Vectors,
    pub(super) k: usize,
    /// The best of each query among the parts before.
    pub(super) so_far: &'a [Vec<Hit>],
}

/// How the first pass computes scores. The hits are the same.
#[derive(Clone, Copy, Debug)]
pub enum FirstPass<'a> {
    /// Products in f32.
    Products,
    /// Products of bytes where there are enough queries and candidates, so that coding them pays. Queries whose candidates the
    /// bytes don't tell apart are searched by [`FirstPass::Products`].
    Bytes(MultiplyBytes),
    /// Products in f32 on a device.
    Device(&'a dyn SearchDevice),
}

impl FirstPass<'_> {
    /// The fastest on this machine without a device.
    pub fn fastest() -> Self {
        MultiplyBytes::native().map_or(FirstPass::Products, FirstPass::Bytes)
    }
}

/// Candidates that are searched at once: as many as keep the codes of a first pass by bytes small beside the vectors of a large pool.
pub const PART_ROWS: usize = 1 << 16;

/// The best candidates of each query so far, of a pool that comes in parts.
pub struct RunningTopK<'a> {
    first_pass: FirstPass<'a>,
    queries: &'a Vectors,
    k: usize,
    hits: Vec<Vec<Hit>>,
    n_seen: usize,
}

impl<'a> RunningTopK<'a> {
    /// No candidates yet.
    pub fn new(first_pass: FirstPass<'a>, queries: &'a Vectors, k: usize) -> Self {
        RunningTopK { first_pass, queries, k, hits: vec![Vec::new(); queries.n_rows()], n_seen: 0 }
    }

    /// Adds the next candidates of the pool, `[n, dim]`, n of any size. Runs in the current rayon pool; advances `progress` by the number of
    /// queries.
    ///
    /// # Panics
    /// Where `part` is no whole number of candidates of the queries' dim.
    pub fn add(&mut self, part: &[f32], progress: &dyn Progress) {
        let (queries, dim) = (self.queries, self.queries.dim);
        assert!(part.len().is_multiple_of(dim.max(1)), "{} values of candidates of {dim}", part.len());
        let part = Part { first_row: self.n_seen as u32, values: part };
        let wanted = Wanted { queries, k: self.k, so_far: &self.hits };
        let mut found = vec![None; queries.n_rows()];
        match self.first_pass {
            FirstPass::Products => {}
            FirstPass::Bytes(how) => bytes::search(how, wanted, part, &mut found, progress),
            FirstPass::Device(device) => groups::search(device, wanted, part, &mut found, progress),
        }
        products::search(wanted, part, &mut found, progress);
        self.hits = found.into_iter().map(Option::unwrap_or_default).collect();
        self.n_seen += part.n_rows(dim);
    }

    /// The best `k` of each query, best first: by score, then by row. Fewer where there were fewer candidates.
    pub fn into_hits(self) -> Vec<Vec<Hit>> {
        self.hits
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
    first_pass: FirstPass<'_>,
    queries: &Vectors,
    pool: &Vectors,
    k: usize,
    progress: &dyn Progress,
) -> Vec<Vec<Hit>> {
    assert_eq!(queries.dim, pool.dim, "dim of the queries and of the pool");
    let parts = || pool.values.chunks((PART_ROWS * pool.dim).max(1));
    progress.start("searching", (queries.n_rows() * parts().len().max(1)) as u64);
    let mut best = RunningTopK::new(first_pass, queries, k);
    for part in parts() {
        best.add(part, progress);
    }
    progress.finish();
    best.into_hits()
}
