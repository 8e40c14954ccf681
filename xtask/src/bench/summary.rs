//! From measurements to what is read: medians, spread, and the ratio of each pair. Nothing here measures.

use std::fmt::Write;

use super::record::{Role, Row, Work};

/// The middle and the ends of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub n: usize,
}

impl Spread {
    /// `None` of no numbers.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let odd = values.len() % 2 == 1;
        let median = if odd { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, min, max, n: values.len() })
    }

    fn text(&self) -> String {
        let [median, min, max] = [self.median, self.min, self.max].map(short);
        if self.n == 1 { median } else { format!("{median} ({min}..{max})") }
    }
}

/// One line of a table: a subject, and where there is one, a baseline and their ratio.
struct Line<'a> {
    work: &'a Work,
    unit: &'a str,
    subject: (&'a str, Spread),
    baseline: Option<(&'a str, Spread, Spread)>,
}

/// The measurements of a comparison: rows of the same work, of the last run that measured it.
struct Group<'a> {
    work: &'a Work,
    unit: &'a str,
    rows: Vec<&'a Row>,
}

/// The rows by work and unit, in the order in which they first came; only those of the last run that has any.
fn groups(rows: &[Row]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for row in rows {
        let known = groups.iter_mut().find(|group| group.work == &row.work && group.unit == row.unit);
        match known {
            Some(group) if group.rows[0].run == row.run => group.rows.push(row),
            Some(group) => group.rows = vec![row],
            None => groups.push(Group { work: &row.work, unit: &row.unit, rows: vec![row] }),
        }
    }
    groups
}

impl<'a> Group<'a> {
    /// When and of which code.
    fn run(&self) -> String {
        format!("{} (commit {})", self.rows[0].run, self.rows[0].commit)
    }

    /// A line per baseline, or one without.
    fn lines(&self) -> Vec<Line<'a>> {
        let of = |role| self.rows.iter().copied().filter(move |row: &&Row| row.role == role);
        let values =
            |side: &str| -> Vec<f64> { self.rows.iter().filter(|row| row.side == side).map(|row| row.value).collect() };
        let mut lines = Vec::new();
        for subject in sides(of(Role::Subject).chain(of(Role::Alone))) {
            let Some(ours) = Spread::of(&values(subject)) else { continue };
            let baselines = sides(of(Role::Baseline));
            for &baseline in &baselines {
                let Some(theirs) = Spread::of(&values(baseline)) else { continue };
                let Some(ratio) = Spread::of(&self.ratios(subject, baseline)) else { continue };
                lines.push(self.line((subject, ours), Some((baseline, theirs, ratio))));
            }
            if baselines.is_empty() {
                lines.push(self.line((subject, ours), None));
            }
        }
        lines
    }

    fn line(&self, subject: (&'a str, Spread), baseline: Option<(&'a str, Spread, Spread)>) -> Line<'a> {
        Line { work: self.work, unit: self.unit, subject, baseline }
    }

    /// How many times as good the subject is, pair by pair.
    fn ratios(&self, subject: &str, baseline: &str) -> Vec<f64> {
        let more_is_better = self.unit.ends_with("/s");
        let find = |side: &str, pair| self.rows.iter().find(|row| row.side == side && row.pair == pair);
        let pairs = self.rows.iter().filter(|row| row.side == subject);
        pairs
            .filter_map(|ours| Some((ours.value, find(baseline, ours.pair)?.value)))
            .map(|(ours, theirs)| if more_is_better { ours / theirs } else { theirs / ours })
            .collect()
    }
}

/// The names of the sides, each once.
fn sides<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for row in rows {
        if !names.contains(&row.side.as_str()) {
            names.push(&row.side);
        }
    }
    names
}

/// Tables of all kinds of benchmarks, in Markdown, which is also how they are shown on a terminal.
pub fn tables(rows: &[Row]) -> String {
    let groups = groups(rows);
    let mut benches: Vec<&str> = Vec::new();
    for group in &groups {
        if !benches.contains(&group.work.bench.as_str()) {
            benches.push(&group.work.bench);
        }
    }
    let mut text = String::new();
    for bench in benches {
        let of_bench = || groups.iter().filter(|group| group.work.bench == bench);
        let mut runs: Vec<String> = of_bench().map(|group| group.run()).collect();
        runs.sort();
        runs.dedup();
        // Writing to a string does not fail.
        let _ = writeln!(text, "## {bench}\n\nFrom {}.\n", runs.join(", "));
        let lines: Vec<_> = of_bench().flat_map(Group::lines).collect();
        text += &comparisons(&lines);
        text += &alone(&lines);
        text += &checks(of_bench().flat_map(|group| &group.rows).copied());
    }
    text
}

