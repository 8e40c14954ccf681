//! The flags of `embertune evaluate`: those of the original `evaluate.py`, and a few more.

use std::path::PathBuf;

use clap::Args;

use super::{MachineArgs, ModelArgs, boolean};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # A table of MRR, Hit, Recall, nDCG, MAP and Precision
  embertune evaluate --model_name BAAI/bge-small-en-v1.5 --index_file_jsonl_path candidate_context.jsonl \\
      --query_file_jsonl_path test.jsonl

  # The same numbers for a program
  embertune evaluate --model_name ./tuned --index_file_jsonl_path candidate_context.jsonl \\
      --query_file_jsonl_path test.jsonl --cutoffs 1,10 --json";

/// Arguments of `evaluate`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Data")]
pub struct EvaluateArgs {
    /// The pool to search: JSON lines {"context": [str]} (each string is one candidate) or {"text": str}
    #[arg(long, value_name = "FILE")]
    pub index_file_jsonl_path: PathBuf,

    /// Held-out queries with the passages that answer them: JSON lines {"query": str, "pos": [str]}
    #[arg(long, value_name = "FILE")]
    pub query_file_jsonl_path: PathBuf,

    /// Compute every metric among the first k passages, for each of these k
    #[arg(
        long,
        value_name = "K,K,...",
        value_delimiter = ',',
        default_value = "1,3,5,10,100",
        help_heading = "Output"
    )]
    pub cutoffs: Vec<usize>,

    /// Print one JSON object instead of a table
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", help_heading = "Output", action = clap::ArgAction::Set)]
    pub json: bool,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Texts that go through the model at once; results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Machine")]
    pub batch_size: usize,

    #[command(flatten)]
    pub machine: MachineArgs,
}
