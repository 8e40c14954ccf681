//! The flags of `embertune train`: those of the original `finetune.py` and of Hugging Face's TrainingArguments, by their names.
//!
//! Which of them are not supported, and why, is in `refused`.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use embertune::comm::Wire;
use embertune::data::Columns;
use embertune::device::Precision;
use embertune::embed::cache::LIMIT_GB;
use embertune::optim::SchedulerType;
use embertune::train::{
    BatchSampler, DataSet, Measure, MemoryBudget, MergeAlpha, ReportTo, Resume, SamplingStrategy, Steps, Strategy,
    TrainSettings,
};
use embertune::{Error, Result};

use super::{
    AdaptationArgs, LossArgs, MachineArgs, ModelArgs, OptimizerArgs, RankArgs, RoundArgs, VectorCacheArgs, boolean,
    optimizer,
};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # Rows with mined negatives: batches of 32 queries, one positive and one negative each
  embertune train --model_name_or_path BAAI/bge-small-en-v1.5 --train_data train.mined.jsonl --output_dir tuned \\
      --learning_rate 2e-5 --num_train_epochs 2 --per_device_train_batch_size 32 --train_group_size 2 \\
      --query_max_len 64 --passage_max_len 256

  # Pairs without negatives: the other passages of the batch are the negatives
  embertune train --model_name_or_path ./model --train_data pairs.jsonl --output_dir tuned \\
      --train_group_size 1 --per_device_train_batch_size 64

  # Sentence pairs with a score, rows like {sentence1, sentence2, score}
  embertune train --model_name_or_path ./model --train_data sts.jsonl --output_dir tuned --loss cosent --temperature 0.05

  # Evaluate on a tenth of the queries after every epoch, keep the best model, go on if the machine was restarted
  embertune train --model_name_or_path ./model --train_data train.mined.jsonl --output_dir tuned --train_group_size 2 \\
      --eval_split 0.1 --load_best_model_at_end --save_steps 200 --save_total_limit 2 --resume_from_checkpoint last";

/// Arguments of `train`.
#[derive(Args, Debug)]
#[command(
    rename_all = "snake_case",
    next_help_heading = "Data",
    mut_arg("normalized", |flag| flag.help("Scale vectors to length 1; False makes the temperature 1 [default: True]"))
)]
pub struct TrainArgs {
    /// Rows to learn from: JSON lines {"query": str, "pos": [str], "neg": [str]}, and what the loss reads beside them; or a JSON list,
    /// CSV, TSV, Parquet, a folder of such files, or a BEIR folder
    ///
    /// Several files are data sets of their own: a batch is of one of them, so that its negatives are of one kind.
    #[arg(long, value_name = "FILE|FOLDER", required_unless_present = "dataset", num_args = 1..)]
    pub train_data: Vec<PathBuf>,

    /// A data set with settings of its own, instead of --train_data; once for each set, or as `[[dataset]]` tables in the file of --config
    ///
    /// A JSON object of `train_data`, `weight` (as in --dataset_weights), and what is other than the flags say for the whole run: loss and
    /// what belongs to it, temperature, train_group_size, use_inbatch_neg, the prompts, the maximum lengths, columns.
    #[arg(long, value_name = "JSON", value_parser = data_set, conflicts_with_all = ["train_data", "dataset_weights"])]
    pub dataset: Vec<DataSet>,

    /// How often an epoch takes the rows of each data set: 1 is once, 0.5 half of them, 2 twice [default: 1 each]
    #[arg(long, value_name = "X", value_delimiter = ',', num_args = 1..)]
    pub dataset_weights: Vec<f64>,

    /// Names of the columns, where they are others than query, pos, neg and those of sentence-transformers
    #[arg(long, value_name = "PART=COLUMN,...")]
    pub columns: Option<Columns>,

    /// Rows to evaluate on while it trains: JSON lines {"query": str, "pos": [str]}
    #[arg(long, value_name = "FILE", conflicts_with = "eval_split")]
    pub eval_data: Option<PathBuf>,

    /// Hold out this share of the queries of the training data, with all their rows, and evaluate on them; 0.1 is a good start
    #[arg(long, value_name = "SHARE")]
    pub eval_split: Option<f64>,

    /// Passages that the evaluation and --remine_every search: JSON lines {"context": [str]} or {"text": str} [default: the positives
    /// and negatives of --eval_data, or of --train_data with --eval_split]
    #[arg(long, value_name = "FILE")]
    pub candidate_pool: Option<PathBuf>,

