//! The training loop, one optimizer step at a time.
//!
//! A step is a pure function of the weights, the optimizer's moments and the number of the step: which rows it takes, what it
//! drops out and its learning rate follow from (settings, step).

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use embertune_kernels::Ops;
use serde::{Deserialize, Serialize};

use crate::comm::{Alone, Communicator, gather};
use crate::error::{Error, Result};
use crate::loss::{BatchStats, Negatives};
use crate::model::{Completed, DropoutRates, EmbeddingModel, Gradients};
use crate::optim::clip::{clip_coefficient, global_norm};
use crate::optim::{Optimizer, Schedule};
use crate::text::Batch;
use crate::train::chunks::cut;
use crate::train::dataset::TrainingSet;
use crate::train::forecast::Forecast;
use crate::train::frozen::FrozenLayers;
use crate::train::guards::mean_cosine;
use crate::train::objective::Objective;
use crate::train::ranks::{BUCKET, Bucket, buckets, check_in_step, take_from_first};
use crate::train::sampler::{BatchSampler, Batches, LastBatch, epoch_order, n_duplicates, rows_per_epoch};
use crate::train::settings::TrainSettings;
use crate::train::shard::{Shard, norm_of_shares, optimizer_of};
use crate::train::step::{MicroBatch, Pass, forward_backward_as_rank};
use crate::train::sums::{Sums, Way};
use crate::train::temperature::LearnedTemperature;

/// Share of the rows of an epoch from which on it is said that they share texts.
const NOTED_DUPLICATES: f64 = 0.05;

/// Texts that are embedded to see whether the model tells them apart.
const LOOKED_AT: usize = 16;

/// How long a run will be.
///
/// Several data sets give whole batches each, as [`rows_per_epoch`] says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Rows of an epoch's order.
    pub n_rows: usize,
    /// How an epoch is cut.
    pub batches: Batches,
    /// Optimizer steps of the run.
    pub total_steps: usize,
    /// Steps over which the learning rate rises.
    pub warmup_steps: usize,
}

impl Plan {
    /// The plan of a run on `set`.
    ///
    /// A last batch of one row gets no negatives from its batch. Where rows may have none of their own, it is left out, as with
    /// `dataloader_drop_last`: its loss would be 0, and its step would only move the momentum.
    ///
    /// # Errors
    /// Where an epoch has no batch.
    pub fn new(set: &TrainingSet, settings: &TrainSettings) -> Result<Self> {
        let n_rows = match settings.mixes_data_sets() {
            true => set.files.iter().enumerate().map(|(i, file)| rows_per_epoch(settings, i, file.rows.len())).sum(),
            false => set.rows.len(),
        };
        let batch_size = settings.per_device_train_batch_size;
        let alone = n_rows % batch_size == 1 && batch_size > 1;
        let without_negatives =
            || settings.group_size_of(0) == 1 || set.rows.iter().any(|row| row.negatives.is_empty());
        let last = if alone && without_negatives() { LastBatch::Drop } else { settings.last_batch() };
        let batches = Batches::new(n_rows, batch_size, settings.gradient_accumulation_steps, last);
        if batches.n_rows == 0 {
            return Err(Error::Setting {
                problem: format!(
                    "the data has {n_rows} rows, which is no whole batch of {batch_size} (`--per_device_train_batch_size`)"
                ),
                hint: Some("choose a smaller batch, or `--dataloader_drop_last False` for 2 rows and more".into()),
            });
        }
        // As in transformers: a part of an epoch is a part of its steps, rounded up.
        let by_epochs = || (settings.num_train_epochs * batches.steps_per_epoch() as f64).ceil() as usize;
        let total_steps = settings.max_steps.unwrap_or_else(by_epochs);
        Ok(Plan { n_rows, batches, total_steps, warmup_steps: settings.warmup(total_steps) })
    }

    /// Rows that every epoch leaves out.
    pub fn n_rows_left_out(&self) -> usize {
        self.n_rows - self.batches.n_rows
    }
}

/// What an optimizer step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// From 1.
    pub step: usize,
    /// Epochs done after this step, as a fraction.
    pub epoch: f64,
    /// Mean of the losses of the step's batches.
    pub loss: f64,
    /// Of each data set, in the order of the files.
    pub set_losses: Vec<SetLoss>,
    /// The learning rate that the step used.
    pub learning_rate: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The temperature that the step used, in its last batch.
    pub temperature: f64,
    /// Similarities and accuracy.
    pub stats: BatchStats,
    /// Tokens that went through the model.
    pub n_tokens: usize,
}

