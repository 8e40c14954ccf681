//! What a step minimises: the embeddings of a micro batch in, the loss and the gradients of the embeddings out.
//!
//! This is where a loss is chosen. It knows the rows' groups and who is whose known positive, not how embeddings come about:
//! whether they were computed at once or in chunks is the business of [`step`](super::step).

use crate::loss::{InfoNce, InfoNceOutput, InfoNceStats, Negatives, info_nce};
use crate::train::step::MicroBatch;

/// A loss and its settings.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// Which passages are negatives.
    pub negatives: Negatives,
    /// What similarities are divided by.
    pub temperature: f64,
}

/// What an [`Objective`] says of a micro batch.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The mean over the queries.
    pub loss: f64,
    /// Gradient of the loss with respect to all embeddings, `[n_texts, dim]`, in the order of the batch.
    pub d_embeddings: Vec<f32>,
    /// What happened in the batch.
    pub stats: InfoNceStats,
}

impl Objective {
    /// The loss of the texts of `micro`, whose embeddings are `embeddings`, `[n_texts, dim]`.
    pub fn judge(&self, micro: &MicroBatch, embeddings: &[f32], dim: usize) -> Judged {
        let (queries, passages) = embeddings.split_at(micro.n_queries() * dim);
        let InfoNceOutput { loss, d_queries, d_passages, stats } = info_nce(&InfoNce {
            queries,
            passages,
            dim,
            group_sizes: &micro.group_sizes,
            excluded: &micro.excluded,
            negatives: self.negatives,
            temperature: self.temperature,
        });
        let mut d_embeddings = d_queries;
        d_embeddings.extend(d_passages);
        Judged { loss, d_embeddings, stats }
    }
}
