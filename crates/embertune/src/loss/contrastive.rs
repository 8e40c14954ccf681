//! Labelled pairs: those that belong together should be close, the others at least a margin apart. With `d = 1 - cos` and the label y,
//! 1 for pairs that belong together, else 0:
//!
//! - contrastive: `mean 0.5 (y d^2 + (1 - y) relu(margin - d)^2)`;
//! - online contrastive: `sum d^2` over the pairs with label 1 that are further apart than the closest pair with label 0, plus
//!   `sum relu(margin - d)^2` over those with label 0 that are closer than the furthest with label 1. Where the batch has no pair of the
//!   other label, the mean distance stands in for its closest or furthest.
//!
//! Source: sentence-transformers' ContrastiveLoss and OnlineContrastiveLoss.

use crate::loss::groups::{Groups, LossOutput};
use crate::loss::pairs::{Measure, Pairs};

/// The contrastive loss of a batch of vectors of length 1. Reduction: mean over the pairs.
///
/// # Panics
/// Where sizes do not fit, or there are no labels.
#[doc(alias = "ContrastiveLoss")]
pub fn contrastive(groups: &Groups<'_>, margin: f64) -> LossOutput {
    let weight = 0.5 / groups.n_passages() as f64;
    weighted(groups, margin, |_, _| weight)
}

/// The online contrastive loss of a batch of vectors of length 1. Reduction: a sum, as in the source, so that it grows with the batch.
///
/// # Panics
/// Where sizes do not fit, or there are no labels.
#[doc(alias = "OnlineContrastiveLoss")]
pub fn online_contrastive(groups: &Groups<'_>, margin: f64) -> LossOutput {
    let distances: Vec<_> = Pairs::new(groups, Measure::Dot).values.iter().map(|cos| 1.0 - cos).collect();
    let of = |together: bool| {
        let labelled = distances.iter().zip(groups.scores());
        labelled.filter(move |&(_, &label)| (label == 1.0) == together).map(|(&d, _)| d)
    };
    let mean = |together: bool| of(together).sum::<f64>() / of(together).count() as f64;
    let has = |together: bool| of(together).next().is_some();
    let furthest = if has(true) { of(true).fold(f64::NEG_INFINITY, f64::max) } else { mean(false) };
    let closest = if has(false) { of(false).fold(f64::INFINITY, f64::min) } else { mean(true) };
    weighted(groups, margin, |together, distance| {
        let is_hard = if together { distance > closest } else { distance < furthest };
        f64::from(u8::from(is_hard))
    })
}

/// The sum over the pairs of a weight times `d^2` or `relu(margin - d)^2`. Weights have no gradient.
fn weighted(groups: &Groups<'_>, margin: f64, weight: impl Fn(bool, f64) -> f64) -> LossOutput {
    let pairs = Pairs::new(groups, Measure::Dot);
    let labels = groups.scores();
    let (mut loss, mut d_values) = (0.0, vec![0.0; pairs.values.len()]);
    for ((cos, label), d_cos) in pairs.values.iter().zip(labels).zip(&mut d_values) {
        let (distance, together) = (1.0 - cos, *label == 1.0);
        let weight = weight(together, distance);
        // By how much the pair is off, and how that changes with the cosine: d = 1 - cos
        let (error, slope) = if together { (distance, -1.0) } else { ((margin - distance).max(0.0), 1.0) };
        loss += weight * error * error;
        *d_cos = weight * 2.0 * error * slope;
    }
    pairs.output(loss, &d_values, pairs.stats_of_scores(labels))
}
