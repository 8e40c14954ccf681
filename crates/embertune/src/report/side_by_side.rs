//! Several runs on one page: verdicts, metrics and costs in columns, the settings in which they differ, and their curves.

use maud::{Markup, html};

use super::chart::{self, Line};
use super::command::changed_settings;
use super::metrics::direction;
use super::page::{Section, document, judged};
use super::run::Run;
use super::setup::{bytes, time};
use crate::eval::Difference;
use crate::eval::verdict::thousands;

/// The page of several runs.
pub fn page(runs: &[Run]) -> String {
    let names = runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ");
    let head = html! {
        h1 { "Fine-tuning runs: " (names) }
        @for run in runs {
            @let (class, word) = judged(run);
            div class={ "verdict " (class) } {
                span class="word" { (run.name) ": " (word) }
                @if let Some(record) = &run.verdict { p { (record.verdict) } }
            }
        }
    };
    let sections = [metrics(runs), curves(runs), settings(runs), costs(runs)];
    document("Fine-tuning runs", &head, sections.into_iter().flatten(), env!("CARGO_PKG_VERSION"))
}

fn table(caption: &str, first: &str, runs: &[Run], rows: &[(String, Vec<Markup>)]) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr { th scope="col" { (first) } @for run in runs { th scope="col" class="wrap" { (run.name) } } } }
                tbody { @for (name, values) in rows { tr { th scope="row" { (name) } @for value in values { (value) } } } }
            }
        }
    }
}

fn metrics(runs: &[Run]) -> Option<Section> {
    let judged: Vec<_> = runs.iter().filter_map(|run| run.verdict.as_ref()).collect();
    let mut measures = Vec::new();
    for row in judged.iter().flat_map(|record| &record.comparison.sets[0].measures) {
        if !measures.contains(&row.measure) {
            measures.push(row.measure);
        }
    }
    if measures.is_empty() {
        return None;
    }
    let of = |run: &Run, measure| -> Option<Difference> {
        let set = &run.verdict.as_ref()?.comparison.sets[0];
        Some(set.measures.iter().find(|row| row.measure == measure)?.difference.clone())
    };
    let rows: Vec<_> = measures
        .iter()
        .map(|&measure| {
            let cells = runs.iter().map(|run| match of(run, measure) {
                None => html! { td { "-" } },
                Some(found) => html! {
                    td {
                        (format!("{:.4}", found.tuned)) br;
                        span class=(direction(&found)) { (format!("{:+.4}", found.difference)) }
                        @if let Some((low, high)) = found.interval { br; span class="note" { (format!("{low:+.3} to {high:+.3}")) } }
                    }
                },
            });
            (measure.to_string(), cells.collect())
        })
        .collect();
    let is_same = judged.iter().all(|record| record.judgments_id == judged[0].judgments_id);
    let body = html! {
        @if !is_same { p { strong { "These runs were judged on different test sets: their numbers do not compare." } } }
        (table("The tuned model, its change from its base, and the 95 % interval of the change", "metric", runs, &rows))
    };
    Some(Section { id: "metrics", title: "Metrics", body })
}

/// At most three runs go into one chart: more lines cannot be told apart without colours.
fn curves(runs: &[Run]) -> Option<Section> {
    let charts = html! {
        @for some in runs.chunks(3) {
            (chart::lines("Loss", "step", &some.iter().map(|run| Line {
                name: run.name.clone(),
                points: run.log.steps.iter().map(|line| (line.step as f64, line.loss)).collect(),
            }).collect::<Vec<_>>()))
            (chart::lines("nDCG@10 on held-out rows", "step", &some.iter().map(|run| Line {
                name: run.name.clone(),
                points: run.log.evaluations.iter().map(|line| (line.step as f64, line.scores.ndcg10)).collect(),
            }).collect::<Vec<_>>()))
        }
    };
    (!charts.0.is_empty()).then(|| Section {
        id: "training",
        title: "Training",
        body: html! { div class="charts" { (charts) } },
    })
}

fn settings(runs: &[Run]) -> Option<Section> {
    let changed: Vec<Vec<(String, String)>> = runs.iter().map(|run| changed_settings(&run.facts.settings)).collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in changed.iter().flatten() {
        if !["output_dir", "vector_cache"].contains(&name.as_str()) && !names.contains(&name) {
            names.push(name);
        }
    }
    let value =
        |run: usize, name: &String| changed[run].iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let rows: Vec<_> = names
        .into_iter()
        .filter(|name| (1..runs.len()).any(|run| value(run, name) != value(0, name)))
        .map(|name| {
            let cells = (0..runs.len())
                .map(|run| html! { td class="wrap" { (value(run, name).map_or("default", |value| value)) } });
            (name.clone(), cells.collect())
        })
        .collect();
    let body = table("Settings in which the runs differ", "setting", runs, &rows);
    (!rows.is_empty()).then_some(Section { id: "settings", title: "Settings", body })
}

fn costs(runs: &[Run]) -> Option<Section> {
    let row = |name: &str, value: &dyn Fn(&Run) -> String| {
        (name.to_string(), runs.iter().map(|run| html! { td { (value(run)) } }).collect())
    };
    let rows = [
        row("Rows", &|run| thousands(run.facts.counts.rows as u64)),
        row("Steps", &|run| thousands(run.facts.counts.steps as u64)),
        row("Training time", &|run| time(run.facts.seconds.train)),
        row("Largest memory", &|run| run.facts.peak_memory_bytes.map_or("-".into(), bytes)),
        row("Threads", &|run| run.facts.threads.to_string()),
    ];
    Some(Section { id: "cost", title: "Time and memory", body: table("What the runs took", "", runs, &rows) })
}
