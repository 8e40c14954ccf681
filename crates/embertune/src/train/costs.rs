//! What a model costs on this machine in memory and time, measured on chunks of its own training rows.
//!
//! What layers keep is their own business, so that nobody counts it on paper: the device says what its buffers take.

use std::time::Instant;

use embertune_kernels::Ops;
use embertune_kernels::ops::Memory;

use crate::error::Result;
use crate::model::{DropoutRates, EmbeddingModel, Gradients};
use crate::optim::Optimizer;
use crate::optim::clip::global_norm;
use crate::train::dataset::TrainingSet;
use crate::train::evaluation::EvaluationShape;
use crate::train::forecast::RunShape;
use crate::train::frozen::{FrozenLayers, n_tokens};
use crate::train::memory::resident_bytes;
use crate::train::objective::Objective;
use crate::train::ranks::exchanged_bytes;
use crate::train::sampler::epoch_order;
use crate::train::settings::TrainSettings;
use crate::train::shard::{Shard, optimizer_of};
use crate::train::step::{MicroBatch, Take};

/// What evaluations leave in the heap of each thread (tokens, rankings) for the rest of the run: with one heap for all threads (glibc's
/// `MALLOC_ARENA_MAX=1`) a run of 57 MB took 58, with the usual ones up to 61.
const HEAP_BYTES: f64 = 2e6;

/// Chunks are timed for about this long, and no more than so many of them: what it takes is lost to the training. The first one is not
/// counted, since its memory is new.
const PROBE_S: f64 = 2.0;
const MAX_PROBES: usize = 12;
/// A value of a vector that is searched: in f32, and as the byte that the first pass of the search reads.
const SEARCHED_VALUE_BYTES: f64 = 5.0;
/// One that is written: in f32, and as the bytes of the file.
const WRITTEN_VALUE_BYTES: f64 = 8.0;

/// What the model costs on this machine, measured.
pub struct Costs {
    /// Where the device's buffers are. What is on the host is no part of the plan where they are not there.
    pub memory: Memory,
    /// The process without the device's buffers, and what evaluations leave in its heaps.
    pub program_bytes: f64,
    /// Weights, gradients and moments.
    pub state_bytes: f64,
    /// Outputs of frozen layers, where they are kept.
    pub frozen_bytes: f64,
    /// Seconds to compute them.
    pub frozen_s: f64,
    /// Weights alone.
    pub weight_bytes: f64,
    /// Those that are trained, as numbers on the host.
    pub trained_bytes: f64,
    /// Of a token.
    pub token: TokenCosts,
    /// Seconds of a pair of query and passage.
    pub pair_s: f64,
    /// Seconds of an optimizer step.
    pub optimizer_s: f64,
    /// What an optimizer step needs beside its state, where ranks share that.
    pub share_bytes: f64,
    /// What sending gradients takes on the host, where there are several ranks.
    pub exchanged_bytes: f64,
    /// Of an evaluation, where there are some.
    pub evaluation: Option<EvaluationCosts>,
    /// Width of an embedding.
    pub dim: usize,
}

/// What a token of a chunk costs.
#[derive(Default)]
pub struct TokenCosts {
    /// What its activations take between forward and backward.
    pub kept_bytes: f64,
    /// What else it needs while its chunk is computed.
    pub work_bytes: f64,
    /// Seconds of the forward, without frozen layers whose outputs are kept.
    pub forward_s: f64,
    /// Seconds of these layers.
    pub frozen_s: f64,
    /// Seconds of the backward.
    pub backward_s: f64,
    /// Seconds of a byte that the system gives for the first time.
    pub new_byte_s: f64,
}

/// What an evaluation costs.
pub struct EvaluationCosts {
    /// What it needs at its peak, beside the weights.
    pub bytes: f64,
    /// How long it takes.
    pub seconds: f64,
}

impl EvaluationCosts {
    /// Encodes a sample of its texts.
    fn measure<O: Ops>(model: &EmbeddingModel<O>, shape: &EvaluationShape) -> Self {
        let ops = model.ops();
        release_freed(ops);
        let bytes_before = ops.buffer_bytes().held;
        let is_on_host = ops.memory() == Memory::OfProcess;
        let encode = || {
            let start = Instant::now();
            model.encode(&shape.sample);
            start.elapsed().as_secs_f64()
        };
        // Its memory is new.
        let peak_bytes = ops.peak_bytes(&mut || {
            encode();
        });
        let n_sampled = shape.sample.n_tokens() as f64;
        let token_s = encode().min(encode()) / n_sampled;
        let token_bytes = peak_bytes.saturating_sub(bytes_before) as f64 / n_sampled;
        let vector_bytes = (shape.n_vectors * model.dim()) as f64 * SEARCHED_VALUE_BYTES
            + (shape.n_written * model.dim()) as f64 * WRITTEN_VALUE_BYTES;
        EvaluationCosts {
            bytes: token_bytes * shape.chunk_tokens as f64 + if is_on_host { vector_bytes } else { 0.0 },
            seconds: token_s * shape.n_tokens as f64,
        }
    }
}

