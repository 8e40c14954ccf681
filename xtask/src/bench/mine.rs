//! Mining hard negatives from end to end against sentence-transformers: debian-packages, its training queries in its whole corpus.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::data::{read_lines, text, write_lines};
use super::options::{Model, Options};
use super::process::{Peer, number};
use super::record::{Record, Role, Sample, Work};
use super::setup::Setup;

const SET: &str = "debian-packages";
/// Ranks that negatives come from, and how many are taken: both sides' random choice of 15.
const RANGE: (usize, usize) = (10, 60);
const NEGATIVES: usize = 15;
/// Share of our negatives that may lie outside of the peer's ranks: neighbours in rank whose scores are equal up to rounding.
const TIES: f64 = 1e-3;
/// Passages on which the peer's batch size and type are chosen.
const TRIED: usize = 256;

pub fn bench(setup: &Setup, options: &Options, record: &mut Record) -> Result<(), String> {
    let mut peer = setup.runner.peer(options.threads)?;
    let (corpus, n) = match options.quick {
        true => (cut(setup, "corpus.jsonl", 600)?, options.passages.or(Some(200))),
        false => (setup.data_file(SET, "corpus.jsonl")?, options.passages),
    };
    let rows = match n {
        Some(n) => cut(setup, "train.jsonl", n)?,
        None => setup.data_file(SET, "train.jsonl")?,
    };
    for &model in &options.models {
        Mining { setup, options, model, rows: &rows, corpus: &corpus }.bench(&mut peer, record)?;
    }
    Ok(())
}

/// The first `n` lines of a file of the set.
fn cut(setup: &Setup, file: &str, n: usize) -> Result<PathBuf, String> {
    let lines = read_lines(&setup.data_file(SET, file)?)?;
    let path = setup.cache.join(format!("data/{SET}.first{n}.{file}"));
    write_lines(&path, lines.iter().take(n))?;
    Ok(path)
}

struct Mining<'a> {
    setup: &'a Setup,
    options: &'a Options,
    model: Model,
    rows: &'a Path,
    corpus: &'a Path,
}

impl Mining<'_> {
    fn bench(&self, peer: &mut Peer, record: &mut Record) -> Result<(), String> {
        let [ours, theirs] = ["ours", "theirs"].map(|side| self.setup.cache.join(format!("out/{side}.mined.jsonl")));
        let model = text(&self.setup.model(self.model));
        let best = json!({"do": "best_encode", "model": model, "texts": text(self.corpus), "first": TRIED});
        let best = peer.ask(best)?;
        let (dtype, batch) = (best["dtype"].as_str().unwrap_or("f32"), &best["batch"]);
        let peers = |dtype: &str, (from, to): (usize, usize), negatives: usize, strategy: &str| {
            json!({"do": "mine", "model": model, "rows": text(self.rows), "corpus": text(self.corpus), "dtype": dtype, "batch": batch,
                   "range_min": from, "range_max": to, "negatives": negatives, "strategy": strategy, "out": text(&theirs)})
        };
        let precision = self.options.precisions.first().copied().unwrap_or("auto");
        let work = Work {
            bench: self.options.kind.name().into(),
            what: format!(
                "mine {NEGATIVES} of ranks {}-{} for {} queries",
                RANGE.0,
                RANGE.1,
                read_lines(self.rows)?.len()
            ),
            model: self.model.name.into(),
            set: SET.into(),
            settings: precision.into(),
        };

        // Each of our negatives is among the peer's candidates. Its ranks leave out the positive before they are counted, ours after.
        let (from, to) = (RANGE.0 - 1, RANGE.1 + 1);
        peer.ask(peers("f32", (from, to), to - from, "top"))?;
        self.embertune("fp32", &ours)?;
        let compared = peer.ask(json!({"do": "compare_mined", "ours": text(&ours), "window": text(&theirs)}))?;
        let outside = number(&compared, "outside")? / number(&compared, "negatives")?;
        let what = "share of our negatives that are outside of the peer's ranks";
        record.add(&work, 0, Sample::new(Role::Check, "sentence-transformers f32", outside, what))?;
        // No negatives at all give no number.
        if outside.is_nan() || outside > TIES {
            return Err(format!("{work}: the sides do not find the same: {compared}"));
        }
        for pair in 1..=self.options.pairs {
            record.add(&work, pair, Sample::new(Role::Subject, "Embertune", self.embertune(precision, &ours)?, "s"))?;
            let seconds = number(&peer.ask(peers(dtype, RANGE, NEGATIVES, "random"))?, "seconds")?;
            let side = format!("sentence-transformers {dtype} batch {batch} faiss");
            record.add(&work, pair, Sample::new(Role::Baseline, &side, seconds, "s"))?;
        }
        Ok(())
    }

    /// Seconds of the whole process: loading the model and reading the files count on our side alone.
    fn embertune(&self, precision: &str, out: &Path) -> Result<f64, String> {
        let mut arguments: Vec<String> = vec!["mine".into()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_string(), value]);
        add("--model_name_or_path", text(&self.setup.model(self.model)));
        add("--input_file", text(self.rows));
        add("--candidate_pool", text(self.corpus));
        add("--output_file", text(out));
        add("--range_for_sampling", format!("{}-{}", RANGE.0, RANGE.1));
        add("--negative_number", NEGATIVES.to_string());
        add("--precision", precision.into());
        add("--threads", self.options.threads.to_string());
        Ok(self.setup.runner.run(&self.setup.embertune, &arguments, self.options.threads)?.0.seconds)
    }
}
