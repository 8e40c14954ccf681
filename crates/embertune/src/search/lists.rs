//! Approximate search: candidates lie in lists around centres, and each query looks only at the lists whose centres are nearest to it.
//!
//! An inverted file (IVF) whose lists are made part by part, so that neither the pool nor an index has to be in memory, and nothing has to be
//! built beforehand but the centres. Scores are those of exact search; what may be missing is in lists that were not looked at.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use embertune_kernels::cpu::matmul::matmul_nt;
use embertune_kernels::cpu::scan::bounded_norms;
use rayon::prelude::*;

use super::best::Best;
use super::exact::{FirstPass, Hit, Part, top_k_by};
use super::products::{ENOUGH_PENDING, offer, rounding};
use crate::embed::Vectors;
use crate::progress::{Progress, Silent};

/// Vectors per centre that the centres are made from: more of them move the centres little.
const SAMPLE_PER_CENTRE: usize = 32;
/// Rounds of k-means: later ones move the centres little.
const ROUNDS: usize = 6;
/// Vectors whose centres are looked for at once, and queries of a list that are scored at once: with a thousand centres or candidates, 1 MB
/// of scores.
const BLOCK: usize = 256;

/// Centres of the candidates of a pool, of length 1.
pub struct Centres(Vectors);

impl Centres {
    /// How many vectors of a pool of `n` they are to be made from.
    pub fn sample_size(n: usize) -> usize {
        n.min(SAMPLE_PER_CENTRE * n_centres(n))
    }

    /// The centres of a pool of `n`, by k-means with angles from a `sample` of its vectors. Runs in the current rayon pool; the result
    /// does not depend on its size.
    ///
    /// # Panics
    /// Where the sample is empty.
    pub fn of(sample: &Vectors, n: usize) -> Centres {
        let n_sample = sample.n_rows();
        assert!(n_sample > 0, "centres of no vectors");
        let n_centres = n_centres(n).min(n_sample);
        let first = (0..n_centres).flat_map(|i| sample.row(i * n_sample / n_centres)).copied();
        let mut centres = Centres(Vectors::new(first.collect(), sample.dim));
        centres.normalise();
        for _ in 0..ROUNDS {
            let mut sums = vec![0.0; centres.0.values.len()];
            for (row, centre) in centres.nearest(&sample.values).into_iter().enumerate() {
                let sum = &mut sums[centre as usize * sample.dim..][..sample.dim];
                sum.iter_mut().zip(sample.row(row)).for_each(|(sum, x)| *sum += x);
            }
            // A centre that nothing is near stays where it is.
            let moved = sums.chunks_exact(sample.dim).zip(centres.0.values.chunks_exact_mut(sample.dim));
            moved
                .filter(|(sum, _)| sum.iter().any(|&x| x != 0.0))
                .for_each(|(sum, centre)| centre.copy_from_slice(sum));
            centres.normalise();
        }
        centres
    }

    fn normalise(&mut self) {
        for centre in self.0.values.chunks_exact_mut(self.0.dim) {
            let norm = centre.iter().map(|x| x * x).sum::<f32>().sqrt();
            if norm > 0.0 {
                centre.iter_mut().for_each(|x| *x /= norm);
            }
        }
    }

    /// The nearest centre of each of `values`, `[n, dim]`.
    fn nearest(&self, values: &[f32]) -> Vec<u32> {
        let (n_centres, dim) = (self.0.n_rows(), self.0.dim);
        let nearest = |scores: &[f32]| {
            let best = scores.iter().enumerate().fold((0, f32::NEG_INFINITY), |(best, highest), (i, &score)| {
                if score > highest { (i, score) } else { (best, highest) }
            });
            best.0 as u32
        };
        let of_block = |block: &[f32]| {
            let m = block.len() / dim;
            let mut scores = vec![0.0; m * n_centres];
            matmul_nt(&mut scores, block, &self.0.values, m, n_centres, dim);
            scores.chunks_exact(n_centres).map(nearest).collect::<Vec<_>>()
        };
        values.par_chunks(BLOCK * dim).flat_map_iter(of_block).collect()
    }
}

/// As many centres as an average list has candidates: looking for the nearest centres then costs no more than a list.
fn n_centres(n: usize) -> usize {
    n.isqrt().max(1)
}

/// The best candidates of each query so far among the lists that it looks at, of a pool that comes in parts.
pub struct ApproximateTopK<'a> {
    centres: Centres,
    queries: &'a Vectors,
    /// Which queries look at each list.
    queries_of: Vec<Vec<u32>>,
    /// What a product and an exact score may differ by, relative to the norm of the candidate.
    slacks: Vec<f32>,
    k: usize,
    hits: Vec<Vec<Hit>>,
    n_seen: usize,
}

