//! An audit as a page of at most 80 columns: the findings in the order of their severity, then the facts.

use embertune::audit::{
    Audit, Baseline, BatchRisk, Count, Finding, Lengths, Mix, Ranker, Severity, Shown, Unit, rounded,
};
use embertune::eval::verdict::thousands;

/// Columns of the page.
const WIDTH: usize = 80;
/// Column in which the text of a finding begins.
const INDENT: usize = 9;
/// Scripts and languages that are named; the rest is summed up.
const NAMED: usize = 4;
/// From these MRR@10 of words alone on there is little left for training to find, or much.
const LEXICAL: f64 = 0.8;
const NOT_LEXICAL: f64 = 0.3;

/// A table of facts, or a paragraph where there are no rows.
pub struct Facts {
    pub title: String,
    pub columns: Vec<String>,
    pub rows: Vec<(String, Vec<String>)>,
    pub notes: Vec<String>,
}

/// The page.
pub fn page(audit: &Audit) -> String {
    let mut text = size(audit).join("\n") + "\n\n" + &summary(audit) + "\n";
    for finding in &audit.findings {
        text += "\n";
        text += &self::finding(finding);
    }
    for Facts { title, columns, rows, notes } in facts(audit) {
        text += &format!("\n{title}\n");
        if !rows.is_empty() {
            text += &table(&columns, &rows);
        }
        for note in notes {
            text += &wrapped(&note, 2, "");
        }
    }
    text
}

/// What was looked at, a line for each file.
pub fn size(audit: &Audit) -> Vec<String> {
    let facts = &audit.facts;
    let n = |n: usize, what: &str| format!("{} {what}{}", thousands(n as u64), if n == 1 { "" } else { "s" });
    let of_data = [(facts.n_rows, "row"), (facts.n_positives, "positive"), (facts.n_negatives, "negative")];
    let of_data = of_data.map(|(count, what)| n(count, what)).join(", ");
    let mut lines = vec![format!("{}: {of_data}", audit.data)];
    lines.extend(audit.test.as_ref().map(|name| format!("{name}: {}", n(facts.n_test_rows, "test row"))));
    let mut candidates = n(facts.n_candidates, "distinct candidate");
    if facts.n_equal_candidates > 0 {
        candidates += &format!(", {} of the pool are equal to another", thousands(facts.n_equal_candidates as u64));
    }
    lines.push(candidates);
    lines
}

/// How many findings there are, in a line.
pub fn summary(audit: &Audit) -> String {
    if audit.findings.is_empty() {
        return "Nothing was found.".into();
    }
    let count = |severity, word: &str| match audit.n(severity) {
        0 => None,
        n => Some(format!("{n} {word}{}", if n == 1 { "" } else { "s" })),
    };
    let counts = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "note")];
    counts.into_iter().filter_map(|(severity, word)| count(severity, word)).collect::<Vec<_>>().join(", ")
}

/// `12 of 8,000 (0.2 %)`, and what is special about them.
pub fn count(finding: &Finding) -> String {
    let detail = finding.detail.as_deref().map(|detail| format!(" {detail}")).unwrap_or_default();
    let (n, of) = (thousands(finding.n as u64), thousands(finding.of as u64));
    format!("{n} of {of} ({}).{detail}", percent(finding.share))
}

/// The name of a severity on pages.
pub fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARNING",
        Severity::Info => "NOTE",
    }
}

fn finding(finding: &Finding) -> String {
    let mut text = format!("{:<INDENT$}{}\n", word(finding.severity), finding.title);
    text += &wrapped(&count(finding), INDENT, "");
    text += &wrapped(finding.meaning, INDENT, "");
    text += &wrapped(finding.advice, INDENT, "> ");
    if let Some(repair) = finding.repair {
        text += &wrapped(&format!("`--fix` {repair}."), INDENT, "> ");
    }
    // What is no more than worth knowing gets less room.
    let n_shown = if finding.severity == Severity::Info { 1 } else { finding.examples.len() };
    finding.examples.iter().take(n_shown).for_each(|shown| text += &example(shown));
    text
}

