//! What the verdict rests on: metrics before and after, groups of queries, probes, how ranks moved, how similarities did.

use maud::{Markup, html};

use super::chart;
use super::page::Section;
use super::run::Run;
use super::verdict::Similarities;
use crate::eval::verdict::thousands;
use crate::eval::{Difference, Finding, SetComparison};

/// Metrics before and after, with intervals.
pub fn section(run: &Run) -> Option<Section> {
    let comparison = &run.verdict.as_ref()?.comparison;
    let (test, probes) = comparison.sets.split_first()?;
    let of: Vec<_> = test
        .measures
        .iter()
        .map(|row| (row.measure.to_string(), row.difference.difference, row.difference.interval))
        .collect();
    let body = html! {
        (table(test, &format!("Test set {}: {}", test.name, size(test))))
        div class="charts" { (chart::intervals("Change of each metric, with 95 % interval", "tuned - base", &of)) }
        @if !test.slices.is_empty() { h3 { "Groups of queries" } (slices(test, &comparison.metric.to_string())) }
        @for probe in probes { h3 { "Probe " (probe.name) } (table(probe, &format!("Watched for forgetting: {}", size(probe)))) }
        p class="note" {
            "A change counts where its 95 % confidence interval leaves out 0 and the sign-flip test has p < 0.05. "
            (comparison.metric) " decides; nothing is corrected for the number of metrics and groups."
        }
    };
    Some(Section { id: "metrics", title: "Metrics", body })
}

fn size(set: &SetComparison) -> String {
    let queries = format!("{} queries", thousands(set.main().n as u64));
    match set.n_candidates {
        0 => queries,
        n => format!("{queries}, {} passages", thousands(n as u64)),
    }
}

const COLUMNS: [&str; 8] = ["base", "tuned", "change", "95 % interval", "p", "won", "lost", "tied"];

fn table(set: &SetComparison, caption: &str) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr { th scope="col" { "metric" } @for column in COLUMNS { th scope="col" { (column) } } } }
                tbody { @for row in &set.measures { tr { th scope="row" { (row.measure) } (cells(&row.difference)) } } }
            }
        }
    }
}

fn slices(set: &SetComparison, metric: &str) -> Markup {
    let caption = format!("{metric} of groups with at least 10 queries");
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr { th scope="col" { "queries" } @for column in COLUMNS { th scope="col" { (column) } } } }
                tbody {
                    @for (i, slice) in set.slices.iter().enumerate() {
                        @if i == 0 || set.slices[i - 1].by != slice.by {
                            tr class="group" { th scope="colgroup" colspan=(1 + COLUMNS.len()) { "by " (slice.by) } }
                        }
                        tr { th scope="row" class="wrap" { (slice.group) } (cells(&slice.difference)) }
                    }
                }
            }
        }
    }
}

fn cells(found: &Difference) -> Markup {
    let interval = found.interval.map_or("-".into(), |(low, high)| format!("{low:+.3} to {high:+.3}"));
    html! {
        td { (format!("{:.4}", found.base)) }
        td { (format!("{:.4}", found.tuned)) }
        td class=(direction(found)) { (format!("{:+.4}", found.difference)) (shown(found)) }
        td { (interval) }
        td { (format!("{:.4}", found.p_value)) }
        td { (found.won) }
        td { (found.lost) }
        td { (found.tied) }
    }
}

/// The class of a change that was shown.
pub fn direction(found: &Difference) -> &'static str {
    match found.finding {
        Finding::Better => "up",
        Finding::Worse => "down",
        Finding::NotShown | Finding::Same => "",
    }
}

/// The same without colour.
fn shown(found: &Difference) -> &'static str {
    match found.finding {
        Finding::Better => " \u{25b2}",
        Finding::Worse => " \u{25bc}",
        Finding::NotShown | Finding::Same => "",
    }
}

/// How the ranks of first right passages moved.
pub fn ranks(run: &Run) -> Option<Section> {
    let ranks = &run.verdict.as_ref()?.ranks;
    let n: usize = ranks.n_queries.iter().flatten().sum();
    let most = ranks.n_queries.iter().flatten().copied().max().filter(|most| *most > 0)?;
    let caption = "Queries by the rank of their first right passage: rows before, columns after";
    let moved = |is: fn(usize, usize) -> bool| -> usize {
        let cells =
            ranks.n_queries.iter().enumerate().flat_map(|(b, row)| row.iter().enumerate().map(move |(a, n)| (b, a, n)));
        cells.filter(|(before, after, _)| is(*before, *after)).map(|(.., n)| n).sum()
    };
    let (up, down) = (moved(|before, after| after < before), moved(|before, after| after > before));
    let body = html! {
        p { "Of " (thousands(n as u64)) " queries " (thousands(up as u64)) " moved to a better group of ranks, " (thousands(down as u64)) " to a worse one." }
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table class="ranks" {
                caption { (caption) }
                thead { tr { th scope="col" { "before \\ after" } @for group in &ranks.groups { th scope="col" { (group) } } } }
                tbody {
                    @for (group, row) in ranks.groups.iter().zip(&ranks.n_queries) {
                        tr {
                            th scope="row" { (group) }
                            @for count in row {
                                // The root keeps small groups visible beside the diagonal.
                                td class="heat" style=(format!("--share:{:.2}", 0.45 * (*count as f64 / most as f64).sqrt())) { (count) }
                            }
                        }
                    }
                }
            }
        }
    };
    Some(Section { id: "ranks", title: "Ranks", body })
}

/// How similar right and wrong passages are to their queries.
pub fn similarities(run: &Run) -> Option<Section> {
    let Similarities { from, width, base, tuned } = run.verdict.as_ref()?.similarities.as_ref()?;
    let all = [base, tuned].into_iter().flat_map(|side| side.right.counts.iter().chain(&side.wrong.counts));
    let y_max = all.copied().max().unwrap_or(1).max(1);
    let body = html! {
        div class="charts" {
            @for (name, side) in [("Before", base), ("After", tuned)] {
                (chart::histograms(name, "similarity to the query", *from, *width,
                    [("right passage", &side.right.counts), ("best wrong passage", &side.wrong.counts)], y_max))
            }
        }
        p {
            "The first right passage of a query is on average more similar to it than the best wrong one by "
            (format!("{:+.3}", base.right.mean - base.wrong.mean)) " before and by " (format!("{:+.3}", tuned.right.mean - tuned.wrong.mean))
            " after. Right passages that were not found are not in it."
        }
    };
    Some(Section { id: "similarity", title: "Similarity", body })
}
