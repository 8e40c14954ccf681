//! The test sets that flags name, and a model's results on them.

use std::path::Path;

use embertune::comm::all_or_none;
use embertune::data::{Columns, read_pool_by, read_rows_by};
use embertune::embed::cache::Embedding;
use embertune::eval::{SetResults, TestSet, retrieve};
use embertune::progress::Progress;
use embertune::{Error, Result};

use super::load_named;
use crate::args::{MachineArgs, ModelChangeArgs, TestSetArgs};
use crate::device::{Device, on_device};

/// Rankings that may be saved are at least this deep, so that they serve for other metrics later.
pub const SAVED_DEPTH: usize = 100;

/// Reads the test set and the probes. `None` stands for the test set where no flag names one.
pub fn read(args: &TestSetArgs, progress: &dyn Progress) -> Result<Option<Vec<TestSet>>> {
    let columns = args.columns.clone().unwrap_or_default();
    let test = match (&args.index_file_jsonl_path, &args.query_file_jsonl_path, &args.test_set) {
        (Some(pool), Some(rows), _) => of_files(rows, pool, &columns, progress)?,
        (_, _, Some(folder)) => TestSet::read_beir(folder, &args.split)?,
        _ if args.probe.is_empty() => return Ok(None),
        _ => {
            return Err(Error::Setting {
                problem: "`--probe` without a test set".into(),
                hint: Some("name the test set with `--test_set`, or with `--index_file_jsonl_path` and `--query_file_jsonl_path`".into()),
            });
        }
    };
    let mut sets = vec![test];
    for probe in &args.probe {
        sets.push(match probe.split_once(',') {
            Some((pool, rows)) => of_files(Path::new(rows), Path::new(pool), &columns, progress)?,
            None => TestSet::read_beir(Path::new(probe), "test")?,
        });
    }
    for (i, set) in sets.iter().enumerate() {
        if sets[..i].iter().any(|other| other.name == set.name) {
            return Err(Error::Setting {
                problem: format!("two test sets are called `{}`", set.name),
                hint: Some("rename one of the folders or files".into()),
            });
        }
    }
    Ok(Some(sets))
}

/// A set is called after its file of rows, or the folder of the file where the file is called as all are.
fn of_files(rows: &Path, pool: &Path, columns: &Columns, progress: &dyn Progress) -> Result<TestSet> {
    let stem = rows.file_stem().unwrap_or_default().to_string_lossy();
    let folder = rows.parent().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let name = match folder {
        Some(folder) if stem == "test" => format!("{folder}/{stem}"),
        _ => stem.into_owned(),
    };
    Ok(TestSet::of_row_file(
        &name,
        read_rows_by(rows, columns, progress)?,
        read_pool_by(pool, columns, progress)?,
        progress,
    ))
}

/// What it takes to have results.
pub struct Evaluator<'a> {
    pub changes: &'a ModelChangeArgs,
    pub machine: &'a MachineArgs,
    pub embedding: Embedding<'a>,
    pub depth: usize,
    pub progress: &'a dyn Progress,
}

impl Evaluator<'_> {
    /// The results of a model on each of `sets`.
    pub fn results(&self, model: &str, sets: &[TestSet]) -> Result<Vec<SetResults>> {
        let progress = self.progress;
        let ranks = self.embedding.ranks;
        let device = Device::open(self.machine, self.machine.precision, ranks, progress)?;
        on_device!(device, |ops| {
            let model = all_or_none(ranks, load_named(ops, model, self.changes, progress))?;
            let retrieve = |set: &TestSet| retrieve(&model, set, self.depth, self.embedding, progress);
            sets.iter().map(|set| Ok(SetResults::new(set, retrieve(set)?, progress))).collect()
        })
    }
}
