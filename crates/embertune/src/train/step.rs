//! One micro batch: the texts of some rows, their embeddings, the loss, and the gradients of the parameters.

use embertune_kernels::Ops;

use crate::loss::BatchStats;
use crate::model::{DropoutRates, EmbeddingModel, Gradients};
use crate::random::key;
use crate::text::Batch;
use crate::train::dataset::TrainingSet;
use crate::train::group::{Draw, choose};
use crate::train::objective::{Judged, Objective};

/// Separates this use of a seed from others.
const DROPOUT: u64 = 4;

/// All texts of some rows: the queries, then the groups of passages, each with its positive first.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// The tokens of all texts.
    pub batch: Batch,
    /// Number of passages of each query.
    pub group_sizes: Vec<usize>,
    /// `[n_queries, n_passages]`: passages that are never negatives of the query.
    pub excluded: Vec<bool>,
    /// What the loss reads about each passage, `[n_passages]`; empty where it reads nothing.
    pub scores: Vec<f32>,
    /// What a guide model says of all texts, `[n_texts, dim]`; empty where there is none.
    pub guide: Vec<f32>,
}

impl MicroBatch {
    /// The texts of `rows` in `epoch`. A text's dropout depends on (seed, epoch, row, place in the row) alone.
    pub fn new(set: &TrainingSet, rows: &[usize], group_size: usize, seed: u64, epoch: usize) -> Self {
        let mut passages = Vec::new();
        let mut group_sizes = Vec::with_capacity(rows.len());
        let mut scores = Vec::new();
        for &row in rows {
            let texts = &set.rows[row];
            let group = choose(Draw { seed, epoch, row }, texts.positives.len(), texts.negatives.len(), group_size);
            if !texts.positive_scores.is_empty() {
                scores.push(texts.positive_scores[group.positive]);
                scores.extend(group.negatives.iter().map(|&place| texts.negative_scores[place]));
            }
            let negatives = group.negatives.iter().map(|&place| texts.negatives[place]);
            let texts = std::iter::once(texts.positives[group.positive]).chain(negatives);
            group_sizes.push(1 + group.negatives.len());
            // Slot 0 is the query.
            passages.extend(texts.enumerate().map(|(place, text)| (text, row, place + 1)));
        }
        let queries: Vec<_> = rows.iter().map(|&row| (set.rows[row].query, row, 0)).collect();
        let mut batch = Batch::default();
        let mut guide = Vec::new();
        for &(text, row, slot) in queries.iter().chain(&passages) {
            guide.extend(set.guide.iter().flat_map(|vectors| vectors.row(text as usize)));
            let tokens = &set.texts[text as usize].tokens;
            let key = key(&[DROPOUT, seed, epoch as u64, row as u64, slot as u64]);
            batch.push(&tokens.ids, tokens.prompt_len, key);
        }
        let excluded = queries
            .iter()
            .flat_map(|&(query, ..)| passages.iter().map(move |&(passage, ..)| set.is_never_negative(query, passage)))
            .collect();
        MicroBatch { batch, group_sizes, excluded, scores, guide }
    }

    /// Number of queries.
    pub fn n_queries(&self) -> usize {
        self.group_sizes.len()
    }
}

/// How a micro batch is computed.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// What its embeddings are judged by.
    pub objective: &'a Objective,
    /// Probabilities of dropout.
    pub dropout: DropoutRates,
    /// Factor on the gradients: `1 / n` of n micro batches, so that their sum is the gradient of the mean loss.
    pub weight: f32,
}

/// The loss of a micro batch, and `weight` times its gradients added to `gradients`.
pub fn forward_backward<O: Ops>(
    model: &EmbeddingModel<O>,
    micro: &MicroBatch,
    pass: Pass<'_>,
    gradients: &mut Gradients<O>,
) -> (f64, BatchStats) {
    let (embeddings, saved) = model.forward(&micro.batch, pass.dropout);
    let Judged { loss, mut d_embeddings, stats } = pass.objective.judge(micro, &embeddings, model.dim());
    d_embeddings.iter_mut().for_each(|d| *d *= pass.weight);
    model.backward(&micro.batch, &saved, &d_embeddings, gradients);
    (loss, stats)
}
