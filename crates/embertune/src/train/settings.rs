//! All settings of a training run, by the names of the original's flags.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::comm::Wire;
use crate::data::Columns;
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::loss::Negatives;
use crate::mine::Preset;
use crate::model::{DropoutRates, Overrides, pooling_named};
use crate::optim::{AdamWSettings, OptimizerName, SchedulerKwargs, SchedulerType};
use crate::train::adaptation::AdaptationSettings;
use crate::train::cadence::{Steps, Strategy};
use crate::train::loss_settings::{LossName, LossSettings};
use crate::train::measure::{self, Measure};
use crate::train::memory::MemoryBudget;
use crate::train::merge::MergeAlpha;
use crate::train::mixture::{self, OwnSettings};
use crate::train::objective::Objective;
use crate::train::output::Resume;
use crate::train::rounds::{self, RemineEvery};
use crate::train::sampler::{BatchSampler, LastBatch, SamplingStrategy};
use crate::train::step::{Repeats, Take};
use crate::train::tensorboard::ReportTo;

/// What to train, on what, and how. Defaults are those of Hugging Face's TrainingArguments and of the original's finetune.py.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// Folder or Hugging Face name of the base model. Required.
    pub model_name_or_path: String,
    /// JSON lines `{"query", "pos", "neg"}`. Required.
    pub train_data: PathBuf,
    /// More such files, each a data set of its own: a batch is of one of them.
    pub more_train_data: Vec<PathBuf>,
    /// How often an epoch takes the rows of each data set, `train_data` first: 1 is once, 0.5 is half of them. Default 1 each.
    pub dataset_weights: Vec<f64>,
    /// What each data set has otherwise than the run; empty where all are as the run says.
    pub dataset: Vec<OwnSettings>,
    /// Columns of all data files that have other names than ours.
    pub columns: Columns,
    /// The folder of the trained model. Required; must not exist, or see `overwrite_output_dir`.
    pub output_dir: PathBuf,
    /// Replace a model folder at `output_dir`, when the new one is complete. Default false.
    pub overwrite_output_dir: bool,

    /// Text in front of every query; `None` takes the model's own.
    pub query_instruction_for_retrieval: Option<String>,
    /// Text in front of every passage; `None` takes the model's own.
    pub passage_instruction_for_retrieval: Option<String>,
    /// Pooling by its name in a model folder (`cls`, `mean`, ...); `None` takes the model's own. The original's default is `cls`
    /// for every model, whatever it was made with.
    pub pooling: Option<String>,
    /// Scale embeddings to length 1. Default true. Where false, the temperature is 1, as in the original.
    pub normalized: bool,
    /// Longest query in tokens, special tokens and prompt included. Default 32.
    pub query_max_len: usize,
    /// Longest passage in tokens. Default 128.
    pub passage_max_len: usize,
    /// Longest text in tokens that the model reads, and later says of itself; `None` takes the model's own.
    pub max_seq_length: Option<usize>,
    /// Dropout everywhere in the model, in `0..1`; `None` takes the base model's `config.json`.
    pub dropout: Option<f32>,

    /// What of the model is trained.
    pub adaptation: AdaptationSettings,

    /// Which loss, and what it takes beside the three settings below.
    pub loss: LossSettings,
    /// What similarities are divided by, `1 / scale`. Default 0.02 (sentence-transformers: 0.05).
    pub temperature: f64,
    /// Passages of a query in a batch: one positive, the rest negatives. Default 8.
    pub train_group_size: usize,
    /// Use the passages of the other queries in a batch as negatives. Default true.
    pub use_inbatch_neg: bool,
    /// Of several ranks: a batch is that of all ranks, so that every query meets the passages of all of them. Where false, each rank has
    /// batches of its own, of which a step averages the losses. One process: no effect. Default false.
    pub negatives_cross_device: bool,
    /// Of several ranks: how their gradients are sent to be summed. Default f32; bf16 is half as long. One process: no effect.
    pub reduce_dtype: Wire,
    /// Of several ranks: each keeps the optimizer's state of its share of the weights alone, and steps them for all. Default false.
    #[doc(alias = "ZeRO-1")]
    pub shard_optimizer: bool,

    /// Peak learning rate. Default 5e-5.
    pub learning_rate: f64,
    /// Passes over the data; may be fractional. Default 3.
    pub num_train_epochs: f64,
    /// Number of optimizer steps, instead of `num_train_epochs`.
    pub max_steps: Option<usize>,
    /// Rows of a batch. Default 8.
    pub per_device_train_batch_size: usize,
    /// Batches of an optimizer step. Their losses are averaged; negatives stay within a batch. Default 1.
    pub gradient_accumulation_steps: usize,
    /// Share of the steps over which the learning rate rises from 0, rounded up. Default 0.
    pub warmup_ratio: f64,
    /// Number of such steps, instead of the share; below 1 it is a share, as in transformers 5. Default 0.
    pub warmup_steps: f64,
    /// Shape of the learning rate over the steps. Default linear.
    pub lr_scheduler_type: SchedulerType,
    /// Its parameters. Default: those of transformers.
    pub lr_scheduler_kwargs: SchedulerKwargs,
    /// Which optimizer. Default AdamW.
    pub optim: OptimizerName,
    /// Decay of matrices and embedding tables. Default 0 (torch: 0.01).
    pub weight_decay: f64,
    /// Default 0.9.
    pub adam_beta1: f64,
    /// Default 0.999.
    pub adam_beta2: f64,
    /// Default 1e-8.
    pub adam_epsilon: f64,
    /// Bound of the global gradient norm; 0 for none. Default 1.
    pub max_grad_norm: f64,
    /// Order of the rows. Default random.
    pub train_sampling_strategy: SamplingStrategy,
    /// Whether the rows of a batch may share texts. Default `batch_sampler`, they may, as in sentence-transformers: known positives are
    /// masked, so a text that comes twice is a negative less and no false one.
    pub batch_sampler: BatchSampler,
    /// Leave out the last batch of an epoch where it is smaller. Default false.
    pub dataloader_drop_last: bool,
    /// Seed of everything random. Default 42.
    pub seed: u64,

    /// When to mine the negatives of all rows again, with the model as it is then. Default: never.
    pub remine_every: Option<RemineEvery>,
    /// By which rules. Default `nv-retriever`.
    pub remine_preset: Preset,
    /// How many for each row. Default: the preset's.
    pub remine_negatives: Option<usize>,

    /// Rows to evaluate on while it trains: JSON lines `{"query", "pos"}`.
    pub eval_data: Option<PathBuf>,
    /// Share of the training queries that are held out with all their rows and evaluated on, instead of `eval_data`.
    pub eval_split: Option<f64>,
    /// The passages that are searched, by the evaluation and by rounds of mining; `None` takes the positives and negatives of the file
    /// that the held-out rows are from, and those of the rows that are trained on.
    pub candidate_pool: Option<PathBuf>,
    /// When to evaluate; also before the first step and after the last. Default: each epoch, or `steps` where `eval_steps` is
    /// given, if there is something to evaluate on (transformers: no).
    pub eval_strategy: Option<Strategy>,
    /// Steps between two evaluations. Default: `logging_steps`, as in transformers.
    pub eval_steps: Option<Steps>,
    /// Write the best model to `output_dir` and the last one to `last` in it. Default false.
    pub load_best_model_at_end: bool,
    /// What the best model is best in. Default nDCG@10 (transformers: the loss).
    pub metric_for_best_model: Option<Measure>,
    /// Accepted where it agrees with the metric, which knows it.
    pub greater_is_better: Option<bool>,
    /// Stop after so many evaluations in a row that are not better than the best. Default: never.
    pub early_stopping_patience: Option<usize>,
    /// By how much an evaluation has to be better to count for that. Default 0.
    pub early_stopping_threshold: f64,
    /// Save `base + alpha (tuned - base)`. Default: the tuned model.
    pub merge_alpha: Option<MergeAlpha>,
    /// Folder that keeps the vectors that evaluations make, and gives those that are there. Default: none are kept.
    pub vector_cache: Option<PathBuf>,
    /// The most that it may take, in GB. Default 10.
    pub vector_cache_gb: Option<f64>,

    /// When to log. The last step is always logged. Default every `logging_steps`.
    pub logging_strategy: Strategy,
    /// Steps between two lines of the log. 0 for the last step alone. Default 500.
    pub logging_steps: Steps,
    /// Log the first step as well. Default false.
    pub logging_first_step: bool,
    /// Who is told what the log is told. Default nobody.
    pub report_to: ReportTo,
    /// Folder of TensorBoard's runs, in which this one has the name of `output_dir`. Default: `runs` in the run's own folder.
    pub logging_dir: Option<PathBuf>,
    /// When to write a checkpoint. Default every `save_steps`.
    pub save_strategy: Strategy,
    /// Steps between two `checkpoint-<step>` folders. 0 for none. Default 500. After the last step there is none: `output_dir` is
    /// that model.
    pub save_steps: Steps,
    /// Number of checkpoints to keep; the oldest go first. Default: all.
    pub save_total_limit: Option<usize>,
    /// Go on from a checkpoint of an interrupted run. Default: begin anew.
    pub resume_from_checkpoint: Option<Resume>,

    /// The most that the process may take. Activations that do not fit are computed a second time. Default 60 % of what is
    /// available.
    pub memory_budget: MemoryBudget,
    /// Take the largest batch whose activations all fit the budget, a power of two, instead of `per_device_train_batch_size`.
    /// Default false.
    pub find_batch_size: bool,

    /// How linear layers multiply; the caller makes the device accordingly, and says here what it came to. Default auto.
    pub precision: Precision,
}

