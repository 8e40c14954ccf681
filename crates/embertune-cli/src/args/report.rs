//! The flags of `embertune report`.

use std::path::PathBuf;

use clap::Args;

use super::boolean;

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # Keep the verdict in the run's folder, then make the page of the run: tuned/report.html, and tuned/report.md for a pull request
  embertune compare BAAI/bge-small-en-v1.5 ./tuned --test_set ./beir-folder --save_verdict ./tuned
  embertune report ./tuned

  # Several runs side by side, without any text of the data
  embertune report ./tuned-a ./tuned-b --output runs.html --no_texts";

/// Arguments of `report`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Output")]
pub struct ReportArgs {
    /// Folders that `train` or `tune` has written; with several they are put side by side
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,

    /// Where the page goes [default: report.html in the run's folder; of several runs, in the current folder]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Leave out all texts of queries and passages: show names, ranks and numbers only
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", action = clap::ArgAction::Set)]
    pub no_texts: bool,
}
