//! The page of one run: the verdict first, then what it rests on. One file, no network; it is legible without its script.

use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::run::Run;
use super::{audit, changes, metrics, setup, training};
use crate::eval::Finding;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("search.js");

/// A part of the page with a heading.
pub struct Section {
    /// Its address within the page.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What is below it.
    pub body: Markup,
}

/// The page of a run.
pub fn page(run: &Run) -> String {
    let sections = [
        metrics::section(run),
        changes::section(run),
        metrics::ranks(run),
        metrics::similarities(run),
        training::section(run),
        audit::section(run),
        setup::data(run),
        setup::settings(run),
        setup::cost(run),
    ];
    let head = html! {
        h1 { "Fine-tuning report: " (run.name) }
        (verdict(run))
        (setup::at_a_glance(run))
    };
    document(&format!("{}: fine-tuning report", run.name), &head, sections.into_iter().flatten(), &run.facts.embertune)
}

/// A whole document around sections.
pub fn document(title: &str, head: &Markup, sections: impl Iterator<Item = Section>, version: &str) -> String {
    let sections: Vec<_> = sections.collect();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header {
                        (head)
                        nav aria-label="Sections" { @for section in &sections { a href={ "#" (section.id) } { (section.title) } } }
                    }
                    @for section in &sections {
                        section aria-labelledby=(section.id) { h2 id=(section.id) { (section.title) } (section.body) }
                    }
                    footer { p { "Made by Embertune " (version) "." } }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

/// The verdict, where the model was compared; else what is known without.
fn verdict(run: &Run) -> Markup {
    let (heading, sentence) = match &run.verdict {
        Some(record) => ("Verdict", record.verdict.clone()),
        None => ("Not compared yet", training::in_a_sentence(run)),
    };
    html! {
        div class={ "verdict " (judged(run).0) } {
            span class="word" { (heading) }
            p { (sentence) @if let Some(kept) = run.kept_base() { ": " (kept) } }
        }
    }
}

/// Class and word of a run's verdict.
pub fn judged(run: &Run) -> (&'static str, &'static str) {
    let Some(record) = &run.verdict else { return ("open", "Not compared") };
    let falls_elsewhere = record.comparison.sets.iter().skip(1).any(|set| set.main().finding == Finding::Worse);
    match record.finding {
        Finding::Better if falls_elsewhere => ("open", "Better, but it has forgotten"),
        Finding::Better => ("better", "Better"),
        Finding::Worse => ("worse", "Worse"),
        Finding::NotShown | Finding::Same => ("open", "No difference shown"),
    }
}

/// A model's name: of a path on somebody's machine, the last part.
pub fn model_name(name: &str) -> String {
    let is_path = name.starts_with(['/', '.', '~', '\\']) || name.matches('/').count() > 1 || name.contains('\\');
    match Path::new(name).file_name() {
        Some(last) if is_path => last.to_string_lossy().into_owned(),
        _ => name.into(),
    }
}
