//! An audit as one page of HTML: no network, no script, light and dark.

use embertune::audit::{Audit, Finding, Severity};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::audit::{Facts, count, facts, size, summary, word};

const STYLE: &str = include_str!("audit.css");

/// The page.
pub fn page(audit: &Audit) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Audit of " (audit.data) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header {
                        h1 { "Audit of " (audit.data) }
                        p.summary { (summary(audit)) }
                        ul { @for line in size(audit) { li { (line) } } }
                    }
                    @if !audit.findings.is_empty() {
                        h2 { "What was found" }
                        @for finding in &audit.findings { (self::finding(finding)) }
                    }
                    h2 { "Facts" }
                    @for facts in facts(audit) { (table(&facts)) }
                    footer { "Made by Embertune " (env!("CARGO_PKG_VERSION")) "." }
                }
            }
        }
    }
    .into_string()
}

fn finding(finding: &Finding) -> Markup {
    let class = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    };
    html! {
        article class=(class) {
            h3 { span.severity { (word(finding.severity)) } " " (finding.title) }
            p.count { (marked(&count(finding))) }
            p { (finding.meaning) }
            p { (marked(finding.advice)) @if let Some(repair) = finding.repair { " " code { "--fix" } " " (repair) "." } }
            details open[finding.severity != Severity::Info] {
                summary { "Examples" }
                @for shown in &finding.examples {
                    div.example {
                        p.places { (shown.places.join(", ")) }
                        @for text in &shown.texts { p { (text) } }
                    }
                }
            }
        }
    }
}

/// Words between backticks as code.
fn marked(text: &str) -> Markup {
    html! {
        @for (i, part) in text.split('`').enumerate() {
            @if i % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn table(facts: &Facts) -> Markup {
    let Facts { title, columns, rows, notes } = facts;
    html! {
        section {
            h3 { (title) }
            @if !rows.is_empty() {
                div.scroll {
                    table {
                        thead { tr { td {} @for column in columns { th scope="col" { (column) } } } }
                        tbody {
                            @for (name, cells) in rows { tr { th scope="row" { (name) } @for cell in cells { td { (cell) } } } }
                        }
                    }
                }
            }
            @for note in notes { p { (marked(note)) } }
        }
    }
}