/// The losses of the batches of one data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetLoss {
    /// Their sum.
    pub sum: f64,
    /// How many they are.
    pub n_batches: usize,
}

impl SetLoss {
    /// Adds to `sums` what the same data sets have in `others`.
    pub fn add_all(sums: &mut Vec<SetLoss>, others: &[SetLoss]) {
        sums.resize(others.len(), SetLoss::default());
        for (sum, other) in sums.iter_mut().zip(others) {
            sum.sum += other.sum;
            sum.n_batches += other.n_batches;
        }
    }
}

/// What a rank did of a step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Done {
    loss: f64,
    set_losses: Vec<SetLoss>,
    stats: BatchStats,
    n_tokens: usize,
}

/// A run in progress.
pub struct Trainer<'a, O: Ops> {
    model: &'a mut EmbeddingModel<O>,
    set: Cow<'a, TrainingSet>,
    /// Texts of the set before a row got other negatives.
    n_texts: usize,
    settings: &'a TrainSettings,
    ranks: &'a dyn Communicator,
    plan: Plan,
    schedule: Schedule,
    optimizer: Optimizer<O>,
    /// Which gradients are sent together.
    buckets: Arc<[Bucket]>,
    /// What of the weights the optimizer's state is for, where ranks share it.
    shard: Option<Arc<Shard>>,
    gradients: Gradients<O>,
    /// The settings of each data set, and what its batches are judged by.
    sets: Vec<(TrainSettings, Objective)>,
    /// Where the temperature is learnt.
    temperature: Option<LearnedTemperature>,
    steps_done: usize,
    /// The order of the epoch that it belongs to.
    order: (usize, Vec<usize>),
    /// Where the outputs of frozen layers are kept.
    frozen: Option<FrozenLayers>,
    /// What [`Pass::kept_tokens`] is in every step.
    kept_tokens: usize,
    buffer_limit: usize,
}

/// Which gradients are sent together, this rank's share of the weights, where it has one, and the optimizer before the first step.
fn divided<O: Ops>(
    model: &EmbeddingModel<O>,
    settings: &TrainSettings,
    ranks: &dyn Communicator,
    at_least: usize,
) -> (Arc<[Bucket]>, Option<Arc<Shard>>, Optimizer<O>) {
    let buckets = buckets(model.parameters(), at_least);
    let shard = Shard::new(settings, model.parameters(), &buckets, (ranks.rank(), ranks.size()));
    let optimizer = optimizer_of(model.ops(), model.parameters(), settings, shard.as_ref());
    (buckets.into(), shard.map(Arc::new), optimizer)
}

