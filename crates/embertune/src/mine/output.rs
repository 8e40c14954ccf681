//! The shapes of mined rows in files: JSON lines for `embertune train` and FlagEmbedding, or what sentence-transformers' losses take.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Number, Value, json};

use super::{Mined, MinedRow, RowScores, Scored};
use crate::data::packed::write_lines;
use crate::data::{Example, Row, RowsOf};
use crate::error::Result;
use crate::progress::Progress;

/// What a line of the output is. The last three are sentence-transformers' output formats of the same names, with its order of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{"query", "pos", "neg", ...}` and all other fields of the row; with scores `pos_scores` and `neg_scores`.
    Original,
    /// `{"query", "positive", "negative"}` for each pair of a positive and a negative; with scores `scores` of the two.
    Triplet,
    /// `{"query", "positive", "negative_1", ..., "negative_n"}` for each positive; with scores `scores` of all. Rows with fewer than
    /// `n` negatives are left out, since a tuple has a fixed width.
    NTuple,
    /// `{"query", "passage", "label"}` for each passage, 1 for positives and 0 for negatives; with scores `score` in the place of `label`.
    LabeledPair,
}

/// Writes what was mined as JSON lines, packed where the name asks for it, whole or not at all. `n_negatives` is the width of [`Shape::NTuple`].
///
/// Fields of the input that belong to the old negatives, or to a row's positives before it got more of them, are left out, which
/// is said.
///
/// # Errors
/// Where the file can't be written.
pub fn write(path: &Path, mined: &Mined<'_>, shape: Shape, n_negatives: usize, progress: &dyn Progress) -> Result<()> {
    let is_short = |n: usize| n < n_negatives;
    match shape {
        Shape::Original => write_rows(path, mined, progress),
        Shape::Triplet | Shape::NTuple | Shape::LabeledPair => {
            let n_short = mined.chosen.rows.iter().filter(|row| is_short(row.negatives.len())).count();
            if shape == Shape::NTuple && n_short > 0 {
                progress.warn(&format!("{n_short} rows are left out: a tuple needs {n_negatives} negatives"));
            }
            write_lines(path, |out| {
                for mined in mined.rows() {
                    let MinedRow { row: Row { example, .. }, scores, .. } = mined.map_err(io::Error::other)?;
                    let scores = scores.as_ref();
                    match shape {
                        Shape::NTuple if is_short(example.negatives.len()) => {}
                        Shape::NTuple => write_tuples(out, &example, scores)?,
                        Shape::LabeledPair => write_pairs(out, &example, scores)?,
                        _ => write_triplets(out, &example, scores)?,
                    }
                }
                Ok(())
            })
        }
    }
}

/// A score as it stands in files: six decimals, more than correct programs agree on.
pub(super) fn score_value(score: f32) -> Value {
    Number::from_f64((f64::from(score) * 1e6).round() / 1e6).map_or(Value::Null, Value::Number)
}

fn score_values(scores: &[f32]) -> Value {
    scores.iter().copied().map(score_value).collect()
}

/// Fields that say something about the negatives, or the positives, and are outdated by new ones.
const BESIDE: [(&str, &str); 4] =
    [("neg_scores", "negatives"), ("neg_id", "negatives"), ("pos_scores", "positives"), ("pos_id", "positives")];

fn write_rows(path: &Path, mined: &Mined<'_>, progress: &dyn Progress) -> Result<()> {
    let mut n_outdated = [0; BESIDE.len()];
    write_lines(path, |out| {
        for mined in mined.rows() {
            let MinedRow { row: Row { example, mut fields }, scores, has_new_positives } =
                mined.map_err(io::Error::other)?;
            for ((field, of), n) in BESIDE.iter().zip(&mut n_outdated) {
                if *of == "negatives" || has_new_positives {
                    let is_replaced = scores.is_some() && field.ends_with("_scores");
                    *n += usize::from(fields.shift_remove(*field).is_some() && !is_replaced);
                }
            }
            write_row(out, fields, &example, scores.as_ref())?;
        }
        Ok(())
    })?;
    for ((field, of), n) in BESIDE.iter().zip(n_outdated).filter(|(_, n)| *n > 0) {
        let what = if *of == "negatives" { "that were replaced" } else { "before more were added" };
        progress.warn(&format!("field `{field}` is left out of {n} rows: it belongs to the {of} {what}"));
    }
    Ok(())
}

