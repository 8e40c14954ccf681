//! What a step minimises: the embeddings of a micro batch in, the loss and the gradients of the embeddings out.
//!
//! This is where a step meets its loss. It knows the rows' groups, their scores and who is whose known positive, not how embeddings
//! come about: whether they were computed at once or in chunks is the business of [`step`](super::step).

use crate::loss::{BatchStats, Groups, Loss, LossOutput, Vectors, matryoshka};
use crate::train::guards::mean_cosine;
use crate::train::step::MicroBatch;

/// A loss and what goes around it.
#[derive(Clone, Debug)]
pub struct Objective {
    /// The loss.
    pub loss: Loss,
    /// Bring the embeddings to length 1 before the loss, because it is one of cosines and the model does not.
    pub scale_to_1: bool,
    /// Matryoshka: how many of the first numbers of a vector the loss is applied to, each with its weight. Empty for whole vectors.
    pub dims: Vec<(usize, f64)>,
    /// Whether vectors that are cut for it are brought to length 1 again.
    pub scale_cut_to_1: bool,
}

/// What an [`Objective`] says of a micro batch.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The loss of the batch, a mean over its queries for most.
    pub loss: f64,
    /// Gradient of the loss with respect to all embeddings, `[n_texts, dim]`, in the order of the micro batch.
    pub d_embeddings: Vec<f32>,
    /// What happened in the batch.
    pub stats: BatchStats,
}

impl Objective {
    /// A loss of whole vectors as they are.
    pub fn new(loss: Loss) -> Self {
        Objective { loss, scale_to_1: false, dims: Vec::new(), scale_cut_to_1: false }
    }

    /// The loss of the texts of `micro`, whose embeddings are `embeddings`, `[n_texts, dim]`.
    pub fn judge(&self, micro: &MicroBatch, embeddings: &[f32], dim: usize) -> Judged {
        let split = |values, dim| {
            let (queries, passages) = <[f32]>::split_at(values, micro.n_queries() * dim);
            Vectors { queries, passages, dim }
        };
        let guide_dim = micro.guide.len() / micro.n_texts();
        let groups = Groups {
            vectors: split(embeddings, dim),
            group_sizes: &micro.group_sizes,
            excluded: &micro.excluded,
            scores: &micro.scores,
            guide: (guide_dim > 0).then(|| split(&micro.guide, guide_dim)),
        };
        let LossOutput { loss, d_queries, d_passages, mut stats } = if self.dims.is_empty() && !self.scale_to_1 {
            self.loss.judge(&groups)
        } else {
            let whole = [(dim, 1.0)];
            let dims = if self.dims.is_empty() { &whole[..] } else { &self.dims };
            let scaled = |k| self.scale_to_1 || self.scale_cut_to_1 && k < dim;
            matryoshka(&self.loss, &groups, dims, scaled)
        };
        stats.mean_cosine = mean_cosine(embeddings, dim);
        let mut d_embeddings = d_queries;
        d_embeddings.extend(d_passages);
        Judged { loss, d_embeddings, stats }
    }
}
