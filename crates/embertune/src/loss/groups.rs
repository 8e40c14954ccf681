//! What a loss is given: the vectors of a batch and what is known of its texts; and what it gives back.

use std::ops::Range;

use crate::loss::stats::BatchStats;

/// Vectors of the texts of a batch.
///
/// # Shapes
/// `queries`: [n_queries, dim]. `passages`: [n_passages, dim], the groups one after the other, the positive first in each.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    /// Of the queries.
    pub queries: &'a [f32],
    /// Of the passages.
    pub passages: &'a [f32],
    /// Width of a vector.
    pub dim: usize,
}

/// A batch: queries, each with a group of passages.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    /// The embeddings. Losses take them as they are: whoever wants cosines normalises before.
    pub vectors: Vectors<'a>,
    /// Number of passages of each query, [n_queries]. A group of one has no negatives of its own, but counts in a mean.
    pub group_sizes: &'a [usize],
    /// `true` at `query * n_passages + passage` where the passage is never a negative of the query: a known positive of it,
    /// or its own text. The query's positive stays in, whatever is said here.
    pub excluded: &'a [bool],
    /// The teacher's score of each passage for its query, or the label of the pair, [n_passages]. Empty where the loss reads none.
    pub scores: &'a [f32],
    /// What another model, the guide, says of the same texts, in vectors of length 1 and of a width of its own.
    pub guide: Option<Vectors<'a>>,
}

/// What a loss says of a batch.
#[derive(Clone, Debug)]
pub struct LossOutput {
    /// The value.
    pub loss: f64,
    /// Gradient of the loss with respect to the queries, [n_queries, dim].
    pub d_queries: Vec<f32>,
    /// Gradient with respect to the passages, [n_passages, dim].
    pub d_passages: Vec<f32>,
    /// What happened in the batch.
    pub stats: BatchStats,
}

impl Groups<'_> {
    /// Number of queries.
    pub fn n_queries(&self) -> usize {
        self.group_sizes.len()
    }

    /// Number of passages.
    pub fn n_passages(&self) -> usize {
        self.group_sizes.iter().sum()
    }

    /// The passages of each query.
    pub(super) fn ranges(&self) -> Vec<Range<usize>> {
        let starts = self.group_sizes.iter().scan(0, |end, &size| {
            *end += size;
            Some(*end - size..*end)
        });
        starts.collect()
    }

    /// # Panics
    /// Where the sizes do not fit each other, a group is empty, or the batch is.
    pub(super) fn check(&self) {
        let (n_queries, n_passages) = (self.n_queries(), self.n_passages());
        assert!(n_queries > 0 && self.group_sizes.iter().all(|&n| n > 0), "group sizes {:?}", self.group_sizes);
        for Vectors { queries, passages, dim } in self.guide.iter().chain([&self.vectors]) {
            assert_eq!(queries.len(), n_queries * dim, "queries of {n_queries} x {dim}");
            assert_eq!(passages.len(), n_passages * dim, "passages of {n_passages} x {dim}");
        }
        assert_eq!(self.excluded.len(), n_queries * n_passages, "pairs of {n_queries} x {n_passages}");
        assert!(self.scores.is_empty() || self.scores.len() == n_passages, "{} scores", self.scores.len());
    }

    /// The scores, for a loss that cannot do without.
    pub(super) fn scores(&self) -> &[f32] {
        assert_eq!(self.scores.len(), self.n_passages(), "scores of the passages");
        self.scores
    }
}

impl LossOutput {
    /// The sum of two losses of the same batch. What happened is what the second says.
    pub(super) fn plus(mut self, other: LossOutput) -> LossOutput {
        let add = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        add(&mut self.d_queries, &other.d_queries);
        add(&mut self.d_passages, &other.d_passages);
        LossOutput { loss: self.loss + other.loss, stats: other.stats, ..self }
    }
}
