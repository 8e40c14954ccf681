//! `embertune evaluate`: how well a model finds the positives of held-out queries.

use std::path::Path;

use embertune::comm::{Communicator, all_or_none, by_first};
use embertune::data::atomic::{check_apart, check_writable};
use embertune::eval::retrieval::deepest;
use embertune::eval::similarity::{ScoredPair, Triplet, evaluate_pairs, evaluate_triplets, read_pairs, read_triplets};
use embertune::eval::trec::{read_run, write_run};
use embertune::eval::{Evaluation, Results, SetResults, TestSet};
use embertune::progress::Progress;
use embertune::{Error, Result};

use super::test_sets::{self, Evaluator, SAVED_DEPTH};
use super::{load_named, start_threads};
use crate::args::{EvaluateArgs, TestSetArgs};
use crate::device::{Device, on_device};
use crate::printer::{self, Evaluated};

/// Runs the command as one of `ranks`, of which the first writes and shows.
pub fn run(args: &EvaluateArgs, ranks: &dyn Communicator, progress: &dyn Progress) -> Result<()> {
    let Prepared { depth, pairs, triplets, sets } = all_or_none(ranks, prepare(args, ranks, progress))?;
    let cache = args.embedding.cache();
    let embedding = args.embedding.among(ranks, cache.as_ref());
    let (name, results) = match (&args.evaluate_run, &args.model_name_or_path) {
        (Some(run), _) => {
            let set = of_run(&sets)?;
            (run.display().to_string(), vec![SetResults::new(set, read_run(run, set, progress)?, progress)])
        }
        (None, Some(model)) => {
            let depth = if args.output.is_some() { depth.max(SAVED_DEPTH) } else { depth };
            let (changes, machine) = (&args.changes, &args.machine);
            let evaluator = Evaluator { changes, machine, embedding, depth, progress };
            (model.clone(), if sets.is_empty() { Vec::new() } else { evaluator.results(model, &sets)? })
        }
        (None, None) => return Err(nothing_to_evaluate()),
    };
    let mut evaluated = Evaluated { model: name, sets: Vec::new(), pairs: None, triplets: None };
    for set in &results {
        evaluated.sets.push((set.name.clone(), Evaluation::of(set, &args.cutoffs)?));
    }
    if pairs.is_some() || triplets.is_some() {
        let device = Device::open(&args.machine, args.machine.precision, ranks, progress)?;
        on_device!(device, |ops| {
            let model = all_or_none(ranks, load_named(ops, &evaluated.model, &args.changes, progress))?;
            evaluated.pairs = pairs.map(|pairs| evaluate_pairs(&model, &pairs, embedding, progress)).transpose()?;
            evaluated.triplets =
                triplets.map(|triplets| evaluate_triplets(&model, &triplets, embedding, progress)).transpose()?;
        });
    }
    by_first(ranks, || {
        save(args, &evaluated.model, results)?;
        if args.json { printer::evaluation_json(&evaluated) } else { printer::evaluation_table(&evaluated) }
    })
}

/// What an evaluation begins with.
struct Prepared {
    depth: usize,
    pairs: Option<Vec<ScoredPair>>,
    triplets: Option<Vec<Triplet>>,
    sets: Vec<TestSet>,
}

fn prepare(args: &EvaluateArgs, ranks: &dyn Communicator, progress: &dyn Progress) -> Result<Prepared> {
    start_threads(&args.machine)?;
    let depth = deepest(&args.cutoffs)?;
    for output in args.output.iter().chain(&args.run_file).filter(|_| ranks.rank() == 0) {
        check_writable(output)?;
    }
    let EvaluateArgs { sets: TestSetArgs { index_file_jsonl_path: pool, query_file_jsonl_path: rows, .. }, .. } = args;
    let read = [pool, rows, &args.qrels, &args.evaluate_run, &args.sts_file, &args.triplet_file];
    check_apart(args.output.iter().chain(&args.run_file), read.into_iter().flatten())?;
    let pairs = args.sts_file.as_deref().map(read_pairs).transpose()?;
    let triplets = args.triplet_file.as_deref().map(read_triplets).transpose()?;
    let sets = match &args.qrels {
        Some(path) => vec![TestSet::read_judgments(path)?],
        None => test_sets::read(&args.sets, progress)?.unwrap_or_default(),
    };
    Ok(Prepared { depth, pairs, triplets, sets })
}

/// The one set that a run is of.
fn of_run(sets: &[TestSet]) -> Result<&TestSet> {
    sets.first().ok_or_else(|| Error::Setting {
        problem: "`--evaluate_run` without judgments".into(),
        hint: Some("name them with `--qrels`, or the test set with `--test_set`".into()),
    })
}

fn nothing_to_evaluate() -> Error {
    Error::Setting {
        problem: "neither a model nor a run to evaluate".into(),
        hint: Some("name one with `--model_name_or_path` or `--evaluate_run`".into()),
    }
}

/// Writes the files that flags ask for.
fn save(args: &EvaluateArgs, model: &str, mut results: Vec<SetResults>) -> Result<()> {
    let Some(first) = results.first() else {
        let asked = args.output.as_ref().map(|_| "--output").or(args.run_file.as_ref().map(|_| "--run_file"));
        return match asked {
            None => Ok(()),
            Some(flag) => Err(Error::Setting {
                problem: format!("`{flag}` without a test set: there are no rankings to write"),
                hint: Some("name one with `--test_set`, or leave the flag out".into()),
            }),
        };
    };
    if let Some(path) = &args.run_file {
        // The tag of a run is its maker; of a folder the last part says enough.
        let tag = Path::new(model).file_name().map_or_else(|| "embertune".into(), |name| name.to_string_lossy());
        write_run(path, first, &tag)?;
    }
    if let Some(path) = &args.output {
        if args.no_texts {
            results.iter_mut().for_each(|set| set.leave_out_texts(&args.slice_by));
        }
        Results::new(model, results).write(path, &args.cutoffs)?;
    }
    Ok(())
}
