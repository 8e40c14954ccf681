//! `raw.csv`: one line per measurement, appended as the runs of a day go on.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a side is in a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What the claim is about.
    Subject,
    /// What it is compared with.
    Baseline,
    /// Measured, compared with nothing.
    Alone,
    /// How far the sides' results are apart, measured before anything is timed.
    Check,
}

impl Role {
    const ALL: [(&str, Role); 4] =
        [("subject", Role::Subject), ("baseline", Role::Baseline), ("alone", Role::Alone), ("check", Role::Check)];

    fn name(self) -> &'static str {
        Role::ALL.into_iter().find(|(_, role)| *role == self).map_or("", |(name, _)| name)
    }
}

/// What is measured: everything that has to be equal for two numbers to be comparable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The kind of benchmark.
    pub bench: String,
    /// `training step`, `peak memory of training`, ...
    pub what: String,
    pub model: String,
    /// The data set.
    pub set: String,
    /// Precision, batch and the like.
    pub settings: String,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.what, &self.model, &self.set, &self.settings];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect();
        f.write_str(&parts.join(" | "))
    }
}

/// A measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// When the benchmark began: one call of `cargo xtask bench`.
    pub run: String,
    pub commit: String,
    pub work: Work,
    /// From 1; 0 for what is measured before the pairs.
    pub pair: usize,
    /// Who: `Embertune`, `sentence-transformers f32`, ...
    pub side: String,
    pub role: Role,
    pub value: f64,
    /// What ends in `/s` is better where it is more, everything else where it is less.
    pub unit: String,
}

/// One side's number.
#[derive(Clone, Debug)]
pub struct Sample {
    side: String,
    role: Role,
    value: f64,
    unit: &'static str,
}

impl Sample {
    pub fn new(role: Role, side: &str, value: f64, unit: &'static str) -> Sample {
        Sample { side: side.into(), role, value, unit }
    }
}

const HEADER: &str = "run,commit,bench,work,model,set,settings,pair,side,role,value,unit";

impl Row {
    fn line(&self) -> String {
        let Row { run, commit, work, pair, side, role, value, unit } = self;
        let fields = [
            run,
            commit,
            &work.bench,
            &work.what,
            &work.model,
            &work.set,
            &work.settings,
            &pair.to_string(),
            side,
            role.name(),
            &format!("{value:.6}"),
            unit,
        ];
        debug_assert!(fields.iter().all(|field| !field.contains(',')), "a comma in {fields:?}");
        fields.join(",")
    }

    fn parse(line: &str) -> Option<Row> {
        let fields: Vec<_> = line.split(',').map(String::from).collect();
        let [run, commit, bench, what, model, set, settings, pair, side, role, value, unit] = fields.try_into().ok()?;
        let (_, role) = Role::ALL.into_iter().find(|(name, _)| *name == role)?;
        let work = Work { bench, what, model, set, settings };
        Some(Row { run, commit, work, pair: pair.parse().ok()?, side, role, value: value.parse().ok()?, unit })
    }
}

/// The folder of a day's runs on a machine. Every row is written as soon as it is there, so that a run that is stopped leaves
/// what it measured.
pub struct Record {
    folder: PathBuf,
    run: String,
    commit: String,
    /// Those of this run.
    pub rows: Vec<Row>,
}

impl Record {
    pub fn open(folder: PathBuf, run: String, commit: String) -> Result<Record, String> {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Record { folder, run, commit, rows: Vec::new() })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a measurement of `work`; `pair` is 0 for what is measured once.
    pub fn add(&mut self, work: &Work, pair: usize, sample: Sample) -> Result<(), String> {
        let (run, commit, work) = (self.run.clone(), self.commit.clone(), work.clone());
        let Sample { side, role, value, unit } = sample;
        let row = Row { run, commit, work, pair, side, role, value, unit: unit.into() };
        eprintln!(
            "bench: {}{}: {}: {value:.4} {unit}",
            row.work,
            if pair > 0 { format!(", pair {pair}") } else { String::new() },
            row.side,
        );
        let path = self.folder.join("raw.csv");
        let write = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            if file.metadata()?.len() == 0 {
                writeln!(file, "{HEADER}")?;
            }
            writeln!(file, "{}", row.line())
        };
        write().map_err(|error| format!("{}: {error}", path.display()))?;
        self.rows.push(row);
        Ok(())
    }

    /// All rows of the day, of this and of earlier runs.
    pub fn all_rows(&self) -> Result<Vec<Row>, String> {
        let path = self.folder.join("raw.csv");
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let parse = |(number, line)| {
            Row::parse(line).ok_or_else(|| format!("{}:{}: not a row: {line:?}", path.display(), number + 1))
        };
        text.lines().enumerate().skip(1).map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_being_written() {
        let work = Work { bench: "train".into(), what: "step".into(), ..Work::default() };
        let (run, commit) = ("2026-11-24T04:00:00Z".into(), "abc+".into());
        let row = Row {
            run,
            commit,
            work,
            pair: 3,
            side: "Embertune".into(),
            role: Role::Subject,
            value: 1.5,
            unit: "s".into(),
        };
        assert_eq!(Row::parse(&row.line()), Some(row));
        assert_eq!(Row::parse("1,2,3"), None);
        assert_eq!(HEADER.split(',').count(), 12);
    }
}
