//! The flags of `embertune evaluate`: those of the original `evaluate.py`, and a few more.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{EmbeddingArgs, MachineArgs, ModelChangeArgs, RankArgs, TestSetArgs, boolean};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # A table of MRR, Hit, Recall, nDCG, MAP, Precision and R-precision
  embertune evaluate --model_name BAAI/bge-small-en-v1.5 --index_file_jsonl_path candidate_context.jsonl \\
      --query_file_jsonl_path test.jsonl

  # The same numbers for a program
  embertune evaluate --model_name ./tuned --index_file_jsonl_path candidate_context.jsonl \\
      --query_file_jsonl_path test.jsonl --cutoffs 1,10 --json

  # A BEIR folder, the rankings for trec_eval and ranx, and results that `embertune compare` reads
  embertune evaluate --model_name ./tuned --test_set ./scifact --run_file tuned.run --output tuned.json

  # A run that was made elsewhere
  embertune evaluate --evaluate_run bm25.run --qrels qrels.txt";

/// Arguments of `evaluate`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Data")]
#[command(group = ArgGroup::new("what").required(true).multiple(false).args(["model_name_or_path", "evaluate_run"]))]
#[command(group = ArgGroup::new("on").required(true).multiple(true)
    .args(["index_file_jsonl_path", "query_file_jsonl_path", "test_set", "qrels", "sts_file", "triplet_file"]))]
pub struct EvaluateArgs {
    #[command(flatten)]
    pub sets: TestSetArgs,

    /// Judgments without texts for --evaluate_run, in TREC's form (query 0 document grade) or BEIR's (query document grade)
    #[arg(long, value_name = "FILE", requires = "evaluate_run",
          conflicts_with_all = ["test_set", "query_file_jsonl_path", "model_name_or_path"])]
    pub qrels: Option<PathBuf>,

    /// Evaluate the rankings of this TREC run file in place of a model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sts_file", "triplet_file", "probe"])]
    pub evaluate_run: Option<PathBuf>,

    /// Pairs of texts with a similarity, for Spearman and Pearson: JSON lines {"sentence1", "sentence2", "score"}
    #[arg(long, value_name = "FILE")]
    pub sts_file: Option<PathBuf>,

    /// Rows whose positives should be nearer than their negatives: JSON lines {"query", "pos": [str], "neg": [str]} or
    /// {"anchor", "positive", "negative"}
    #[arg(long, value_name = "FILE")]
    pub triplet_file: Option<PathBuf>,

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

    /// Write rankings and values of each query to this file, for `embertune compare`
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Write the rankings to this file in TREC's form, for trec_eval, ranx and others
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub run_file: Option<PathBuf>,

    /// Leave all texts of queries and passages out of --output: only names, numbers and the fields of --slice_by
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", help_heading = "Output", action = clap::ArgAction::Set)]
    pub no_texts: bool,

    /// With --no_texts, keep these fields of the queries, which `compare --slice_by` may need
    #[arg(long, value_name = "FIELD,...", value_delimiter = ',', requires = "no_texts", help_heading = "Output")]
    pub slice_by: Vec<String>,

    /// Folder of the model, or its name on the Hugging Face hub
    #[arg(long, alias = "model_name", value_name = "FOLDER|NAME", help_heading = "Model")]
    pub model_name_or_path: Option<String>,

    #[command(flatten)]
    pub changes: ModelChangeArgs,

    #[command(flatten)]
    pub embedding: EmbeddingArgs,

    #[command(flatten)]
    pub machine: MachineArgs,

    #[command(flatten)]
    pub ranks: RankArgs,
}
