//! The cosine of a pair should be its score: `mean (cos - score)^2`.
//!
//! Source: sentence-transformers' CosineSimilarityLoss.

use crate::loss::groups::{Groups, LossOutput};
use crate::loss::pairs::{Measure, Pairs};

/// The loss of a batch of vectors of length 1. Reduction: mean over the pairs.
///
/// # Panics
/// Where sizes do not fit, or there are no scores.
#[doc(alias = "CosineSimilarityLoss")]
pub fn cosine_mse(groups: &Groups<'_>) -> LossOutput {
    let pairs = Pairs::new(groups, Measure::Dot);
    let scores = groups.scores();
    let n = pairs.values.len() as f64;
    let errors: Vec<_> = pairs.values.iter().zip(scores).map(|(value, &score)| value - f64::from(score)).collect();
    let loss = errors.iter().map(|error| error * error).sum::<f64>() / n;
    let d_values: Vec<_> = errors.iter().map(|error| 2.0 * error / n).collect();
    pairs.output(loss, &d_values, pairs.stats_of_scores(scores))
}
