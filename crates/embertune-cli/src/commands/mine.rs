//! `embertune mine`: rows in, the same rows with hard negatives out.

use embertune::data::atomic::check_writable;
use embertune::data::{read_pool_by, read_rows_by};
use embertune::embed::cache::VectorCache;
use embertune::embed::stored::{VectorFile, read_vectors};
use embertune::mine::{MadeVectors, MineSettings, Mined, Ranking, Review, VectorSource, mine, output};
use embertune::model::EmbeddingModel;
use embertune::progress::Progress;
use embertune::{Error, Result};
use embertune_kernels::cpu::Cpu;

use super::{load_named, start_threads};
use crate::args::MineArgs;

/// Runs the command.
pub fn run(args: &MineArgs, progress: &dyn Progress) -> Result<()> {
    start_threads(&args.machine)?;
    if args.use_gpu_for_searching {
        progress.note("`--use_gpu_for_searching`: this build has no GPU support, the search runs on the CPU");
    }
    let settings = args.settings();
    settings.check()?;
    check_writable(&args.output_file)?;
    let review = match &args.review {
        Some(path) if !settings.rule.suspects() => {
            return Err(Error::Setting {
                problem: format!("`--review {}`: no rule suspects a candidate", path.display()),
                hint: Some(
                    "add `--preset nv-retriever`, a margin, `--max_score` or `--exclude_near_duplicates`".into(),
                ),
            });
        }
        Some(path) => {
            check_writable(path)?;
            Review::read(path)?
        }
        None => Review::default(),
    };
    let columns = args.columns.clone().unwrap_or_default();
    let rows = read_rows_by(&args.input_file, &columns, progress)?;
    let pool = args.candidate_pool.as_ref().map(|path| read_pool_by(path, &columns, progress)).transpose()?;
    let model = model(args, &settings, progress)?;
    let cache = args.embedding.cache();
    let mined = mine(vectors(args, model.as_ref(), cache.as_ref())?, rows, pool, &review, &settings, progress)?;
    output::write(&args.output_file, &mined, args.output_format.into(), settings.n_negatives, progress)?;
    write_review(args, review, &mined, progress)?;
    let n_negatives: usize = mined.rows.iter().map(|row| row.example.negatives.len()).sum();
    progress.note(&format!(
        "{}: {} rows with {n_negatives} negatives, from {} candidates",
        args.output_file.display(),
        mined.rows.len(),
        mined.n_candidates
    ));
    Ok(())
}

/// The model, where one is needed and named.
fn model(args: &MineArgs, settings: &MineSettings, progress: &dyn Progress) -> Result<Option<EmbeddingModel<Cpu>>> {
    let is_needed = args.query_vectors.is_none() && settings.ranking != Ranking::Bm25;
    match &args.model_name_or_path {
        Some(name) if is_needed => load_named(name, &args.model_changes, &args.machine, progress).map(Some),
        Some(_) => {
            progress.note("the model is not needed, and not loaded");
            Ok(None)
        }
        None => Ok(None),
    }
}

fn vectors<'a>(
    args: &MineArgs,
    model: Option<&'a EmbeddingModel<Cpu>>,
    cache: Option<&'a VectorCache>,
) -> Result<VectorSource<'a, Cpu>> {
    Ok(match (model, &args.query_vectors, &args.passage_vectors) {
        (Some(model), ..) => match cache {
            Some(cache) => VectorSource::Cached(model, cache),
            None => VectorSource::Model(model),
        },
        (None, Some(queries), Some(passages)) => VectorSource::Made(MadeVectors {
            queries: read_vectors(queries)?,
            queries_path: queries.clone(),
            passages: VectorFile::open(passages)?,
        }),
        _ => VectorSource::Nowhere,
    })
}

fn write_review(args: &MineArgs, mut review: Review, mined: &Mined, progress: &dyn Progress) -> Result<()> {
    let Some(path) = &args.review else { return Ok(()) };
    let (n_before, n_new) = (review.len(), review.add(&mined.suspects));
    review.write(path)?;
    progress.note(&format!("{}: {n_new} suspected right answers beside {n_before} from before", path.display()));
    Ok(())
}
