//! Distillation of margins: positive minus negative should be what it is for the teacher.
//!
//! `mean over all negatives of ((q . p+ - q . p-) - (t+ - t-))^2`, dot products as given. Teachers whose scores differ by more
//! than 2 ask for vectors that are not of length 1. Source: sentence-transformers' MarginMSELoss.

use crate::loss::groups::{Groups, LossOutput};
use crate::loss::pairs::{Measure, Pairs};

/// The loss of a batch. Reduction: mean over all pairs of a positive and a negative of its group; 0 where there are none.
///
/// # Panics
/// Where sizes do not fit, or there are no scores.
#[doc(alias = "MarginMSELoss")]
pub fn margin_mse(groups: &Groups<'_>) -> LossOutput {
    let pairs = Pairs::new(groups, Measure::Dot);
    let teacher = groups.scores();
    let n_margins = (groups.n_passages() - groups.n_queries()).max(1) as f64;
    let (mut loss, mut d_values) = (0.0, vec![0.0; pairs.values.len()]);
    for range in &pairs.ranges {
        let positive = range.start;
        for negative in positive + 1..range.end {
            let margin = pairs.values[positive] - pairs.values[negative];
            let error = margin - (f64::from(teacher[positive]) - f64::from(teacher[negative]));
            loss += error * error / n_margins;
            d_values[positive] += 2.0 * error / n_margins;
            d_values[negative] -= 2.0 * error / n_margins;
        }
    }
    pairs.output(loss, &d_values, pairs.stats_of_groups())
}
