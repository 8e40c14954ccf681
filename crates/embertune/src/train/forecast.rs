//! What a run will take, said before it begins: tokens, memory and time, and what of the activations is kept.
//!
//! The batches of the first epoch are drawn as the run will draw them, without their text; a few chunks of real rows go through the
//! model and back; the rest is arithmetic. Weights and moments are afterwards what they were.

use embertune_kernels::Ops;
use embertune_kernels::ops::Memory;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::{DropoutRates, EmbeddingModel};
use crate::train::cadence::{Cadence, Steps, Strategy};
use crate::train::chunks::{Chunk, cut, first_kept, share};
use crate::train::costs::Costs;
use crate::train::dataset::TrainingSet;
use crate::train::evaluation::HeldOut;
use crate::train::memory::{MemoryBudget, peak_memory_bytes, shown};
use crate::train::merge::MergeAlpha;
use crate::train::ranks::{BUCKET, buckets};
use crate::train::record::Seconds;
use crate::train::sampler::epoch_order;
use crate::train::settings::TrainSettings;
use crate::train::shard::Shard;
use crate::train::step::MicroBatch;
use crate::train::trainer::Plan;

/// The part of a budget that is not planned for: sizes of buffers are rounded up by up to an eighth, on average by less.
const RESERVE: f64 = 0.03;
/// How far the device's buffers may outgrow the plan, within the budget: freed buffers of other sizes are kept, since the next batch may
/// want them, so that a run comes to take all of it. Less makes a run ask the system for memory again and again.
const SLACK: f64 = 0.1;
/// Memory of the loss for each pair of query and passage: the similarity in f32, and whether it is masked.
const PAIR_BYTES: f64 = 5.0;
/// The embeddings and their gradients, apart and together, in f32.
const EMBEDDING_VALUE_BYTES: f64 = 16.0;

/// Of runs of at least so many steps a twentieth, but five at least, tell whether the planned time holds. Off by more than this it is
/// corrected: less is noise.
const REVISED_FROM: usize = 20;
const REVISED_AFTER: usize = 5;
const REVISED_BY: f64 = 0.15;

/// What a run is expected to take.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
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
    /// The most that the process, or the device, may take; `None` where the system does not say what it has.
    pub memory_budget_bytes: Option<u64>,
    /// The most that the process, or the device, will take at once.
    pub memory_bytes: u64,
    /// Chunks of a batch keep their activations while they have this many tokens together; `None` where all of them do.
    pub kept_tokens: Option<usize>,
    /// Share of the tokens that go forward a second time, because their activations do not fit.
    pub recomputed_share: f64,
    /// Outputs of frozen layers that are kept; part of `memory_bytes`.
    pub frozen_bytes: u64,
    /// Seconds to compute them, before the first step.
    pub frozen_seconds: f64,
    /// Seconds of all steps.
    pub train_seconds: f64,
    /// Evaluations in the run, those of `--merge_alpha` included.
    pub evaluations: usize,
    /// Seconds of all of them.
    pub evaluation_seconds: f64,
    /// Whether the device has memory of its own, which the numbers of bytes are about then: nothing on the host is counted.
    #[serde(skip)]
    pub has_own_memory: bool,
    /// What the device's buffers may take.
    #[serde(skip)]
    pub buffer_limit: usize,
}

/// What is known before the first batch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the process, or of the device where that has memory of its own.
    pub budget_bytes: Option<u64>,
    /// Memory that loading the model took: writing it takes that again, because it is read back and compared.
    pub load_bytes: u64,
    /// Ranks that share the steps.
    pub n_ranks: usize,
}