impl Default for TrainSettings {
    fn default() -> Self {
        TrainSettings {
            model_name_or_path: String::new(),
            train_data: PathBuf::new(),
            more_train_data: Vec::new(),
            dataset_weights: Vec::new(),
            dataset: Vec::new(),
            columns: Columns::default(),
            output_dir: PathBuf::new(),
            overwrite_output_dir: false,
            query_instruction_for_retrieval: None,
            passage_instruction_for_retrieval: None,
            pooling: None,
            normalized: true,
            query_max_len: 32,
            passage_max_len: 128,
            max_seq_length: None,
            dropout: None,
            adaptation: AdaptationSettings::default(),
            loss: LossSettings::default(),
            temperature: 0.02,
            train_group_size: 8,
            use_inbatch_neg: true,
            negatives_cross_device: false,
            reduce_dtype: Wire::Fp32,
            shard_optimizer: false,
            learning_rate: 5e-5,
            num_train_epochs: 3.0,
            max_steps: None,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            warmup_ratio: 0.0,
            warmup_steps: 0.0,
            lr_scheduler_type: SchedulerType::Linear,
            lr_scheduler_kwargs: SchedulerKwargs::default(),
            optim: OptimizerName::AdamW,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            train_sampling_strategy: SamplingStrategy::Random,
            batch_sampler: BatchSampler::BatchSampler,
            dataloader_drop_last: false,
            seed: 42,
            remine_every: None,
            remine_preset: Preset::NvRetriever,
            remine_negatives: None,
            eval_data: None,
            eval_split: None,
            candidate_pool: None,
            eval_strategy: None,
            eval_steps: None,
            load_best_model_at_end: false,
            metric_for_best_model: None,
            greater_is_better: None,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            merge_alpha: None,
            vector_cache: None,
            vector_cache_gb: None,
            logging_strategy: Strategy::Steps,
            logging_steps: Steps::Number(500),
            logging_first_step: false,
            report_to: ReportTo::None,
            logging_dir: None,
            save_strategy: Strategy::Steps,
            save_steps: Steps::Number(500),
            save_total_limit: None,
            memory_budget: MemoryBudget::default(),
            find_batch_size: false,
            resume_from_checkpoint: None,
            precision: Precision::Auto,
        }
    }
}

