//! The flags of `embertune compare`.

use std::path::PathBuf;

use clap::Args;
use embertune::eval::{CompareSettings, Measure, Requirement, Resampling};

use super::{EmbeddingArgs, MachineArgs, ModelChangeArgs, TestSetArgs, boolean};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # Is the tuned model better on the held-out queries, and has it forgotten another domain?
  embertune compare BAAI/bge-small-en-v1.5 ./tuned --index_file_jsonl_path candidate_context.jsonl \\
      --query_file_jsonl_path test.jsonl --probe ./scifact

  # The base's results, saved once by `embertune evaluate --output base.json`, need no second run; exit code 1 for CI
  embertune compare base.json ./tuned --test_set ./beir-folder --require 'mrr@10>=+0.02' --require not_worse

  # From saved results alone, as JSON, without any text
  embertune compare base.json tuned.json --json --no_texts";

/// Arguments of `compare`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Data")]
pub struct CompareArgs {
    /// The model before: a folder, a name on the Hugging Face hub, or results saved by `evaluate --output`
    #[arg(value_name = "BASE")]
    pub base: String,

    /// The model after, likewise
    #[arg(value_name = "TUNED")]
    pub tuned: String,

    #[command(flatten)]
    pub sets: TestSetArgs,

    /// The metric that decides: mrr, hit, recall, ndcg, map, precision or r-precision, and a cutoff
    #[arg(long, value_name = "METRIC@K", default_value = "mrr@10", help_heading = "Comparison")]
    pub metric: Measure,

    /// Metrics to show beside it
    #[arg(
        long,
        value_name = "METRIC@K,...",
        value_delimiter = ',',
        default_value = "hit@1,hit@10,ndcg@10,recall@100,map@100",
        help_heading = "Comparison"
    )]
    pub other_metrics: Vec<Measure>,

    /// Compare groups of queries by these fields of the data, besides length, script, language and rarest word
    #[arg(long, value_name = "FIELD,...", value_delimiter = ',', help_heading = "Comparison")]
    pub slice_by: Vec<String>,

    /// Exit with code 1 unless this holds: mrr@10>=+0.02 (the difference), mrr@10>=0.5 (the value), NAME:mrr@10>=-0.01 (of a
    /// probe), better, not_worse (neither on the test set nor on a probe). May be given several times
    #[arg(long, value_name = "CONDITION", help_heading = "Comparison")]
    pub require: Vec<Requirement>,

    /// Samples that intervals and tests draw
    #[arg(long, value_name = "N", default_value_t = Resampling::default().n_samples, help_heading = "Comparison")]
    pub resamples: usize,

    /// Seed of the samples: same results, same seed, same numbers
    #[arg(long, value_name = "N", default_value_t = Resampling::default().seed, help_heading = "Comparison")]
    pub seed: u64,

    /// Show so many of the queries that gained most, and of those that lost most
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Output")]
    pub show: usize,

    /// Leave out all texts of queries and passages: show names only
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", help_heading = "Output", action = clap::ArgAction::Set)]
    pub no_texts: bool,

    /// Print one JSON object instead of a page
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          hide_default_value = true, value_name = "True|False", help_heading = "Output", action = clap::ArgAction::Set)]
    pub json: bool,

    /// Keep what was found in this folder, mostly that of the tuned model: in `verdict.json`, for `embertune report`. It has texts of
    /// queries and passages in it unless --no_texts
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    pub save_verdict: Option<PathBuf>,

    /// Write the results of the tuned model to this file, to be compared again without it
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    #[command(flatten)]
    pub changes: ModelChangeArgs,

    #[command(flatten)]
    pub embedding: EmbeddingArgs,

    #[command(flatten)]
    pub machine: MachineArgs,
}

impl CompareArgs {
    /// The library's settings. Metrics that a requirement needs are among the others.
    pub fn settings(&self) -> CompareSettings {
        let mut others = Vec::new();
        for measure in self.other_metrics.iter().copied().chain(self.require.iter().filter_map(Requirement::measure)) {
            if measure != self.metric && !others.contains(&measure) {
                others.push(measure);
            }
        }
        CompareSettings {
            metric: self.metric,
            others,
            slice_by: self.slice_by.clone(),
            n_shown: self.show,
            resampling: Resampling { n_samples: self.resamples, seed: self.seed },
        }
    }
}
