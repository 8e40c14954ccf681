//! CoSENT: of two pairs the one with the lower score should be less similar.
//!
//! `ln(1 + sum over score_i < score_j of exp((cos_i - cos_j) / T))`, over all pairs of the batch. Only the order of the scores
//! counts. Source: sentence-transformers' CoSENTLoss, whose default is `scale` 20, T = 0.05.

use crate::loss::groups::{Groups, LossOutput};
use crate::loss::pairs::{Measure, Pairs};

/// The loss of a batch of vectors of length 1. Reduction: none, a sum inside the logarithm.
///
/// # Panics
/// Where sizes do not fit, or there are no scores.
#[doc(alias = "CoSENTLoss")]
pub fn cosent(groups: &Groups<'_>, temperature: f64) -> LossOutput {
    let pairs = Pairs::new(groups, Measure::Dot);
    let (scores, values) = (groups.scores(), &pairs.values);
    let n = values.len();
    let ordered = || (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|&(i, j)| scores[i] < scores[j]);
    let difference = |i: usize, j: usize| (values[i] - values[j]) / temperature;

    // The 1 in the logarithm is a difference of 0.
    let largest = ordered().map(|(i, j)| difference(i, j)).fold(0.0, f64::max);
    let sum = ordered().map(|(i, j)| (difference(i, j) - largest).exp()).sum::<f64>() + (-largest).exp();
    let mut d_values = vec![0.0; n];
    for (i, j) in ordered() {
        let weight = (difference(i, j) - largest).exp() / sum / temperature;
        d_values[i] += weight;
        d_values[j] -= weight;
    }
    pairs.output(largest + sum.ln(), &d_values, pairs.stats_of_scores(scores))
}
