//! What a run will take, said before it begins: tokens, memory and time, and what of the activations is kept.
//!
//! The batches of the first epoch are drawn as the run will draw them, without their text; a few chunks of real rows go through the
//! model and back; the rest is arithmetic. Weights and moments are afterwards what they were.

use std::time::Instant;

use embertune_kernels::Ops;
use serde::Serialize;

use super::chunks::{Chunk, cut, first_kept};
use super::dataset::TrainingSet;
use super::memory::{MemoryBudget, peak_memory_bytes, resident_bytes, shown};
use super::sampler::epoch_order;
use super::settings::TrainSettings;
use super::step::MicroBatch;
use super::trainer::Plan;
use crate::error::{Error, Result};
use crate::model::{EmbeddingModel, Gradients};
use crate::optim::AdamW;
use crate::optim::clip::global_norm;

/// The part of a budget that is not planned for: sizes of buffers are rounded up by up to an eighth, on average by less.
const RESERVE: f64 = 0.03;
/// Memory of the loss for each pair of query and passage: the similarity in f32, and whether it is masked.
const PAIR_BYTES: f64 = 5.0;
/// The embeddings and their gradients, apart and together, in f32.
const EMBEDDING_VALUE_BYTES: f64 = 16.0;
/// Chunks are timed for about this long, and no more than so many of them: what it takes is lost to the training. The first one is not
/// counted, since its memory is new.
const PROBE_S: f64 = 2.0;
const MAX_PROBES: usize = 12;

/// What a run is expected to take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Rows of a batch.
    pub batch_size: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Batches of the first epoch, as far as the run gets in it.
    pub batches_per_epoch: usize,
    /// Their tokens.
    pub tokens_per_epoch: usize,
    /// Tokens of the largest batch.
    pub largest_batch_tokens: usize,
    /// Share of the distinct texts that are cut at their maximum length.
    pub truncated_share: f64,
    /// The most that the process may take; `None` where the system does not say what it has.
    pub memory_budget_bytes: Option<u64>,
    /// The most that the process will take at once.
    pub memory_bytes: u64,
    /// Chunks of a batch keep their activations while they have this many tokens together; `None` where all of them do.
    pub kept_tokens: Option<usize>,
    /// Share of the tokens that go forward a second time, because their activations do not fit.
    pub recomputed_share: f64,
    /// Seconds of all steps.
    pub train_seconds: f64,
    /// What the device's buffers may take.
    #[serde(skip)]
    pub buffer_limit: Option<usize>,
}

/// What is known before the first batch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the process.
    pub budget_bytes: Option<u64>,
    /// Memory that loading the model took: writing it takes that again, because it is read back and compared.
    pub load_bytes: u64,
}

/// The forecast of training `model` on `set`, and the settings that it is for: with the batch size that was found, where one was to be.
///
/// # Errors
/// A memory budget in which not even a single chunk can be computed.
pub fn forecast<O: Ops>(
    model: &mut EmbeddingModel<O>,
    set: &TrainingSet,
    settings: &TrainSettings,
    limits: Limits,
) -> Result<(Forecast, TrainSettings)> {
    let shape = RunShape::new(set, settings)?;
    let costs = Costs::measure(model, set, settings, &shape);
    if !settings.find_batch_size {
        return Ok((costs.forecast(set, settings, limits, &shape)?, settings.clone()));
    }
    let mut found = None;
    let mut batch_size = 2;
    while batch_size <= set.rows.len() {
        let settings = TrainSettings { per_device_train_batch_size: batch_size, ..settings.clone() };
        let forecast = costs.forecast(set, &settings, limits, &RunShape::new(set, &settings)?);
        match forecast {
            Ok(forecast) if forecast.kept_tokens.is_none() => found = Some((forecast, settings)),
            // A larger batch does not fit either.
            _ => break,
        }
        batch_size *= 2;
    }
    found.ok_or_else(|| Error::Setting {
        problem: format!(
            "`--find_batch_size`: not even the activations of 2 rows fit into `--memory_budget {}`",
            settings.memory_budget
        ),
        hint: Some(
            "give a larger `--memory_budget`, or `--per_device_train_batch_size` with activations computed twice"
                .into(),
        ),
    })
}

