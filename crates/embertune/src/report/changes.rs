//! The queries that gained and lost most, with what was retrieved before and after.

use maud::{Markup, html};

use super::page::Section;
use super::run::Run;
use crate::eval::comparison::{Change, Retrieved, Shown};

/// Texts are cut to so many characters.
const TEXT_WIDTH: usize = 240;
/// So many of each list are opened on paper; all of them would fill thirty pages.
const N_PRINTED: usize = 5;

/// Gained and lost queries, searchable.
pub fn section(run: &Run) -> Option<Section> {
    let test = run.verdict.as_ref()?.comparison.sets.first()?;
    if test.gained.is_empty() && test.lost.is_empty() {
        return None;
    }
    let main = test.main();
    let body = html! {
        div class="search" {
            label for="search" { "Search" }
            input type="search" id="search" autocomplete="off" aria-describedby="found";
            span class="soft" id="found" role="status" {}
        }
        (list("Gained most", &test.gained, main.won))
        (list("Lost most", &test.lost, main.lost))
    };
    Some(Section { id: "queries", title: "Queries that changed", body })
}

fn list(title: &str, changes: &[Change], n_all: usize) -> Markup {
    html! {
        @if !changes.is_empty() {
            h3 { (title) @if changes.len() < n_all { span class="soft" { ", " (changes.len()) " of " (n_all) } } }
            @for (i, change) in changes.iter().enumerate() { (query(change, i)) }
        }
    }
}

fn query(change: &Change, place: usize) -> Markup {
    let Change { query, text, relevant, base, tuned } = change;
    // The right answer is worth its place only where neither model has it at the head of its ranking.
    let is_seen = |shown: &Shown| base.documents.iter().chain(&tuned.documents).any(|seen| seen.id == shown.id);
    let missing = relevant.iter().find(|shown| !is_seen(shown));
    html! {
        details class={ "query" (if place < N_PRINTED { " printed" } else { "" }) } open[place == 0] {
            summary {
                span class="what" { (cut(text.as_deref().unwrap_or(query))) }
                span class="moved" { "rank " (rank(base)) " \u{2192} " (rank(tuned)) }
            }
            div class="inside" {
                @if let Some(shown) = missing { p class="note" { span class="tag" { "right" } (words(shown)) } }
                div class="pair" {
                    @for (name, retrieved) in [("Before", base), ("After", tuned)] {
                        div {
                            h4 { (name) ": " (format!("{:.3}", retrieved.value)) }
                            ol {
                                @for shown in &retrieved.documents {
                                    li {
                                        @if shown.grade >= 1 { span class="tag" { "right" } }
                                        (words(shown))
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn rank(retrieved: &Retrieved) -> String {
    retrieved.first_relevant.map_or("not found".into(), |rank| rank.to_string())
}

fn words(shown: &Shown) -> String {
    cut(shown.text.as_deref().unwrap_or(&shown.id))
}

fn cut(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= TEXT_WIDTH {
        return line;
    }
    line.chars().take(TEXT_WIDTH - 1).collect::<String>() + "\u{2026}"
}
