//! What goes to standard output: tables for people, JSON for programs. The only file that prints there.

use std::io::{self, Write};

use embertune::eval::{Evaluation, Metric};
use embertune::{Error, Result};
use serde_json::{Map, Value, json};

/// The metrics of an evaluation as a table, one line per metric, one column per cutoff.
pub fn evaluation_table(model: &str, evaluation: &Evaluation) -> Result<()> {
    print(&table(model, evaluation))
}

/// The metrics of an evaluation as one JSON object: `{"model", "n_queries", ..., "scores": {"MRR@10": 0.5, ...}}`.
pub fn evaluation_json(model: &str, evaluation: &Evaluation) -> Result<()> {
    let scores: Map<String, Value> = evaluation
        .scores
        .iter()
        .map(|score| (format!("{}@{}", score.metric.name(), score.cutoff), json!(score.mean)))
        .collect();
    let Evaluation { n_queries, n_candidates, n_duplicate_candidates, n_positives, n_positives_missing, .. } =
        evaluation;
    let object = json!({
        "model": model,
        "n_queries": n_queries,
        "n_queries_without_positive": evaluation.n_queries_without_positive,
        "n_queries_truncated": evaluation.n_queries_truncated,
        "n_candidates": n_candidates,
        "n_duplicate_candidates": n_duplicate_candidates,
        "n_candidates_truncated": evaluation.n_candidates_truncated,
        "n_positives": n_positives,
        "n_positives_missing": n_positives_missing,
        "scores": scores,
    });
    print(&format!("{object:#}\n"))
}

/// Text as it is.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("standard output", "write"))
}

fn table(model: &str, evaluation: &Evaluation) -> String {
    let mut cutoffs: Vec<usize> = Vec::new();
    for score in &evaluation.scores {
        if !cutoffs.contains(&score.cutoff) {
            cutoffs.push(score.cutoff);
        }
    }
    let mut text = format!("{model}: {} queries, {} candidates\n", evaluation.n_queries, evaluation.n_candidates);
    text += &format!("{:<10}", "");
    for cutoff in &cutoffs {
        text += &format!(" {:>8}", format!("@{cutoff}"));
    }
    text.push('\n');
    for metric in Metric::ALL {
        text += &format!("{:<10}", metric.name());
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
