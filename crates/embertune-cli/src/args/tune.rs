//! The flags of `embertune tune`: what it needs to know; the rest it decides by the data, and says.

use std::path::PathBuf;

use clap::Args;
use embertune::data::Columns;

use super::boolean;
use super::model::{MachineArgs, ModelChangeArgs};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # Rows in, a tuned model, a verdict and a report out; dev and test queries are taken from the rows
  embertune tune rows.jsonl --model BAAI/bge-small-en-v1.5 --out tuned

  # With test rows and passages of your own, and another domain to watch for what is forgotten; first only the plan
  embertune tune train.jsonl --test test.jsonl --candidate_pool corpus.jsonl --model ./model --out tuned \\
      --probe ./scifact --dry_run

Exit code: 0 better, 1 worse or no difference shown, 2 an error.";

/// Arguments of `tune`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Data")]
pub struct TuneArgs {
    /// Training rows: JSON lines {"query": str, "pos": [str]}, or another form that `embertune split` reads
    #[arg(value_name = "DATA")]
    pub data: PathBuf,

    /// Folder for everything: the model in `model`, report.html, and what comes between. The same command goes on there
    #[arg(long, alias = "output_dir", value_name = "FOLDER")]
    pub out: PathBuf,

    /// Rows that decide whether the model is better [default: a share of the queries of DATA]
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,

    /// Passages that are searched: JSON lines {"context": [str]} or {"text": str} [default: all passages of the rows]
    #[arg(long, value_name = "FILE")]
    pub candidate_pool: Option<PathBuf>,

    /// Names of the columns of DATA and --test, where they are others than query, pos, neg and those of sentence-transformers
    #[arg(long, value_name = "PART=COLUMN,...")]
    pub columns: Option<Columns>,

    /// Watch this set, too, for what the model forgets: a BEIR folder, or POOL.jsonl,ROWS.jsonl. May be given several times
    #[arg(long, value_name = "FOLDER|POOL,ROWS")]
    pub probe: Vec<String>,

    /// Folder of the model, or its name on the Hugging Face hub
    #[arg(long, aliases = ["model_name_or_path", "model_name"], value_name = "FOLDER|NAME", help_heading = "Model")]
    pub model: String,

    #[command(flatten)]
    pub changes: ModelChangeArgs,

    /// Highest learning rate [default: by the size of the model]
    #[arg(long, value_name = "LR", help_heading = "Training")]
    pub learning_rate: Option<f64>,

    /// Passes over the data [default: by the number of rows]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub num_train_epochs: Option<f64>,

    /// Queries per batch [default: by the number of rows]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub per_device_train_batch_size: Option<usize>,

    /// Seed of all that is drawn: same input, same seed, same model
    #[arg(long, value_name = "N", default_value_t = 42, help_heading = "Training")]
    pub seed: u64,

    /// Compare groups of the test queries by these fields of the data, besides length, script, language and rarest word
    #[arg(long, value_name = "FIELD,...", value_delimiter = ',', help_heading = "Comparison")]
    pub slice_by: Vec<String>,

    /// Print the plan, with the command of each stage, and do nothing
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", help_heading = "Output", action = clap::ArgAction::Set)]
    pub dry_run: bool,

    /// Leave all texts of queries and passages out of what is printed and of the report
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", help_heading = "Output", action = clap::ArgAction::Set)]
    pub no_texts: bool,

    #[command(flatten)]
    pub machine: MachineArgs,
}
