//! What happened in a batch, beside its loss.

use serde::{Deserialize, Serialize};

/// Counts and sums over queries, to be added up over batches. Similarities are dot products, without the temperature.
///
/// A query is contrasted where there is a text that should be further from it than its positive: a negative, or, for losses of
/// scored pairs, another pair with a lower score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchStats {
    /// Number of queries.
    pub n_queries: usize,
    /// Number of queries that are contrasted.
    pub n_contrasted: usize,
    /// Number of queries that learn nothing, because the loss contrasts and they are not contrasted.
    pub n_idle: usize,
    /// Among the contrasted, the queries whose positive is closer than everything that should be further.
    pub n_correct: usize,
    /// Number of (query, negative) pairs.
    pub n_negatives: usize,
    /// Number of (query, passage) pairs left out because the passage is a known positive of the query, or near to one by its text.
    pub n_masked_known: usize,
    /// Number of pairs left out because their similarity is too high to be a negative's, by `--mask_margin` or by the guide.
    pub n_masked_similar: usize,
    /// Sum over the contrasted queries of the similarity with the positive.
    pub positive_similarity_sum: f64,
    /// Sum over the contrasted queries of the similarity with the closest negative.
    pub hardest_similarity_sum: f64,
    /// Derivative of the loss with respect to the logarithm of the temperature; 0 for losses without one.
    pub d_log_temperature: f64,
    /// Mean cosine of all texts with each other, of the batch where it is highest; 0 for tiny batches.
    pub mean_cosine: f64,
}

impl BatchStats {
    /// One query that is contrasted with `n_negatives` texts, the closest of which has the similarity `hardest`.
    pub(super) fn of_query(positive: f64, hardest: f64, n_negatives: usize) -> Self {
        if n_negatives == 0 {
            return BatchStats { n_queries: 1, n_idle: 1, ..BatchStats::default() };
        }
        BatchStats {
            n_queries: 1,
            n_contrasted: 1,
            n_correct: usize::from(positive > hardest),
            n_negatives,
            positive_similarity_sum: positive,
            hardest_similarity_sum: hardest,
            ..BatchStats::default()
        }
    }

    /// Adds the counts of another batch.
    pub fn add(&mut self, other: &BatchStats) {
        self.n_queries += other.n_queries;
        self.n_contrasted += other.n_contrasted;
        self.n_idle += other.n_idle;
        self.n_correct += other.n_correct;
        self.n_negatives += other.n_negatives;
        self.n_masked_known += other.n_masked_known;
        self.n_masked_similar += other.n_masked_similar;
        self.positive_similarity_sum += other.positive_similarity_sum;
        self.hardest_similarity_sum += other.hardest_similarity_sum;
        self.d_log_temperature += other.d_log_temperature;
        self.mean_cosine = self.mean_cosine.max(other.mean_cosine);
    }

    /// Share of the contrasted queries whose positive is closer than everything that should be further; 0 where there are none.
    pub fn accuracy(&self) -> f64 {
        self.n_correct as f64 / self.n_contrasted.max(1) as f64
    }

    /// Mean similarity of a contrasted query and its positive; 0 where there are none.
    pub fn positive_similarity(&self) -> f64 {
        self.positive_similarity_sum / self.n_contrasted.max(1) as f64
    }

    /// Mean similarity of a contrasted query and its closest negative; 0 where there are none.
    pub fn hardest_negative_similarity(&self) -> f64 {
        self.hardest_similarity_sum / self.n_contrasted.max(1) as f64
    }
}