impl<'a> ApproximateTopK<'a> {
    /// No candidates yet. Each query will look at this `share` of the lists, one at least.
    ///
    /// # Panics
    /// Where the dims of centres and queries differ.
    pub fn new(centres: Centres, queries: &'a Vectors, k: usize, share: f32) -> Self {
        let n_lists = centres.0.n_rows();
        let n_looked_at = ((n_lists as f32 * share).round() as usize).clamp(1, n_lists);
        let mut queries_of = vec![Vec::new(); n_lists];
        let looked_at = top_k_by(FirstPass::Products, queries, &centres.0, n_looked_at, &Silent);
        for (query, lists) in looked_at.iter().enumerate() {
            lists.iter().for_each(|list| queries_of[list.row as usize].push(query as u32));
        }
        let slacks = bounded_norms(&queries.values, queries.dim).into_iter().map(|norm| rounding(queries.dim) * norm);
        let (slacks, hits) = (slacks.collect(), vec![Vec::new(); queries.n_rows()]);
        ApproximateTopK { centres, queries, queries_of, slacks, k, hits, n_seen: 0 }
    }

    /// Adds the next candidates of the pool, `[n, dim]`. Runs in the current rayon pool; the result does not depend on its size. Advances
    /// `progress` by the number of queries.
    pub fn add(&mut self, part: &[f32], progress: &dyn Progress) {
        let (queries, dim) = (self.queries, self.queries.dim);
        let nearest = self.centres.nearest(part);
        let mut rows: Vec<u32> = (0..nearest.len() as u32).collect();
        rows.sort_by_key(|&row| nearest[row as usize]);
        let mut values = Vec::with_capacity(part.len());
        rows.iter().for_each(|&row| values.extend_from_slice(&part[row as usize * dim..][..dim]));
        let norms = bounded_norms(&values, dim);
        let part = Part { first_row: self.n_seen as u32, values: &values, rows: Some(&rows) };
        let hits = std::mem::take(&mut self.hits).into_iter().enumerate();
        let best = hits.map(|(query, hits)| Mutex::new(Best::new(queries.row(query), part, self.k, hits)));
        let best: Vec<_> = best.collect();
        let enough = self.k.saturating_mul(4).saturating_add(ENOUGH_PENDING);
        let lists = self.queries_of.par_iter().enumerate();
        lists.for_each(|(list, of_list)| {
            let at = |bound: usize| rows.partition_point(|&row| (nearest[row as usize] as usize) < bound);
            let (start, end) = (at(list), at(list + 1));
            if start == end {
                return;
            }
            for some in of_list.chunks(BLOCK) {
                let of_queries: Vec<f32> =
                    some.iter().flat_map(|&query| queries.row(query as usize)).copied().collect();
                let mut scores = vec![0.0; some.len() * (end - start)];
                matmul_nt(&mut scores, &of_queries, &values[start * dim..end * dim], some.len(), end - start, dim);
                for (&query, scores) in some.iter().zip(scores.chunks_exact(end - start)) {
                    // In which order the lists come does not matter: the best are the best.
                    let mut best = best[query as usize].lock().unwrap_or_else(PoisonError::into_inner);
                    offer(&mut best, start, scores, &norms[start..end], self.slacks[query as usize]);
                    if best.pending.len() > enough {
                        best.settle();
                    }
                }
            }
        });
        let sorted = |best: Mutex<Best<'_>>| best.into_inner().unwrap_or_else(PoisonError::into_inner).into_sorted();
        self.hits = best.into_par_iter().map(sorted).collect();
        self.n_seen += rows.len();
        progress.advance(queries.n_rows() as u64);
    }

    /// The best `k` that were found for each query, best first: by score, then by row.
    pub fn into_hits(self) -> Vec<Vec<Hit>> {
        self.hits
    }
}

/// The share of `exact` that is in `found`, both with a list per query; 1 where there is nothing to find.
pub fn recall<'a>(found: impl IntoIterator<Item = &'a Vec<Hit>>, exact: &[Vec<Hit>]) -> f64 {
    let n: usize = exact.iter().map(Vec::len).sum();
    let n_found = found.into_iter().zip(exact).map(|(found, exact)| {
        let found: HashSet<_> = found.iter().map(|hit| hit.row).collect();
        exact.iter().filter(|hit| found.contains(&hit.row)).count()
    });
    if n == 0 { 1.0 } else { n_found.sum::<usize>() as f64 / n as f64 }
}
