//! Exact search against faiss: the best 200 of 8,000 queries, vectors of 384 values.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::data::{passages, text};
use super::options::{MINILM, Options};
use super::process::{Peer, number};
use super::record::{Record, Role, Sample, Work};
use super::setup::{Setup, build};

const K: usize = 200;
const DIM: usize = 384;
const QUERIES: usize = 8000;
/// Texts whose vectors, over and over with noise, are the `real` ones.
const REAL_TEXTS: usize = 4000;

pub fn bench(setup: &Setup, options: &Options, record: &mut Record, root: &Path) -> Result<(), String> {
    build(root, &["--package", "embertune", "--example", "search_speed"])?;
    let mut peer = setup.runner.peer(options.threads)?;
    let (n_queries, sizes) = match options.quick {
        true => (500, vec![("60k", 6_000)]),
        false => (QUERIES, vec![("60k", 60_000), ("1m", 1_000_000)]),
    };
    for (name, n) in sizes {
        if !options.wants(name, &["60k", "1m"]) {
            continue;
        }
        for kind in ["random", "real"] {
            let queries = vectors(setup, &mut peer, kind, n_queries, 1)?;
            let pool = vectors(setup, &mut peer, kind, n, 2)?;
            let work = Work {
                bench: options.kind.name().into(),
                what: format!("best {K} of {n_queries} queries in {n} x {DIM}"),
                set: format!("{kind} vectors"),
                ..Work::default()
            };
            Search { setup, options, work, queries, pool }.bench(&mut peer, record)?;
        }
    }
    Ok(())
}

/// A file of `n` vectors, made where it is not there yet.
fn vectors(setup: &Setup, peer: &mut Peer, kind: &str, n: usize, seed: usize) -> Result<PathBuf, String> {
    let path = setup.cache.join(format!("search/{kind}{n}.{seed}.npy"));
    if !path.exists() {
        let base = if kind == "real" { Value::from(text(&real(setup)?)) } else { Value::Null };
        peer.ask(json!({"do": "make_vectors", "out": text(&path), "n": n, "dim": DIM, "seed": seed, "base": base}))?;
    }
    Ok(path)
}

/// Vectors of passages of debian-packages, by MiniLM.
fn real(setup: &Setup) -> Result<PathBuf, String> {
    let path = setup.cache.join(format!("search/debian-packages{REAL_TEXTS}.npy"));
    if !path.exists() {
        let texts = passages(setup, "debian-packages", REAL_TEXTS)?;
        let model = text(&setup.model(MINILM));
        let mut arguments = vec!["embed".into(), "--model_name_or_path".into(), model];
        arguments.extend(["--input_file".into(), text(&texts), "--output_file".into(), text(&path)]);
        setup.runner.run(&setup.embertune, &arguments, setup.threads)?;
    }
    Ok(path)
}

struct Search<'a> {
    setup: &'a Setup,
    options: &'a Options,
    work: Work,
    queries: PathBuf,
    pool: PathBuf,
}

impl Search<'_> {
    fn bench(&self, peer: &mut Peer, record: &mut Record) -> Result<(), String> {
        let (work, (queries, pool)) = (&self.work, (text(&self.queries), text(&self.pool)));
        let [ours, theirs] = ["ours", "theirs"].map(|side| self.setup.cache.join(format!("out/{side}.ids.npy")));
        let faiss = json!({"do": "faiss_search", "queries": queries, "pool": pool, "k": K, "out": text(&theirs)});

        self.embertune(&ours)?;
        peer.ask(faiss.clone())?;
        let compared =
            json!({"do": "compare_ids", "queries": queries, "pool": pool, "a": text(&ours), "b": text(&theirs)});
        let compared = peer.ask(compared)?;
        let differences = number(&compared, "differences")?;
        let what = "rows found by one side alone that are no ties";
        record.add(work, 0, Sample::new(Role::Check, "faiss IndexFlatIP", differences, what))?;
        if differences > 0.0 {
            return Err(format!("{work}: the sides do not find the same: {compared}"));
        }
        for pair in 1..=self.options.pairs {
            record.add(work, pair, Sample::new(Role::Subject, "Embertune", self.embertune(&ours)?, "s"))?;
            let seconds = number(&peer.ask(faiss.clone())?, "seconds")?;
            record.add(work, pair, Sample::new(Role::Baseline, "faiss IndexFlatIP", seconds, "s"))?;
        }
        Ok(())
    }

    /// Seconds of the search alone, as for faiss.
    fn embertune(&self, ids: &Path) -> Result<f64, String> {
        let threads = self.options.threads;
        let arguments = [text(&self.queries), text(&self.pool), K.to_string(), text(ids), "--threads".into()];
        let arguments: Vec<_> = arguments.into_iter().chain([threads.to_string()]).collect();
        let (_, said) = self.setup.runner.run(&self.setup.examples.join("search_speed"), &arguments, threads)?;
        let said: Value = serde_json::from_str(&said).map_err(|error| format!("search_speed: {error}: {said}"))?;
        number(&said, "seconds")
    }
}
