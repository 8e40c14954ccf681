//! Similarities of a batch as the rows of a softmax: which texts a query is compared with, what is left out, and the way back from
//! the gradients of the scores to those of the vectors. [`info_nce`](super::info_nce) and [`m3_kd`](super::m3_kd) say what is
//! made of a row.
//!
//! A score is `similarity / T`, plus `strength * similarity` for hard negatives where asked for (see [`Hardness`]).

use std::ops::Range;

use embertune_kernels::cpu::matmul::{matmul_nn, matmul_nt, matmul_tn};
use rayon::prelude::*;

use crate::loss::groups::{Groups, LossOutput, Vectors};
use crate::loss::info_nce::{Directions, Hardness, HardnessMode, InfoNce, Margin, Negatives};
use crate::loss::stats::BatchStats;

/// What stands against what in the rows, one row per query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// A query against all passages: `[n_queries, n_passages]`.
    QueryToPassages,
    /// A query's positive against all queries: `[n_queries, n_queries]`.
    PositiveToQueries,
    /// A query, then its positive, each against all queries and all passages: `[n_queries, 2 * (n_queries + n_passages)]`.
    Everything,
}

/// What a column is to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Candidate {
    /// Not compared.
    Never,
    /// Left out because it is a known positive.
    Known,
    /// The positive, or for a positive its query.
    Target,
    /// A negative of the query's own group.
    Own,
    /// A passage of another query.
    OfBatch,
    /// Anything else that is compared.
    Other,
}