/// The batches of the first epoch.
struct RunShape {
    plan: Plan,
    /// Optimizer steps that they are.
    n_steps: usize,
    batches: Vec<BatchShape>,
}

struct BatchShape {
    chunks: Vec<Chunk>,
    n_tokens: usize,
    n_texts: usize,
    n_pairs: usize,
}

impl RunShape {
    fn new(set: &TrainingSet, settings: &TrainSettings) -> Result<Self> {
        let plan = Plan::new(set, settings)?;
        let TrainSettings { train_group_size, seed, .. } = *settings;
        let order = epoch_order(plan.n_rows, settings.train_sampling_strategy, seed, 0);
        let n_steps = plan.batches.steps_per_epoch().min(plan.total_steps);
        let batches = (0..n_steps).flat_map(|step| plan.batches.of_step(step)).map(|places| {
            let n_queries = places.len();
            let lengths = MicroBatch::text_lengths(set, &order[places], train_group_size, seed, 0);
            BatchShape {
                chunks: cut(&lengths),
                n_tokens: lengths.iter().sum(),
                n_texts: lengths.len(),
                n_pairs: n_queries * (lengths.len() - n_queries),
            }
        });
        let batches = batches.collect();
        Ok(RunShape { plan, n_steps, batches })
    }
}

impl BatchShape {
    fn largest_chunk(&self) -> f64 {
        self.chunks.iter().map(|chunk| chunk.n_tokens).max().unwrap_or(0) as f64
    }

    fn tokens_kept(&self, kept_tokens: usize) -> usize {
        self.chunks[first_kept(&self.chunks, kept_tokens)..].iter().map(|chunk| chunk.n_tokens).sum()
    }
}

/// What the model costs on this machine, measured.
struct Costs {
    /// The process without the device's buffers.
    program_bytes: f64,
    /// Weights, gradients and moments.
    state_bytes: f64,
    /// Weights alone.
    weight_bytes: f64,
    token: TokenCosts,
    /// Of a pair of query and passage.
    pair_s: f64,
    /// Of an optimizer step.
    optimizer_s: f64,
    dim: usize,
}

/// What a token of a chunk costs.
#[derive(Default)]
struct TokenCosts {
    /// What its activations take between forward and backward.
    kept_bytes: f64,
    /// What else it needs while its chunk is computed.
    work_bytes: f64,
    forward_s: f64,
    backward_s: f64,
    /// Of a byte that the system gives for the first time.
    new_byte_s: f64,
}

/// The rows of the first batch, and how a micro batch is made of some.
struct FirstBatch<'a> {
    set: &'a TrainingSet,
    settings: &'a TrainSettings,
    rows: Vec<usize>,
    /// As many of them as make a chunk of the usual size.
    n_rows_of_chunk: usize,
}

impl<'a> FirstBatch<'a> {
    fn new(set: &'a TrainingSet, settings: &'a TrainSettings, shape: &RunShape) -> Self {
        let TrainSettings { train_group_size, train_sampling_strategy, seed, .. } = *settings;
        let mut rows = epoch_order(shape.plan.n_rows, train_sampling_strategy, seed, 0);
        rows.truncate(settings.per_device_train_batch_size.min(shape.plan.batches.n_rows));
        let wanted = shape.batches[0].chunks[0].n_tokens;
        let mut n_tokens = 0;
        let fits = |row: &&usize| {
            n_tokens += MicroBatch::text_lengths(set, &[**row], train_group_size, seed, 0).iter().sum::<usize>();
            n_tokens <= wanted
        };
        let n_rows_of_chunk = rows.iter().take_while(fits).count().max(1);
        FirstBatch { set, settings, rows, n_rows_of_chunk }
    }

    fn micro_batch(&self, rows: &[usize]) -> MicroBatch {
        MicroBatch::new(self.set, rows, self.settings.train_group_size, self.settings.seed, 0)
    }

