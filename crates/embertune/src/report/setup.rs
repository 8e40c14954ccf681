//! What a run was made from and what it took: data, settings, the command to repeat it, time and memory.

use maud::{Markup, html};

use super::audit::lengths;
use super::command::{changed_settings, command};
use super::page::{Section, model_name};
use super::run::{FileFacts, Run};
use crate::eval::verdict::thousands;

/// The few facts that a reader looks for first.
pub fn at_a_glance(run: &Run) -> Markup {
    let facts = &run.facts;
    let mut all = Vec::new();
    if let Some(base) = run.setting("model_name_or_path") {
        all.push(("Base model".into(), model_name(&base)));
    }
    if let Some(comparison) = run.verdict.as_ref().map(|record| &record.comparison) {
        let main = comparison.sets[0].main();
        all.push((comparison.metric.to_string(), format!("{:.4} \u{2192} {:.4}", main.base, main.tuned)));
        all.push(("Test queries".into(), thousands(main.n as u64)));
    }
    all.push(("Training rows".into(), thousands(facts.counts.rows as u64)));
    all.push(("Training time".into(), time(facts.seconds.train)));
    html! { dl class="facts" { @for (name, value) in all { div { dt { (name) } dd { (value) } } } } }
}

/// The data: files, sizes, what is cut.
pub fn data(run: &Run) -> Option<Section> {
    let facts = &run.facts;
    let file = |name: &str, file: &FileFacts| {
        (name.to_string(), format!("{} ({}, xxh3 {})", file.path.display(), bytes(file.size_bytes), file.xxh3_128))
    };
    let mut rows = vec![file("Training data", &facts.data)];
    rows.extend(facts.more_data.iter().map(|data| file("Training data", data)));
    rows.extend(facts.eval_data.as_ref().map(|data| file("Held-out rows", data)));
    rows.push(("Rows".into(), thousands(facts.counts.rows as u64)));
    rows.push(("Distinct texts".into(), thousands(facts.counts.texts as u64)));
    if facts.counts.texts > 0 && facts.forecast.tokens_per_epoch > 0 {
        rows.push(("Tokens of the first epoch".into(), thousands(facts.forecast.tokens_per_epoch as u64)));
        let lengths = ["query_max_len", "passage_max_len"].map(|name| run.setting(name).unwrap_or_default());
        let share = 100.0 * facts.forecast.truncated_share;
        rows.push((
            "Texts that are cut".into(),
            format!("{share:.1} % (queries beyond {} tokens, passages beyond {})", lengths[0], lengths[1]),
        ));
    }
    for (i, role) in ["queries", "passages"].into_iter().enumerate() {
        if !facts.prompts[i].is_empty() {
            rows.push((format!("In front of {role}"), format!("\u{201c}{}\u{201d}", facts.prompts[i])));
        }
    }
    if facts.counts.queries_without_negative > 0 {
        let n = thousands(facts.counts.queries_without_negative as u64);
        rows.push(("Queries without a negative in their batch".into(), n));
    }
    if let Some(counts) = run.verdict.as_ref().map(|record| &record.counts) {
        for (name, n) in [
            ("Test queries that are cut", counts.n_queries_truncated),
            ("Test passages that are cut", counts.n_candidates_truncated),
            ("Right passages that are not in the pool", counts.n_positives_missing),
            ("Test queries none of whose right passages is in the pool", counts.n_queries_without_positive),
        ] {
            if n > 0 {
                rows.push((name.into(), thousands(n as u64)));
            }
        }
    }
    let body = html! {
        (pairs("What the model was trained and judged on", &rows))
        (lengths(run))
    };
    Some(Section { id: "data", title: "Data", body })
}

/// Settings that are not the defaults, all of them folded, and the command.
pub fn settings(run: &Run) -> Option<Section> {
    let all = &run.facts.settings;
    if all.is_empty() {
        return None;
    }
    let body = html! {
        p { "The same data, settings and seed give the same model:" }
        pre tabindex="0" { code { (command(all)) } }
        (pairs("Settings that differ from the defaults", &changed_settings(all)))
        details class="screen" { summary { span class="what" { "All settings, as in run.json" } } div class="inside" { pre tabindex="0" { (format!("{:#}", serde_json::json!(all))) } } }
    };
    Some(Section { id: "settings", title: "Settings", body })
}

/// Time and memory.
pub fn cost(run: &Run) -> Option<Section> {
    let facts = &run.facts;
    let seconds = &facts.seconds;
    let mut rows = Vec::new();
    for (name, seconds) in [
        ("Loading the model", seconds.load),
        ("Reading the data", seconds.data),
        ("Training", seconds.train),
        ("Evaluating while it trained", seconds.evaluation),
        ("Writing checkpoints", seconds.checkpoints),
    ] {
        if seconds > 0.0 {
            rows.push((name.to_string(), time(seconds)));
        }
    }
    if seconds.train > 0.0 && facts.counts.tokens > 0 {
        let pace = facts.counts.tokens as f64 / seconds.train;
        rows.push((
            "Tokens".into(),
            format!("{}, {} in a second", thousands(facts.counts.tokens as u64), thousands(pace as u64)),
        ));
    }
    if facts.forecast.train_seconds > 0.0 {
        let off = 100.0 * (seconds.train / facts.forecast.train_seconds - 1.0);
        rows.push(("Against the plan".into(), format!("{off:+.0} % of training time")));
    }
    if let Some(peak) = facts.peak_memory_bytes {
        rows.push(("Largest memory".into(), bytes(peak)));
    }
    if facts.threads > 0 {
        rows.push(("Threads".into(), facts.threads.to_string()));
    }
    if facts.counts.parameters > 0 {
        rows.push(("Trained values".into(), thousands(facts.counts.parameters as u64)));
    }
    (!rows.is_empty()).then(|| Section {
        id: "cost",
        title: "Time and memory",
        body: pairs("What the run took", &rows),
    })
}

fn pairs(caption: &str, rows: &[(String, String)]) -> Markup {
    html! {
        @if !rows.is_empty() {
            div class="scroll" tabindex="0" role="region" aria-label=(caption) {
                table {
                    caption { (caption) }
                    tbody { @for (name, value) in rows { tr { th scope="row" class="wrap left" { (name) } td class="wrap left" { (value) } } } }
                }
            }
        }
    }
}

/// A time in a unit that people think in.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A size in a unit that people think in.
pub fn bytes(n: u64) -> String {
    match n as f64 {
        n if n < 1e3 => format!("{n} bytes"),
        n if n < 1e6 => format!("{:.0} kB", n / 1e3),
        n if n < 1e9 => format!("{:.0} MB", n / 1e6),
        n => format!("{:.2} GB", n / 1e9),
    }
}