/// The rows of a batch.
pub(super) struct Rows<'a> {
    groups: &'a Groups<'a>,
    settings: &'a InfoNce,
    view: View,
    ranges: Vec<Range<usize>>,
    n_passages: usize,
    /// Width of a row.
    width: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(groups: &'a Groups<'a>, settings: &'a InfoNce, view: View) -> Self {
        let (n_queries, n_passages) = (groups.n_queries(), groups.n_passages());
        let width = match view {
            View::QueryToPassages => n_passages,
            View::PositiveToQueries => n_queries,
            View::Everything => 2 * (n_queries + n_passages),
        };
        Rows { groups, settings, view, ranges: groups.ranges(), n_passages, width }
    }

    /// The mean over the rows of what `judge` says, and its gradients. `judge(group, scores)` is given the columns of the
    /// query's own group, its positive first, and the scores of a row, negative infinity where a column is left out; it puts the
    /// gradients with respect to the scores in their places and returns the loss.
    pub(super) fn mean(&self, judge: impl Fn(Range<usize>, &mut [f64]) -> f64 + Sync) -> LossOutput {
        let n_queries = self.groups.n_queries();
        let vectors = self.groups.vectors;
        let (anchors, candidates) = (self.anchors(&vectors), self.candidates(&vectors));
        let mut similarities = self.similarities(&anchors, &candidates, vectors.dim);
        let guide = self
            .groups
            .guide
            .map(|guide| self.similarities(&self.anchors(&guide), &self.candidates(&guide), guide.dim));

        let factor = 1.0 / (self.settings.temperature * n_queries as f64);
        // Each row of similarities becomes the row of their gradients.
        let rows: Vec<_> = similarities
            .par_chunks_mut(self.width)
            .enumerate()
            .map(|(query, row)| {
                let guide = guide.as_ref().map(|guide| &guide[query * self.width..][..self.width]);
                let (mut scores, stats) = self.scores(query, row, guide);
                let loss = judge(self.group(query), &mut scores);
                // score = similarity / T + const
                row.iter_mut().zip(&scores).for_each(|(row, d_score)| *row = (d_score * factor) as f32);
                (loss, stats)
            })
            .collect();

        let (d_queries, d_passages) = self.backward(&similarities, &anchors, &candidates);
        let mut stats = BatchStats::default();
        rows.iter().for_each(|(_, row)| stats.add(row));
        let loss = rows.iter().map(|(loss, _)| loss).sum::<f64>() / n_queries as f64;
        LossOutput { loss, d_queries, d_passages, stats }
    }

    /// What stands at the left, one or two vectors per row.
    fn anchors(&self, of: &Vectors<'_>) -> Vec<f32> {
        let positive = |query: usize| &of.passages[self.ranges[query].start * of.dim..][..of.dim];
        let query = |query: usize| &of.queries[query * of.dim..][..of.dim];
        let all = 0..self.groups.n_queries();
        match self.view {
            View::QueryToPassages => of.queries.to_vec(),
            View::PositiveToQueries => all.flat_map(positive).copied().collect(),
            View::Everything => all.flat_map(|i| query(i).iter().chain(positive(i))).copied().collect(),
        }
    }

    /// What the columns are, or one half of them.
    fn candidates(&self, of: &Vectors<'_>) -> Vec<f32> {
        match self.view {
            View::QueryToPassages => of.passages.to_vec(),
            View::PositiveToQueries => of.queries.to_vec(),
            View::Everything => [of.queries, of.passages].concat(),
        }
    }

    fn similarities(&self, anchors: &[f32], candidates: &[f32], dim: usize) -> Vec<f32> {
        let (n_anchors, n_candidates) = (anchors.len() / dim, candidates.len() / dim);
        let mut similarities = vec![0.0; n_anchors * n_candidates];
        matmul_nt(&mut similarities, anchors, candidates, n_anchors, n_candidates, dim);
        similarities
    }

    /// The gradients of queries and passages.
    fn backward(&self, d_similarities: &[f32], anchors: &[f32], candidates: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let dim = self.groups.vectors.dim;
        let (n_anchors, n_candidates) = (anchors.len() / dim, candidates.len() / dim);
        // S = a c^T: d_a = d_S c, d_c = d_S^T a
        let mut d_anchors = vec![0.0; anchors.len()];
        matmul_nn(&mut d_anchors, d_similarities, candidates, n_anchors, dim, n_candidates);
        let mut d_candidates = vec![0.0; candidates.len()];
        matmul_tn(&mut d_candidates, d_similarities, anchors, n_candidates, dim, n_anchors);

        let add = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        let positives = self.ranges.iter().map(|range| range.start);
        match self.view {
            View::QueryToPassages => (d_anchors, d_candidates),
            View::PositiveToQueries => {
                let mut d_passages = vec![0.0; self.groups.vectors.passages.len()];
                for (positive, d) in positives.zip(d_anchors.chunks_exact(dim)) {
                    add(&mut d_passages[positive * dim..][..dim], d);
                }
                (d_candidates, d_passages)
            }
            View::Everything => {
                let mut d_passages = d_candidates.split_off(self.groups.vectors.queries.len());
                let mut d_queries = d_candidates;
                for ((query, positive), d) in positives.enumerate().zip(d_anchors.chunks_exact(2 * dim)) {
                    add(&mut d_queries[query * dim..][..dim], &d[..dim]);
                    add(&mut d_passages[positive * dim..][..dim], &d[dim..]);
                }
                (d_queries, d_passages)
            }
        }
    }

    /// The columns of a query's own group; of its query, where passages are no columns.
    fn group(&self, query: usize) -> Range<usize> {
        let Range { start, end } = self.ranges[query].clone();
        let n_queries = self.groups.n_queries();
        match self.view {
            View::QueryToPassages => start..end,
            View::PositiveToQueries => query..query + 1,
            View::Everything => n_queries + start..n_queries + end,
        }
    }

    /// The scores of a row of similarities, negative infinity where a column is left out.
    fn scores(&self, query: usize, row: &[f32], guide: Option<&[f32]>) -> (Vec<f64>, BatchStats) {
        let InfoNce { temperature, mask_margin, guide_margin, hardness, .. } = *self.settings;
        let target = self.group(query).start;
        let limit = mask_margin.map_or(f64::INFINITY, |margin| f64::from(row[target]) + margin);
        let guide = guide.map(|guide| (guide, guide_margin.limit(f64::from(guide[target]))));

        let mut scores = vec![f64::NEG_INFINITY; row.len()];
        let (mut n_known, mut n_similar, mut n_negatives, mut hardest) = (0, 0, 0, f64::NEG_INFINITY);
        for (column, (score, &similarity)) in scores.iter_mut().zip(row).enumerate() {
            let candidate = self.candidate(query, column);
            let similarity = f64::from(similarity);
            match candidate {
                Candidate::Never => continue,
                Candidate::Known => {
                    n_known += 1;
                    continue;
                }
                Candidate::Target => {}
                _ if similarity > limit || guide.is_some_and(|(guide, limit)| f64::from(guide[column]) > limit) => {
                    n_similar += 1;
                    continue;
                }
                _ => {
                    n_negatives += 1;
                    hardest = hardest.max(similarity);
                }
            }
            *score = similarity / temperature + hardness.map_or(0.0, |h| bonus(h, candidate) * similarity);
        }
        let of_query = BatchStats::of_query(row[target].into(), hardest, n_negatives);
        (scores, BatchStats { n_masked_known: n_known, n_masked_similar: n_similar, ..of_query })
    }

    fn candidate(&self, query: usize, column: usize) -> Candidate {
        let half = self.width / 2;
        match self.view {
            View::QueryToPassages => self.passage_of_query(query, column),
            View::PositiveToQueries => self.query_of_positive(query, column, Candidate::Target),
            View::Everything if column < half => match column.checked_sub(self.groups.n_queries()) {
                Some(passage) => self.passage_of_query(query, passage),
                None => self.query_of_query(query, column),
            },
            View::Everything => match (column - half).checked_sub(self.groups.n_queries()) {
                Some(passage) => self.passage_of_positive(query, passage),
                // The pair counts among the negatives as well: so does GTE's loss.
                None if self.settings.directions == Directions::Joint => {
                    self.query_of_positive(query, column - half, Candidate::Other)
                }
                None => Candidate::Never,
            },
        }
    }

    fn is_known(&self, query: usize, passage: usize) -> bool {
        self.groups.excluded[query * self.n_passages + passage]
    }

    fn passage_of_query(&self, query: usize, passage: usize) -> Candidate {
        let group = &self.ranges[query];
        if passage == group.start {
            Candidate::Target
        } else if group.contains(&passage) {
            if self.is_known(query, passage) { Candidate::Known } else { Candidate::Own }
        } else if self.settings.negatives == Negatives::OwnGroup {
            Candidate::Never
        } else if self.is_known(query, passage) {
            Candidate::Known
        } else {
            Candidate::OfBatch
        }
    }

    /// Two queries with a positive in common ask the same.
    fn query_of_query(&self, query: usize, other: usize) -> Candidate {
        let positive = |query: usize| self.ranges[query].start;
        if query == other {
            Candidate::Never
        } else if self.is_known(query, positive(other)) || self.is_known(other, positive(query)) {
            Candidate::Known
        } else {
            Candidate::Other
        }
    }

    fn query_of_positive(&self, query: usize, other: usize, own: Candidate) -> Candidate {
        if query == other {
            own
        } else if self.is_known(other, self.ranges[query].start) {
            Candidate::Known
        } else {
            Candidate::Other
        }
    }

    fn passage_of_positive(&self, query: usize, passage: usize) -> Candidate {
        let is_positive = || self.ranges.binary_search_by_key(&passage, |range| range.start).is_ok();
        if self.ranges[query].contains(&passage) || self.settings.directions == Directions::Gist && !is_positive() {
            Candidate::Never
        } else if self.is_known(query, passage) {
            Candidate::Known
        } else {
            Candidate::Other
        }
    }
}

impl Margin {
    /// The similarity above which a text is taken for a positive, where the positive has `positive`.
    fn limit(self, positive: f64) -> f64 {
        match self {
            Margin::Absolute(margin) => positive - margin,
            Margin::Relative(margin) => positive - positive.abs() * margin,
        }
    }
}

/// What a candidate's similarity is multiplied by and added to its score.
fn bonus(Hardness { mode, strength }: Hardness, candidate: Candidate) -> f64 {
    let own = matches!(mode, HardnessMode::HardNegatives | HardnessMode::AllNegatives);
    let of_batch = matches!(mode, HardnessMode::InBatchNegatives | HardnessMode::AllNegatives);
    match candidate {
        Candidate::Own if own => strength,
        Candidate::OfBatch if of_batch => strength,
        _ => 0.0,
    }
}