    /// Sends chunks through the model and back. What they cost depends on the lengths of their texts, so that these are real.
    fn token_costs<O: Ops>(&self, model: &EmbeddingModel<O>, gradients: &mut Gradients<O>) -> TokenCosts {
        let (ops, objective) = (model.ops(), self.settings.objective());
        let dropout = self.settings.dropout_rates(model.dropout());
        let bytes_before = ops.buffer_bytes().used;
        let mut costs = TokenCosts::default();
        let (mut first_s, mut n_timed_tokens) = (0.0, 0.0);
        let began = Instant::now();
        for (probe, rows) in self.rows.chunks_exact(self.n_rows_of_chunk).cycle().take(1 + MAX_PROBES).enumerate() {
            let micro = self.micro_batch(rows);
            let n_tokens = micro.batch.n_tokens() as f64;
            let start = Instant::now();
            let (embeddings, saved) = model.forward(&micro.batch, dropout);
            let forward_s = start.elapsed().as_secs_f64();
            if probe == 0 {
                costs.kept_bytes = (ops.buffer_bytes().used - bytes_before) as f64 / n_tokens;
            }
            let d_embeddings = objective.judge(&micro, &embeddings, model.dim()).d_embeddings;
            let start = Instant::now();
            model.backward(&micro.batch, &saved, &d_embeddings, gradients);
            let backward_s = start.elapsed().as_secs_f64();
            if probe == 0 {
                // Freed buffers are kept, so what is held now is what was needed.
                costs.work_bytes = (ops.buffer_bytes().held - bytes_before) as f64 / n_tokens - costs.kept_bytes;
                first_s = (forward_s + backward_s) / n_tokens;
                continue;
            }
            costs.forward_s += forward_s;
            costs.backward_s += backward_s;
            n_timed_tokens += n_tokens;
            if began.elapsed().as_secs_f64() > PROBE_S {
                break;
            }
        }
        costs.forward_s /= n_timed_tokens;
        costs.backward_s /= n_timed_tokens;
        let more_s = (first_s - costs.forward_s - costs.backward_s).max(0.0);
        costs.new_byte_s = more_s / (costs.kept_bytes + costs.work_bytes).max(1.0);
        costs
    }

    /// The time of what a pair of query and passage needs, from the whole batch.
    fn pair_seconds(&self, dim: usize) -> f64 {
        let start = Instant::now();
        let micro = self.micro_batch(&self.rows);
        let embeddings = vec![1.0 / (dim as f32).sqrt(); micro.batch.n_texts() * dim];
        self.settings.objective().judge(&micro, &embeddings, dim);
        start.elapsed().as_secs_f64() / micro.excluded.len() as f64
    }
}

/// The time of an optimizer step that changes nothing: with gradients and moments of zero and a learning rate of zero.
fn optimizer_seconds<O: Ops>(
    model: &mut EmbeddingModel<O>,
    optimizer: &mut AdamW<O>,
    gradients: &mut Gradients<O>,
) -> f64 {
    let ops = model.shared_ops();
    let start = Instant::now();
    gradients.set_zero(&ops);
    global_norm(&*ops, gradients);
    optimizer.step(&ops, model.parameters_mut(), gradients, 0.0, 1.0);
    start.elapsed().as_secs_f64()
}

impl Costs {
    fn measure<O: Ops>(
        model: &mut EmbeddingModel<O>,
        set: &TrainingSet,
        settings: &TrainSettings,
        shape: &RunShape,
    ) -> Self {
        let ops = model.shared_ops();
        let batch = FirstBatch::new(set, settings, shape);
        let mut gradients = model.parameters().zero_gradients(&*ops);
        let mut optimizer = AdamW::new(&*ops, model.parameters(), settings.adamw());
        // Without the freed buffers of the loading.
        ops.limit_buffers(0);
        ops.limit_buffers(usize::MAX);
        let state_bytes = ops.buffer_bytes().used;
        let token = batch.token_costs(model, &mut gradients);
        let program_bytes = resident_bytes().unwrap_or(0).saturating_sub(ops.buffer_bytes().held as u64);
        // The first step packs the weights into new memory.
        optimizer_seconds(model, &mut optimizer, &mut gradients);
        let moments_and_gradients = 3 * size_of::<f32>() * model.parameters().n_values();
        Costs {
            program_bytes: program_bytes as f64,
            state_bytes: state_bytes as f64,
            weight_bytes: state_bytes.saturating_sub(moments_and_gradients) as f64,
            token,
            pair_s: batch.pair_seconds(model.dim()),
            optimizer_s: optimizer_seconds(model, &mut optimizer, &mut gradients),
            dim: model.dim(),
        }
    }