impl TrainSettings {
    /// Checks what can be checked without data and model.
    ///
    /// # Errors
    /// A value outside its range, or a batch in which no query can have a negative.
    pub fn validate(&self) -> Result<()> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let not_negative = |x: f64| x >= 0.0 && x.is_finite();
        let share = |x: f64| (0.0..1.0).contains(&x);
        let rules: [(&str, String, bool, &str); 17] = [
            ("query_max_len", self.query_max_len.to_string(), self.query_max_len > 0, "at least 1"),
            ("passage_max_len", self.passage_max_len.to_string(), self.passage_max_len > 0, "at least 1"),
            (
                "dropout",
                self.dropout.unwrap_or_default().to_string(),
                self.dropout.is_none_or(|p| share(p.into())),
                "in 0..1",
            ),
            ("temperature", self.temperature.to_string(), positive(self.temperature), "above 0"),
            ("train_group_size", self.train_group_size.to_string(), self.train_group_size > 0, "at least 1"),
            ("learning_rate", self.learning_rate.to_string(), positive(self.learning_rate), "above 0"),
            ("num_train_epochs", self.num_train_epochs.to_string(), positive(self.num_train_epochs), "above 0"),
            ("max_steps", self.max_steps.unwrap_or_default().to_string(), self.max_steps != Some(0), "at least 1"),
            (
                "per_device_train_batch_size",
                self.per_device_train_batch_size.to_string(),
                self.per_device_train_batch_size > 0,
                "at least 1",
            ),
            (
                "gradient_accumulation_steps",
                self.gradient_accumulation_steps.to_string(),
                self.gradient_accumulation_steps > 0,
                "at least 1",
            ),
            ("warmup_ratio", self.warmup_ratio.to_string(), (0.0..=1.0).contains(&self.warmup_ratio), "in 0..=1"),
            ("warmup_steps", self.warmup_steps.to_string(), not_negative(self.warmup_steps), "at least 0"),
            ("weight_decay", self.weight_decay.to_string(), not_negative(self.weight_decay), "at least 0"),
            ("adam_beta1", self.adam_beta1.to_string(), share(self.adam_beta1), "in 0..1"),
            ("adam_beta2", self.adam_beta2.to_string(), share(self.adam_beta2), "in 0..1"),
            ("adam_epsilon", self.adam_epsilon.to_string(), positive(self.adam_epsilon), "above 0"),
            ("max_grad_norm", self.max_grad_norm.to_string(), not_negative(self.max_grad_norm), "at least 0"),
        ];
        if let Some((flag, value, _, allowed)) = rules.iter().find(|(_, _, is_allowed, _)| !is_allowed) {
            return Err(Error::Setting {
                problem: format!("`--{flag} {value}` is not allowed: it has to be {allowed}"),
                hint: None,
            });
        }
        self.check_data_sets()?;
        if self.logging_dir.is_some() && self.report_to == ReportTo::None {
            return Err(Error::Setting {
                problem: "`--logging_dir` has no effect without `--report_to tensorboard`".into(),
                hint: Some("pass both, or neither; the log is `log.jsonl` in the output folder in any case".into()),
            });
        }
        if self.shard_optimizer && self.optim == OptimizerName::Adafactor {
            return Err(Error::Setting {
                problem: "`--shard_optimizer` with `--optim adafactor`: it keeps next to nothing that could be shared"
                    .into(),
                hint: Some("leave `--shard_optimizer` out, or take `--optim adamw_torch`".into()),
            });
        }
        self.lr_scheduler_kwargs.validate(self.lr_scheduler_type)?;
        self.adaptation.validate()?;
        self.loss.validate(self.use_inbatch_neg)?;
        self.check_temperature()?;
        measure::check_settings(self)?;
        rounds::check_settings(self)?;
        self.some_query_has_a_negative()?;
        mixture::check(self)
    }

    /// A temperature has to be one of some loss of the run.
    fn check_temperature(&self) -> Result<()> {
        let mut own = self.dataset.iter().map(|own| own.loss.unwrap_or(self.loss.name));
        let has_effect = match self.dataset.is_empty() {
            true => self.loss.name.has_temperature(),
            false => own.any(LossName::has_temperature),
        };
        if has_effect || self.temperature == TrainSettings::default().temperature {
            return Ok(());
        }
        Err(Error::Setting {
            problem: format!(
                "`--temperature {}` has no effect on `--loss {}`: it belongs to infonce, kl_div, m3_kd_loss, distill_kl, cosent",
                self.temperature, self.loss.name
            ),
            hint: Some("leave it out, or choose another loss".into()),
        })
    }

    fn check_data_sets(&self) -> Result<()> {
        let n_sets = 1 + self.more_train_data.len();
        let weights = &self.dataset_weights;
        let refuse = |problem: String, hint: &str| Err(Error::Setting { problem, hint: Some(hint.into()) });
        if !weights.is_empty() && weights.len() != n_sets {
            return refuse(
                format!("`--dataset_weights` has {} numbers, and `--train_data` {n_sets} files", weights.len()),
                "give one weight for each file, in their order",
            );
        }
        if let Some(weight) = weights.iter().find(|weight| !(**weight > 0.0 && weight.is_finite())) {
            return refuse(
                format!("`--dataset_weights {weight}` is not allowed: it has to be above 0"),
                "leave a data set out that is not to be trained on",
            );
        }
        if n_sets > 1 && self.eval_split.is_some() {
            return refuse(
                "`--eval_split` takes its queries from a single data set".into(),
                "pass rows to evaluate on as `--eval_data`",
            );
        }
        Ok(())
    }

    /// Whether an epoch takes whole batches of one data set after the other, by their weights.
    pub fn mixes_data_sets(&self) -> bool {
        !self.more_train_data.is_empty() || !self.dataset_weights.is_empty()
    }

    /// The files of rows, each a data set.
    pub fn train_files(&self) -> Vec<&Path> {
        std::iter::once(&self.train_data).chain(&self.more_train_data).map(PathBuf::as_path).collect()
    }

    /// The settings that data set `i` is trained with.
    pub fn of_set(&self, i: usize) -> TrainSettings {
        self.dataset.get(i).map_or_else(|| self.clone(), |own| own.over(self))
    }

    /// Passages of a query in a batch of data set `i`.
    pub fn group_size_of(&self, i: usize) -> usize {
        self.dataset.get(i).and_then(|own| own.train_group_size).unwrap_or(self.train_group_size)
    }

    fn some_query_has_a_negative(&self) -> Result<()> {
        let from_batch = self.negatives() == Negatives::InBatch && self.per_device_train_batch_size > 1;
        if self.train_group_size > 1 || from_batch || self.loss.name.takes_pairs() {
            return Ok(());
        }
        let reason = if !self.loss.name.compares_over_batch() {
            format!("with `--loss {}`", self.loss.name)
        } else if self.use_inbatch_neg {
            "with `--per_device_train_batch_size 1`".into()
        } else {
            "with `--use_inbatch_neg False`".into()
        };
        Err(Error::Setting {
            problem: format!(
                "`--train_group_size 1` {reason} leaves every query without a negative: the loss is 0 and nothing is learnt"
            ),
            hint: Some("pass `--train_group_size 2` or more, or use in-batch negatives with a larger batch".into()),
        })
    }

    /// What the user wants otherwise than the model's folder says.
    ///
    /// # Errors
    /// An unknown pooling.
    pub fn overrides(&self) -> Result<Overrides> {
        Ok(Overrides {
            pooling: self.pooling.as_deref().map(pooling_named).transpose()?,
            normalize: Some(self.normalized),
            query_prompt: self.query_instruction_for_retrieval.clone(),
            passage_prompt: self.passage_instruction_for_retrieval.clone(),
            max_seq_length: self.max_seq_length,
        })
    }

    /// The settings of one process that does the steps of `n_ranks`: with a batch of the rows of all of them, or with as many more batches.
    pub fn joined(&self, n_ranks: usize) -> TrainSettings {
        let mut joined = self.clone();
        match self.negatives_cross_device {
            true => joined.per_device_train_batch_size *= n_ranks,
            false => joined.gradient_accumulation_steps *= n_ranks,
        }
        joined
    }

    /// What should be said about settings that do less than their names promise, one line each, where there are `n_ranks`.
    pub fn notes(&self, n_ranks: usize) -> Vec<String> {
        let mut notes = Vec::new();
        for (flag, is_given) in [
            ("negatives_cross_device", self.negatives_cross_device),
            ("reduce_dtype", self.reduce_dtype != Wire::default()),
            ("shard_optimizer", self.shard_optimizer),
        ] {
            if is_given && n_ranks == 1 {
                notes.push(format!("`--{flag}`: there is one process, so nothing to share"));
            }
        }
        if self.eval_strategy == Some(Strategy::No) && (self.eval_data.is_some() || self.eval_split.is_some()) {
            notes.push("`--eval_strategy no`: nothing is evaluated, and all rows are trained on".into());
        }
        let recipe = |settings: &TrainSettings| {
            let TrainSettings { per_device_train_batch_size, learning_rate, temperature, num_train_epochs, .. } =
                settings;
            (*per_device_train_batch_size, [*learning_rate, *temperature, *num_train_epochs])
        };
        if self.loss.name == LossName::InfoNce && recipe(self) == recipe(&TrainSettings::default()) {
            notes.push(
                "batch size, learning rate, temperature and epochs are the original's defaults, whatever the data; `embertune tune` \
                 chooses them by its size, and docs/guide/choosing.md has its table"
                    .into(),
            );
        }
        notes
    }

    /// What should be said about settings that are followed otherwise than their names promise, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.effective_temperature() != self.temperature {
            warnings.push(format!(
                "`--normalized False`: the temperature is 1 instead of {}, as in the original, since vectors of any length have large \
                 similarities; train with `--normalized True` to use `--temperature`",
                self.temperature
            ));
        }
        warnings
    }

    /// The temperature in use: 1 where similarities are no cosines.
    pub fn effective_temperature(&self) -> f64 {
        if self.normalized || self.loss.takes_cosines() { self.temperature } else { 1.0 }
    }

    /// Number of warm-up steps of a run of `total_steps`.
    pub fn warmup(&self, total_steps: usize) -> usize {
        let share = |share: f64| (total_steps as f64 * share).ceil() as usize;
        if self.warmup_steps >= 1.0 {
            self.warmup_steps as usize
        } else if self.warmup_steps > 0.0 {
            share(self.warmup_steps)
        } else {
            share(self.warmup_ratio)
        }
    }

    /// When to evaluate.
    pub fn eval_strategy(&self) -> Strategy {
        match (self.eval_strategy, self.eval_steps) {
            _ if self.eval_data.is_none() && self.eval_split.is_none() => Strategy::No,
            (Some(strategy), _) => strategy,
            (None, Some(_)) => Strategy::Steps,
            (None, None) => Strategy::Epoch,
        }
    }

    /// Steps between two evaluations, where they come by steps.
    pub fn eval_steps(&self) -> Steps {
        self.eval_steps.unwrap_or(self.logging_steps)
    }

    /// Whether the run evaluates at all.
    pub fn evaluates(&self) -> bool {
        self.eval_strategy() != Strategy::No
    }

    /// What the best model is best in.
    pub fn measure(&self) -> Measure {
        self.metric_for_best_model.unwrap_or_default()
    }

    /// What is minimised.
    pub fn objective(&self) -> Objective {
        let dims = &self.loss.matryoshka_dims;
        let weights = self.loss.matryoshka_weights.iter().copied().chain(std::iter::repeat(1.0));
        Objective {
            loss: self.loss.loss(self.use_inbatch_neg, self.effective_temperature()),
            scale_to_1: self.loss.takes_cosines() && !self.normalized,
            dims: dims.iter().copied().zip(weights).collect(),
            scale_cut_to_1: self.normalized,
        }
    }

    /// Which passages of a batch are negatives of a query.
    pub fn negatives(&self) -> Negatives {
        self.loss.negatives(self.use_inbatch_neg)
    }

    /// What happens to a smaller last batch.
    pub fn last_batch(&self) -> LastBatch {
        if self.dataloader_drop_last { LastBatch::Drop } else { LastBatch::Keep }
    }

    /// The optimizer's settings.
    pub fn adamw(&self) -> AdamWSettings {
        AdamWSettings {
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            eps: self.adam_epsilon,
            weight_decay: self.weight_decay,
        }
    }

    /// What a batch of a data set with these settings takes of its rows in `epoch`, with the dropout `rates`.
    pub fn take(&self, rates: DropoutRates, epoch: usize) -> Take {
        let repeats = if rates == DropoutRates::default() { Repeats::Together } else { Repeats::Apart };
        Take { group_size: self.train_group_size, seed: self.seed, epoch, repeats }
    }

    /// The dropout in use, for a model whose own is `of_model`.
    pub fn dropout_rates(&self, of_model: DropoutRates) -> DropoutRates {
        let adapter = self.adaptation.lora_dropout;
        self.dropout.map_or(DropoutRates { adapter, ..of_model }, |p| DropoutRates { hidden: p, attention: p, adapter })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_allowed() {
        TrainSettings::default().validate().unwrap();
    }

    #[test]
    fn batches_without_any_negative_are_refused_with_the_reason() {
        let base = TrainSettings { train_group_size: 1, ..TrainSettings::default() };
        for settings in [
            TrainSettings { per_device_train_batch_size: 1, ..base.clone() },
            TrainSettings { use_inbatch_neg: false, ..base.clone() },
        ] {
            let error = settings.validate().unwrap_err();
            assert!(error.to_string().contains("leaves every query without a negative"), "{error}");
            assert!(error.hint().is_some());
        }
        base.validate().unwrap();
        TrainSettings { per_device_train_batch_size: 1, train_group_size: 2, ..base }.validate().unwrap();
    }

    #[test]
    fn a_temperature_is_refused_by_the_losses_that_have_none() {
        for (name, _) in LossName::ALL {
            let loss = LossSettings { name, ..LossSettings::default() };
            let settings = TrainSettings { loss: loss.clone(), temperature: 0.5, ..TrainSettings::default() };
            let has_effect = format!("{:?}", loss.loss(true, 0.5)) != format!("{:?}", loss.loss(true, 0.02));
            match settings.validate() {
                Ok(()) => assert!(has_effect, "{name}"),
                Err(error) => {
                    let problem = format!("`--temperature 0.5` has no effect on `--loss {name}`");
                    assert!(!has_effect && error.to_string().starts_with(&problem), "{error}");
                }
            }
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        let d = TrainSettings::default;
        for (settings, flag) in [
            (TrainSettings { temperature: 0.0, ..d() }, "--temperature 0"),
            (TrainSettings { learning_rate: f64::NAN, ..d() }, "--learning_rate NaN"),
            (TrainSettings { dropout: Some(1.0), ..d() }, "--dropout 1`"),
            (TrainSettings { warmup_ratio: 2.0, ..d() }, "--warmup_ratio 2"),
            (TrainSettings { per_device_train_batch_size: 0, ..d() }, "--per_device_train_batch_size 0"),
        ] {
            let error = settings.validate().unwrap_err();
            assert!(error.to_string().contains(flag), "{error}");
        }
    }

    #[test]
    fn warm_up_is_a_share_rounded_up_or_a_number_of_steps() {
        let with =
            |warmup_ratio, warmup_steps| TrainSettings { warmup_ratio, warmup_steps, ..TrainSettings::default() };
        assert_eq!(with(0.1, 0.0).warmup(12), 2);
        assert_eq!(with(0.0, 0.1).warmup(12), 2);
        assert_eq!(with(0.5, 3.0).warmup(12), 3);
        assert_eq!(with(0.0, 0.0).warmup(12), 0);
    }

    #[test]
    fn settings_survive_json() {
        let settings = TrainSettings { max_steps: Some(7), dropout: Some(0.1), ..TrainSettings::default() };
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<TrainSettings>(&json).unwrap(), settings);
        assert!(serde_json::from_str::<TrainSettings>(r#"{"tempratur": 1}"#).is_err());
    }
}
