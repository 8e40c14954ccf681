//! Losses: embeddings in, value and gradients of the embeddings out. A loss knows nothing of the encoder, of text or of files.
//!
//! One file per loss; [`Loss`] is one of them with its settings. [`contrast`] (a softmax over the texts of the batch) and [`pairs`]
//! (a query with its own passages) are what they share; [`matryoshka()`] goes around any of them.

pub mod contrastive;
pub mod cosent;
pub mod cosine_mse;
pub mod distill_kl;
pub mod groups;
pub mod info_nce;
pub mod kl_div;
pub mod m3_kd;
pub mod margin_mse;
pub mod matryoshka;
pub mod stats;
pub mod triplet;

mod contrast;
mod pairs;

pub use groups::{Groups, LossOutput, Vectors};
pub use info_nce::{Directions, Hardness, HardnessMode, InfoNce, Margin, Negatives, info_nce};
pub use matryoshka::matryoshka;
pub use stats::BatchStats;
pub use triplet::Distance;

/// A loss and its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// [`info_nce()`].
    InfoNce(InfoNce),
    /// [`kl_div::kl_div`].
    KlDiv(InfoNce),
    /// [`m3_kd::m3_kd`].
    M3Kd(InfoNce),
    /// [`distill_kl::distill_kl`].
    DistillKl {
        /// Of both sides.
        temperature: f64,
    },
    /// [`margin_mse::margin_mse`].
    MarginMse,
    /// [`triplet::triplet`].
    Triplet {
        /// What the margin is measured in.
        distance: Distance,
        /// How much closer the positive should be.
        margin: f64,
    },
    /// [`cosent::cosent`].
    CoSent {
        /// Of the differences.
        temperature: f64,
    },
    /// [`cosine_mse::cosine_mse`].
    CosineMse,
    /// [`contrastive::contrastive`].
    Contrastive {
        /// How far apart unlike texts should be.
        margin: f64,
    },
    /// [`contrastive::online_contrastive`].
    OnlineContrastive {
        /// How far apart unlike texts should be.
        margin: f64,
    },
}

impl Loss {
    /// The loss of a batch.
    ///
    /// # Panics
    /// Where sizes do not fit each other, a group is empty, the batch is, or scores are missing for a loss that reads them.
    pub fn judge(&self, groups: &Groups<'_>) -> LossOutput {
        let mut out = match self {
            Loss::InfoNce(settings) => info_nce(groups, settings),
            Loss::KlDiv(settings) => kl_div::kl_div(groups, settings),
            Loss::M3Kd(settings) => m3_kd::m3_kd(groups, settings),
            Loss::DistillKl { temperature } => distill_kl::distill_kl(groups, *temperature),
            Loss::MarginMse => margin_mse::margin_mse(groups),
            Loss::Triplet { distance, margin } => triplet::triplet(groups, *distance, *margin),
            Loss::CoSent { temperature } => cosent::cosent(groups, *temperature),
            Loss::CosineMse => cosine_mse::cosine_mse(groups),
            Loss::Contrastive { margin } => contrastive::contrastive(groups, *margin),
            Loss::OnlineContrastive { margin } => contrastive::online_contrastive(groups, *margin),
        };
        if matches!(self, Loss::InfoNce(_) | Loss::KlDiv(_) | Loss::M3Kd(_) | Loss::CoSent { .. }) {
            out.stats.d_log_temperature = d_log_temperature(groups, &out);
        }
        out
    }
}

/// The derivative with respect to `ln T` of a loss that depends on vectors and T by products of two vectors over T alone: scaling all
/// vectors by `a` and T by `a^2` changes nothing, so `sum x . d_x + 2 d_ln_T = 0`.
fn d_log_temperature(groups: &Groups<'_>, out: &LossOutput) -> f64 {
    let dot = |x: &[f32], d_x: &[f32]| x.iter().zip(d_x).map(|(&x, &d)| f64::from(x) * f64::from(d)).sum::<f64>();
    -0.5 * (dot(groups.vectors.queries, &out.d_queries) + dot(groups.vectors.passages, &out.d_passages))
}
