//! What the audit of the training data found, from the `audit.json` that `embertune tune` lets make.
//!
//! Only what is shown is read; a field that an earlier version did not write is empty.

use maud::{Markup, html};
use serde::Deserialize;

use super::page::Section;
use super::run::{AUDIT_PAGE, Run};
use crate::eval::verdict::thousands;

/// An audit, as far as it is shown.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AuditFacts {
    /// The most severe first.
    pub findings: Vec<Finding>,
    /// What there is to know beside.
    pub facts: DataFacts,
}

/// A count of what is wrong.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Finding {
    severity: Severity,
    n: usize,
    of: usize,
    title: String,
    detail: Option<String>,
    meaning: String,
    advice: String,
    examples: Vec<Example>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Warning,
    #[default]
    Info,
}

/// Where one is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Example {
    places: Vec<String>,
    texts: Vec<String>,
}

/// What is neither good nor bad.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DataFacts {
    /// Of the distinct training queries.
    pub query_lengths: Option<Lengths>,
    /// Of the distinct training passages.
    pub passage_lengths: Option<Lengths>,
}

/// How long texts are.
#[derive(Clone, Debug, Deserialize)]
pub struct Lengths {
    unit: String,
    n: usize,
    median: usize,
    p90: usize,
    longest: usize,
    limit: usize,
    n_cut: usize,
    histogram: Vec<usize>,
}

impl AuditFacts {
    /// Leaves out all texts of the data: places and numbers stay.
    pub fn leave_out_texts(&mut self) {
        self.findings.iter_mut().flat_map(|finding| &mut finding.examples).for_each(|example| example.texts.clear());
    }
}

/// The findings, the most severe first.
pub fn section(run: &Run) -> Option<Section> {
    let link = html! { @if run.has_audit_page { p { a href=(AUDIT_PAGE) { "The audit as a page of its own" } } } };
    let Some(audit) = &run.audit else {
        return run.has_audit_page.then_some(Section { id: "audit", title: "Audit of the data", body: link });
    };
    let body = html! {
        p { (summary(&audit.findings)) }
        @for found in &audit.findings { (finding(found)) }
        (link)
    };
    Some(Section { id: "audit", title: "Audit of the data", body })
}

fn summary(findings: &[Finding]) -> String {
    let counts = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "note")];
    let counts = counts.into_iter().filter_map(|(severity, word)| {
        match findings.iter().filter(|finding| finding.severity == severity).count() {
            0 => None,
            1 => Some(format!("1 {word}")),
            n => Some(format!("{n} {word}s")),
        }
    });
    let counts: Vec<_> = counts.collect();
    if counts.is_empty() { "Nothing was found.".into() } else { counts.join(", ") + "." }
}

fn finding(found: &Finding) -> Markup {
    let (class, word) = match found.severity {
        Severity::Error => ("error", "error"),
        Severity::Warning => ("warning", "warning"),
        Severity::Info => ("info", "note"),
    };
    html! {
        details open[found.severity == Severity::Error] {
            summary {
                span class={ "severity " (class) } { (word) }
                span class="what" { (found.title) }
                span class="moved" { (thousands(found.n as u64)) " of " (thousands(found.of as u64)) }
            }
            div class="inside" {
                @if let Some(detail) = &found.detail { p { (marked(detail)) } }
                p { (marked(&found.meaning)) }
                p { (marked(&found.advice)) }
                @for example in &found.examples {
                    p class="note" { (example.places.join(", ")) @for text in &example.texts { br; (text) } }
                }
            }
        }
    }
}

/// Words between backticks as code.
fn marked(text: &str) -> Markup {
    html! { @for (i, part) in text.split('`').enumerate() { @if i % 2 == 1 { code { (part) } } @else { (part) } } }
}

/// Where the groups of lengths end; the last one has all beyond.
const LENGTHS: [&str; 8] = ["1-8", "9-16", "17-32", "33-64", "65-128", "129-256", "257-512", "more"];

/// How long the texts of the training data are, and how many lose their ends.
pub fn lengths(run: &Run) -> Markup {
    let Some(DataFacts { query_lengths: Some(queries), passage_lengths: Some(passages) }) =
        run.audit.as_ref().map(|audit| &audit.facts)
    else {
        return html! {};
    };
    let caption = format!("Length of the distinct texts in {}", queries.unit);
    let sides = [("Queries", queries), ("Passages", passages)];
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table class="ranks" {
                caption { (caption) }
                thead { tr { th scope="col" { "" } @for group in LENGTHS { th scope="col" { (group) } } } }
                tbody {
                    @for (name, lengths) in sides {
                        tr {
                            th scope="row" { (name) }
                            @for &n in &lengths.histogram {
                                @let share = n as f64 / lengths.n.max(1) as f64;
                                td class="heat" style=(format!("--share:{:.2}", 0.45 * share.sqrt())) { (thousands(n as u64)) }
                            }
                        }
                    }
                }
            }
        }
        @for (name, Lengths { n, median, p90, longest, limit, n_cut, .. }) in sides {
            p {
                (name) ": half have up to " (median) ", nine of ten up to " (p90) ", the longest " (longest) "; "
                (thousands(*n_cut as u64)) " of " (thousands(*n as u64)) " have more than " (limit) "."
            }
        }
        @if queries.unit == "words" { p class="note" { "A word is one token or more, and " (limits(queries, passages)) " are limits in tokens: more texts are cut than have more words." } }
    }
}

fn limits(queries: &Lengths, passages: &Lengths) -> String {
    if queries.limit == passages.limit {
        queries.limit.to_string()
    } else {
        format!("{} and {}", queries.limit, passages.limit)
    }
}