/// Gives freed buffers back to the system.
fn release_freed<O: Ops>(ops: &O) {
    ops.limit_buffers(0);
    ops.limit_buffers(usize::MAX);
}

/// The rows of the first batch, and how a micro batch is made of some.
struct FirstBatch<'a> {
    set: &'a TrainingSet,
    objective: Objective,
    /// Layers whose outputs are kept.
    n_frozen: usize,
    dropout: DropoutRates,
    take: Take,
    rows: Vec<usize>,
    /// As many of them as make a chunk of the usual size.
    n_rows_of_chunk: usize,
}

impl<'a> FirstBatch<'a> {
    fn new(set: &'a TrainingSet, settings: &TrainSettings, dropout: DropoutRates, shape: &RunShape) -> Self {
        let mut rows = epoch_order(set, settings, 0);
        rows.truncate(settings.per_device_train_batch_size.min(shape.plan.batches.n_rows));
        let settings = settings.of_set(set.file_of(rows[0]));
        let take = settings.take(dropout, 0);
        let wanted = shape.batches[0].chunks[0].n_tokens;
        let mut n_tokens = 0;
        let fits = |row: &&usize| {
            n_tokens += MicroBatch::text_lengths(set, &[**row], take).0.iter().sum::<usize>();
            n_tokens <= wanted
        };
        let n_rows_of_chunk = rows.iter().take_while(fits).count().max(1);
        let n_frozen = settings.adaptation.n_cached();
        FirstBatch { set, objective: settings.objective(), n_frozen, dropout, take, rows, n_rows_of_chunk }
    }

    fn micro_batch(&self, rows: &[usize]) -> Result<MicroBatch> {
        MicroBatch::new(self.set, rows, self.take)
    }

    /// Sends chunks through the model and back. What they cost depends on the lengths of their texts, so that these are real.
    fn token_costs<O: Ops>(&self, model: &EmbeddingModel<O>, gradients: &mut Gradients<O>) -> Result<TokenCosts> {
        let ops = model.ops();
        let bytes_before = ops.buffer_bytes().used;
        let mut costs = TokenCosts::default();
        let (mut first_s, mut n_timed_tokens) = (0.0, 0.0);
        let began = Instant::now();
        for (probe, rows) in self.rows.chunks_exact(self.n_rows_of_chunk).cycle().take(1 + MAX_PROBES).enumerate() {
            let micro = self.micro_batch(rows)?;
            let n_tokens = micro.batch.n_tokens() as f64;
            let mut once = TokenCosts::default();
            let peak_bytes = ops.peak_bytes(&mut || once = self.probe(model, &micro, gradients));
            if probe == 0 {
                costs.kept_bytes = once.kept_bytes / n_tokens;
                costs.work_bytes = peak_bytes.saturating_sub(bytes_before) as f64 / n_tokens - costs.kept_bytes;
                first_s = (once.forward_s + once.backward_s) / n_tokens;
                continue;
            }
            costs.forward_s += once.forward_s;
            costs.frozen_s += once.frozen_s;
            costs.backward_s += once.backward_s;
            n_timed_tokens += n_tokens;
            if began.elapsed().as_secs_f64() > PROBE_S {
                break;
            }
        }
        costs.forward_s /= n_timed_tokens;
        costs.frozen_s /= n_timed_tokens;
        costs.backward_s /= n_timed_tokens;
        // On a device of its own the first probe compiles kernels, and what memory costs cannot be told from it.
        if ops.memory() == Memory::OfProcess {
            let more_s = (first_s - costs.forward_s - costs.backward_s).max(0.0);
            costs.new_byte_s = more_s / (costs.kept_bytes + costs.work_bytes).max(1.0);
        }
        Ok(costs)
    }

    /// Sends a chunk through the model and back: what all of its tokens cost.
    fn probe<O: Ops>(&self, model: &EmbeddingModel<O>, micro: &MicroBatch, gradients: &mut Gradients<O>) -> TokenCosts {
        let bytes_before = model.ops().buffer_bytes().used;
        let start = Instant::now();
        let lowest = (self.n_frozen > 0).then(|| model.output_of_lowest(self.n_frozen, &micro.batch));
        let frozen_s = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let (embeddings, saved) = match lowest {
            None => model.forward(&micro.batch, self.dropout),
            Some(lowest) => model.forward_above(self.n_frozen, &lowest, &micro.batch, self.dropout),
        };
        let forward_s = start.elapsed().as_secs_f64();
        let kept_bytes = model.ops().buffer_bytes().used.saturating_sub(bytes_before) as f64;
        let judged = self.objective.judge(micro, &micro.of_texts(&embeddings, model.dim()), model.dim());
        let d_embeddings = micro.of_texts_backward(judged.d_embeddings, model.dim());
        let start = Instant::now();
        model.backward(&micro.batch, &saved, &d_embeddings, gradients);
        let backward_s = start.elapsed().as_secs_f64();
        TokenCosts { kept_bytes, forward_s, frozen_s, backward_s, ..TokenCosts::default() }
    }

