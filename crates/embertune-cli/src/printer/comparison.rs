//! A comparison as a page: the verdict, metrics, slices, and the queries that changed most.

use embertune::eval::comparison::{Change, Retrieved, Shown};
use embertune::eval::verdict::thousands;
use embertune::eval::{Comparison, Difference, Finding, SetComparison};

/// Texts are cut to so many characters, to stay on one line.
const TEXT_WIDTH: usize = 96;
/// Width of the first column of tables.
const NAME_WIDTH: usize = 38;

/// The page.
pub fn page(comparison: &Comparison) -> String {
    let Comparison { base, tuned, metric, sets } = comparison;
    let mut text = format!("base:  {base}\ntuned: {tuned}\n\n{}\n", comparison.verdict());
    for (i, set) in sets.iter().enumerate() {
        text += &format!("\n{} {}: {}", if i == 0 { "Test set" } else { "Probe" }, set.name, size(set));
        text += &heading("");
        for row in &set.measures {
            text += &line(&row.measure.to_string(), &row.difference);
        }
        if !set.slices.is_empty() {
            text += &heading(&format!("{metric} of queries by"));
        }
        for slice in &set.slices {
            text += &line(&format!("{}: {} ({})", slice.by, slice.group, slice.difference.n), &slice.difference);
        }
        if i == 0 {
            text += &changes("Gained most", &set.gained);
            text += &changes("Lost most", &set.lost);
        }
    }
    text
}

fn size(set: &SetComparison) -> String {
    let queries = format!("{} queries", thousands(set.main().n as u64));
    match set.n_candidates {
        // A run that was made elsewhere does not say.
        0 => format!("{queries}\n"),
        n => format!("{queries}, {} passages\n", thousands(n as u64)),
    }
}

fn heading(first: &str) -> String {
    let columns = format!("{:>8} {:>8} {:>8}   {:<16} {:>7}", "base", "tuned", "change", "95 % interval", "p");
    format!("{first:<NAME_WIDTH$} {columns} {:>5} {:>5} {:>6}\n", "won", "lost", "tied")
}

fn line(name: &str, found: &Difference) -> String {
    let interval = match found.interval {
        Some((low, high)) => format!("[{low:+.3}, {high:+.3}]"),
        None => "-".into(),
    };
    let mark = match found.finding {
        Finding::Better => "better",
        Finding::Worse => "worse",
        Finding::NotShown | Finding::Same => "",
    };
    let Difference { base, tuned, difference, p_value, won, lost, tied, .. } = found;
    let text = format!(
        "{:<NAME_WIDTH$} {base:>8.4} {tuned:>8.4} {difference:>+8.4}   {interval:<16} {p_value:>7.4} {won:>5} {lost:>5} \
         {tied:>6}  {mark}",
        cut(name, NAME_WIDTH)
    );
    text.trim_end().to_string() + "\n"
}

fn changes(title: &str, changes: &[Change]) -> String {
    let mut text = String::new();
    for (i, change) in changes.iter().enumerate() {
        if i == 0 {
            text += &format!("\n{title}\n");
        }
        let Change { query, text: words, relevant, base, tuned } = change;
        let query = words.as_deref().map_or_else(|| query.clone(), |words| format!("\"{}\"", cut(words, TEXT_WIDTH)));
        text += &format!("  {query}\n    rank {} -> {}\n", rank(base), rank(tuned));
        // The right answer is worth its line only where neither model has it at the head of its ranking.
        let is_seen = |shown: &Shown| base.documents.iter().chain(&tuned.documents).any(|seen| seen.id == shown.id);
        for shown in relevant.iter().filter(|shown| !is_seen(shown)).take(1) {
            text += &format!("    right    {}\n", document(shown));
        }
        for (name, retrieved) in [("before", base), ("after", tuned)] {
            for (place, shown) in retrieved.documents.iter().enumerate() {
                let name = if place == 0 { name } else { "" };
                let mark = if shown.grade >= 1 { "*" } else { " " };
                text += &format!("    {name:<6} {mark} {}\n", document(shown));
            }
        }
    }
    text
}

fn rank(retrieved: &Retrieved) -> String {
    retrieved.first_relevant.map_or("not found".into(), |rank| rank.to_string())
}

fn document(shown: &Shown) -> String {
    shown.text.as_deref().map_or_else(|| shown.id.clone(), |text| cut(text, TEXT_WIDTH))
}

/// The text on one line of at most `width` characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= width {
        return line;
    }
    line.chars().take(width - 1).collect::<String>() + "…"
}