impl<'a, O: Ops> Trainer<'a, O> {
    /// A run that has not begun, of a model that [`AdaptationSettings::apply`](super::AdaptationSettings::apply) has set up.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(model: &'a mut EmbeddingModel<O>, set: &'a TrainingSet, settings: &'a TrainSettings) -> Result<Self> {
        Self::as_rank(model, Cow::Borrowed(set), settings, &Alone)
    }

    /// As [`new`](Self::new), as one of several ranks that do the steps together, each on its part. The settings are the joined ones. A set of its
    /// own is changed by [`replace_negatives`](Self::replace_negatives) without a copy.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn as_rank(
        model: &'a mut EmbeddingModel<O>,
        set: Cow<'a, TrainingSet>,
        settings: &'a TrainSettings,
        ranks: &'a dyn Communicator,
    ) -> Result<Self> {
        settings.validate()?;
        let plan = Plan::new(&set, settings)?;
        let Plan { total_steps, warmup_steps, .. } = plan;
        let TrainSettings { lr_scheduler_type, lr_scheduler_kwargs, learning_rate, .. } = settings;
        let schedule =
            Schedule::new(*lr_scheduler_type, lr_scheduler_kwargs, *learning_rate, warmup_steps, total_steps)?;
        let (buckets, shard, optimizer) = divided(model, settings, ranks, BUCKET);
        let gradients = model.parameters().zero_gradients(model.ops());
        settings.loss.validate_width(model.dim())?;
        let sets = (0..set.files.len()).map(|i| settings.of_set(i));
        let sets = sets.map(|own| (own.clone(), own.objective())).collect();
        let learns = settings.loss.temperature_learning_rate.is_some();
        let temperature = learns.then(|| LearnedTemperature::new(settings.effective_temperature()));
        let order = (0, epoch_order(&set, settings, 0));
        Ok(Trainer {
            model,
            n_texts: set.texts.len(),
            set,
            settings,
            ranks,
            plan,
            schedule,
            optimizer,
            buckets,
            shard,
            gradients,
            sets,
            temperature,
            steps_done: 0,
            order,
            frozen: None,
            kept_tokens: usize::MAX,
            buffer_limit: usize::MAX,
        })
    }

    /// With as much memory for activations as was planned for this model and these settings. No result depends on it.
    pub fn within(mut self, forecast: &Forecast) -> Self {
        self.kept_tokens = forecast.kept_tokens.unwrap_or(usize::MAX);
        self.buffer_limit = forecast.buffer_limit;
        self.model.ops().limit_buffers(self.buffer_limit);
        self
    }

    /// With gradients that are sent when there are so many values of them, not [`BUCKET`]. No sum depends on it. To be called before the
    /// first step.
    pub fn sending_at_least(mut self, n_values: usize) -> Self {
        (self.buckets, self.shard, self.optimizer) = divided(self.model, self.settings, self.ranks, n_values);
        self
    }

    /// Computes the frozen layers for all texts, where the settings say so: each step takes their outputs from there.
    ///
    /// # Errors
    /// Where the temporary file of the tokens can't be read.
    pub fn cache_frozen_layers(&mut self) -> Result<()> {
        let n_layers = self.settings.adaptation.n_cached();
        self.frozen = (n_layers > 0).then(|| FrozenLayers::new(self.model, n_layers, &self.set)).transpose()?;
        Ok(())
    }

    /// Gives the memory of activations back to the system, until the next step takes it again.
    pub fn free_memory(&self) {
        self.model.ops().limit_buffers(0);
        self.model.ops().limit_buffers(self.buffer_limit);
    }

    /// The temperature with its optimizer's state, where it is learnt.
    pub fn learned_temperature(&self) -> Option<LearnedTemperature> {
        self.temperature
    }

    /// The temperature of the next step.
    pub fn temperature(&self) -> f64 {
        self.temperature.map_or(self.settings.effective_temperature(), |learnt| learnt.value)
    }

    /// How long the run is.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What is trained on.
    pub fn set(&self) -> &TrainingSet {
        &self.set
    }

    /// Gives each row other negatives, from the next step on.
    ///
    /// # Errors
    /// A text that cannot be tokenized.
    ///
    /// # Panics
    /// Where outputs of frozen layers are kept: a run is refused that would do both.
    pub fn replace_negatives(&mut self, negatives: &[Vec<String>]) -> Result<()> {
        assert!(self.frozen.is_none(), "new texts in a run that keeps the outputs of frozen layers");
        self.set.to_mut().replace_negatives(self.model, negatives, self.n_texts, self.settings)
    }

    /// The model as it is now.
    pub fn model(&self) -> &EmbeddingModel<O> {
        self.model
    }

    /// Steps done so far.
    pub fn steps_done(&self) -> usize {
        self.steps_done
    }

    /// What should be said about texts that come twice in a batch of the present epoch, where they would be its negatives.
    pub fn shared_texts(&self) -> Option<String> {
        if self.plan.batches.batch_size == 1 {
            return None;
        }
        let compares = |row: &&usize| self.sets[self.set.file_of(**row)].0.negatives() == Negatives::InBatch;
        let order: Vec<_> = self.order.1[..self.plan.batches.n_rows].iter().filter(compares).copied().collect();
        let n = n_duplicates(&self.set, self.settings, self.order.0, &order);
        let shared = format!("{n} of {} rows of an epoch share a text with another row of their batch", order.len());
        match self.settings.batch_sampler {
            BatchSampler::NoDuplicates if n > 0 => {
                Some(format!("{shared}: the data has no batch for them that does without"))
            }
            BatchSampler::BatchSampler if n as f64 > NOTED_DUPLICATES * order.len() as f64 => {
                Some(format!("{shared}, which are negatives less: `--batch_sampler no_duplicates` keeps them apart"))
            }
            _ => None,
        }
    }

    /// The learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.schedule.learning_rate(self.steps_done)
    }

    /// A number for each tensor that another one would hardly have.
    pub fn weight_norms(&self) -> Vec<f64> {
        let values: Vec<_> = self.model.parameters().list.iter().map(|param| &param.value).collect();
        self.model.ops().squared_norms(&values)
    }

    /// The [mean cosine](mean_cosine) of some texts of the set, without dropout.
    ///
    /// # Errors
    /// Where their tokens can't be read.
    pub fn mean_cosine(&self) -> Result<f64> {
        let texts = &self.set.texts;
        let n = texts.len().min(LOOKED_AT);
        let mut batch = Batch::default();
        for i in 0..n {
            let tokens = texts.tokens((i * texts.len() / n) as u32)?;
            batch.push(&tokens.ids, tokens.prompt_len, 0);
        }
        let lengths: Vec<_> = (0..n).map(|text| batch.ragged().range(text).len()).collect();
        let vectors = cut(&lengths).into_iter().flat_map(|chunk| self.model.encode(&batch.part(chunk.texts)));
        Ok(mean_cosine(&vectors.collect::<Vec<_>>(), self.model.dim()))
    }

    /// Whether every step of the run has a learning rate of 0.
    pub fn learns_nothing(&self) -> bool {
        (0..self.plan.total_steps).all(|step| self.schedule.learning_rate(step) == 0.0)
    }

    /// Writes the optimizer's moments, on the rank that has a path. All ranks call it, since each may have a share of them.
    ///
    /// # Errors
    /// What the file system says; those of [`Communicator::exchange`].
    pub fn save_moments(&self, path: Option<&Path>) -> Result<()> {
        let (ops, parameters) = (self.model.ops(), self.model.parameters());
        match (&self.shard, path) {
            (Some(shard), path) => shard.save_moments(ops, parameters, &self.optimizer, path, self.ranks),
            (None, Some(path)) => self.optimizer.save(ops, parameters, path),
            (None, None) => Ok(()),
        }
    }

    /// Goes on after step `steps_done`, with the weights of the model folder `folder`, the moments in the file `moments`, and a learnt
    /// temperature. Moments of which ranks have a share each are left to [`go_on_with_first`](Self::go_on_with_first).
    ///
    /// # Errors
    /// A folder or file that is damaged, or of another model.
    pub fn restore(
        &mut self,
        folder: &Path,
        moments: &Path,
        steps_done: usize,
        temperature: Option<LearnedTemperature>,
    ) -> Result<()> {
        self.model.restore(folder)?;
        let ops = self.model.shared_ops();
        if self.shard.is_none() {
            self.optimizer.restore(&ops, self.model.parameters(), moments, steps_done as u64)?;
        }
        self.steps_done = steps_done;
        self.temperature = temperature;
        // The next step is judged at the temperature of the checkpoint, not at that of the beginning.
        self.use_learnt_temperature();
        Ok(())
    }

    /// Brings all ranks to where rank 0 is, which goes on after `steps_done` steps: weights, moments and a learnt temperature. Rank 0 has
    /// the file of the `moments`.
    ///
    /// # Errors
    /// Those of [`Communicator::exchange`], and of [`Shard::restore_moments`].
    pub fn go_on_with_first(
        &mut self,
        steps_done: usize,
        temperature: Option<LearnedTemperature>,
        moments: Option<&Path>,
    ) -> Result<()> {
        let ops = self.model.shared_ops();
        let parameters = self.model.parameters_mut();
        take_from_first(&*ops, parameters.list.iter_mut().map(|param| &mut param.value), self.ranks)?;
        parameters.repack(&ops);
        let optimizer = &mut self.optimizer;
        match &self.shard {
            Some(shard) => {
                shard.restore_moments(&*ops, parameters, optimizer, (moments, steps_done as u64), self.ranks)?;
            }
            None => take_from_first(&*ops, optimizer.moments_after(steps_done as u64), self.ranks)?,
        }
        self.steps_done = steps_done;
        self.temperature = temperature;
        self.use_learnt_temperature();
        Ok(())
    }

    /// Checks that all ranks have the same weights.
    ///
    /// # Errors
    /// Those of [`check_in_step`].
    pub fn check_in_step(&self) -> Result<()> {
        if self.ranks.size() == 1 { Ok(()) } else { check_in_step(&self.weight_norms(), self.ranks) }
    }

    fn use_learnt_temperature(&mut self) {
        let Some(learnt) = self.temperature else { return };
        for (settings, objective) in &mut self.sets {
            objective.loss = settings.loss.loss(settings.use_inbatch_neg, learnt.value);
        }
    }

    /// The next step; `None` after the last one.
    ///
    /// # Errors
    /// A loss or gradient that is not finite. The weights are those of the step before.
    pub fn step(&mut self) -> Option<Result<StepReport>> {
        (self.steps_done < self.plan.total_steps).then(|| self.next_step())
    }

    fn next_step(&mut self) -> Result<StepReport> {
        let batches = self.plan.batches;
        let (epoch, step_of_epoch) =
            (self.steps_done / batches.steps_per_epoch(), self.steps_done % batches.steps_per_epoch());
        if self.order.0 != epoch {
            self.order = (epoch, epoch_order(&self.set, self.settings, epoch));
        }
        let micro_batches: Vec<_> = batches.of_step(step_of_epoch).collect();
        let batches_done = step_of_epoch * batches.accumulation + micro_batches.len();
        let dropout = self.settings.dropout_rates(self.model.dropout());
        let last = &self.sets[self.set.file_of(self.order.1[micro_batches[micro_batches.len() - 1].start])].0;
        let temperature = self.temperature.map_or(last.effective_temperature(), |learnt| learnt.value);
        self.gradients.set_zero(self.model.ops());
        let mut report = StepReport {
            step: self.steps_done + 1,
            epoch: epoch as f64 + batches_done as f64 / batches.per_epoch() as f64,
            loss: 0.0,
            set_losses: Vec::new(),
            learning_rate: self.schedule.learning_rate(self.steps_done),
            grad_norm: 0.0,
            temperature,
            stats: BatchStats::default(),
            n_tokens: 0,
        };
        let (done, own_gradients) = self.own_part(&micro_batches, epoch, dropout)?;
        for (rank, done) in gather(self.ranks, done)?.iter().enumerate() {
            // Of a batch that they share all ranks have come to the same.
            if rank == 0 || !self.settings.negatives_cross_device {
                report.loss += done.loss;
                SetLoss::add_all(&mut report.set_losses, &done.set_losses);
                report.stats.add(&done.stats);
                report.n_tokens += done.n_tokens;
            }
        }
        let ops = self.model.shared_ops();
        report.grad_norm = match &own_gradients {
            None => global_norm(&*ops, &self.gradients),
            Some(own) => norm_of_shares(&*ops, own, self.ranks)?,
        };
        if !report.grad_norm.is_finite() {
            if own_gradients.is_some() {
                // The tensor that is named is one of the sums.
                let whole = Way { buckets: &self.buckets, shard: None, wire: self.settings.reduce_dtype };
                thread::scope(|scope| Sums::begin(scope, &*ops, whole, self.ranks).finish(&mut self.gradients))?;
            }
            let rows =
                micro_batches.iter().flat_map(|places| &self.order.1[places.clone()]).copied().collect::<Vec<_>>();
            gather(self.ranks, Err::<(), _>(self.not_finite(&self.first_bad_tensor(), &rows)))?;
        }
        let scale = clip_coefficient(report.grad_norm, self.settings.max_grad_norm);
        let parameters = self.model.parameters_mut();
        match (&self.shard, &own_gradients) {
            (Some(shard), Some(gradients)) => {
                let mut own = shard.cut(&*ops, parameters);
                self.optimizer.step(&ops, &mut own, gradients, report.learning_rate, scale);
                shard.join(&*ops, &own, parameters, self.ranks)?;
            }
            _ => self.optimizer.step(&ops, parameters, &self.gradients, report.learning_rate, scale),
        }
        if let (Some(learnt), Some(peak)) = (&mut self.temperature, self.settings.loss.temperature_learning_rate) {
            let rate = peak * report.learning_rate / self.settings.learning_rate;
            learnt.step(report.stats.d_log_temperature / micro_batches.len() as f64, rate, self.settings.adamw());
            self.use_learnt_temperature();
        }
        self.steps_done += 1;
        Ok(report)
    }

    /// Sends this rank's part of a step through the model and back, and makes the gradients those of all ranks together; or gives this rank's
    /// share of these, where each steps its own.
    ///
    /// # Errors
    /// Those of the ranks. What is wrong with the step itself all of them have to know first.
    fn own_part(
        &mut self,
        micro_batches: &[Range<usize>],
        epoch: usize,
        dropout: DropoutRates,
    ) -> Result<(Result<Done>, Option<Gradients<O>>)> {
        let (ops, ranks) = (self.model.shared_ops(), self.ranks);
        if ranks.size() == 1 {
            return Ok((self.forward_backward(micro_batches, epoch, dropout, &mut |_, _| {})?, None));
        }
        let (buckets, shard) = (Arc::clone(&self.buckets), self.shard.clone());
        let way = Way { buckets: &buckets, shard: shard.as_deref(), wire: self.settings.reduce_dtype };
        thread::scope(|scope| {
            let mut sums = Sums::begin(scope, &*ops, way, ranks);
            let mut completed = |depth, gradients: &mut Gradients<O>| sums.completed(depth, gradients);
            let done = self.forward_backward(micro_batches, epoch, dropout, &mut completed)?;
            Ok((done, sums.finish(&mut self.gradients)?))
        })
    }

    /// Sends this rank's part of a step through the model and back. Batches that ranks do not share they take in turns. `completed` is called
    /// in the last backward that this rank has in the step, where it has one.
    fn forward_backward(
        &mut self,
        micro_batches: &[Range<usize>],
        epoch: usize,
        dropout: DropoutRates,
        completed: &mut Completed<'_, O>,
    ) -> Result<Result<Done>> {
        let shares = self.settings.negatives_cross_device;
        let among: &dyn Communicator = if shares { self.ranks } else { &Alone };
        let mut done = Done { set_losses: vec![SetLoss::default(); self.sets.len()], ..Done::default() };
        let mut failed = None;
        let (first, every) = if shares { (0, 1) } else { (self.ranks.rank(), self.ranks.size()) };
        let mut own = micro_batches.iter().skip(first).step_by(every).peekable();
        while let Some(places) = own.next() {
            let rows = &self.order.1[places.clone()];
            let file = self.set.file_of(rows[0]);
            let (settings, objective) = &self.sets[file];
            let weight = 1.0 / micro_batches.len() as f32;
            let pass = Pass { objective, dropout, frozen: self.frozen.as_ref(), weight, kept_tokens: self.kept_tokens };
            let micro = MicroBatch::new(&self.set, rows, settings.take(dropout, epoch))?;
            let mut more_to_come = |_, _: &mut Gradients<O>| {};
            let completed: &mut Completed<'_, O> = if own.peek().is_some() { &mut more_to_come } else { completed };
            let (loss, stats) =
                forward_backward_as_rank(self.model, &micro, pass, among, &mut self.gradients, completed)?;
            // It goes on all the same: the others wait for its part of the next batch.
            if !loss.is_finite() && failed.is_none() {
                failed = Some(self.not_finite(&format!("the loss is {loss}, and {}", self.first_bad_tensor()), rows));
            }
            done.loss += loss / micro_batches.len() as f64;
            done.set_losses[file].sum += loss;
            done.set_losses[file].n_batches += 1;
            done.stats.add(&stats);
            done.n_tokens += micro.batch.n_tokens();
        }
        Ok(failed.map_or(Ok(done), Err))
    }

    /// The weights where it began, or else their gradient.
    fn first_bad_tensor(&self) -> String {
        let ops = self.model.ops();
        let is_bad = |values: &O::Buf| !ops.squared_norm(values).is_finite();
        let parameters = &self.model.parameters().list;
        if let Some(bad) = parameters.iter().find(|param| is_bad(&param.value)) {
            return format!("the weights of `{}` are not finite", bad.parts[0].name);
        }
        let bad = parameters.iter().zip(&self.gradients.list).find(|(_, gradient)| is_bad(gradient));
        bad.map_or("all weights and gradients are finite".into(), |(param, _)| {
            format!("the gradient of `{}` is not finite", param.parts[0].name)
        })
    }

    fn not_finite(&self, what: &str, rows: &[usize]) -> Error {
        let lines: Vec<_> = rows.iter().take(8).map(|&row| self.set.place(row)).collect();
        let more = rows.len() - lines.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Error::Training {
            step: self.steps_done + 1,
            problem: format!("{what}, in the batch of {}{more}", lines.join(", ")),
            hint: Some(
                "choose a smaller `--learning_rate` or a larger `--temperature`; checkpoints from before this step are good"
                    .into(),
            ),
        }
    }
}
