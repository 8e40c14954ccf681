//! The best `k` of a query, exactly, out of candidates whose scores are known up to an error.

use embertune_kernels::cpu::scan::{bounded_norms, dots};

use super::exact::{Hit, Part};

/// A candidate before its exact score is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// In its part of the pool.
    pub(super) row: u32,
    pub(super) score: f32,
    /// The exact score is within `score` plus or minus this; infinite or no number where nothing is known.
    pub(super) error: f32,
}

/// The best so far of one query.
pub(super) struct Best<'a> {
    query: &'a [f32],
    part: Part<'a>,
    pub(super) k: usize,
    /// At most `k` with exact scores, in no order, those of earlier parts among them.
    hits: Vec<Hit>,
    /// Not looked at yet.
    pub(super) pending: Vec<Candidate>,
    /// A candidate whose score plus error is below it is none of the best.
    pub(super) floor: f32,
}

impl<'a> Best<'a> {
    /// `hits` are the best of the parts before this one, best first.
    pub(super) fn new(query: &'a [f32], part: Part<'a>, k: usize, hits: Vec<Hit>) -> Self {
        let floor = floor(&hits, k);
        Best { query, part, k, hits, pending: Vec::new(), floor }
    }

    /// Scores the pending candidates that may be among the best, and forgets the others.
    pub(super) fn settle(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        // The exact scores of those that seem best give a floor that most of the others don't reach.
        if pending.len() > self.k && self.k > 0 {
            pending.select_nth_unstable_by(self.k - 1, |a, b| b.score.total_cmp(&a.score));
        }
        let (first, rest) = pending.split_at(self.k.min(pending.len()));
        self.score(first.iter());
        let floor = self.floor;
        self.score(rest.iter().filter(|candidate| reaches(floor, candidate.score, candidate.error)));
        pending.clear();
        self.pending = pending;
    }

    /// All that was found, best first.
    pub(super) fn into_sorted(mut self) -> Vec<Hit> {
        self.settle();
        self.hits.sort_unstable_by(Hit::order);
        self.hits
    }

    fn score<'c>(&mut self, candidates: impl Iterator<Item = &'c Candidate>) {
        let rows: Vec<u32> = candidates.map(|candidate| candidate.row).collect();
        let mut scores = vec![0.0; rows.len()];
        dots(self.query, self.part.values, &rows, &mut scores);
        let part = self.part;
        self.hits.extend(rows.into_iter().zip(scores).map(|(row, score)| Hit::new(part.row(row), score)));
        if self.hits.len() >= self.k && self.k > 0 {
            let (_, worst, _) = self.hits.select_nth_unstable_by(self.k - 1, Hit::order);
            self.floor = worst.score;
        }
        self.hits.truncate(self.k);
    }
}

/// What a candidate has to score to be one of the best `k` although `hits`, best first, are there already.
pub(super) fn floor(hits: &[Hit], k: usize) -> f32 {
    let worst = k.checked_sub(1).and_then(|last| hits.get(last));
    worst.map_or(f32::NEG_INFINITY, |worst| worst.score)
}

/// Whether a score that is known up to `error` may be as high as `floor`; so also where one of them is no number.
pub(super) fn reaches(floor: f32, score: f32, error: f32) -> bool {
    let is_below = score + error < floor;
    !is_below
}

/// For each of `queries`, `[n, dim]`, what a product in f32 and the exact score may differ by, relative to the candidate's norm: each is within `dim`
/// roundings of the truth, of 2^-24 on the CPU, of twice that on a device that rounds to either side.
pub(super) fn slacks(queries: &[f32], dim: usize) -> Vec<f32> {
    let rounding = (dim as f32 + 16.0) * f32::EPSILON * 1.5;
    bounded_norms(queries, dim).into_iter().map(|norm| rounding * norm).collect()
}