    /// The time of what a pair of query and passage needs, from the whole batch.
    fn pair_seconds(&self, dim: usize) -> Result<f64> {
        let start = Instant::now();
        let micro = self.micro_batch(&self.rows)?;
        let embeddings = vec![1.0 / (dim as f32).sqrt(); micro.n_texts() * dim];
        self.objective.judge(&micro, &embeddings, dim);
        Ok(start.elapsed().as_secs_f64() / micro.excluded.len() as f64)
    }
}

/// The time of an optimizer step that changes nothing: with gradients and moments of zero and a learning rate of zero.
fn optimizer_seconds<O: Ops>(
    model: &mut EmbeddingModel<O>,
    optimizer: &mut Optimizer<O>,
    gradients: &mut Gradients<O>,
    shard: Option<&Shard>,
) -> f64 {
    let ops = model.shared_ops();
    let start = Instant::now();
    gradients.set_zero(&ops);
    match shard {
        None => {
            global_norm(&*ops, gradients);
            optimizer.step(&ops, model.parameters_mut(), gradients, 0.0, 1.0);
        }
        Some(shard) => {
            let mut own = shard.cut(&*ops, model.parameters());
            let own_gradients = own.zero_gradients(&*ops);
            global_norm(&*ops, &own_gradients);
            optimizer.step(&ops, &mut own, &own_gradients, 0.0, 1.0);
            model.parameters_mut().repack(&ops);
        }
    }
    start.elapsed().as_secs_f64()
}

impl Costs {
    /// Trains on a few chunks of the first batch. Weights are afterwards what they were; `shape` says how long chunks are.
    ///
    /// # Errors
    /// Where the temporary file of the tokens can't be read.
    pub fn measure<O: Ops>(
        model: &mut EmbeddingModel<O>,
        set: &TrainingSet,
        settings: &TrainSettings,
        shape: &RunShape,
        evaluation: Option<&EvaluationShape>,
        (n_ranks, shard): (usize, Option<&Shard>),
    ) -> Result<Self> {
        let ops = model.shared_ops();
        let batch = FirstBatch::new(set, settings, settings.dropout_rates(model.dropout()), shape);
        let weight_bytes = ops.buffer_bytes().used;
        let mut gradients = model.parameters().zero_gradients(&*ops);
        let mut optimizer = optimizer_of(&*ops, model.parameters(), settings, shard);
        // Without those of the loading.
        release_freed(&*ops);
        let state_bytes = ops.buffer_bytes().used;
        let token = batch.token_costs(model, &mut gradients)?;
        let memory = ops.memory();
        let of_buffers = if memory == Memory::OfProcess { ops.buffer_bytes().held } else { 0 };
        let program_bytes = resident_bytes().unwrap_or(0).saturating_sub(of_buffers as u64);
        let heaps = evaluation.map_or(0.0, |_| rayon::current_num_threads() as f64 * HEAP_BYTES);
        // The first step packs the weights into new memory.
        optimizer_seconds(model, &mut optimizer, &mut gradients, shard);
        let is_cached = batch.n_frozen > 0;
        let costs = Costs {
            memory,
            frozen_bytes: if is_cached { FrozenLayers::bytes(model, set) as f64 } else { 0.0 },
            frozen_s: n_tokens(set) as f64 * token.frozen_s,
            program_bytes: program_bytes as f64 + heaps,
            state_bytes: state_bytes as f64,
            weight_bytes: weight_bytes as f64,
            trained_bytes: (size_of::<f32>() * model.parameters().n_trained()) as f64,
            token,
            pair_s: batch.pair_seconds(model.dim())?,
            optimizer_s: optimizer_seconds(model, &mut optimizer, &mut gradients, shard),
            exchanged_bytes: exchanged_bytes(model.parameters(), n_ranks) as f64,
            // Gradients and weights of the share, apart from the others.
            share_bytes: shard.map_or(0.0, |shard| (2 * size_of::<f32>() * shard.n_values()) as f64),
            evaluation: evaluation.map(|shape| EvaluationCosts::measure(model, shape)),
            dim: model.dim(),
        };
        // Else the run would take its gradients and moments beside what is left of these: it may have other sizes.
        drop((gradients, optimizer));
        release_freed(&*ops);
        Ok(costs)
    }
}
