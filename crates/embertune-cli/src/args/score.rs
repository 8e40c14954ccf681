//! The flags of `embertune score`. Limits have the names and meaning that they have in `mine`; the model is a cross-encoder.

use std::path::PathBuf;

use clap::Args;
use embertune::data::Columns;
use embertune::mine::{Limits, TeacherSettings};
use embertune::model::ScoreActivation;

use super::MachineArgs;

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # Teacher scores for `train --loss margin_mse` or `--loss kl_div`
  embertune score --model_name_or_path cross-encoder/ms-marco-MiniLM-L6-v2 \\
      --input_file train.mined.jsonl --output_file train.scored.jsonl

  # Mine 30 candidates, and keep the best 7 that the cross-encoder puts clearly below the positive
  embertune mine --model_name_or_path ./model --input_file train.jsonl --candidate_pool corpus.jsonl \\
      --output_file train.mined.jsonl --preset sentence-transformers --negative_number 30
  embertune score --model_name_or_path cross-encoder/ms-marco-MiniLM-L6-v2 \\
      --input_file train.mined.jsonl --output_file train.scored.jsonl --absolute_margin 3 --negative_number 7";

/// Arguments of `score`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Data")]
pub struct ScoreArgs {
    /// Rows whose passages are scored: JSON lines {"query": str, "pos": [str], "neg": [str]}, or any other form that `train` reads
    #[arg(long, value_name = "FILE|FOLDER")]
    pub input_file: PathBuf,

    /// Names of the columns, where they are others than query, pos, neg and those of sentence-transformers
    #[arg(long, value_name = "PART=COLUMN,...")]
    pub columns: Option<Columns>,

    /// Where to write the rows with pos_scores and neg_scores; an existing file is replaced. With .gz or .zst at its end it is packed
    #[arg(long, value_name = "FILE")]
    pub output_file: PathBuf,

    /// Drop negatives that score higher
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, help_heading = "Negatives")]
    pub max_score: Option<f32>,

    /// Drop negatives that score lower
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, help_heading = "Negatives")]
    pub min_score: Option<f32>,

    /// Drop negatives that do not score so much below the row's lowest positive; 0 drops those above it
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, help_heading = "Negatives")]
    pub absolute_margin: Option<f32>,

    /// The same as a share of the positive's score
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, help_heading = "Negatives")]
    pub relative_margin: Option<f32>,

    /// Negatives of a row that stay at most, the first ones of those that are left [default: all]
    #[arg(long, alias = "num_negatives", value_name = "N", help_heading = "Negatives")]
    pub negative_number: Option<usize>,

    /// Folder of the cross-encoder, or its name on the Hugging Face hub
    #[arg(long, alias = "model_name", value_name = "FOLDER|NAME", help_heading = "Model")]
    pub model_name_or_path: String,

    /// What the model's number goes through: identity, or sigmoid, which makes scores of 0 to 1 [default: what the model's folder says,
    /// as in sentence-transformers; sigmoid, where it says nothing]
    #[arg(long, value_name = "ACTIVATION", help_heading = "Model")]
    pub activation_fn: Option<ScoreActivation>,

    /// Longest pair in tokens; of longer ones the longer text is cut first [default: what the model's folder says]
    #[arg(long, alias = "max_length", value_name = "TOKENS", help_heading = "Model")]
    pub max_seq_length: Option<usize>,

    /// Pairs that go through the model at once; results do not depend on it
    #[arg(long, value_name = "N", default_value_t = TeacherSettings::default().batch_size, help_heading = "Machine")]
    pub batch_size: usize,

    #[command(flatten)]
    pub machine: MachineArgs,
}

impl ScoreArgs {
    /// The library's settings.
    pub fn settings(&self) -> TeacherSettings {
        TeacherSettings {
            limits: Limits {
                max_score: self.max_score,
                min_score: self.min_score,
                absolute_margin: self.absolute_margin,
                relative_margin: self.relative_margin,
            },
            n_negatives: self.negative_number,
            batch_size: self.batch_size,
        }
    }
}
