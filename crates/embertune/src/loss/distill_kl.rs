//! Distillation by the Kullback-Leibler divergence of a query's own group, both sides at the same temperature:
//! `T^2 mean_i KL(softmax(teacher[i] / T) || softmax(q_i . p / T))`.
//!
//! Source: sentence-transformers' DistillKLDivLoss, whose default is T = 1 on dot products. Unlike [`kl_div`](super::kl_div) it
//! looks at the group alone, and its gradients do not shrink as T grows.

use crate::loss::groups::{Groups, LossOutput};
use crate::loss::kl_div::log_softmax;
use crate::loss::pairs::{Measure, Pairs};

/// The loss of a batch. Reduction: mean over the queries.
///
/// # Panics
/// Where sizes do not fit, or there are no scores.
#[doc(alias = "DistillKLDivLoss")]
pub fn distill_kl(groups: &Groups<'_>, temperature: f64) -> LossOutput {
    let pairs = Pairs::new(groups, Measure::Dot);
    let teacher = groups.scores();
    let n_queries = pairs.ranges.len() as f64;
    let (mut loss, mut d_values) = (0.0, vec![0.0; pairs.values.len()]);
    for range in &pairs.ranges {
        let log_t = log_softmax(range.clone().map(|passage| f64::from(teacher[passage]) / temperature));
        let log_s = log_softmax(range.clone().map(|passage| pairs.values[passage] / temperature));
        for (passage, (log_t, log_s)) in range.clone().zip(log_t.iter().zip(&log_s)) {
            // A share of 0 adds 0, although its logarithm may be lower than f64 can say.
            let t = log_t.exp();
            loss += if t > 0.0 { t * (log_t - log_s) } else { 0.0 } * temperature * temperature / n_queries;
            // loss = T^2 sum_g t_g (ln t_g - ln s_g): d_(q . p) = T (s_g - t_g)
            d_values[passage] = (log_s.exp() - t) * temperature / n_queries;
        }
    }
    pairs.output(loss, &d_values, pairs.stats_of_groups())
}
