//! One micro batch: the texts of some rows, their embeddings, the loss, and the gradients of the parameters.
//!
//! The texts go through the model in [chunks](super::chunks), the loss sees the embeddings of all of them, and then each chunk goes
//! back. So a batch of any size fits into bounded memory, with the gradient that it has in one piece: Gao et al. 2021, "Scaling
//! Deep Contrastive Learning Batch Size under Memory Limited Setup" (GradCache).
//!
//! Several ranks share the texts: each sends its own through the model, the loss sees the embeddings of all ranks, on each of them, and each
//! rank sends its own back. So the gradients of all ranks together are those of one process, whatever the loss and its masks.

use std::borrow::Cow;
use std::collections::HashMap;

use embertune_kernels::Ops;

use crate::comm::{Alone, Communicator};
use crate::error::Result;
use crate::loss::BatchStats;
use crate::model::{Completed, DropoutRates, EmbeddingModel, Gradients};
use crate::random::key;
use crate::text::Batch;
use crate::train::chunks::{Chunk, cut, first_kept, share};
use crate::train::dataset::TrainingSet;
use crate::train::frozen::FrozenLayers;
use crate::train::group::{Draw, choose};
use crate::train::objective::{Judged, Objective};

/// Separates this use of a seed from others.
const DROPOUT: u64 = 4;

/// What becomes of a text that comes several times in a micro batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// It is computed each time: with dropout no two of them are the same.
    Apart,
    /// It is computed once. Its gradient is the sum of theirs, since a gradient of the weights is linear in that of the embedding.
    Together,
}

/// What a micro batch takes of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Take {
    /// Passages of a query: one positive, the rest negatives.
    pub group_size: usize,
    /// Seed of the run.
    pub seed: u64,
    /// From 0.
    pub epoch: usize,
    /// What becomes of texts that come several times.
    pub repeats: Repeats,
}

/// All texts of some rows: the queries, then the groups of passages, each with its positive first.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// The tokens of the texts that go through the model.
    pub batch: Batch,
    /// The number of each of these texts in the set, `[batch.n_texts()]`.
    pub numbers: Vec<u32>,
    /// The place in `batch` of each text, `[n_texts]`.
    pub places: Vec<u32>,
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
    /// The texts of `rows`. A text's dropout depends on (seed, epoch, row, place in the row) alone.
    ///
    /// # Errors
    /// Where the temporary file of the tokens can't be read.
    pub fn new(set: &TrainingSet, rows: &[usize], take: Take) -> Result<Self> {
        let drawn = Drawn::new(set, rows, take);
        let (computed, places) = drawn.computed(take.repeats);
        let mut batch = Batch::default();
        let numbers = computed.iter().map(|&(text, ..)| text).collect();
        for (text, row, slot) in computed {
            let tokens = set.texts.tokens(text)?;
            let key = key(&[DROPOUT, take.seed, take.epoch as u64, row as u64, slot as u64]);
            batch.push(&tokens.ids, tokens.prompt_len, key);
        }
        let Drawn { queries, passages, group_sizes, scores } = drawn;
        let mut guide = Vec::new();
        for &(text, ..) in queries.iter().chain(&passages) {
            guide.extend(set.guide.iter().flat_map(|vectors| vectors.row(text as usize)));
        }
        // A large batch has millions of pairs: the exact capacity saves a copy.
        let mut excluded = Vec::with_capacity(queries.len() * passages.len());
        for &(query, ..) in &queries {
            excluded.extend(set.are_never_negatives(query, passages.iter().map(|&(passage, ..)| passage)));
        }
        Ok(MicroBatch { batch, numbers, places, group_sizes, excluded, scores, guide })
    }

    /// Without making it: the lengths in tokens of the texts that go through the model, in their order, and the number of all its texts.
    pub fn text_lengths(set: &TrainingSet, rows: &[usize], take: Take) -> (Vec<usize>, usize) {
        let (computed, places) = Drawn::new(set, rows, take).computed(take.repeats);
        let lengths = computed.iter().map(|&(text, ..)| set.texts.n_tokens(text));
        (lengths.collect(), places.len())
    }

    /// How its texts go through the model.
    pub fn chunks(&self) -> Vec<Chunk> {
        self.chunks_of(0, 1)
    }

    /// How the texts of `rank` go through the model.
    fn chunks_of(&self, rank: usize, n_ranks: usize) -> Vec<Chunk> {
        let lengths: Vec<_> = (0..self.batch.n_texts()).map(|text| self.batch.ragged().range(text).len()).collect();
        let own = share(&lengths, rank, n_ranks);
        let mut chunks = cut(&lengths[own.clone()]);
        for chunk in &mut chunks {
            chunk.texts = own.start + chunk.texts.start..own.start + chunk.texts.end;
        }
        chunks
    }

    /// Number of queries.
    pub fn n_queries(&self) -> usize {
        self.group_sizes.len()
    }

    /// Number of queries and passages, however often their texts come.
    pub fn n_texts(&self) -> usize {
        self.places.len()
    }

    /// The vectors of all texts, `[n_texts, dim]`, where `computed` are those of `batch`.
    pub fn of_texts<'a>(&self, computed: &'a [f32], dim: usize) -> Cow<'a, [f32]> {
        if self.n_texts() == self.batch.n_texts() {
            return computed.into();
        }
        self.places.iter().flat_map(|&place| &computed[place as usize * dim..][..dim]).copied().collect()
    }

    /// Of `x = of_texts(computed)`: `d_computed`.
    pub fn of_texts_backward(&self, d_x: Vec<f32>, dim: usize) -> Vec<f32> {
        if self.n_texts() == self.batch.n_texts() {
            return d_x;
        }
        let mut d_computed = vec![0.0; self.batch.n_texts() * dim];
        for (&place, d) in self.places.iter().zip(d_x.chunks_exact(dim)) {
            let sums = &mut d_computed[place as usize * dim..][..dim];
            sums.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
        }
        d_computed
    }
}