    /// Folder of the tuned model; checkpoints and the log are written there as well
    #[arg(long, value_name = "FOLDER")]
    pub output_dir: PathBuf,

    /// Replace a model in the output folder, once the new one is complete
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set)]
    pub overwrite_output_dir: bool,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Longest query in tokens; longer ones are cut
    #[arg(long, value_name = "TOKENS", default_value_t = default().query_max_len, help_heading = "Model")]
    pub query_max_len: usize,

    /// Longest passage in tokens; longer ones are cut
    #[arg(long, value_name = "TOKENS", default_value_t = default().passage_max_len, help_heading = "Model")]
    pub passage_max_len: usize,

    /// Share of activations dropped everywhere in the model; 0 for none [default: what the model's config.json says]
    #[arg(long, value_name = "P", help_heading = "Model")]
    pub dropout: Option<f32>,

    #[command(flatten)]
    pub adaptation: AdaptationArgs,

    #[command(flatten)]
    pub loss: LossArgs,

    /// Divides similarities before the softmax: smaller is sharper (0.02 is a scale of 50 in sentence-transformers)
    #[arg(long, value_name = "T", default_value_t = default().temperature, help_heading = "Loss")]
    pub temperature: f64,

    /// Passages per query in a batch: one positive, the rest negatives from `neg`
    #[arg(long, value_name = "N", default_value_t = default().train_group_size, help_heading = "Loss")]
    pub train_group_size: usize,

    /// Use the passages of the other queries in the batch as negatives too; known positives of a query never are
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true",
          default_value_t = default().use_inbatch_neg, value_name = "True|False", action = ArgAction::Set, help_heading = "Loss")]
    pub use_inbatch_neg: bool,

    /// Of several ranks (docs/guide/cluster.md): batches are those of all ranks together, so that every query meets the passages of all of
    /// them. Without it each rank has batches of its own, whose losses are averaged
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, help_heading = "Loss")]
    pub negatives_cross_device: bool,

    #[command(flatten)]
    pub rounds: RoundArgs,

    /// Passes over the data; may be a fraction
    #[arg(long, value_name = "N", default_value_t = default().num_train_epochs, help_heading = "Training")]
    pub num_train_epochs: f64,

    /// Number of optimizer steps, instead of epochs [default: -1, none]
    #[arg(long, value_name = "N", value_parser = max_steps, allow_negative_numbers = true, help_heading = "Training")]
    pub max_steps: Option<MaxSteps>,

    /// Queries per batch; larger batches bring more in-batch negatives
    #[arg(long, value_name = "N", default_value_t = default().per_device_train_batch_size, help_heading = "Training")]
    pub per_device_train_batch_size: usize,

    /// Choose the largest batch that needs no activation computed twice within --memory_budget, a power of two
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true",
          default_value_t = default().find_batch_size, value_name = "True|False", action = ArgAction::Set,
          conflicts_with = "per_device_train_batch_size", help_heading = "Training")]
    pub find_batch_size: bool,

    /// Batches per optimizer step; in-batch negatives stay within a batch
    #[arg(long, value_name = "N", default_value_t = default().gradient_accumulation_steps, help_heading = "Training")]
    pub gradient_accumulation_steps: usize,

    /// Leave out the last batch of an epoch if it is smaller than the others
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true",
          default_value_t = default().dataloader_drop_last, value_name = "True|False", action = ArgAction::Set,
          help_heading = "Training")]
    pub dataloader_drop_last: bool,

    /// Order of the rows: random (anew in every epoch), sequential, or group_by_length (random, rows of about the same length together)
    #[arg(long, value_name = "ORDER", default_value_t = default().train_sampling_strategy, help_heading = "Training")]
    pub train_sampling_strategy: SamplingStrategy,

    /// The same as --train_sampling_strategy group_by_length
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, conflicts_with = "train_sampling_strategy",
          help_heading = "Training")]
    pub group_by_length: bool,

    /// Whether rows of a batch may share texts: batch_sampler (they may) or no_duplicates (not, as far as the data allows)
    #[arg(long, value_name = "NAME", default_value_t = default().batch_sampler, help_heading = "Training")]
    pub batch_sampler: BatchSampler,

    /// Seed of the order, of the negatives drawn and of dropout: same input, same seed, same model
    #[arg(long, value_name = "N", default_value_t = default().seed, help_heading = "Training")]
    pub seed: u64,

    /// The same as --precision: True is auto, False is fp32
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true",
          value_name = "True|False", conflicts_with = "precision", help_heading = "Machine")]
    pub bf16: Option<bool>,

    /// Accepted; fp16 is not computed, --precision decides
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, help_heading = "Machine")]
    pub fp16: bool,

    /// The most that the whole process may take: a size like 2GB or 1.5GiB, or a percentage of the available memory;
    /// on a GPU the most of its memory. Activations that do not fit are computed twice; results do not depend on it
    #[arg(long, value_name = "SIZE|PERCENT", value_parser = memory_budget, default_value_t = default().memory_budget,
          help_heading = "Machine")]
    pub memory_budget: MemoryBudget,

    #[command(flatten)]
    pub ranks: RankArgs,

    /// Of several ranks: how their gradients are sent to be summed, fp32 or bf16, which is half as long
    #[arg(long, value_name = "TYPE", default_value_t = default().reduce_dtype, help_heading = "Machine")]
    pub reduce_dtype: Wire,

    /// Of several ranks: each keeps the optimizer's state of its share of the weights alone, and steps them for all (ZeRO-1)
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, help_heading = "Machine")]
    pub shard_optimizer: bool,

    /// Say what the run would take, in steps, tokens, memory and time, and stop before the first step; nothing is written
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, help_heading = "Machine")]
    pub dry_run: bool,

    /// Highest learning rate: 1e-5 for large models, 2e-5 for base, 3e-5 for small ones is a good start
    #[arg(long, value_name = "LR", default_value_t = default().learning_rate, help_heading = "Optimizer")]
    pub learning_rate: f64,

    /// Shape of the learning rate over the steps: linear, cosine, cosine_with_restarts, polynomial, constant,
    /// constant_with_warmup, inverse_sqrt or warmup_stable_decay
    #[arg(long, value_name = "NAME", value_parser = optimizer::scheduler, default_value_t = default().lr_scheduler_type, help_heading = "Optimizer")]
    pub lr_scheduler_type: SchedulerType,

    #[command(flatten)]
    pub optimizer: OptimizerArgs,

    /// Share of the steps over which the learning rate rises from 0
    #[arg(long, value_name = "SHARE", default_value_t = default().warmup_ratio, help_heading = "Optimizer")]
    pub warmup_ratio: f64,

    /// Number of such steps, instead of the share
    #[arg(long, value_name = "N", default_value_t = default().warmup_steps, help_heading = "Optimizer")]
    pub warmup_steps: f64,

    /// Decay of weights, not of biases and LayerNorm
    #[arg(long, value_name = "X", default_value_t = default().weight_decay, help_heading = "Optimizer")]
    pub weight_decay: f64,

    /// Decay of AdamW's first moment
    #[arg(long, value_name = "X", default_value_t = default().adam_beta1, help_heading = "Optimizer")]
    pub adam_beta1: f64,

    /// Decay of AdamW's second moment
    #[arg(long, value_name = "X", default_value_t = default().adam_beta2, help_heading = "Optimizer")]
    pub adam_beta2: f64,

    /// Keeps AdamW from dividing by zero
    #[arg(long, value_name = "X", default_value_t = default().adam_epsilon, help_heading = "Optimizer")]
    pub adam_epsilon: f64,

    /// Longer gradients are shortened to this norm; 0 for no bound
    #[arg(long, value_name = "X", default_value_t = default().max_grad_norm, help_heading = "Optimizer")]
    pub max_grad_norm: f64,

    /// When to evaluate: no, steps or epoch; also before the first step and after the last [default: epoch, or steps with
    /// --eval_steps, where there is something to evaluate on]
    #[arg(long, alias = "evaluation_strategy", value_name = "WHEN", help_heading = "Evaluation")]
    pub eval_strategy: Option<Strategy>,

    /// Steps between two evaluations; below 1 a share of all steps [default: --logging_steps]
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub eval_steps: Option<Steps>,

    /// Write the best model to the output folder, and the last one to `last` in it
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, help_heading = "Evaluation")]
    pub load_best_model_at_end: bool,

    /// What the best model is best in: ndcg@10, mrr@10, hit@1 or loss [default: ndcg@10]
    #[arg(long, value_name = "NAME", help_heading = "Evaluation")]
    pub metric_for_best_model: Option<Measure>,

    /// Accepted where it agrees with the metric: of a loss the smaller one is better, of all others the greater
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true",
          value_name = "True|False", help_heading = "Evaluation")]
    pub greater_is_better: Option<bool>,

    /// Stop after this many evaluations in a row that are no better than the best [default: never]
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub early_stopping_patience: Option<usize>,

    /// By how much an evaluation has to be better for that
    #[arg(long, value_name = "X", default_value_t = default().early_stopping_threshold, help_heading = "Evaluation")]
    pub early_stopping_threshold: f64,

    /// Save base + X (tuned - base), which keeps more of what the base model can; auto takes the tuned model, unless
    /// another X is better on the held-out queries by more than chance [default: the tuned model]
    #[arg(long, value_name = "auto|X", value_parser = merge_alpha, help_heading = "Evaluation")]
    pub merge_alpha: Option<MergeAlpha>,

    /// When to write a line of the log: no, steps or epoch; the last step always gets one
    #[arg(long, value_name = "WHEN", default_value_t = default().logging_strategy, help_heading = "Log and checkpoints")]
    pub logging_strategy: Strategy,

    /// Steps between two lines of the log; below 1 a share of all steps
    #[arg(long, value_name = "N", default_value_t = default().logging_steps, help_heading = "Log and checkpoints")]
    pub logging_steps: Steps,

    /// Write a line of the log for the first step, too
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, help_heading = "Log and checkpoints")]
    pub logging_first_step: bool,

    /// Who is told what the log is told: none, or tensorboard, by an event file
    #[arg(long, value_name = "NAME", default_value_t = default().report_to, help_heading = "Log and checkpoints")]
    pub report_to: ReportTo,

    /// Folder of TensorBoard's runs; this one gets the name of the output folder there [default: `runs` in the output folder]
    #[arg(long, value_name = "FOLDER", help_heading = "Log and checkpoints")]
    pub logging_dir: Option<PathBuf>,

    /// No progress bar: a line now and then, as in a log file
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, help_heading = "Log and checkpoints")]
    pub disable_tqdm: bool,

    /// When to write a checkpoint: no, steps or epoch
    #[arg(long, value_name = "WHEN", default_value_t = default().save_strategy, help_heading = "Log and checkpoints")]
    pub save_strategy: Strategy,

    /// Steps between two checkpoints, 0 for none; below 1 a share of all steps
    #[arg(long, value_name = "N", default_value_t = default().save_steps, help_heading = "Log and checkpoints")]
    pub save_steps: Steps,

    /// Number of checkpoints to keep; the oldest go first [default: all]
    #[arg(long, value_name = "N", help_heading = "Log and checkpoints")]
    pub save_total_limit: Option<usize>,

    /// Go on with an interrupted run, from its last checkpoint (last, or no value) or from a folder checkpoint-<step>
    #[arg(long, value_name = "last|FOLDER", value_parser = resume, num_args = 0..=1, default_missing_value = "last",
          help_heading = "Log and checkpoints")]
    pub resume_from_checkpoint: Option<Resume>,

    #[command(flatten)]
    pub vectors: VectorCacheArgs,

    #[command(flatten)]
    pub machine: MachineArgs,
}

