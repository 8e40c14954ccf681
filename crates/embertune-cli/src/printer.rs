//! What goes to standard output: tables for people, JSON for programs. The only file that prints there.

mod audit;
mod audit_html;
mod comparison;

use std::io::{self, Write};

use embertune::audit::Audit;
use embertune::data::split_files::SplitFiles;
use embertune::eval::similarity::{Correlations, TripletAccuracy};
use embertune::eval::{Comparison, Evaluation, Metric};
use embertune::{Error, Result};
use serde_json::{Map, Value, json};

/// What `evaluate` has found out about a model or a run.
pub struct Evaluated {
    pub model: String,
    /// The test set first, then the probes, by name.
    pub sets: Vec<(String, Evaluation)>,
    pub pairs: Option<Correlations>,
    pub triplets: Option<TripletAccuracy>,
}

/// The metrics as tables, one line per metric, one column per cutoff.
pub fn evaluation_table(evaluated: &Evaluated) -> Result<()> {
    let model = &evaluated.model;
    let mut blocks = Vec::new();
    for (i, (name, evaluation)) in evaluated.sets.iter().enumerate() {
        blocks.push(table(&if i == 0 { model.clone() } else { format!("{model}, probe {name}") }, evaluation));
    }
    if let Some(Correlations { n_pairs, spearman, pearson }) = &evaluated.pairs {
        blocks.push(format!("{model}: {n_pairs} pairs\nSpearman   {spearman:>8.4}\nPearson    {pearson:>8.4}\n"));
    }
    if let Some(TripletAccuracy { n_triplets, accuracy }) = &evaluated.triplets {
        blocks.push(format!("{model}: {n_triplets} triplets\nAccuracy   {accuracy:>8.4}\n"));
    }
    print(&blocks.join("\n"))
}

/// The metrics as one JSON object: `{"model", "n_queries", ..., "scores": {"MRR@10": 0.5, ...}}`, with `probes`, `pairs` and
/// `triplets` where there are some.
pub fn evaluation_json(evaluated: &Evaluated) -> Result<()> {
    let mut object = Map::new();
    object.insert("model".into(), json!(evaluated.model));
    let mut sets = evaluated.sets.iter();
    if let Some((_, test)) = sets.next() {
        object.extend(set_json(test));
    }
    let probes: Map<_, _> = sets.map(|(name, probe)| (name.clone(), Value::Object(set_json(probe)))).collect();
    if !probes.is_empty() {
        object.insert("probes".into(), Value::Object(probes));
    }
    if let Some(pairs) = &evaluated.pairs {
        object.insert("pairs".into(), json!(pairs));
    }
    if let Some(triplets) = &evaluated.triplets {
        object.insert("triplets".into(), json!(triplets));
    }
    print(&format!("{:#}\n", Value::Object(object)))
}

/// A comparison as a page to read.
pub fn comparison_page(comparison: &Comparison) -> Result<()> {
    print(&comparison::page(comparison))
}

/// A comparison as one JSON object, with the verdict and the requirements that are not met.
pub fn comparison_json(comparison: &Comparison, unmet: &[String]) -> Result<()> {
    let mut object = json!({"verdict": comparison.verdict(), "finding": comparison.sets[0].main().finding});
    if let (Value::Object(object), Value::Object(rest)) = (&mut object, json!(comparison)) {
        object.extend(rest);
        object.insert("unmet".into(), json!(unmet));
    }
    print(&format!("{object:#}\n"))
}

/// An audit as a page to read.
pub fn audit_page(audit: &Audit) -> Result<()> {
    print(&audit::page(audit))
}

/// An audit as one JSON object.
pub fn audit_json(audit: &Audit) -> Result<()> {
    print(&format!("{:#}\n", json!(audit)))
}

/// An audit as a page of HTML.
pub fn audit_html(audit: &Audit) -> String {
    audit_html::page(audit)
}

/// Rows and queries of each file of a split.
pub fn split_table(split: &SplitFiles) -> Result<()> {
    let mut text = format!("{:<6} {:>10} {:>10}  file\n", "", "rows", "queries");
    for (side, path) in &split.files {
        let [n_rows, n_queries] = [split.summary.n_rows, split.summary.n_queries].map(|counts| counts[*side as usize]);
        text += &format!("{:<6} {n_rows:>10} {n_queries:>10}  {}\n", side.name(), path.display());
    }
    print(&text)
}

/// Text as it is.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("standard output", "write"))
}

fn set_json(evaluation: &Evaluation) -> Map<String, Value> {
    let scores: Map<String, Value> = evaluation
        .scores
        .iter()
        .map(|score| (format!("{}@{}", score.metric.name(), score.cutoff), json!(score.mean)))
        .collect();
    let mut object = Map::from_iter([("n_queries".into(), json!(evaluation.n_queries))]);
    if let Value::Object(counts) = json!(evaluation.counts) {
        object.extend(counts);
    }
    object.insert("scores".into(), Value::Object(scores));
    object
}

fn table(title: &str, evaluation: &Evaluation) -> String {
    let mut cutoffs: Vec<usize> = Vec::new();
    for score in &evaluation.scores {
        if !cutoffs.contains(&score.cutoff) {
            cutoffs.push(score.cutoff);
        }
    }
    let mut text = format!("{title}: {} queries", evaluation.n_queries);
    // The candidates of a run that was made elsewhere are not known.
    if evaluation.counts.n_candidates > 0 {
        text += &format!(", {} candidates", evaluation.counts.n_candidates);
    }
    text += &format!("\n{:<11}", "");
    for cutoff in &cutoffs {
        text += &format!(" {:>8}", format!("@{cutoff}"));
    }
    text.push('\n');
    for metric in Metric::ALL {
        text += &format!("{:<11}", metric.name());
        for &cutoff in &cutoffs {
            match evaluation.mean(metric, cutoff) {
                Some(mean) => text += &format!(" {mean:>8.4}"),
                None => text += &format!(" {:>8}", "-"),
            }
        }
        text.push('\n');
    }
    text
}
