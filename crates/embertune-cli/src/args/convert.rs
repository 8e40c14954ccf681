//! The flags of `embertune convert`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use embertune::data::Columns;
use embertune::data::convert::{RowShape, Target};
use embertune::data::source::Form;

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # A CSV file with a question and an answer in each line, as rows for training
  embertune convert faq.csv train.jsonl --columns query=question,pos=answer

  # The training data of a BEIR folder; rows as a BEIR folder, for `evaluate --test_set`
  embertune convert scifact train.jsonl
  embertune convert test.jsonl mytest --to beir

  # Mined rows as triplets for sentence-transformers
  embertune convert train.mined.jsonl triplets.csv.gz --shape triplets";

/// Arguments of `convert`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case")]
pub struct ConvertArgs {
    /// Rows: a file of any form, a folder of such files, or a BEIR folder
    #[arg(value_name = "IN")]
    pub input: PathBuf,

    /// Where to write them; the ending says the form: .jsonl, .json, .csv or .tsv, with .gz, .zst or neither; .parquet. A file is replaced
    #[arg(value_name = "OUT")]
    pub output: PathBuf,

    /// Form of the output, whatever its ending
    #[arg(long, value_name = "FORM")]
    pub to: Option<TargetArg>,

    /// What a row of the output is
    #[arg(long, value_name = "SHAPE", default_value = "rows")]
    pub shape: ShapeArg,

    /// Names of the columns, where they are others than query, pos, neg and those of sentence-transformers
    #[arg(long, value_name = "PART=COLUMN,...")]
    pub columns: Option<Columns>,
}

/// `--to`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TargetArg {
    /// One JSON object per line
    Jsonl,
    /// A list of JSON objects
    Json,
    /// Comma-separated values with a heading
    Csv,
    /// Tab-separated values with a heading
    Tsv,
    /// Apache Parquet, in a build with the feature `parquet`
    Parquet,
    /// A folder with corpus.jsonl, queries.jsonl and qrels
    Beir,
}

impl From<TargetArg> for Target {
    fn from(target: TargetArg) -> Target {
        match target {
            TargetArg::Jsonl => Target::File(Form::JsonLines),
            TargetArg::Json => Target::File(Form::JsonArray),
            TargetArg::Csv => Target::File(Form::Csv),
            TargetArg::Tsv => Target::File(Form::Tsv),
            TargetArg::Parquet => Target::File(Form::Parquet),
            TargetArg::Beir => Target::Beir,
        }
    }
}

/// `--shape`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ShapeArg {
    /// query, pos, neg and all other fields
    Rows,
    /// anchor and positive, for each positive
    Pairs,
    /// anchor, positive and negative, for each positive with each negative
    Triplets,
    /// anchor, positive, negative_1, negative_2, ...: all negatives, for each positive
    NTuples,
    /// query, passage and label, 1 for positives and 0 for negatives
    LabeledPairs,
}

impl From<ShapeArg> for RowShape {
    fn from(shape: ShapeArg) -> RowShape {
        match shape {
            ShapeArg::Rows => RowShape::Rows,
            ShapeArg::Pairs => RowShape::Pairs,
            ShapeArg::Triplets => RowShape::Triplets,
            ShapeArg::NTuples => RowShape::NTuples,
            ShapeArg::LabeledPairs => RowShape::LabeledPairs,
        }
    }
}