impl TrainArgs {
    /// The library's settings.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn settings(&self) -> Result<TrainSettings> {
        let mut files = self.train_data.iter().chain(self.dataset.iter().map(|set| &set.train_data)).cloned();
        let train_data = files.next().unwrap_or_default();
        let dataset_weights = match self.dataset.iter().any(|set| set.weight.is_some()) {
            true => self.dataset.iter().map(|set| set.weight.unwrap_or(1.0)).collect(),
            false => self.dataset_weights.clone(),
        };
        Ok(TrainSettings {
            model_name_or_path: self.model.model_name_or_path.clone(),
            train_data,
            more_train_data: files.collect(),
            dataset_weights,
            dataset: self.dataset.iter().map(|set| set.own.clone()).collect(),
            columns: self.columns.clone().unwrap_or_default(),
            output_dir: self.output_dir.clone(),
            overwrite_output_dir: self.overwrite_output_dir,
            query_instruction_for_retrieval: self.model.changes.query_instruction_for_retrieval.clone(),
            passage_instruction_for_retrieval: self.model.changes.passage_instruction_for_retrieval.clone(),
            pooling: self.model.changes.pooling.clone(),
            normalized: self.model.changes.normalized.unwrap_or(default().normalized),
            query_max_len: self.query_max_len,
            passage_max_len: self.passage_max_len,
            max_seq_length: self.model.changes.max_seq_length,
            dropout: self.dropout,
            adaptation: self.adaptation.settings(),
            loss: self.loss.settings()?,
            temperature: self.temperature,
            train_group_size: self.train_group_size,
            use_inbatch_neg: self.use_inbatch_neg,
            negatives_cross_device: self.negatives_cross_device,
            reduce_dtype: self.reduce_dtype,
            shard_optimizer: self.shard_optimizer,
            learning_rate: self.learning_rate,
            num_train_epochs: self.num_train_epochs,
            max_steps: self.max_steps.and_then(|MaxSteps(steps)| steps),
            per_device_train_batch_size: self.per_device_train_batch_size,
            gradient_accumulation_steps: self.gradient_accumulation_steps,
            warmup_ratio: self.warmup_ratio,
            warmup_steps: self.warmup_steps,
            lr_scheduler_type: self.lr_scheduler_type,
            lr_scheduler_kwargs: self.optimizer.lr_scheduler_kwargs.clone(),
            optim: self.optimizer.optim,
            weight_decay: self.weight_decay,
            adam_beta1: self.adam_beta1,
            adam_beta2: self.adam_beta2,
            adam_epsilon: self.adam_epsilon,
            max_grad_norm: self.max_grad_norm,
            train_sampling_strategy: match self.group_by_length {
                true => SamplingStrategy::GroupByLength,
                false => self.train_sampling_strategy,
            },
            batch_sampler: self.batch_sampler,
            dataloader_drop_last: self.dataloader_drop_last,
            seed: self.seed,
            remine_every: self.rounds.remine_every,
            remine_preset: self.rounds.remine_preset,
            remine_negatives: self.rounds.remine_negatives,
            eval_data: self.eval_data.clone(),
            eval_split: self.eval_split,
            candidate_pool: self.candidate_pool.clone(),
            eval_strategy: self.eval_strategy,
            eval_steps: self.eval_steps,
            load_best_model_at_end: self.load_best_model_at_end,
            metric_for_best_model: self.metric_for_best_model,
            greater_is_better: self.greater_is_better,
            early_stopping_patience: self.early_stopping_patience,
            early_stopping_threshold: self.early_stopping_threshold,
            merge_alpha: self.merge_alpha,
            vector_cache: self.vectors.vector_cache.clone(),
            vector_cache_gb: Some(self.vectors.vector_cache_gb).filter(|gb| *gb != LIMIT_GB),
            logging_strategy: self.logging_strategy,
            logging_steps: self.logging_steps,
            logging_first_step: self.logging_first_step,
            report_to: self.report_to,
            logging_dir: self.logging_dir.clone(),
            save_strategy: self.save_strategy,
            save_steps: self.save_steps,
            save_total_limit: self.save_total_limit,
            memory_budget: self.memory_budget,
            find_batch_size: self.find_batch_size,
            resume_from_checkpoint: self.resume_from_checkpoint.clone(),
            precision: self.precision(),
        })
    }
}

