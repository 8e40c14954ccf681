//! What an audit repairs by itself: rows and texts that are left out, with the reason for each.
//!
//! Only what is wrong beyond doubt, and copies. What has to be judged (near-duplicates, shared answers, doubtful labels) stays.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Numbered;
use super::finding::Kind;
use super::leaks::{Leak, Places};
use super::rows::{BadNegative, Known, bad_negative, key};
use super::texts::{Near, Texts};
use crate::data::packed::{Packing, write_lines};
use crate::data::{Example, Row, RowsOf, row_list};
use crate::error::Result;

/// What is left out of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The row as a whole.
    Row,
    /// The positive at this place.
    Positive(usize),
    /// The negative at this place.
    Negative(usize),
}

/// Something to leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Index of the row.
    pub row: usize,
    /// What of it.
    pub part: Part,
    /// Why.
    pub reason: Kind,
}

/// What to leave out of `data`, by row. With test rows, training rows with their queries.
pub fn repairs(
    data: &Numbered<'_>,
    test: Option<&Numbered<'_>>,
    texts: &Texts,
    known: &Known,
    queries: &Near,
) -> Vec<Repair> {
    let tested = test.map(|test| Places::of(test, texts, queries));
    let mut seen = HashSet::new();
    let mut repairs = Vec::new();
    for (i, row) in data.rows.iter().enumerate() {
        let whole = |reason: Kind| vec![Repair { row: i, part: Part::Row, reason }];
        let leak = tested.as_ref().and_then(|tested| tested.leak(row, texts, queries));
        repairs.extend(match leak {
            Some((Leak::Same, _)) => whole(Kind::LeakedQueries),
            Some((Leak::Near, _)) => whole(Kind::NearLeakedQueries),
            None => {
                let parts = if data.are_answers { parts(i, row, texts, known) } else { Vec::new() };
                let positives = without(row.positives, &parts, Part::Positive);
                let negatives = without(row.negatives, &parts, Part::Negative);
                let kept = row_list::Row { positives: &positives, negatives: &negatives, ..row };
                // Copies come last: rows may be equal only after something else is gone.
                if kept.positives.is_empty() {
                    whole(Kind::QueryIsPositive)
                } else if !seen.insert(key(kept)) {
                    whole(Kind::RepeatedRows)
                } else {
                    parts
                }
            }
        });
    }
    repairs
}

fn parts(i: usize, row: row_list::Row<'_>, texts: &Texts, known: &Known) -> Vec<Repair> {
    let mut parts = Vec::new();
    let mut seen = HashSet::new();
    for (at, &positive) in row.positives.iter().enumerate() {
        let reason = match texts.said(positive) == texts.said(row.query) {
            true => Some(Kind::QueryIsPositive),
            false => (!seen.insert(positive)).then_some(Kind::RepeatedInRow),
        };
        parts.extend(reason.map(|reason| Repair { row: i, part: Part::Positive(at), reason }));
    }
    seen.clear();
    for (at, &negative) in row.negatives.iter().enumerate() {
        let reason = match bad_negative(row, negative, known, texts) {
            Some(BadNegative::PositiveOfRow) => Some(Kind::ContradictionsInRow),
            Some(BadNegative::PositiveOfQuery) => Some(Kind::ContradictionsAcrossRows),
            Some(BadNegative::Query) => Some(Kind::QueryIsNegative),
            None => (!seen.insert(negative)).then_some(Kind::RepeatedInRow),
        };
        parts.extend(reason.map(|reason| Repair { row: i, part: Part::Negative(at), reason }));
    }
    parts
}

fn without<T: Clone>(list: &[T], parts: &[Repair], part: impl Fn(usize) -> Part) -> Vec<T> {
    let is_kept = |at: usize| !parts.iter().any(|repair| repair.part == part(at));
    list.iter().enumerate().filter(|(at, _)| is_kept(*at)).map(|(_, item)| item.clone()).collect()
}

/// Where the list of what was left out is written: `clean.dropped.jsonl` beside `clean.jsonl`.
pub fn list_path(path: &Path) -> PathBuf {
    let unpacked = if Packing::of_name(path) == Packing::None { path } else { &path.with_extension("") };
    unpacked.with_extension("dropped.jsonl")
}

/// Writes the rows that are left to `path`, and a line for everything that was left out to [`list_path`]: `{"place", "dropped": "row",
/// "positive" or "negative", "reason", "text"}`.
///
/// Fields like `neg_scores` that have an item for each passage lose the items of those that go.
///
/// # Errors
/// Where a file can't be written, or a row can't be read.
pub fn write_repaired(path: &Path, name: &str, rows: &dyn RowsOf<Row>, repairs: &[Repair]) -> Result<()> {
    // Of each row, what is left out of it.
    let each = || {
        let mut rest = repairs;
        rows.rows().enumerate().map(move |(i, row)| {
            let (parts, after) = rest.split_at(rest.iter().take_while(|repair| repair.row == i).count());
            rest = after;
            Ok((row.map_err(io::Error::other)?, parts))
        })
    };
    write_lines(path, |out| {
        for row in each() {
            let (row, parts): (_, &[Repair]) = row?;
            match parts {
                [] => serde_json::to_writer(&mut *out, &row.fields)?,
                _ if parts.iter().any(|repair| repair.part == Part::Row) => continue,
                _ => serde_json::to_writer(&mut *out, &repaired(&row.example, row.fields.clone(), parts))?,
            }
            out.write_all(b"\n")?;
        }
        Ok(())
    })?;
    write_lines(&list_path(path), |out| {
        each().try_for_each(|row: io::Result<_>| {
            let (row, parts) = row?;
            parts.iter().try_for_each(|repair| list(out, repair, name, &row.example))
        })
    })
}

fn repaired(example: &Example, mut fields: Map<String, Value>, parts: &[Repair]) -> Map<String, Value> {
    type Place = fn(usize) -> Part;
    let lists: [(&str, &[String], Place); 2] =
        [("pos", &example.positives, Part::Positive), ("neg", &example.negatives, Part::Negative)];
    for (name, texts, part) in lists {
        for (field, value) in &mut fields {
            let is_beside = field.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
            if let (true, Value::Array(items)) = (is_beside, value)
                && items.len() == texts.len()
            {
                *items = without(items, parts, part);
            }
        }
        if !texts.is_empty() {
            fields.insert(name.into(), Value::from(without(texts, parts, part)));
        }
    }
    fields
}

fn list(out: &mut dyn io::Write, repair: &Repair, name: &str, example: &Example) -> io::Result<()> {
    let (dropped, text) = match repair.part {
        Part::Row => ("row", &example.query),
        Part::Positive(at) => ("positive", &example.positives[at]),
        Part::Negative(at) => ("negative", &example.negatives[at]),
    };
    let place = format!("{name}:{}", example.line);
    let line = json!({"place": place, "dropped": dropped, "reason": repair.reason, "text": text});
    writeln!(out, "{line}")
}