fn example(shown: &Shown) -> String {
    let mut text = format!("{:INDENT$}{}\n", "", shown.places.join(", "));
    for words in &shown.texts {
        text += &format!("{:INDENT$}  {}\n", "", super::comparison::cut(words, WIDTH - INDENT - 2));
    }
    text
}

/// All facts, to be shown in this order.
pub fn facts(audit: &Audit) -> Vec<Facts> {
    let facts = &audit.facts;
    let lengths = [("queries", &facts.query_lengths), ("passages", &facts.passage_lengths)];
    let mixes = [("queries", &facts.queries_in), ("passages", &facts.passages_in)];
    let mut all = vec![histogram(&lengths), written_in(&mixes)];
    all.extend(facts.batch.as_ref().map(batch));
    if !facts.baselines.is_empty() {
        all.push(baselines(&facts.baselines));
    }
    all
}

fn histogram(lengths: &[(&str, &Lengths); 2]) -> Facts {
    let unit = match lengths[0].1.unit {
        Unit::Tokens => "tokens",
        Unit::Words => "words",
    };
    let columns = ["1-8", "9-16", "17-32", "33-64", "65-128", "129-256", "257-512", "more"].map(String::from);
    let row = |(name, lengths): &(&str, &Lengths)| {
        let share = |&n: &usize| if n == 0 { "-".into() } else { percent(n as f64 / lengths.n.max(1) as f64) };
        (name.to_string(), lengths.histogram.iter().map(share).collect())
    };
    let note = |(name, lengths): &(&str, &Lengths)| {
        let Lengths { n, median, p90, longest, limit, n_cut, .. } = lengths;
        let cut = match n_cut {
            0 => format!("none has more than the planned {limit}"),
            n_cut => {
                let share = percent(*n_cut as f64 / (*n).max(1) as f64);
                format!("{} ({share}) have more than the planned {limit}", thousands(*n_cut as u64))
            }
        };
        let name = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
        format!("{name}: half have up to {median}, nine of ten up to {p90}, the longest {longest}; {cut}.")
    };
    Facts {
        title: format!("Lengths in {unit}"),
        columns: columns.into(),
        rows: lengths.iter().map(row).collect(),
        notes: lengths.iter().map(note).collect(),
    }
}

fn written_in(mixes: &[(&str, &Mix); 2]) -> Facts {
    let list = |counts: &[Count]| {
        let all: usize = counts.iter().map(|count| count.n).sum();
        let share = |n: usize| percent(n as f64 / all.max(1) as f64);
        let mut parts: Vec<_> =
            counts.iter().take(NAMED).map(|count| format!("{} {}", count.name, share(count.n))).collect();
        let rest: usize = counts.iter().skip(NAMED).map(|count| count.n).sum();
        if rest > 0 {
            parts.push(format!("others {}", share(rest)));
        }
        parts.join(", ")
    };
    let notes = mixes.iter().map(|(name, mix)| {
        let name = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
        format!("{name}: {}; by their letters {}.", list(&mix.scripts), list(&mix.languages))
    });
    Facts { title: "Scripts and languages".into(), columns: Vec::new(), rows: Vec::new(), notes: notes.collect() }
}

fn batch(risk: &BatchRisk) -> Facts {
    let BatchRisk { batch_size, group_size, n_passages, expected, expected_unmasked } = risk;
    let masked = expected - expected_unmasked;
    let note = format!(
        "A batch of {batch_size} rows with up to {group_size} passages each has {n_passages:.0} passages. Expected number of passages that \
         answer the query of another row, too: {}. Of these {} are masked in training, {} count as wrong.",
        rounded(*expected),
        rounded(masked),
        rounded(*expected_unmasked)
    );
    Facts {
        title: "Right answers among the negatives of a batch".into(),
        columns: Vec::new(),
        rows: Vec::new(),
        notes: vec![note],
    }
}