fn comparisons(lines: &[Line<'_>]) -> String {
    let mut text = String::new();
    for Line { work, unit, subject: (ours, value), baseline } in lines {
        let Some((theirs, their_value, ratio)) = baseline else { continue };
        if text.is_empty() {
            text += "| work | model | set | settings | unit | side | | compared with | | **ratio** | pairs |\n";
            text += "|---|---|---|---|---|---|---|---|---|---|---|\n";
        }
        let Work { what, model, set, settings, .. } = work;
        let (value, their_value) = (value.text(), their_value.text());
        let (pairs, ratio) = (ratio.n, ratio.text());
        let _ = writeln!(
            text,
            "| {what} | {model} | {set} | {settings} | {unit} | {ours} | {value} | {theirs} | {their_value} | **{ratio}** | {pairs} |",
        );
    }
    closed(text)
}

fn alone(lines: &[Line<'_>]) -> String {
    let mut text = String::new();
    for Line { work, unit, subject: (side, value), .. } in lines.iter().filter(|line| line.baseline.is_none()) {
        if text.is_empty() {
            text += "| work | model | set | settings | side | unit | | runs |\n|---|---|---|---|---|---|---|---|\n";
        }
        let Work { what, model, set, settings, .. } = work;
        let _ = writeln!(
            text,
            "| {what} | {model} | {set} | {settings} | {side} | {unit} | {} | {} |",
            value.text(),
            value.n
        );
    }
    closed(text)
}

fn checks<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let mut text = String::new();
    for row in rows.filter(|row| row.role == Role::Check) {
        if text.is_empty() {
            text += "Checked first:\n\n";
        }
        let Row { work, side, unit, value, .. } = row;
        let _ = writeln!(text, "- {work}: Embertune against {side}: {unit} {}", short(*value));
    }
    closed(text)
}

/// A blank line after what is not empty.
fn closed(text: String) -> String {
    if text.is_empty() { text } else { text + "\n" }
}

/// Three significant digits, without exponents where that is readable.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size < 1e-3 => format!("{value:.1e}"),
        size => {
            let before_point = size.log10().floor() as i32 + 1;
            format!("{value:.*}", (3 - before_point).clamp(0, 5) as usize)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(run: &str, pair: usize, role: Role, value: f64, unit: &str) -> Row {
        let work = Work { bench: "train".into(), what: "training step".into(), ..Work::default() };
        let side = if role == Role::Subject { "Embertune" } else { "peer" };
        Row { run: run.into(), commit: "c".into(), work, pair, side: side.into(), role, value, unit: unit.into() }
    }

    #[test]
    fn a_median_is_between_the_ends_of_its_numbers() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0, n: 3 }));
        assert_eq!(Spread::of(&[4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ratios_are_of_pairs_and_above_one_where_the_subject_is_better() {
        for (unit, values, expected) in
            [("s", [1.0, 2.0, 2.0, 2.0], [2.0, 1.0]), ("x/s", [3.0, 2.0, 4.0, 1.0], [1.5, 4.0])]
        {
            let rows: Vec<_> = values
                .into_iter()
                .enumerate()
                .map(|(i, value)| {
                    let role = if i % 2 == 0 { Role::Subject } else { Role::Baseline };
                    row("r", i / 2 + 1, role, value, unit)
                })
                .collect();
            assert_eq!(groups(&rows)[0].ratios("Embertune", "peer"), expected, "{unit}");
        }
    }

    #[test]
    fn only_the_last_run_of_a_measurement_is_shown() {
        let rows = [row("1", 1, Role::Subject, 1.0, "s"), row("2", 1, Role::Subject, 5.0, "s")];
        assert_eq!(groups(&rows)[0].rows.len(), 1);
        assert!(tables(&rows).contains("From 2 (commit c)"));
    }

    #[test]
    fn numbers_are_shown_with_three_digits() {
        for (value, shown) in
            [(0.0, "0"), (1234.5, "1234"), (12.345, "12.3"), (0.0123456, "0.0123"), (4.2e-6, "4.2e-6")]
        {
            assert_eq!(short(value), shown);
        }
    }
}
