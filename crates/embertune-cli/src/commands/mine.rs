//! `embertune mine`: rows in, the same rows with hard negatives out.

use std::path::Path;

use embertune::comm::{Communicator, all_or_none, by_first};
use embertune::data::atomic::check_apart;
use embertune::data::packed::check_lines;
use embertune::data::{Row, RowsOf, Stored, StoredPool, store_pool, store_rows};
use embertune::embed::cache::VectorCache;
use embertune::embed::stored::VectorFile;
use embertune::mine::{MadeVectors, MineSettings, Ranking, Review, Shared, Suspect, VectorSource, mine, output};
use embertune::model::EmbeddingModel;
use embertune::progress::Progress;
use embertune::search::exact::FirstPass;
use embertune::{Error, Result};
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;

use super::{load_named, start_threads};
use crate::args::MineArgs;
use crate::device::{Device, on_device};

/// Runs the command as one of `ranks`, of which the first writes.
pub fn run(args: &MineArgs, ranks: &dyn Communicator, progress: &dyn Progress) -> Result<()> {
    let Prepared { settings, review, rows, pool } = all_or_none(ranks, prepare(args, ranks, progress))?;
    let cache = args.embedding.cache();
    let name = model_name(args, &settings, progress);
    let searches_on_gpu = args.use_gpu_for_searching && settings.ranking != Ranking::Bm25;
    let device = if name.is_some() || searches_on_gpu {
        Device::open(&args.machine, args.machine.precision, ranks, progress)?
    } else {
        Device::Cpu(Cpu::new())
    };
    let searching = device.searching().filter(|_| searches_on_gpu);
    if args.use_gpu_for_searching && searching.is_none() {
        progress.note("`--use_gpu_for_searching`: the search runs on the CPU, and finds the same");
    }
    let first_pass = searching.as_deref().map_or_else(FirstPass::fastest, FirstPass::Device);
    let mined = match name {
        Some(name) => on_device!(device, |ops| {
            let model = all_or_none(ranks, load_named(ops, name, &args.model_changes, progress))?;
            let source = all_or_none(ranks, vectors(args, Some(&model), cache.as_ref()))?;
            mine(Shared { first_pass, ..source.among(ranks) }, &rows, pool, review.as_ref(), &settings, progress)
        }),
        None => {
            let source = all_or_none(ranks, vectors::<Cpu>(args, None, cache.as_ref()))?;
            mine(Shared { first_pass, ..source.among(ranks) }, &rows, pool, review.as_ref(), &settings, progress)
        }
    };
    let mined = all_or_none(ranks, mined)?;
    by_first(ranks, || {
        output::write(&args.output_file, &mined, args.output_format.into(), settings.n_negatives, progress)?;
        match (&args.review, &review) {
            (Some(path), Some(review)) => write_review(path, review.clone(), &mined.chosen.suspects, progress),
            _ => Ok(()),
        }
    })?;
    progress.note(&format!(
        "{}: {} rows with {} negatives, from {} candidates",
        args.output_file.display(),
        rows.n_rows(),
        mined.chosen.n_negatives(),
        mined.n_candidates()
    ));
    Ok(())
}

/// What mining begins with.
struct Prepared {
    settings: MineSettings,
    review: Option<Review>,
    rows: Stored<Row>,
    pool: Option<StoredPool>,
}

fn prepare(args: &MineArgs, ranks: &dyn Communicator, progress: &dyn Progress) -> Result<Prepared> {
    start_threads(&args.machine)?;
    let settings = args.settings();
    settings.check()?;
    let writes = ranks.rank() == 0;
    if writes {
        check_outputs(args)?;
    }
    let review = match &args.review {
        Some(path) if !settings.rule.suspects() => {
            return Err(Error::Setting {
                problem: format!("`--review {}`: no rule suspects a candidate", path.display()),
                hint: Some(
                    "add `--preset nv-retriever`, a margin, `--max_score` or `--exclude_near_duplicates`".into(),
                ),
            });
        }
        Some(path) => Some(Review::read(path)?),
        None => None,
    };
    let columns = args.columns.clone().unwrap_or_default();
    let rows = store_rows(&args.input_file, &columns, progress)?;
    warn_of_scores(&args.input_file, &rows, progress)?;
    let pool = args.candidate_pool.as_ref().map(|path| store_pool(path, &columns, progress)).transpose()?;
    Ok(Prepared { settings, review, rows, pool })
}

/// How many rows are looked at for scores, which all rows of a file have, if any.
const LOOKED_AT: usize = 1000;

fn warn_of_scores(path: &Path, rows: &Stored<Row>, progress: &dyn Progress) -> Result<()> {
    for row in rows.rows().take(LOOKED_AT) {
        let row = row?;
        let number = |field: &str| row.fields.get(field).and_then(|value| value.as_f64());
        if number("score").is_some() || number("label").is_some_and(|label| label != 1.0) {
            let (path, line) = (path.display(), row.example.line);
            progress.warn(&format!(
                "{path}:{line}: scores of pairs are not used: every pair counts as a query and its answer"
            ));
            break;
        }
    }
    Ok(())
}

/// Rows may be mined in place; nothing else that is read is written over.
fn check_outputs(args: &MineArgs) -> Result<()> {
    check_lines(&args.output_file)?;
    if let Some(review) = &args.review {
        check_lines(review)?;
        check_apart([review], [&args.input_file])?;
    }
    let read = [&args.candidate_pool, &args.query_vectors, &args.passage_vectors];
    check_apart([&args.output_file].into_iter().chain(&args.review), read.into_iter().flatten())
}

/// The name of the model, where one is needed and named.
fn model_name<'a>(args: &'a MineArgs, settings: &MineSettings, progress: &dyn Progress) -> Option<&'a str> {
    let is_needed = args.query_vectors.is_none() && settings.ranking != Ranking::Bm25;
    if args.model_name_or_path.is_some() && !is_needed {
        progress.note("the model is not needed, and not loaded");
    }
    args.model_name_or_path.as_deref().filter(|_| is_needed)
}

fn vectors<'a, O: Ops>(
    args: &MineArgs,
    model: Option<&'a EmbeddingModel<O>>,
    cache: Option<&'a VectorCache>,
) -> Result<VectorSource<'a, O>> {
    Ok(match (model, &args.query_vectors, &args.passage_vectors) {
        (Some(model), ..) => match cache {
            Some(cache) => VectorSource::Cached(model, cache),
            None => VectorSource::Model(model),
        },
        (None, Some(queries), Some(passages)) => VectorSource::Made(MadeVectors {
            queries: VectorFile::open(queries)?,
            passages: VectorFile::open(passages)?,
        }),
        _ => VectorSource::Nowhere,
    })
}

fn write_review(path: &Path, mut review: Review, suspects: &[Suspect], progress: &dyn Progress) -> Result<()> {
    let (n_before, n_new) = (review.len(), review.add(suspects));
    review.write(path)?;
    progress.note(&format!("{}: {n_new} suspected right answers beside {n_before} from before", path.display()));
    Ok(())
}
