//! The flags of `embertune split`.

use std::path::PathBuf;

use clap::Args;
use embertune::data::Columns;
use embertune::data::split::SplitSettings;

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # data/train.jsonl, data/dev.jsonl and data/test.jsonl, with 80, 10 and 10 % of the queries
  embertune split rows.jsonl --out data

  # Train and dev alone, without what test.jsonl asks
  embertune split rows.jsonl --out data --test 0 --apart_from test.jsonl

  # Train and test alone, of a CSV file whose columns have other names
  embertune split faq.csv --out data --dev 0 --test 0.2 --columns query=question,pos=answer";

/// Arguments of `split`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case")]
pub struct SplitArgs {
    /// Rows to split: a file of any form, or a folder of them
    #[arg(value_name = "DATA")]
    pub data: PathBuf,

    /// Folder to write train, dev and test to; it must not exist, or be empty
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,

    /// Share of the queries for dev, on which settings and checkpoints are chosen; 0 for none
    #[arg(long, value_name = "SHARE", default_value_t = default().dev)]
    pub dev: f64,

    /// Share of the queries for test, which says at the end how good the model is; 0 for none
    #[arg(long, value_name = "SHARE", default_value_t = default().test)]
    pub test: f64,

    /// Same seed, same split
    #[arg(long, value_name = "N", default_value_t = default().seed)]
    pub seed: u64,

    /// Queries with the same positive are on one side, unless it answers more queries than this: then it is a label
    #[arg(long, value_name = "N", default_value_t = default().max_queries_per_positive)]
    pub max_queries_per_positive: usize,

    /// Rows that a model is tested on elsewhere: rows with such a query, or a near-duplicate of one, are left out
    #[arg(long, value_name = "DATA")]
    pub apart_from: Option<PathBuf>,

    /// Names of the columns, where they are others than query, pos, neg and those of sentence-transformers
    #[arg(long, value_name = "PART=COLUMN,...")]
    pub columns: Option<Columns>,
}

impl SplitArgs {
    /// The library's settings.
    pub fn settings(&self) -> SplitSettings {
        SplitSettings {
            dev: self.dev,
            test: self.test,
            seed: self.seed,
            max_queries_per_positive: self.max_queries_per_positive,
            apart_from: self.apart_from.clone(),
        }
    }
}

fn default() -> SplitSettings {
    SplitSettings::default()
}
