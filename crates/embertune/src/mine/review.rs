//! The review file: candidates that a rule takes for right answers, for somebody to look at, and what they decided.
//!
//! One JSON object per line: `{"query", "passage", "score", "positive_score", "reason", "verdict": ""}`. Whoever edits the file writes
//! `positive` or `negative` into `verdict`, or leaves it empty, or deletes the line. When mining reads it back, positives join
//! their rows' `pos`, negatives may be mined whatever the rules say, and undecided ones stay out. New suspects are added at the end.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::output::score_value;
use super::select::Reason;
use crate::data::lines::Lines;
use crate::data::object::Object;
use crate::data::packed::write_lines;
use crate::data::{Example, TextId};
use crate::error::Result;

/// A candidate that may be a right answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspect {
    /// The query.
    pub query: String,
    /// The candidate.
    pub passage: String,
    /// Its score.
    pub score: f32,
    /// Lowest score of the query's positives, where it is known.
    pub positive_score: Option<f32>,
    /// Which rule suspects it.
    pub reason: Reason,
}

/// What is in a review file.
#[derive(Clone, Debug, Default)]
pub struct Review {
    /// All lines as they were.
    lines: Vec<Map<String, Value>>,
    seen: HashSet<(TextId, TextId)>,
    positives: HashMap<TextId, Vec<String>>,
    negatives: HashMap<TextId, HashSet<TextId>>,
}

impl Review {
    /// Reads a file that mining wrote, edited or not; one that is not there yet is an empty one.
    ///
    /// # Errors
    /// A line that is not what it should be, an unknown verdict.
    pub fn read(path: &Path) -> Result<Review> {
        let mut review = Review::default();
        let mut verdicts = HashMap::new();
        if !path.exists() {
            return Ok(review);
        }
        for entry in Lines::open(path)? {
            let (line, text) = entry?;
            if text.trim().is_empty() {
                continue;
            }
            let object = Object::parse(path, line, &text)?;
            let passage = object.text("passage")?;
            let (query, id) = (TextId::of(&object.text("query")?), TextId::of(&passage));
            let verdict = object.fields.get("verdict").unwrap_or(&Value::Null);
            if let Some(text) = verdict.as_str().map(str::trim).filter(|text| !text.is_empty()) {
                let (known, first) = verdicts.entry((query, id)).or_insert_with(|| (text.to_string(), line));
                if known != text {
                    return Err(object.error(
                        format!("the verdict is {verdict}, but {known:?} in line {first} about the same passage"),
                        "remove one of the two lines",
                    ));
                }
            }
            match verdict {
                Value::Null => {}
                Value::String(verdict) if verdict.trim().is_empty() => {}
                Value::String(verdict) if verdict.trim() == "positive" => {
                    review.positives.entry(query).or_default().push(passage);
                }
                Value::String(verdict) if verdict.trim() == "negative" => {
                    review.negatives.entry(query).or_default().insert(id);
                }
                other => {
                    return Err(object.error(
                        format!("the verdict is {other}, expected \"positive\", \"negative\" or \"\""),
                        "leave it empty where you are not sure: the passage is then no negative",
                    ));
                }
            }
            review.seen.insert((query, id));
            review.lines.push(object.fields);
        }
        Ok(review)
    }

    /// Adds what was judged to be a positive to a row of its query. Returns whether it has more positives now.
    pub fn add_positives(&self, example: &mut Example) -> bool {
        let n_before = example.positives.len();
        let Some(positives) = self.positives.get(&TextId::of(&example.query)) else { return false };
        let mut there: HashSet<_> = example.positives.iter().map(|text| TextId::of(text)).collect();
        example.positives.extend(positives.iter().filter(|text| there.insert(TextId::of(text))).cloned());
        example.positives.len() > n_before
    }

    /// What was judged to be a negative of the query.
    pub fn negatives(&self, query: TextId) -> impl Iterator<Item = TextId> {
        self.negatives.get(&query).into_iter().flatten().copied()
    }

    /// Adds the suspects that are not in it yet; returns how many.
    pub fn add(&mut self, suspects: &[Suspect]) -> usize {
        let before = self.lines.len();
        for suspect in suspects {
            if self.seen.insert((TextId::of(&suspect.query), TextId::of(&suspect.passage))) {
                let fields = [
                    ("query", Value::from(suspect.query.as_str())),
                    ("passage", Value::from(suspect.passage.as_str())),
                    ("score", score_value(suspect.score)),
                    ("positive_score", suspect.positive_score.map_or(Value::Null, score_value)),
                    ("reason", Value::from(suspect.reason.name())),
                    ("verdict", Value::from("")),
                ];
                self.lines.push(fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect());
            }
        }
        self.lines.len() - before
    }

    /// How many lines it has.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Writes all lines, whole or not at all.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_lines(path, |out| {
            for line in &self.lines {
                serde_json::to_writer(&mut *out, line)?;
                out.write_all(b"\n")?;
            }
            Ok(())
        })
    }
}
