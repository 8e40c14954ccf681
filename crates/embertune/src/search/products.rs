//! First pass by products in f32, in blocks: for every machine, every size, and every query.

use embertune_kernels::cpu::matmul::matmul_nt;
use embertune_kernels::cpu::scan;
use rayon::prelude::*;

use super::best::{Best, Candidate, reaches, slacks};
use super::exact::{Hit, Part, Wanted};
use crate::embed::Vectors;
use crate::progress::Progress;

/// Queries per block. Together with [`CANDIDATES`] it bounds the scores in memory to 4 MB, which the second-level caches of a
/// few cores hold, and is large enough that the product runs at full speed.
const QUERIES: usize = 256;
/// Candidates per block.
const CANDIDATES: usize = 4096;
/// So many pending candidates beyond a few times `k` are settled, for a higher floor.
const ENOUGH_PENDING: usize = CANDIDATES / 2;
/// Scores that are tested at once.
const GROUP: usize = 32;

/// Finds the best of the queries that have not been found, those of the parts before among them, and tells `progress` of them.
pub(super) fn search(wanted: Wanted<'_>, part: Part<'_>, found: &mut [Option<Vec<Hit>>], progress: &dyn Progress) {
    let Wanted { queries, k, so_far } = wanted;
    let open: Vec<usize> = (0..found.len()).filter(|&query| found[query].is_none()).collect();
    if open.is_empty() {
        return;
    }
    let norms = scan::bounded_norms(part.values, queries.dim);
    for open in open.chunks(QUERIES) {
        let best = open.iter().map(|&query| Best::new(queries.row(query), part, k, so_far[query].clone()));
        for (&query, hits) in open.iter().zip(block(queries, part, &norms, best.collect(), open)) {
            found[query] = Some(hits);
        }
        progress.advance(open.len() as u64);
    }
}

/// The best of some queries.
fn block(queries: &Vectors, part: Part<'_>, norms: &[f32], mut best: Vec<Best<'_>>, open: &[usize]) -> Vec<Vec<Hit>> {
    let dim = queries.dim;
    let values: Vec<f32> = open.iter().flat_map(|&query| queries.row(query)).copied().collect();
    let slacks = slacks(&values, dim);
    let mut scores = vec![0.0; open.len() * CANDIDATES.min(part.n_rows(dim))];
    for (i, candidates) in part.values.chunks(CANDIDATES * dim).enumerate() {
        let n = candidates.len() / dim;
        let scores = &mut scores[..open.len() * n];
        matmul_nt(scores, &values, candidates, open.len(), n, dim);
        let norms = &norms[i * CANDIDATES..][..n];
        best.par_iter_mut().zip(scores.par_chunks(n)).zip(&slacks).for_each(|((best, scores), &slack)| {
            offer(best, i * CANDIDATES, scores, norms, slack);
            if best.pending.len() > best.k.saturating_mul(4).saturating_add(ENOUGH_PENDING) {
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