    fn forecast(
        &self,
        set: &TrainingSet,
        settings: &TrainSettings,
        limits: Limits,
        shape: &RunShape,
    ) -> Result<Forecast> {
        let batches = &shape.batches;
        let largest = |bytes: &dyn Fn(&BatchShape) -> f64| batches.iter().map(bytes).fold(0.0, f64::max);
        let always = self.program_bytes + self.state_bytes;
        let one_chunk = |batch: &BatchShape| (self.token.kept_bytes + self.token.work_bytes) * batch.largest_chunk();
        let writes_checkpoints = (1..shape.plan.total_steps).contains(&settings.save_steps);
        let while_saved = if writes_checkpoints { always } else { self.program_bytes + self.weight_bytes };
        let saving = while_saved + limits.load_bytes as f64;
        let so_far = peak_memory_bytes().unwrap_or(0) as f64;
        let least = (always + largest(&|batch| one_chunk(batch) + self.loss_bytes(batch))).max(saving).max(so_far);

        let mut kept_tokens = None;
        if let Some(budget) = limits.budget_bytes {
            let planned = budget as f64 * (1.0 - RESERVE);
            if least > planned {
                return Err(self.too_small(settings.memory_budget, budget, least, largest(&one_chunk)));
            }
            let room = |batch: &BatchShape| {
                let others = always + self.loss_bytes(batch) + self.token.work_bytes * batch.largest_chunk();
                ((planned - others) / self.token.kept_bytes) as usize
            };
            let kept = batches.iter().map(room).min().unwrap_or(usize::MAX);
            kept_tokens = batches.iter().any(|batch| batch.n_tokens > kept).then_some(kept);
        }

        let kept = |batch: &BatchShape| batch.tokens_kept(kept_tokens.unwrap_or(usize::MAX));
        let activations = |batch: &BatchShape| {
            let at_first = self.token.kept_bytes * kept(batch) as f64 + self.token.work_bytes * batch.largest_chunk();
            at_first.max(if kept(batch) < batch.n_tokens { one_chunk(batch) } else { 0.0 })
        };
        let computing = always + largest(&|batch| activations(batch) + self.loss_bytes(batch));
        let n_tokens: usize = batches.iter().map(|batch| batch.n_tokens).sum();
        let n_recomputed = n_tokens - batches.iter().map(kept).sum::<usize>();
        let n_pairs: usize = batches.iter().map(|batch| batch.n_pairs).sum();
        let epoch_s = n_tokens as f64 * (self.token.forward_s + self.token.backward_s)
            + n_recomputed as f64 * self.token.forward_s
            + n_pairs as f64 * self.pair_s
            + shape.n_steps as f64 * self.optimizer_s;
        let n_truncated = set.texts.iter().filter(|text| text.tokens.truncated).count();
        Ok(Forecast {
            batch_size: settings.per_device_train_batch_size,
            steps: shape.plan.total_steps,
            batches_per_epoch: batches.len(),
            tokens_per_epoch: n_tokens,
            largest_batch_tokens: batches.iter().map(|batch| batch.n_tokens).max().unwrap_or(0),
            truncated_share: n_truncated as f64 / set.texts.len() as f64,
            memory_budget_bytes: limits.budget_bytes,
            memory_bytes: computing.max(saving).max(so_far) as u64,
            kept_tokens,
            recomputed_share: n_recomputed as f64 / n_tokens as f64,
            train_seconds: epoch_s * shape.plan.total_steps as f64 / shape.n_steps as f64
                + (computing - always) * self.token.new_byte_s,
            buffer_limit: limits.budget_bytes.map(|budget| {
                (budget as f64 - self.program_bytes - largest(&|batch| self.loss_bytes(batch))).max(0.0) as usize
            }),
        })
    }

