//! `embertune compare`: is the tuned model better?

use std::path::Path;
use std::process::ExitCode;

use embertune::data::atomic::check_writable;
use embertune::eval::{Results, TestSet};
use embertune::progress::Progress;
use embertune::report::verdict::{VERDICT, VerdictRecord};
use embertune::{Error, Result};

use super::start_threads;
use super::test_sets::{self, Evaluator, SAVED_DEPTH};
use crate::args::CompareArgs;
use crate::diagnostics;
use crate::printer;

/// Runs the command. The exit code says whether all requirements are met.
pub fn run(args: &CompareArgs, progress: &dyn Progress) -> Result<ExitCode> {
    start_threads(&args.machine)?;
    if args.resamples == 0 {
        return Err(Error::Setting {
            problem: "`--resamples 0`: at least 1 is needed".into(),
            hint: Some("leave the flag out for 9,999".into()),
        });
    }
    if let Some(output) = &args.output {
        check_writable(output)?;
    }
    let verdict_path = args.save_verdict.as_ref().map(|folder| folder.join(VERDICT));
    if let Some(path) = &verdict_path {
        check_writable(path)?;
    }
    if let Some(folder) = args.save_verdict.as_deref().filter(|folder| is_of_another_model(folder, &args.tuned)) {
        progress.warn(&format!(
            "{} holds another model than {}: its report and model card will show this verdict",
            folder.display(),
            args.tuned
        ));
    }
    let settings = args.settings();
    let deepest = settings.others.iter().map(|measure| measure.cutoff).fold(settings.metric.cutoff, usize::max);
    let sets = test_sets::read(&args.sets, progress)?;
    let cache = args.embedding.cache();
    let evaluator = Evaluator {
        changes: &args.changes,
        machine: &args.machine,
        embedding: args.embedding.with(cache.as_ref()),
        depth: deepest.max(SAVED_DEPTH),
        progress,
    };
    let mut base = results(&args.base, sets.as_deref(), &evaluator)?;
    let mut tuned = results(&args.tuned, sets.as_deref(), &evaluator)?;
    if args.no_texts {
        for set in base.sets.iter_mut().chain(&mut tuned.sets) {
            set.leave_out_texts(&args.slice_by);
        }
    }
    let record = VerdictRecord::of(&base, &tuned, &settings)?;
    if let Some(path) = &verdict_path {
        record.write(path)?;
    }
    let comparison = record.comparison.showing(settings.n_shown);
    if let Some(output) = &args.output {
        tuned.write(output, &[1, 10, 100])?;
    }
    let unmet = args.require.iter().map(|requirement| requirement.unmet(&comparison));
    let unmet: Vec<String> = unmet.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    if args.json {
        printer::comparison_json(&comparison, &unmet)?
    } else {
        printer::comparison_page(&comparison)?
    };
    Ok(diagnostics::report_unmet(&unmet))
}

/// Whether `folder`, or `model` in it, as `tune` has it, is a model and not the folder `tuned`.
fn is_of_another_model(folder: &Path, tuned: &str) -> bool {
    let models =
        [folder.to_path_buf(), folder.join("model")].into_iter().filter(|path| path.join("config.json").is_file());
    let models: Vec<_> = models.filter_map(|path| path.canonicalize().ok()).collect();
    let tuned = Path::new(tuned);
    !models.is_empty() && tuned.is_dir() && !tuned.canonicalize().is_ok_and(|tuned| models.contains(&tuned))
}

/// Saved results where `name` is a file, else those of the model of that name.
fn results(name: &str, sets: Option<&[TestSet]>, evaluator: &Evaluator<'_>) -> Result<Results> {
    let path = Path::new(name);
    if path.is_file() {
        return Results::read(path);
    }
    let sets = sets.ok_or_else(|| Error::Setting {
        problem: format!(
            "`{name}` is no file with saved results, and there is no test set to evaluate it on as a model"
        ),
        hint: Some(
            "name one with `--test_set`, or with `--index_file_jsonl_path` and `--query_file_jsonl_path`".into(),
        ),
    })?;
    Ok(Results::new(name, evaluator.results(name, sets)?))
}
