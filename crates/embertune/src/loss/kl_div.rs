//! Distillation by soft labels: the softmax over a query's own group should be the teacher's.
//!
//! With `t = softmax(teacher scores of the group)` and `S = q . p / T`: `mean_i sum_g -t[i, g] ln softmax(S[i])_g`, plus
//! [InfoNCE](super::info_nce) of the batch. The teacher's scores are taken as they are, whatever T is.
//! Source: FlagEmbedding, `kd_loss_type="kl_div"`, which leaves out the teacher's entropy, a constant.

use crate::loss::groups::{Groups, LossOutput};
use crate::loss::info_nce::{InfoNce, info_nce};
use crate::loss::pairs::{Measure, Pairs};

/// The loss of a batch. Reduction: mean over the queries.
///
/// # Panics
/// Where sizes do not fit, or there are no scores.
pub fn kl_div(groups: &Groups<'_>, settings: &InfoNce) -> LossOutput {
    let pairs = Pairs::new(groups, Measure::Dot);
    let teacher = groups.scores();
    let n_queries = pairs.ranges.len() as f64;
    let (mut loss, mut d_values) = (0.0, vec![0.0; pairs.values.len()]);
    for range in &pairs.ranges {
        let t = softmax(range.clone().map(|passage| f64::from(teacher[passage])));
        let scores = range.clone().map(|passage| pairs.values[passage] / settings.temperature);
        let log_s = log_softmax(scores);
        for (passage, (t, log_s)) in range.clone().zip(t.iter().zip(&log_s)) {
            loss -= t * log_s / n_queries;
            // loss = -sum_g t_g ln s_g: d_S_g = s_g - t_g
            d_values[passage] = (log_s.exp() - t) / (settings.temperature * n_queries);
        }
    }
    pairs.output(loss, &d_values, pairs.stats_of_groups()).plus(info_nce(groups, settings))
}

pub(super) fn softmax(scores: impl Iterator<Item = f64>) -> Vec<f64> {
    log_softmax(scores).into_iter().map(f64::exp).collect()
}

pub(super) fn log_softmax(scores: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut scores: Vec<_> = scores.collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
    scores.iter_mut().for_each(|score| *score -= log_sum);
    scores
}
