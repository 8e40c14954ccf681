//! Queries with the passages of their own groups, pair by pair: their similarities or distances, and the way back from the gradients
//! of these to the gradients of the vectors. For the losses that compare nothing else.

use std::ops::Range;

use crate::loss::groups::{Groups, LossOutput};
use crate::loss::stats::BatchStats;

/// What is measured between the vectors of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Their dot product, the cosine of vectors of length 1.
    Dot,
    /// The length of their difference.
    Euclidean,
}

/// The pairs of a batch with what is measured, one per passage.
pub(super) struct Pairs<'a> {
    groups: &'a Groups<'a>,
    measure: Measure,
    /// The passages of each query.
    pub(super) ranges: Vec<Range<usize>>,
    /// What is measured, `[n_passages]`.
    pub(super) values: Vec<f64>,
}

impl<'a> Pairs<'a> {
    pub(super) fn new(groups: &'a Groups<'a>, measure: Measure) -> Self {
        groups.check();
        let ranges = groups.ranges();
        let mut pairs = Pairs { groups, measure, ranges, values: Vec::new() };
        pairs.values = (0..pairs.ranges.len())
            .flat_map(|query| pairs.ranges[query].clone().map(move |passage| (query, passage)))
            .map(|(query, passage)| measure.of(pairs.query(query), pairs.passage(passage)))
            .collect();
        pairs
    }

    fn query(&self, query: usize) -> &[f32] {
        let dim = self.groups.vectors.dim;
        &self.groups.vectors.queries[query * dim..][..dim]
    }

    fn passage(&self, passage: usize) -> &[f32] {
        let dim = self.groups.vectors.dim;
        &self.groups.vectors.passages[passage * dim..][..dim]
    }

    /// The loss whose gradients with respect to the values are `d_values`.
    pub(super) fn output(&self, loss: f64, d_values: &[f64], stats: BatchStats) -> LossOutput {
        let dim = self.groups.vectors.dim;
        let mut d_queries = vec![0.0; self.groups.vectors.queries.len()];
        let mut d_passages = vec![0.0; self.groups.vectors.passages.len()];
        for (query, range) in self.ranges.iter().enumerate() {
            let d_query = &mut d_queries[query * dim..][..dim];
            for passage in range.clone() {
                let d_passage = &mut d_passages[passage * dim..][..dim];
                let (q, p, d) = (self.query(query), self.passage(passage), d_values[passage]);
                match self.measure {
                    // s = q . p
                    Measure::Dot => {
                        let d = d as f32;
                        for i in 0..dim {
                            d_query[i] += d * p[i];
                            d_passage[i] += d * q[i];
                        }
                    }
                    // s = |q - p|; equal vectors have no direction to go.
                    Measure::Euclidean if self.values[passage] > 0.0 => {
                        let d = (d / self.values[passage]) as f32;
                        for i in 0..dim {
                            d_query[i] += d * (q[i] - p[i]);
                            d_passage[i] -= d * (q[i] - p[i]);
                        }
                    }
                    Measure::Euclidean => {}
                }
            }
        }
        LossOutput { loss, d_queries, d_passages, stats }
    }

    /// The positive of each query against the negatives of its group. Distances count as negative similarities.
    pub(super) fn stats_of_groups(&self) -> BatchStats {
        let closeness = |passage: usize| match self.measure {
            Measure::Dot => self.values[passage],
            Measure::Euclidean => -self.values[passage],
        };
        let mut stats = BatchStats::default();
        for range in &self.ranges {
            let hardest = (range.start + 1..range.end).map(closeness).fold(f64::NEG_INFINITY, f64::max);
            stats.add(&BatchStats::of_query(closeness(range.start), hardest, range.len() - 1));
        }
        stats
    }

    /// Each pair against the pairs with a lower score.
    pub(super) fn stats_of_scores(&self, scores: &[f32]) -> BatchStats {
        let mut stats = BatchStats::default();
        for (&value, &score) in self.values.iter().zip(scores) {
            let lower = self.values.iter().zip(scores).filter(|&(_, &other)| other < score).map(|(&value, _)| value);
            let (hardest, n) = lower.fold((f64::NEG_INFINITY, 0), |(hardest, n), value| (value.max(hardest), n + 1));
            stats.add(&BatchStats::of_query(value, hardest, n));
        }
        // Pairs of the lowest score learn as well.
        BatchStats { n_queries: self.ranges.len(), n_idle: 0, ..stats }
    }
}

impl Measure {
    fn of(self, a: &[f32], b: &[f32]) -> f64 {
        let pairs = a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        match self {
            Measure::Dot => pairs.map(|(a, b)| a * b).sum(),
            Measure::Euclidean => pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
        }
    }
}
