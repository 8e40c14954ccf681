//! The report in short, as Markdown for a pull request: verdict, metrics, settings. No text of the data is in it.

use super::command::changed_settings;
use super::page::{judged, model_name};
use super::run::Run;
use super::setup::{bytes, time};
use super::training;
use crate::eval::verdict::thousands;

/// The short report of a run.
pub fn markdown(run: &Run) -> String {
    let mut text = format!("## {}: {}\n\n", cell(&run.name), judged(run).1.to_lowercase());
    match &run.verdict {
        None => text += &format!("{}\n", training::in_a_sentence(run)),
        Some(record) => {
            let kept = run.kept_base().map_or(String::new(), |kept| format!(": {kept}"));
            text += &format!("**{}{kept}**\n", cell(&record.verdict));
            for (i, set) in record.comparison.sets.iter().enumerate() {
                let kind = if i == 0 { "Test set" } else { "Probe" };
                text += &format!("\n{kind} {}, {} queries\n\n", cell(&set.name), thousands(set.main().n as u64));
                text += "| metric | base | tuned | change | 95 % interval | p | won | lost |\n|---|--:|--:|--:|---|--:|--:|--:|\n";
                for row in &set.measures {
                    let found = &row.difference;
                    let interval = found.interval.map_or("-".into(), |(low, high)| format!("{low:+.3} to {high:+.3}"));
                    text += &format!(
                        "| {} | {:.4} | {:.4} | {:+.4} | {interval} | {:.4} | {} | {} |\n",
                        row.measure, found.base, found.tuned, found.difference, found.p_value, found.won, found.lost
                    );
                }
            }
        }
    }
    let facts = &run.facts;
    text += &format!("\n{} rows, training {}", thousands(facts.counts.rows as u64), time(facts.seconds.train));
    text += &facts.peak_memory_bytes.map_or(String::new(), |peak| format!(", {} of memory", bytes(peak)));
    text += "\n\n| setting | value |\n|---|---|\n";
    for (name, value) in changed_settings(&facts.settings) {
        // Paths of somebody's machine are of no use to the readers of a pull request.
        let value = if ["model_name_or_path", "train_data", "output_dir", "eval_data", "candidate_pool", "vector_cache"]
            .contains(&name.as_str())
        {
            model_name(&value)
        } else {
            value
        };
        text += &format!("| {name} | {} |\n", cell(&value));
    }
    text
}

/// A text that keeps to its cell and is no markup.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|")
}
