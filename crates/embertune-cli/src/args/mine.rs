//! The flags of `embertune mine`: those of the original `mine_hard_neg.py`, and a few more.

use std::ops::Range;
use std::path::PathBuf;

use clap::Args;
use embertune::mine::{MineSettings, parse_range};

use super::{MachineArgs, ModelArgs, boolean};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # Five negatives for each row of train.jsonl, from the passages that rank third to tenth among all its passages
  embertune mine --model_name_or_path BAAI/bge-small-en-v1.5 --input_file train.jsonl \\
      --output_file train.mined.jsonl --range_for_sampling 2-10 --negative_number 5

  # Easier negatives, from a pool of passages that has more than the training rows
  embertune mine --model_name_or_path ./model --input_file train.jsonl --candidate_pool corpus.jsonl \\
      --output_file train.mined.jsonl --range_for_sampling 60-300";

/// Arguments of `mine`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Data")]
pub struct MineArgs {
    /// Rows to find negatives for: JSON lines {"query": str, "pos": [str]}
    #[arg(long, value_name = "FILE")]
    pub input_file: PathBuf,

    /// Where to write the rows with their negatives, in `neg`; an existing file is replaced
    #[arg(long, value_name = "FILE")]
    pub output_file: PathBuf,

    /// Candidates: JSON lines {"context": [str]} or {"text": str} [default: all positives and negatives of the input]
    #[arg(long, value_name = "FILE")]
    pub candidate_pool: Option<PathBuf>,

    /// Ranks to sample from: 2-10 leaves out the best two candidates and all beyond the tenth; higher ranks are easier
    #[arg(long, value_name = "FROM-TO", default_value = "10-210", value_parser = range, help_heading = "Mining")]
    pub range_for_sampling: Range<usize>,

    /// Negatives per row
    #[arg(long, value_name = "N", default_value_t = 15, help_heading = "Mining")]
    pub negative_number: usize,

    /// Seed of the sampling: same input, same seed, same file
    #[arg(long, value_name = "N", default_value_t = 42, help_heading = "Mining")]
    pub seed: u64,

    /// Accepted for command lines of the original; this build searches on the CPU
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", help_heading = "Mining", action = clap::ArgAction::Set)]
    pub use_gpu_for_searching: bool,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Texts that go through the model at once; results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Machine")]
    pub batch_size: usize,

    #[command(flatten)]
    pub machine: MachineArgs,
}

impl MineArgs {
    /// The library's settings.
    pub fn settings(&self) -> MineSettings {
        MineSettings {
            range: self.range_for_sampling.clone(),
            n_negatives: self.negative_number,
            seed: self.seed,
            batch_size: self.batch_size,
        }
    }
}

fn range(text: &str) -> Result<Range<usize>, String> {
    parse_range(text).map_err(|error| error.to_string())
}
