//! One micro batch: the texts of some rows, their embeddings, the loss, and the gradients of the parameters.
//!
//! The texts go through the model in [chunks](super::chunks), the loss sees the embeddings of all of them, and then each chunk goes
//! back. So a batch of any size fits into bounded memory, with the gradient that it has in one piece: Gao et al. 2021, "Scaling
//! Deep Contrastive Learning Batch Size under Memory Limited Setup" (GradCache).

use embertune_kernels::Ops;

use crate::loss::BatchStats;
use crate::model::{DropoutRates, EmbeddingModel, Gradients};
use crate::random::key;
use crate::text::Batch;
use crate::train::chunks::{Chunk, cut, first_kept};
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
        let Drawn { queries, passages, group_sizes, scores } = Drawn::new(set, rows, group_size, seed, epoch);
        let mut batch = Batch::default();
        let mut guide = Vec::new();
        for &(text, row, slot) in queries.iter().chain(&passages) {
            guide.extend(set.guide.iter().flat_map(|vectors| vectors.row(text as usize)));
            let tokens = &set.texts[text as usize].tokens;
            let key = key(&[DROPOUT, seed, epoch as u64, row as u64, slot as u64]);
            batch.push(&tokens.ids, tokens.prompt_len, key);
        }
        // A large batch has millions of pairs: the exact capacity saves a copy.
        let mut excluded = Vec::with_capacity(queries.len() * passages.len());
        for &(query, ..) in &queries {
            excluded.extend(passages.iter().map(|&(passage, ..)| set.is_never_negative(query, passage)));
        }
        MicroBatch { batch, group_sizes, excluded, scores, guide }
    }

    /// The lengths in tokens of its texts, in their order, without making it.
    pub fn text_lengths(set: &TrainingSet, rows: &[usize], group_size: usize, seed: u64, epoch: usize) -> Vec<usize> {
        let Drawn { queries, passages, .. } = Drawn::new(set, rows, group_size, seed, epoch);
        queries.iter().chain(&passages).map(|&(text, ..)| set.texts[text as usize].tokens.ids.len()).collect()
    }

    /// How its texts go through the model.
    pub fn chunks(&self) -> Vec<Chunk> {
        let lengths: Vec<_> = (0..self.batch.n_texts()).map(|text| self.batch.ragged().range(text).len()).collect();
        cut(&lengths)
    }

    /// Number of queries.
    pub fn n_queries(&self) -> usize {
        self.group_sizes.len()
    }
}

/// The texts of a micro batch, each with its row and its place in it; slot 0 is the query.
struct Drawn {
    queries: Vec<(u32, usize, usize)>,
    passages: Vec<(u32, usize, usize)>,
    group_sizes: Vec<usize>,
    /// Of the passages, where the data has them.
    scores: Vec<f32>,
}

impl Drawn {
    fn new(set: &TrainingSet, rows: &[usize], group_size: usize, seed: u64, epoch: usize) -> Self {
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
            passages.extend(texts.enumerate().map(|(place, text)| (text, row, place + 1)));
        }
        let queries = rows.iter().map(|&row| (set.rows[row].query, row, 0)).collect();
        Drawn { queries, passages, group_sizes, scores }
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
    /// Chunks of about this many tokens together keep their activations from the forward to the backward; the others are computed
    /// a second time. It changes no bit of the result.
    pub kept_tokens: usize,
}

/// The loss of a micro batch, and `weight` times its gradients added to `gradients`.
pub fn forward_backward<O: Ops>(
    model: &EmbeddingModel<O>,
    micro: &MicroBatch,
    pass: Pass<'_>,
    gradients: &mut Gradients<O>,
) -> (f64, BatchStats) {
    let batch = &micro.batch;
    let chunks = micro.chunks();
    let first_kept = first_kept(&chunks, pass.kept_tokens);

    let mut embeddings = Vec::with_capacity(batch.n_texts() * model.dim());
    let mut kept = Vec::new();
    for (i, chunk) in chunks.iter().enumerate() {
        let (of_chunk, saved) = model.forward(&batch.part(chunk.texts.clone()), pass.dropout);
        embeddings.extend(of_chunk);
        if i >= first_kept {
            kept.push(saved);
        }
    }
    let Judged { loss, mut d_embeddings, stats } = pass.objective.judge(micro, &embeddings, model.dim());
    d_embeddings.iter_mut().for_each(|d| *d *= pass.weight);
    // Backwards, so that what was kept is freed before a chunk is computed again. The order is the same whatever is kept.
    for chunk in chunks.iter().rev() {
        let part = batch.part(chunk.texts.clone());
        let saved = kept.pop().unwrap_or_else(|| model.forward(&part, pass.dropout).1);
        let d_part = &d_embeddings[chunk.texts.start * model.dim()..chunk.texts.end * model.dim()];
        model.backward(&part, &saved, d_part, gradients);
    }
    (loss, stats)
}
