//! The flags of `evaluate` and `compare` that say what to evaluate on.

use std::path::PathBuf;

use clap::Args;
use embertune::data::Columns;

/// The test set, and the probes.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Data")]
pub struct TestSetArgs {
    /// The pool to search: JSON lines {"context": [str]} (each string is one candidate) or {"text": str}
    #[arg(long, value_name = "FILE", requires = "query_file_jsonl_path")]
    pub index_file_jsonl_path: Option<PathBuf>,

    /// Held-out queries with the passages that answer them: JSON lines {"query": str, "pos": [str]}
    #[arg(long, value_name = "FILE", requires = "index_file_jsonl_path", conflicts_with = "test_set")]
    pub query_file_jsonl_path: Option<PathBuf>,

    /// Names of the columns, where they are others than query, pos, neg and those of sentence-transformers
    #[arg(long, value_name = "PART=COLUMN,...")]
    pub columns: Option<Columns>,

    /// In place of these two, a BEIR folder: corpus.jsonl, queries.jsonl, and qrels/test.tsv or qrels.tsv with grades
    #[arg(long, value_name = "FOLDER")]
    pub test_set: Option<PathBuf>,

    /// Which judgments of a BEIR folder: qrels/SPLIT.tsv
    #[arg(long, value_name = "SPLIT", default_value = "test")]
    pub split: String,

    /// Watch this set, too, for what the model forgets: a BEIR folder, or POOL.jsonl,ROWS.jsonl. May be given several times
    #[arg(long, value_name = "FOLDER|POOL,ROWS")]
    pub probe: Vec<String>,
}
