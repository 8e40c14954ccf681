//! The flags of `embertune train`: those of the original `finetune.py` and of Hugging Face's TrainingArguments, by their names.
//!
//! Which of them are not supported, and why, is in `refused`.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use embertune::device::Precision;
use embertune::optim::SchedulerType;
use embertune::train::{SamplingStrategy, TrainSettings};

use super::{MachineArgs, ModelArgs, boolean};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # Rows with mined negatives: batches of 32 queries, one positive and one negative each
  embertune train --model_name_or_path BAAI/bge-small-en-v1.5 --train_data train.mined.jsonl --output_dir tuned \\
      --learning_rate 2e-5 --num_train_epochs 2 --per_device_train_batch_size 32 --train_group_size 2 \\
      --query_max_len 64 --passage_max_len 256

  # Pairs without negatives: the other passages of the batch are the negatives
  embertune train --model_name_or_path ./model --train_data pairs.jsonl --output_dir tuned \\
      --train_group_size 1 --per_device_train_batch_size 64";

/// Arguments of `train`.
#[derive(Args, Debug)]
#[command(
    rename_all = "snake_case",
    next_help_heading = "Data",
    mut_arg("normalized", |flag| flag.help("Scale vectors to length 1; False makes the temperature 1 [default: True]"))
)]
pub struct TrainArgs {
    /// Rows to learn from: JSON lines {"query": str, "pos": [str], "neg": [str]}
    #[arg(long, value_name = "FILE")]
    pub train_data: PathBuf,

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

    /// Share negatives between processes; there is one process, so this changes nothing
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, help_heading = "Loss")]
    pub negatives_cross_device: bool,

    /// Passes over the data; may be a fraction
    #[arg(long, value_name = "N", default_value_t = default().num_train_epochs, help_heading = "Training")]
    pub num_train_epochs: f64,

    /// Number of optimizer steps, instead of epochs [default: -1, none]
    #[arg(long, value_name = "N", value_parser = max_steps, allow_negative_numbers = true, help_heading = "Training")]
    pub max_steps: Option<MaxSteps>,

    /// Queries per batch; larger batches bring more in-batch negatives
    #[arg(long, value_name = "N", default_value_t = default().per_device_train_batch_size, help_heading = "Training")]
    pub per_device_train_batch_size: usize,

    /// Batches per optimizer step; in-batch negatives stay within a batch
    #[arg(long, value_name = "N", default_value_t = default().gradient_accumulation_steps, help_heading = "Training")]
    pub gradient_accumulation_steps: usize,

    /// Leave out the last batch of an epoch if it is smaller than the others
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true",
          default_value_t = default().dataloader_drop_last, value_name = "True|False", action = ArgAction::Set,
          help_heading = "Training")]
    pub dataloader_drop_last: bool,

    /// Order of the rows: random (anew in every epoch) or sequential
    #[arg(long, value_name = "ORDER", default_value_t = default().train_sampling_strategy, help_heading = "Training")]
    pub train_sampling_strategy: SamplingStrategy,

    /// Seed of the order, of the negatives drawn and of dropout: same input, same seed, same model
    #[arg(long, value_name = "N", default_value_t = default().seed, help_heading = "Training")]
    pub seed: u64,

    /// The same as --precision: True is auto, False is fp32
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true",
          value_name = "True|False", conflicts_with = "precision", help_heading = "Machine")]
    pub bf16: Option<bool>,

    /// Accepted; fp16 is not computed on a CPU, --precision decides
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set, help_heading = "Machine")]
    pub fp16: bool,

    /// Highest learning rate: 1e-5 for large models, 2e-5 for base, 3e-5 for small ones is a good start
    #[arg(long, value_name = "LR", default_value_t = default().learning_rate, help_heading = "Optimizer")]
    pub learning_rate: f64,

    /// Shape of the learning rate over the steps: linear, cosine, cosine_with_restarts, polynomial, constant,
    /// constant_with_warmup or inverse_sqrt
    #[arg(long, value_name = "NAME", default_value_t = default().lr_scheduler_type, help_heading = "Optimizer")]
    pub lr_scheduler_type: SchedulerType,

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

    /// Steps between two lines of the log
    #[arg(long, value_name = "N", default_value_t = default().logging_steps, help_heading = "Log and checkpoints")]
    pub logging_steps: usize,

    /// Steps between two checkpoints; 0 for none
    #[arg(long, value_name = "N", default_value_t = default().save_steps, help_heading = "Log and checkpoints")]
    pub save_steps: usize,

    /// Number of checkpoints to keep; the oldest go first [default: all]
    #[arg(long, value_name = "N", help_heading = "Log and checkpoints")]
    pub save_total_limit: Option<usize>,

    #[command(flatten)]
    pub machine: MachineArgs,
}

impl TrainArgs {
    /// The library's settings.
    pub fn settings(&self) -> TrainSettings {
        TrainSettings {
            model_name_or_path: self.model.model_name_or_path.clone(),
            train_data: self.train_data.clone(),
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
            temperature: self.temperature,
            train_group_size: self.train_group_size,
            use_inbatch_neg: self.use_inbatch_neg,
            negatives_cross_device: self.negatives_cross_device,
            learning_rate: self.learning_rate,
            num_train_epochs: self.num_train_epochs,
            max_steps: self.max_steps.and_then(|MaxSteps(steps)| steps),
            per_device_train_batch_size: self.per_device_train_batch_size,
            gradient_accumulation_steps: self.gradient_accumulation_steps,
            warmup_ratio: self.warmup_ratio,
            warmup_steps: self.warmup_steps,
            lr_scheduler_type: self.lr_scheduler_type,
            weight_decay: self.weight_decay,
            adam_beta1: self.adam_beta1,
            adam_beta2: self.adam_beta2,
            adam_epsilon: self.adam_epsilon,
            max_grad_norm: self.max_grad_norm,
            train_sampling_strategy: self.train_sampling_strategy,
            dataloader_drop_last: self.dataloader_drop_last,
            seed: self.seed,
            logging_steps: self.logging_steps,
            save_steps: self.save_steps,
            save_total_limit: self.save_total_limit,
            precision: self.precision(),
        }
    }
}

impl TrainArgs {
    /// How linear layers multiply, by `--precision` or the original's `--bf16`.
    pub fn precision(&self) -> Precision {
        if self.bf16 == Some(false) { Precision::Fp32 } else { self.machine.precision }
    }
}

fn default() -> TrainSettings {
    TrainSettings::default()
}

/// `--max_steps`: zero and below stand for no bound, as in transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxSteps(Option<usize>);

fn max_steps(text: &str) -> Result<MaxSteps, String> {
    let steps: i64 = text.parse().map_err(|_| "expected a whole number, or -1 for no bound".to_string())?;
    Ok(MaxSteps(usize::try_from(steps).ok().filter(|&steps| steps > 0)))
}