fn baselines(baselines: &[Baseline]) -> Facts {
    let row = |found: &Baseline| {
        let ranker = match found.ranker {
            Ranker::Bm25 => "words (BM25)",
            Ranker::Model => "the model",
        };
        let values = [found.mrr_at_10, found.hit_at_1, found.ndcg_at_10, found.recall_at_100];
        let values = values.map(|value| format!("{value:.3}")).into_iter();
        let name = std::path::Path::new(&found.data).file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| found.data.clone());
        (format!("{ranker}, {name}"), values.chain([thousands(found.n_queries as u64)]).collect())
    };
    // The queries that will decide: those of the test rows if there are some.
    let last = |ranker| baselines.iter().rev().find(|found| found.ranker == ranker);
    let mut notes = Vec::new();
    if let Some(words) = last(Ranker::Bm25) {
        let (mrr, n) = (words.mrr_at_10, thousands(words.n_candidates as u64));
        let meaning = match mrr {
            _ if mrr >= LEXICAL => "words alone find nearly all answers; a model has little to add",
            _ if mrr < NOT_LEXICAL => "words alone find few of the answers; meaning decides here",
            _ => "words alone find many of the answers, not all",
        };
        notes.push(format!("Among {n} candidates: {meaning}."));
        if let Some(model) = last(Ranker::Model).filter(|model| model.mrr_at_10 < mrr) {
            notes.push(format!(
                "The model is behind the words ({:.3} to {mrr:.3}): look at its prompts and pooling, or search with both.",
                model.mrr_at_10
            ));
        }
    }
    if baselines.iter().any(|found| found.n_queries < found.of_queries) {
        notes.push("Of larger files a sample of the queries is searched with (`--sample`).".into());
    }
    let columns = ["MRR@10", "Hit@1", "nDCG@10", "Recall@100", "queries"].map(String::from);
    Facts {
        title: "Answers that are found before any training".into(),
        columns: columns.into(),
        rows: baselines.iter().map(row).collect(),
        notes,
    }
}

fn table(columns: &[String], rows: &[(String, Vec<String>)]) -> String {
    let first = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let width = |at: usize| rows.iter().map(|(_, cells)| cells[at].len()).fold(columns[at].len(), usize::max);
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    let line = |name: &str, cells: &[String]| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:>width$}")).collect::<String>();
        format!("  {name:<first$}{cells}\n")
    };
    rows.iter().fold(line("", columns), |text, (name, cells)| text + &line(name, cells))
}

/// `12.3 %`; what is rounded to nothing or to all says so.
pub fn percent(share: f64) -> String {
    match 100.0 * share {
        percent if percent > 0.0 && percent < 0.05 => "<0.1 %".into(),
        percent if (99.95..100.0).contains(&percent) => ">99.9 %".into(),
        percent if percent >= 9.95 => format!("{percent:.0} %"),
        percent => format!("{percent:.1} %"),
    }
}

/// Lines of at most [`WIDTH`] columns, `indent` blanks before each and `mark` before the first.
fn wrapped(text: &str, indent: usize, mark: &str) -> String {
    let indent = indent + mark.len();
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        let n = line.chars().count();
        if n > 0 && indent + n + 1 + word.chars().count() > WIDTH {
            lines += &format!("{:indent$}{line}\n", "");
            line.clear();
        }
        line += if line.is_empty() { "" } else { " " };
        line += word;
    }
    lines += &format!("{:indent$}{line}\n", "");
    lines.replacen(&" ".repeat(indent), &format!("{:>indent$}", mark), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_at_the_width_with_their_mark_once() {
        let text = wrapped(&"seven77 ".repeat(20), 9, "> ");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() <= WIDTH && line.starts_with("         ")), "{text}");
        assert!(lines[0].starts_with("         > seven") && lines[1].starts_with("           seven"), "{text}");
    }

    #[test]
    fn shares_never_look_like_none_or_all_unless_they_are() {
        let shares = [0.0, 0.0001, 0.0123, 0.5, 0.9999, 1.0].map(percent);
        assert_eq!(shares, ["0.0 %", "<0.1 %", "1.2 %", "50 %", ">99.9 %", "100 %"]);
    }
}
