//! The rows of a run: read, and divided into those it learns from and those it is measured on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::data::{
    Example, RowsOf, StoredExamples, TextId, read_examples_by, read_pool_by, store_examples, store_scored_examples,
};
use crate::error::Result;
use crate::train::evaluation::{passages_of, split};
use crate::train::events::Observer;
use crate::train::loss_settings::Reads;
use crate::train::settings::TrainSettings;

/// The rows of a data set, with their scores where its loss reads them.
pub fn read_rows(path: &Path, settings: &TrainSettings, observer: &dyn Observer) -> Result<StoredExamples> {
    match settings.loss.name.reads() {
        Reads::Texts => store_examples(path, &settings.columns, observer),
        _ => store_scored_examples(path, &settings.columns, observer),
    }
}

/// The rows of a run, on their two sides.
pub struct Rows {
    pub train: StoredExamples,
    /// `None` where nothing is evaluated.
    pub held_out: Option<HeldOutRows>,
}

/// What an evaluation takes of the rows.
pub struct HeldOutRows {
    pub rows: Vec<Example>,
    /// Where they are from.
    pub path: PathBuf,
    /// The candidate pool.
    pub candidates: Vec<String>,
}

impl Rows {
    pub fn read(settings: &TrainSettings, observer: &dyn Observer) -> Result<Self> {
        let columns = &settings.columns;
        let train = read_rows(&settings.train_data, &settings.of_set(0), observer)?;
        if !settings.evaluates() {
            // Without an evaluation nothing is held out.
            return Ok(Rows { train, held_out: None });
        }
        let (train, rows, path, candidates) = match (&settings.eval_data, settings.eval_split) {
            (Some(path), _) => {
                let rows = read_examples_by(path, columns, observer)?;
                say_what_is_learned(&train, &rows, settings, path, observer)?;
                let candidates = candidates(&rows, settings, observer)?;
                (train, rows, path, candidates)
            }
            (None, share) => {
                let candidates = candidates(&train, settings, observer)?;
                let (train, rows) = split(&train, share.unwrap_or_default(), settings.seed)?;
                (train, rows, &settings.train_data, candidates)
            }
        };
        Ok(Rows { train, held_out: Some(HeldOutRows { rows, path: path.clone(), candidates }) })
    }
}

/// Warns of held-out queries that are trained on.
fn say_what_is_learned(
    train: &StoredExamples,
    held_out: &[Example],
    settings: &TrainSettings,
    path: &Path,
    observer: &dyn Observer,
) -> Result<()> {
    let mut asked: HashSet<_> = held_out.iter().map(|row| TextId::of(&row.query)).collect();
    let n_asked = asked.len();
    for row in train.rows() {
        asked.remove(&TextId::of(&row?.query));
    }
    let n_learned = n_asked - asked.len();
    if n_learned > 0 {
        observer.warn(&format!(
            "{n_learned} of {n_asked} queries of {} are trained on, too, so that the evaluation is better than that of other queries would be: \
             `embertune split {} --apart_from {}` keeps them apart",
            path.display(),
            settings.train_data.display(),
            path.display()
        ));
    }
    Ok(())
}

/// The candidate pool, or else the passages of `rows`.
fn candidates(
    rows: &(impl RowsOf<Example> + ?Sized),
    settings: &TrainSettings,
    observer: &dyn Observer,
) -> Result<Vec<String>> {
    match &settings.candidate_pool {
        Some(path) => read_pool_by(path, &settings.columns, observer),
        None => passages_of(rows),
    }
}