/// The forecast of training `model` on `set` and evaluating it on `held_out`, and the settings that it is for: with the batch size that was
/// found, where one was to be.
///
/// # Errors
/// A memory budget in which not even a single chunk can be computed.
pub fn forecast<O: Ops>(
    model: &mut EmbeddingModel<O>,
    set: &TrainingSet,
    held_out: Option<&HeldOut>,
    settings: &TrainSettings,
    limits: Limits,
) -> Result<(Forecast, TrainSettings)> {
    let rates = settings.dropout_rates(model.dropout());
    let shape = RunShape::new(set, settings, rates, limits.n_ranks)?;
    let evaluation = held_out.map(|held_out| held_out.shape(model, settings)).transpose()?;
    // Rank 0's is as large as those of the others.
    let buckets = buckets(model.parameters(), BUCKET);
    let shard = Shard::new(settings, model.parameters(), &buckets, (0, limits.n_ranks));
    let among = (limits.n_ranks, shard.as_ref());
    let costs = Costs::measure(model, set, settings, &shape, evaluation.as_ref(), among)?;
    if !settings.find_batch_size {
        return Ok((costs.forecast(set, settings, limits, &shape)?, settings.clone()));
    }
    let mut found = None;
    let mut batch_size = 2;
    while batch_size <= set.rows.len() {
        let settings = TrainSettings { per_device_train_batch_size: batch_size, ..settings.clone() };
        let forecast = costs.forecast(set, &settings, limits, &RunShape::new(set, &settings, rates, limits.n_ranks)?);
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

/// The batches of the first epoch, or what rank 0 does of them: the others have about as much to do.
pub struct RunShape {
    /// How long the run is.
    pub plan: Plan,
    /// Optimizer steps that they are.
    pub n_steps: usize,
    /// In the order of the run.
    pub batches: Vec<BatchShape>,
}

/// A batch without its texts.
pub struct BatchShape {
    /// How it is cut.
    pub chunks: Vec<Chunk>,
    /// Tokens of all chunks.
    pub n_tokens: usize,
    /// Queries and passages.
    pub n_texts: usize,
    /// Pairs of a query and a passage.
    pub n_pairs: usize,
}

impl RunShape {
    fn new(set: &TrainingSet, settings: &TrainSettings, rates: DropoutRates, n_ranks: usize) -> Result<Self> {
        let plan = Plan::new(set, settings)?;
        let order = epoch_order(set, settings, 0);
        let takes: Vec<_> = (0..set.files.len()).map(|i| settings.of_set(i).take(rates, 0)).collect();
        let n_steps = plan.batches.steps_per_epoch().min(plan.total_steps);
        let (turns, sharers) = if settings.negatives_cross_device { (1, n_ranks) } else { (n_ranks, 1) };
        let batches = (0..n_steps).flat_map(|step| plan.batches.of_step(step).step_by(turns)).map(|places| {
            let rows = &order[places];
            let n_queries = rows.len();
            let (lengths, n_texts) = MicroBatch::text_lengths(set, rows, takes[set.file_of(rows[0])]);
            let lengths = &lengths[share(&lengths, 0, sharers)];
            BatchShape {
                chunks: cut(lengths),
                n_tokens: lengths.iter().sum(),
                n_texts,
                n_pairs: n_queries * (n_texts - n_queries),
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

impl Costs {
    fn forecast(
        &self,
        set: &TrainingSet,
        settings: &TrainSettings,
        limits: Limits,
        shape: &RunShape,
    ) -> Result<Forecast> {
        let batches = &shape.batches;
        let largest = |bytes: &dyn Fn(&BatchShape) -> f64| batches.iter().map(bytes).fold(0.0, f64::max);
        let host = self.if_on_host(self.program_bytes + self.frozen_bytes + self.exchanged_bytes);
        let always = host + self.state_bytes;
        let one_chunk = |batch: &BatchShape| (self.token.kept_bytes + self.token.work_bytes) * batch.largest_chunk();
        let between_steps = self.between_steps_bytes(settings, limits, &shape.plan);
        let so_far = self.if_on_host(peak_memory_bytes().unwrap_or(0) as f64);
        let least = largest(&|batch| one_chunk(batch) + self.loss_bytes(batch)).max(self.share_bytes);
        let least = (always + least).max(between_steps).max(so_far);

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
        let computing = largest(&|batch| activations(batch) + self.loss_bytes(batch));
        let computing = always + computing.max(self.share_bytes);
        let within_plan = (computing - host) * (1.0 + SLACK);
        let within_budget = limits
            .budget_bytes
            .map_or(f64::INFINITY, |budget| budget as f64 - host - largest(&|batch| self.loss_bytes(batch)));
        let buffer_limit = within_plan.min(within_budget).max(0.0);
        // Runs of more than a few batches take all of what they may have beyond the largest: see docs/LOG.md.
        let computing = computing.max(host + buffer_limit);
        let n_tokens: usize = batches.iter().map(|batch| batch.n_tokens).sum();
        let n_recomputed = n_tokens - batches.iter().map(kept).sum::<usize>();
        let n_pairs: usize = batches.iter().map(|batch| batch.n_pairs).sum();
        let epoch_s = n_tokens as f64 * (self.token.forward_s + self.token.backward_s)
            + n_recomputed as f64 * self.token.forward_s
            + n_pairs as f64 * self.pair_s
            + shape.n_steps as f64 * self.optimizer_s;
        let (evaluations, evaluation_seconds) = self.evaluation.as_ref().map_or((0, 0.0), |costs| {
            let n_mixed = settings.merge_alpha.map_or(0, MergeAlpha::n_evaluated);
            let n = n_while_training(settings, &shape.plan);
            // Rank 0 alone tries mixtures.
            (n + n_mixed, (n as f64 / limits.n_ranks as f64 + n_mixed as f64) * costs.seconds)
        });
        Ok(Forecast {
            batch_size: settings.per_device_train_batch_size,
            steps: shape.plan.total_steps,
            batches_per_epoch: batches.len(),
            tokens_per_epoch: n_tokens,
            largest_batch_tokens: batches.iter().map(|batch| batch.n_tokens).max().unwrap_or(0),
            truncated_share: set.texts.n_truncated() as f64 / set.texts.len() as f64,
            memory_budget_bytes: limits.budget_bytes,
            memory_bytes: computing.max(between_steps).max(so_far) as u64,
            kept_tokens,
            recomputed_share: n_recomputed as f64 / n_tokens as f64,
            frozen_bytes: self.frozen_bytes as u64,
            frozen_seconds: self.frozen_s,
            train_seconds: epoch_s * shape.plan.total_steps as f64 / shape.n_steps as f64
                + (computing - always) * self.token.new_byte_s,
            evaluations,
            evaluation_seconds,
            has_own_memory: self.memory != Memory::OfProcess,
            buffer_limit: buffer_limit as usize,
        })
    }

    /// `bytes` of the process, which count where the device's buffers are in its memory.
    fn if_on_host(&self, bytes: f64) -> f64 {
        if self.memory == Memory::OfProcess { bytes } else { 0.0 }
    }

    /// The most that the process takes while no batch is computed: activations have been given back then.
    fn between_steps_bytes(&self, settings: &TrainSettings, limits: Limits, plan: &Plan) -> f64 {
        // On the device a model that is loaded beside the other one takes as much as that.
        let load_bytes = if self.memory == Memory::OfProcess { limits.load_bytes as f64 } else { self.weight_bytes };
        let trained_bytes = self.if_on_host(self.trained_bytes);
        let evaluation_bytes = self.evaluation.as_ref().map_or(0.0, |costs| costs.bytes);
        let saves = cadence(settings.save_strategy, settings.save_steps, plan).times(plan.total_steps - 1) > 0;
        let saves_best = settings.load_best_model_at_end && self.evaluation.is_some();
        let saves_last = settings.merge_alpha.is_some() && self.evaluation.is_some();
        // Gradients and moments are there.
        let loaded = if saves || saves_best || saves_last { load_bytes } else { 0.0 };
        let during = self.if_on_host(self.frozen_bytes) + evaluation_bytes.max(loaded);
        // They are gone. A model is written, read back and compared; or base and tuned weights lie on the host beside the model.
        let afterwards = match settings.merge_alpha {
            Some(_) if settings.adaptation.lora_r.is_none() => {
                load_bytes.max(trained_bytes + evaluation_bytes) + trained_bytes
            }
            _ => load_bytes,
        };
        self.if_on_host(self.program_bytes) + (self.state_bytes + during).max(self.weight_bytes + afterwards)
    }

    fn loss_bytes(&self, batch: &BatchShape) -> f64 {
        self.if_on_host(batch.n_pairs as f64 * PAIR_BYTES + (batch.n_texts * self.dim) as f64 * EMBEDDING_VALUE_BYTES)
    }

    fn too_small(&self, setting: MemoryBudget, budget: u64, least: f64, chunk: f64) -> Error {
        const STEP: f64 = 1e7;
        let enough = (least / (1.0 - RESERVE) * 1.02 / STEP).ceil() * STEP;
        Error::Setting {
            problem: format!(
                "`--memory_budget {setting}` is {}, but this run needs {} at least: {} for weights, gradients and moments, {} for a \
                 chunk of texts{}{}",
                shown(budget),
                shown(least as u64),
                shown(self.state_bytes as u64),
                shown(chunk as u64),
                self.evaluation
                    .as_ref()
                    .map_or(String::new(), |costs| format!(" or {} for an evaluation", shown(costs.bytes as u64))),
                if self.memory == Memory::OfProcess { self.of_host() } else { ", all on the device".into() },
            ),
            hint: Some(format!(
                "pass `--memory_budget {}` or more; a smaller model, or shorter texts where they are long, need less",
                MemoryBudget::Bytes(enough as u64)
            )),
        }
    }

    /// What the host needs beside the device's buffers, in words.
    fn of_host(&self) -> String {
        let frozen = match self.frozen_bytes as u64 {
            0 => String::new(),
            bytes => format!(", {} for the outputs of frozen layers (`--cache_frozen_layers`)", shown(bytes)),
        };
        let exchanged = match self.exchanged_bytes as u64 {
            0 => String::new(),
            bytes => format!(", {} for what ranks send each other", shown(bytes)),
        };
        format!(", {} for the data and the program{frozen}{exchanged}", shown(self.program_bytes as u64))
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
        let whose = if self.has_own_memory { "the GPU's memory" } else { "memory" };
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
        let frozen = (self.frozen_bytes > 0).then(|| {
            format!(
                "plan: about {} before the first step for the outputs of frozen layers, which take {} of the memory",
                time(self.frozen_seconds),
                shown(self.frozen_bytes)
            )
        });
        let lines = [
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
            format!("plan: about {} of {whose}{memory}{recomputed}", shown(self.memory_bytes)),
            match self.evaluations {
                0 => format!("plan: about {} of training", time(self.train_seconds)),
                n => format!(
                    "plan: about {} of training, and {} of evaluating {n} times",
                    time(self.train_seconds),
                    time(self.evaluation_seconds)
                ),
            },
        ];
        lines.into_iter().chain(frozen).collect()
    }

    /// What the training will take as the first steps went, in words: said once, after `step` steps in `seconds`, where it is another time
    /// than was planned.
    pub fn revised(&self, step: usize, seconds: f64) -> Option<String> {
        if self.steps < REVISED_FROM || step != self.steps.div_ceil(REVISED_FROM).max(REVISED_AFTER) {
            return None;
        }
        let expected = seconds / step as f64 * self.steps as f64;
        let is_off = (expected / self.train_seconds - 1.0).abs() > REVISED_BY;
        is_off.then(|| format!("plan: rather {} of training, as the first {step} steps went", time(expected)))
    }

    /// How it came out, in words: after these seconds, with this peak of memory where the system says it.
    pub fn outcome(&self, seconds: &Seconds, peak_bytes: Option<u64>) -> String {
        let off = |actual: f64, planned: f64| format!("{:+.0} %", 100.0 * (actual / planned - 1.0));
        let memory = peak_bytes.filter(|_| !self.has_own_memory).map_or(String::new(), |bytes| {
            format!(", memory {} ({})", shown(bytes), off(bytes as f64, self.memory_bytes as f64))
        });
        let took =
            |what: &str, seconds: f64, planned: f64| format!("{what} {} ({})", time(seconds), off(seconds, planned));
        let training = took("training", seconds.train, self.train_seconds);
        let evaluation = match self.evaluations {
            0 => String::new(),
            _ => took(", evaluation", seconds.evaluation, self.evaluation_seconds),
        };
        format!("against the plan: {training}{evaluation}{memory}")
    }
}

fn cadence(strategy: Strategy, steps: Steps, plan: &Plan) -> Cadence {
    Cadence::new(strategy, steps.of(plan.total_steps), plan.batches.steps_per_epoch())
}

/// Evaluations before the first step, when they are due, and after the last one.
fn n_while_training(settings: &TrainSettings, plan: &Plan) -> usize {
    cadence(settings.eval_strategy(), settings.eval_steps(), plan).times(plan.total_steps - 1) + 2
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
    fn a_time_that_does_not_hold_is_corrected_once() {
        let of = |steps| Forecast { steps, train_seconds: steps as f64, ..Forecast::default() };
        let said = |steps, pace: f64| -> Vec<usize> {
            (1..=steps).filter(|&step| of(steps).revised(step, pace * step as f64).is_some()).collect()
        };
        assert_eq!((said(200, 1.3), said(200, 0.8), said(30, 1.3)), (vec![10], vec![10], vec![5]));
        assert_eq!((said(200, 1.1), said(19, 2.0)), (vec![], vec![]));
        assert!(of(200).revised(10, 20.0).unwrap().contains("6.7 min of training, as the first 10 steps went"));
    }

    #[test]
    fn times_are_shown_in_units_that_people_think_in() {
        for (seconds, text) in [(3.21, "3.2 s"), (200.0, "3.3 min"), (7200.0, "2.0 h")] {
            assert_eq!(time(seconds), text);
        }
    }
}