/// Writes rows with the scores of a teacher as JSON lines, packed where the name asks for it, whole or not at all. All their other fields stay.
///
/// # Errors
/// Where the file can't be written.
pub fn write_scored(path: &Path, scored: &Scored) -> Result<()> {
    write_lines(path, |out| {
        for (Row { example, fields }, scores) in scored.rows.iter().zip(&scored.scores) {
            write_row(out, fields.clone(), example, Some(scores))?;
        }
        Ok(())
    })
}

/// Writes examples with other negatives, and no field besides, as JSON lines, whole or not at all.
///
/// # Errors
/// Where the file can't be written, or a row can't be read.
pub fn write_examples(path: &Path, rows: &dyn RowsOf<Example>, negatives: &[Vec<String>]) -> Result<()> {
    write_lines(path, |out| {
        for (row, negatives) in rows.rows().zip(negatives) {
            let row = row.map_err(io::Error::other)?;
            let Example { query, positives, .. } = &*row;
            write_line(out, &object(json!({"query": query, "pos": positives, "neg": negatives})))?;
        }
        Ok(())
    })
}

/// The line of a row: its `fields`, with these texts and scores in the place of those that they have.
fn write_row(
    out: &mut dyn Write,
    mut fields: Map<String, Value>,
    example: &Example,
    scores: Option<&RowScores>,
) -> io::Result<()> {
    fields.insert("query".into(), Value::from(example.query.as_str()));
    fields.insert("pos".into(), Value::from(example.positives.as_slice()));
    fields.insert("neg".into(), Value::from(example.negatives.as_slice()));
    if let Some(scores) = scores {
        fields.insert("pos_scores".into(), score_values(&scores.positives));
        fields.insert("neg_scores".into(), score_values(&scores.negatives));
    }
    write_line(out, &fields)
}

fn write_triplets(out: &mut dyn Write, example: &Example, scores: Option<&RowScores>) -> io::Result<()> {
    for (p, positive) in example.positives.iter().enumerate() {
        for (n, negative) in example.negatives.iter().enumerate() {
            let mut line = object(json!({"query": example.query, "positive": positive, "negative": negative}));
            if let Some(scores) = scores {
                line.insert("scores".into(), score_values(&[scores.positives[p], scores.negatives[n]]));
            }
            write_line(out, &line)?;
        }
    }
    Ok(())
}

fn write_tuples(out: &mut dyn Write, example: &Example, scores: Option<&RowScores>) -> io::Result<()> {
    for (p, positive) in example.positives.iter().enumerate() {
        let mut line = object(json!({"query": example.query, "positive": positive}));
        for (n, negative) in (1..).zip(&example.negatives) {
            line.insert(format!("negative_{n}"), Value::from(negative.as_str()));
        }
        if let Some(scores) = scores {
            let of_line: Vec<f32> = [scores.positives[p]].into_iter().chain(scores.negatives.iter().copied()).collect();
            line.insert("scores".into(), score_values(&of_line));
        }
        write_line(out, &line)?;
    }
    Ok(())
}

fn write_pairs(out: &mut dyn Write, example: &Example, scores: Option<&RowScores>) -> io::Result<()> {
    let sides =
        [(&example.positives, scores.map(|s| &s.positives), 1), (&example.negatives, scores.map(|s| &s.negatives), 0)];
    for (passages, scores, label) in sides {
        for (i, passage) in passages.iter().enumerate() {
            let mut line = object(json!({"query": example.query, "passage": passage}));
            match scores {
                Some(scores) => line.insert("score".into(), score_value(scores[i])),
                None => line.insert("label".into(), Value::from(label)),
            };
            write_line(out, &line)?;
        }
    }
    Ok(())
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn write_line(out: &mut dyn Write, fields: &Map<String, Value>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, fields)?;
    out.write_all(b"\n")
}