    fn loss_bytes(&self, batch: &BatchShape) -> f64 {
        batch.n_pairs as f64 * PAIR_BYTES + (batch.n_texts * self.dim) as f64 * EMBEDDING_VALUE_BYTES
    }

    fn too_small(&self, setting: MemoryBudget, budget: u64, least: f64, chunk: f64) -> Error {
        const STEP: f64 = 1e7;
        let enough = (least / (1.0 - RESERVE) * 1.02 / STEP).ceil() * STEP;
        Error::Setting {
            problem: format!(
                "`--memory_budget {setting}` is {}, but this run needs {} at least: {} for weights, gradients and moments, {} for a \
                 chunk of texts, {} for the data and the program",
                shown(budget),
                shown(least as u64),
                shown(self.state_bytes as u64),
                shown(chunk as u64),
                shown(self.program_bytes as u64),
            ),
            hint: Some(format!(
                "pass `--memory_budget {}` or more; a smaller model, or shorter texts where they are long, need less",
                MemoryBudget::Bytes(enough as u64)
            )),
        }
    }
}

impl Forecast {
    /// In words, one line each.
    pub fn lines(&self, settings: &TrainSettings) -> Vec<String> {
        let Forecast { batch_size, steps, batches_per_epoch, tokens_per_epoch, .. } = self;
        let accumulated = match settings.gradient_accumulation_steps {
            1 => String::new(),
            n => format!(" x {n}"),
        };
        let warmup = match settings.warmup(*steps) {
            0 => String::new(),
            n => format!(", {n} of them warm-up"),
        };
        let memory = match (self.memory_budget_bytes, settings.memory_budget) {
            (None, _) => "; how much there is the system does not say, so that all activations are kept".into(),
            (Some(budget), MemoryBudget::Bytes(_)) => format!(" of {}", shown(budget)),
            (Some(budget), share) => format!(" of {}, {share} of what is available (`--memory_budget`)", shown(budget)),
        };
        let recomputed = match self.kept_tokens {
            None => String::new(),
            Some(_) => {
                format!(
                    "; activations of {:.0} % of the tokens do not fit and are computed twice",
                    100.0 * self.recomputed_share
                )
            }
        };
        vec![
            format!(
                "plan: {steps} steps of {batch_size}{accumulated} rows{warmup}; learning rate {}, at most {:e}",
                settings.lr_scheduler_type, settings.learning_rate
            ),
            format!(
                "plan: {tokens_per_epoch} tokens in {batches_per_epoch} batches of the first epoch, {} in the largest; {:.1} % of \
                 the texts are cut",
                self.largest_batch_tokens,
                100.0 * self.truncated_share
            ),
            format!("plan: about {} of memory{memory}{recomputed}", shown(self.memory_bytes)),
            format!("plan: about {} of training", time(self.train_seconds)),
        ]
    }

    /// How it came out, in words: after `seconds` of training, with this peak of memory where the system says it.
    pub fn outcome(&self, seconds: f64, peak_bytes: Option<u64>) -> String {
        let off = |actual: f64, planned: f64| format!("{:+.0} %", 100.0 * (actual / planned - 1.0));
        let memory = peak_bytes.map_or(String::new(), |bytes| {
            format!(", memory {} ({})", shown(bytes), off(bytes as f64, self.memory_bytes as f64))
        });
        format!("against the plan: training {} ({}){memory}", time(seconds), off(seconds, self.train_seconds))
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_units_that_people_think_in() {
        for (seconds, text) in [(3.21, "3.2 s"), (200.0, "3.3 min"), (7200.0, "2.0 h")] {
            assert_eq!(time(seconds), text);
        }
    }
}