/// A text by its number, with its row and its place in it; slot 0 is the query.
type Slot = (u32, usize, usize);

/// The texts of a micro batch.
struct Drawn {
    queries: Vec<Slot>,
    passages: Vec<Slot>,
    group_sizes: Vec<usize>,
    /// Of the passages, where the data has them.
    scores: Vec<f32>,
}

impl Drawn {
    fn new(set: &TrainingSet, rows: &[usize], take: Take) -> Self {
        let Take { group_size, seed, epoch, .. } = take;
        let mut passages = Vec::new();
        let mut group_sizes = Vec::with_capacity(rows.len());
        let mut scores = Vec::new();
        for &row in rows {
            let texts = set.rows.get(row);
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
        let queries = rows.iter().map(|&row| (set.rows.get(row).query, row, 0)).collect();
        Drawn { queries, passages, group_sizes, scores }
    }

    /// The texts that go through the model, and the place of each query and passage among them.
    fn computed(&self, repeats: Repeats) -> (Vec<Slot>, Vec<u32>) {
        let all = self.queries.iter().chain(&self.passages);
        if repeats == Repeats::Apart {
            return (all.copied().collect(), (0..(self.queries.len() + self.passages.len()) as u32).collect());
        }
        let (mut computed, mut known) = (Vec::new(), HashMap::new());
        let places = all.map(|&slot| {
            *known.entry(slot.0).or_insert_with(|| {
                computed.push(slot);
                computed.len() as u32 - 1
            })
        });
        let places = places.collect();
        (computed, places)
    }
}

/// How a micro batch is computed.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// What its embeddings are judged by.
    pub objective: &'a Objective,
    /// Probabilities of dropout.
    pub dropout: DropoutRates,
    /// What is known of layers that are frozen. Nothing is dropped in them, then.
    pub frozen: Option<&'a FrozenLayers>,
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
    forward_backward_as_rank(model, micro, pass, &Alone, gradients, &mut |_, _| {})
        .expect("a process alone waits for nobody")
}

/// The loss of a micro batch that all ranks share, and `weight` times the gradients by the texts of this rank added to `gradients`. In the
/// backward of the last chunk, `completed` is called as [`EmbeddingModel::backward_telling`] says; never, where this rank has no texts.
///
/// # Errors
/// Those of [`Communicator::all_gather`].
pub fn forward_backward_as_rank<O: Ops>(
    model: &EmbeddingModel<O>,
    micro: &MicroBatch,
    pass: Pass<'_>,
    ranks: &dyn Communicator,
    gradients: &mut Gradients<O>,
    completed: &mut Completed<'_, O>,
) -> Result<(f64, BatchStats)> {
    let batch = &micro.batch;
    let chunks = micro.chunks_of(ranks.rank(), ranks.size());
    let first_kept = first_kept(&chunks, pass.kept_tokens);

    let n_own = chunks.iter().map(|chunk| chunk.texts.len()).sum::<usize>();
    let forward = |chunk: &Chunk, part: &Batch| match pass.frozen {
        None => model.forward(part, pass.dropout),
        Some(frozen) => {
            let lowest = frozen.of(&micro.numbers[chunk.texts.clone()]);
            model.forward_above(frozen.n_layers(), &lowest, part, pass.dropout)
        }
    };
    let mut embeddings = Vec::with_capacity(n_own * model.dim());
    let mut kept = Vec::new();
    for (i, chunk) in chunks.iter().enumerate() {
        let (of_chunk, saved) = forward(chunk, &batch.part(chunk.texts.clone()));
        embeddings.extend(of_chunk);
        if i >= first_kept {
            kept.push(saved);
        }
    }
    if ranks.size() > 1 {
        embeddings = ranks.all_gather(&embeddings)?;
    }
    let of_texts = micro.of_texts(&embeddings, model.dim());
    let Judged { loss, d_embeddings, stats } = pass.objective.judge(micro, &of_texts, model.dim());
    let mut d_embeddings = micro.of_texts_backward(d_embeddings, model.dim());
    d_embeddings.iter_mut().for_each(|d| *d *= pass.weight);
    // Backwards, so that what was kept is freed before a chunk is computed again. The order is the same whatever is kept.
    for (i, chunk) in chunks.iter().enumerate().rev() {
        let part = batch.part(chunk.texts.clone());
        let saved = kept.pop().unwrap_or_else(|| forward(chunk, &part).1);
        let d_part = &d_embeddings[chunk.texts.start * model.dim()..chunk.texts.end * model.dim()];
        if i > 0 {
            model.backward(&part, &saved, d_part, gradients);
        } else {
            model.backward_telling(&part, &saved, d_part, gradients, completed);
        }
    }
    Ok((loss, stats))
}
