//! The flags of `embertune audit`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use embertune::audit::{AuditSettings, Severity};
use embertune::data::Columns;

use super::{MachineArgs, ModelChangeArgs, boolean};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # Before any compute: copies, contradictions, leaks into the test rows, how hard it is for words
  embertune audit train.jsonl --test test.jsonl --candidate_pool corpus.jsonl

  # With the model: its tokens, its ranking of the answers, labels that look wrong; as a page to send to somebody
  embertune audit train.mined.jsonl --test test.jsonl --candidate_pool corpus.jsonl --model ./model --html audit.html

  # In CI, without any text of the data in the log; and a file without what is wrong beyond doubt
  embertune audit train.jsonl --json --no_texts --fail_on warning
  embertune audit train.jsonl --test test.jsonl --fix clean.jsonl";

/// Arguments of `audit`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Data")]
pub struct AuditArgs {
    /// Training rows: JSON lines {"query": str, "pos": [str], "neg": [str]} or another form that `embertune split` reads; or scored pairs
    #[arg(value_name = "DATA")]
    pub data: PathBuf,

    /// Rows that the tuned model will be evaluated on: is any of them in the training data?
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,

    /// Passages that are searched: JSON lines {"context": [str]} or {"text": str} [default: all passages of the rows]
    #[arg(long, value_name = "FILE")]
    pub candidate_pool: Option<PathBuf>,

    /// Names of the columns, where they are others than query, pos, neg and those of sentence-transformers
    #[arg(long, value_name = "PART=COLUMN,...")]
    pub columns: Option<Columns>,

    /// Planned length of queries in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = default().query_max_len, help_heading = "Planned training")]
    pub query_max_len: usize,

    /// Planned length of passages in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = default().passage_max_len, help_heading = "Planned training")]
    pub passage_max_len: usize,

    /// Planned rows per batch
    #[arg(long, value_name = "N", default_value_t = default().batch_size, help_heading = "Planned training")]
    pub per_device_train_batch_size: usize,

    /// Planned passages per row in a batch
    #[arg(long, value_name = "N", default_value_t = default().group_size, help_heading = "Planned training")]
    pub train_group_size: usize,

    /// Whether the passages of other rows will be negatives
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true",
          default_value_t = default().use_inbatch_neg, value_name = "True|False", action = clap::ArgAction::Set,
          help_heading = "Planned training")]
    pub use_inbatch_neg: bool,

    /// Print one JSON object instead of a page
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", help_heading = "Output", action = clap::ArgAction::Set)]
    pub json: bool,

    /// Write what --json prints to this file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Write a page of HTML to this file: one file, no network
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,

    /// Write the rows without what is wrong beyond doubt to this file, as JSON lines, and what was left out beside it, to FILE.dropped.jsonl
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub fix: Option<PathBuf>,

    /// Leave all texts of the data out of pages and JSON: show places only
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", help_heading = "Output", action = clap::ArgAction::Set)]
    pub no_texts: bool,

    /// Exit with code 1 if something is found that is so severe, or more
    #[arg(long, value_name = "SEVERITY", default_value = "error", help_heading = "Output")]
    pub fail_on: FailOn,

    /// Search with so many queries of each file, drawn at random
    #[arg(long, value_name = "N", default_value_t = default().n_queries, help_heading = "Search")]
    pub sample: usize,

    /// Seed of what is drawn
    #[arg(long, value_name = "N", default_value_t = default().seed, help_heading = "Search")]
    pub seed: u64,

    /// Folder of the model, or its name on the Hugging Face hub; without one, words are counted in place of tokens
    #[arg(long, aliases = ["model_name_or_path", "model_name"], value_name = "FOLDER|NAME", help_heading = "Model")]
    pub model: Option<String>,

    #[command(flatten)]
    pub changes: ModelChangeArgs,

    /// Texts that go through the model at once; results do not depend on it
    #[arg(long, value_name = "N", default_value_t = default().embed_batch_size, help_heading = "Machine")]
    pub batch_size: usize,

    #[command(flatten)]
    pub machine: MachineArgs,
}

/// `--fail_on`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FailOn {
    /// Errors
    Error,
    /// Errors and warnings
    Warning,
    /// Nothing: the exit code is 0
    Never,
}

impl FailOn {
    /// The least severity that counts.
    pub fn severity(self) -> Option<Severity> {
        match self {
            FailOn::Error => Some(Severity::Error),
            FailOn::Warning => Some(Severity::Warning),
            FailOn::Never => None,
        }
    }
}

impl AuditArgs {
    /// The library's settings.
    pub fn settings(&self) -> AuditSettings {
        AuditSettings {
            query_max_len: self.query_max_len,
            passage_max_len: self.passage_max_len,
            batch_size: self.per_device_train_batch_size,
            group_size: self.train_group_size,
            use_inbatch_neg: self.use_inbatch_neg,
            n_queries: self.sample,
            seed: self.seed,
            embed_batch_size: self.batch_size,
        }
    }
}

fn default() -> AuditSettings {
    AuditSettings::default()
}