impl TrainArgs {
    /// How linear layers and attention multiply, by `--precision` or the original's `--bf16`.
    pub fn precision(&self) -> Precision {
        if self.bf16 == Some(false) { Precision::Fp32 } else { self.machine.precision }
    }
}

fn default() -> TrainSettings {
    TrainSettings::default()
}

/// `--resume_from_checkpoint`: `True` is the last one, as in transformers.
fn resume(text: &str) -> std::result::Result<Resume, String> {
    match text {
        "last" | "True" | "true" => Ok(Resume::Last),
        "" => Err("expected `last` or a folder".into()),
        path => Ok(Resume::Path(path.into())),
    }
}

/// `--max_steps`: zero and below stand for no bound, as in transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxSteps(Option<usize>);

fn memory_budget(text: &str) -> std::result::Result<MemoryBudget, String> {
    text.parse().map_err(|error: Error| format!("{error}, {}", error.hint().unwrap_or_default()))
}

fn data_set(text: &str) -> std::result::Result<DataSet, String> {
    text.parse().map_err(|error: Error| format!("{error}, {}", error.hint().unwrap_or_default()))
}

fn merge_alpha(text: &str) -> std::result::Result<MergeAlpha, String> {
    text.parse().map_err(|error: Error| format!("{error}, {}", error.hint().unwrap_or_default()))
}

fn max_steps(text: &str) -> std::result::Result<MaxSteps, String> {
    let steps: i64 = text.parse().map_err(|_| "expected a whole number, or -1 for no bound".to_string())?;
    Ok(MaxSteps(usize::try_from(steps).ok().filter(|&steps| steps > 0)))
}
