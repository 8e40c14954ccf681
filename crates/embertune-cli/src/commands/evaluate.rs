//! `embertune evaluate`: how well a model finds the positives of held-out queries.

use embertune::Result;
use embertune::data::{read_examples, read_pool};
use embertune::eval::{EvalSettings, evaluate, queries_of};
use embertune::progress::Progress;

use super::{load, start_threads};
use crate::args::EvaluateArgs;
use crate::printer;

/// Runs the command.
pub fn run(args: &EvaluateArgs, progress: &dyn Progress) -> Result<()> {
    start_threads(&args.machine)?;
    let examples = read_examples(&args.query_file_jsonl_path, progress)?;
    let pool = read_pool(&args.index_file_jsonl_path, progress)?;
    let model = load(&args.model, &args.machine, progress)?;
    let queries = queries_of(&examples, progress);
    let settings = EvalSettings { cutoffs: args.cutoffs.clone(), batch_size: args.batch_size };
    let evaluation = evaluate(&model, &queries, pool, &settings, progress)?;
    let print = if args.json { printer::evaluation_json } else { printer::evaluation_table };
    print(&args.model.model_name_or_path, &evaluation)
}
