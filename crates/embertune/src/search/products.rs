//! First pass by products in f32, in blocks: for every machine, every size, and every query.

use embertune_kernels::cpu::matmul::matmul_nt;
use embertune_kernels::cpu::scan;
use rayon::prelude::*;

use super::best::{Best, Candidate, reaches};
use super::exact::Hit;
use crate::embed::Vectors;
use crate::progress::Progress;

/// Queries per block. Together with [`CANDIDATES`] it bounds the scores in memory to 4 MB, which the second-level caches of a
/// few cores hold, and is large enough that the product runs at full speed.
const QUERIES: usize = 256;
/// Candidates per block.
const CANDIDATES: usize = 4096;
/// Scores that are tested at once.
const GROUP: usize = 32;

/// Finds the best `k` of the queries that have not been found, and tells `progress` of them.
pub(super) fn search(
    queries: &Vectors,
    pool: &Vectors,
    k: usize,
    found: &mut [Option<Vec<Hit>>],
    progress: &dyn Progress,
) {
    let k = k.min(pool.n_rows());
    let open: Vec<usize> = (0..found.len()).filter(|&query| found[query].is_none()).collect();
    if open.is_empty() {
        return;
    }
    let norms = scan::bounded_norms(&pool.values, pool.dim);
    for open in open.chunks(QUERIES) {
        for (&query, hits) in open.iter().zip(block(queries, pool, &norms, k, open)) {
            found[query] = Some(hits);
        }
        progress.advance(open.len() as u64);
    }
}

/// The best of some queries.
fn block(queries: &Vectors, pool: &Vectors, norms: &[f32], k: usize, open: &[usize]) -> Vec<Vec<Hit>> {
    let dim = pool.dim;
    let values: Vec<f32> = open.iter().flat_map(|&query| queries.row(query)).copied().collect();
    // What a product and a dot product may differ by, relative to the norms: each is within `dim` roundings of 2^-24 of the truth.
    let rounding = (dim as f32 + 16.0) * f32::EPSILON * 1.5;
    let slacks: Vec<f32> = scan::bounded_norms(&values, dim).into_iter().map(|norm| rounding * norm).collect();
    let mut best: Vec<_> = open.iter().map(|&query| Best::new(queries.row(query), pool, k)).collect();
    let mut scores = vec![0.0; open.len() * CANDIDATES.min(pool.n_rows())];
    let limit = 4 * k + CANDIDATES / 2;
    for (i, candidates) in pool.values.chunks(CANDIDATES * dim).enumerate() {
        let n = candidates.len() / dim;
        let scores = &mut scores[..open.len() * n];
        matmul_nt(scores, &values, candidates, open.len(), n, dim);
        let norms = &norms[i * CANDIDATES..][..n];
        best.par_iter_mut().zip(scores.par_chunks(n)).zip(&slacks).for_each(|((best, scores), &slack)| {
            offer(best, i * CANDIDATES, scores, norms, slack);
            if best.pending.len() > limit {
                best.settle();
            }
        });
    }
    best.into_par_iter().map(Best::into_sorted).collect()
}

/// Candidates from row `first` on, with their scores and norms; the error is `slack` times the norm.
fn offer(best: &mut Best<'_>, first: usize, scores: &[f32], norms: &[f32], slack: f32) {
    let floor = best.floor;
    for (i, (scores, norms)) in scores.chunks(GROUP).zip(norms.chunks(GROUP)).enumerate() {
        let pairs = || scores.iter().zip(norms);
        // Nearly always none is: one comparison of vectors instead of one branch per score.
        let reached = pairs().fold(false, |reached, (&score, &norm)| reached | reaches(floor, score, slack * norm));
        if reached {
            for (j, (&score, &norm)) in pairs().enumerate() {
                let error = slack * norm;
                if reaches(floor, score, error) {
                    best.pending.push(Candidate { row: (first + i * GROUP + j) as u32, score, error });
                }
            }
        }
    }
}
