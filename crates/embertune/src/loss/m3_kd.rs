//! Distillation in the way of BGE M3: every passage of the group in turn is the right one, as much as the teacher says, against all
//! passages that count but those of the group before it.
//!
//! With `t = softmax(teacher scores of the group)`: `mean_i sum_g t[i, g] (ln sum_j exp S[i, j] - S[i, g])`, j over the columns of
//! [InfoNCE](super::info_nce) without the group's first g. Source: FlagEmbedding, `kd_loss_type="m3_kd_loss"`, which fails
//! without in-batch negatives; here the group alone is compared then.

use std::ops::Range;

use crate::loss::contrast::{Rows, View};
use crate::loss::groups::{Groups, LossOutput};
use crate::loss::info_nce::InfoNce;
use crate::loss::kl_div::softmax;

/// The loss of a batch. Reduction: mean over the queries. `directions` has to be one way.
///
/// # Panics
/// Where sizes do not fit, or there are no scores.
pub fn m3_kd(groups: &Groups<'_>, settings: &InfoNce) -> LossOutput {
    groups.check();
    let teacher = groups.scores();
    Rows::new(groups, settings, View::QueryToPassages).mean(|group, scores| {
        let t = softmax(teacher[group.clone()].iter().map(|&score| f64::from(score)));
        row(scores, group, &t)
    })
}

/// The loss of one query; its scores become the gradients with respect to them.
fn row(scores: &mut [f64], group: Range<usize>, t: &[f64]) -> f64 {
    let own = scores[group.clone()].to_vec();
    let others = || (0..scores.len()).filter(|column| !group.contains(column));
    let largest = others().map(|column| scores[column]).fold(f64::NEG_INFINITY, f64::max);
    let log_others = match largest == f64::NEG_INFINITY {
        true => largest,
        false => largest + others().map(|column| (scores[column] - largest).exp()).sum::<f64>().ln(),
    };
    // z[g] = ln( sum of the others + sum of the group from g on )
    let mut z = vec![log_others; own.len() + 1];
    for g in (0..own.len()).rev() {
        z[g] = log_add(z[g + 1], own[g]);
    }

    let (mut loss, mut d_own, mut d_log_others) = (0.0, vec![0.0; own.len()], 0.0);
    // A passage of the group that a mask leaves out is not compared, nor others with it.
    for g in (0..own.len()).filter(|&g| own[g] > f64::NEG_INFINITY) {
        // loss += t_g (z_g - S_g)
        loss += t[g] * (z[g] - own[g]);
        d_own[g] -= t[g];
        d_log_others += t[g] * (log_others - z[g]).exp();
        for later in g..own.len() {
            d_own[later] += t[g] * (own[later] - z[g]).exp();
        }
    }
    scores.iter_mut().for_each(|score| *score = d_log_others * (*score - log_others).exp());
    if log_others == f64::NEG_INFINITY {
        scores.fill(0.0);
    }
    scores[group].copy_from_slice(&d_own);
    loss
}

/// `ln(exp a + exp b)`.
fn log_add(a: f64, b: f64) -> f64 {
    let (large, small) = (a.max(b), a.min(b));
    if large == f64::NEG_INFINITY { large } else { large + (small - large).exp().ln_1p() }
}
