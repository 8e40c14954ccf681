//! Reading training and evaluation rows, candidate pools, and texts to embed, from files of any form ([`files`](super::files)).
//!
//! The first row that is not what it should be ends the reading, with file, line and what to do. What is accepted
//! although it deserves a word (a string where a list belongs, fields that are not used) is said once per file, with counts.

use std::collections::HashMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::data::columns::Columns;
use crate::data::example::{Example, Scores};
use crate::data::files::{self, for_each_row, for_each_text};
use crate::data::identity::TextId;
use crate::data::lines::Lines;
use crate::data::object::Object;
use crate::data::pool::StoredPool;
use crate::data::stored::{RowsOf, Stored, StoredExamples};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// A row together with all its fields, for writing it back. [`Stored`] are the fields alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Line")]
pub struct Row {
    /// The row.
    pub example: Example,
    /// All fields in the order of the file, `query`, `pos` and `neg` among them.
    pub fields: Map<String, Value>,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_struct("Line", 2)?;
        line.serialize_field("line", &self.example.line)?;
        line.serialize_field("fields", &self.fields)?;
        line.end()
    }
}

/// What is stored of a [`Row`].
#[derive(Deserialize)]
struct Line {
    line: usize,
    fields: Map<String, Value>,
}

impl TryFrom<Line> for Row {
    type Error = Error;

    fn try_from(Line { line, fields }: Line) -> Result<Row> {
        let object = Object::of(Path::new("rows"), line, fields);
        Ok(Row { example: example(&object, &mut Remark::default())?, fields: object.fields })
    }
}

/// Reads training or evaluation rows `{"query": str, "pos": [str], "neg": [str]}`. `neg` may be absent. Blank lines are skipped.
///
/// Other fields, such as FlagEmbedding's `pos_scores` and `prompt`, are not used, which is said once. Where all rows are pairs with a
/// `label` of 1 or 0, those with 0 are no rows: their texts are negatives of their queries.
///
/// # Errors
/// A row that is not valid JSON or not UTF-8, a field missing or of a wrong type, an empty text, an empty `pos`, no rows at all, labels
/// that are all 0.
pub fn read_examples(path: &Path, progress: &dyn Progress) -> Result<Vec<Example>> {
    read_examples_by(path, &Columns::default(), progress)
}

/// Reads rows as [`read_examples`] does, with columns that the user has named.
///
/// # Errors
/// Those of [`read_examples`].
pub fn read_examples_by(path: &Path, columns: &Columns, progress: &dyn Progress) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    let (labels, unused) = plain_examples(path, columns, progress, |example| {
        examples.push(example);
        Ok(())
    })?;
    let are_labels = labels.apply(path, &mut examples, |example| example, progress)?;
    unused.note_unused(path, are_labels, progress);
    Ok(examples)
}

/// Reads rows as [`read_examples_by`] does, however many they are. Of pairs with a `label`, the texts that are wrong are in memory.
///
/// # Errors
/// Those of [`read_examples`]; a temporary file that can't be written.
pub fn store_examples(path: &Path, columns: &Columns, progress: &dyn Progress) -> Result<StoredExamples> {
    let mut examples = StoredExamples::default();
    let (labels, unused) = plain_examples(path, columns, progress, |example| examples.push(&example))?;
    let (examples, are_labels) = labels.apply_to_stored(path, examples, |example| example, |_| {}, progress)?;
    unused.note_unused(path, are_labels, progress);
    Ok(examples)
}

/// Reads rows, and says what was seen beside their texts.
fn plain_examples(
    path: &Path,
    columns: &Columns,
    progress: &dyn Progress,
    mut take: impl FnMut(Example) -> Result<()>,
) -> Result<(Labels, Remark)> {
    let mut unused = Remark::default();
    let mut labels = Labels::default();
    for_each_example(path, columns, progress, |example, fields| {
        for field in fields.keys().filter(|field| !matches!(field.as_str(), "query" | "pos" | "neg")) {
            unused.add(field, example.line);
        }
        labels.add(&example, &fields);
        take(example)
    })?;
    Ok((labels, unused))
}

/// Reads rows as [`read_examples`] does, and keeps their other fields.
///
/// # Errors
/// Those of [`read_examples`].
pub fn read_rows(path: &Path, progress: &dyn Progress) -> Result<Vec<Row>> {
    read_rows_by(path, &Columns::default(), progress)
}

/// Reads rows as [`read_rows`] does, with columns that the user has named.
///
/// # Errors
/// Those of [`read_examples`].
pub fn read_rows_by(path: &Path, columns: &Columns, progress: &dyn Progress) -> Result<Vec<Row>> {
    let mut labels = Labels::default();
    let mut rows = Vec::new();
    for_each_example(path, columns, progress, |example, fields| {
        labels.add(&example, &fields);
        rows.push(Row { example, fields });
        Ok(())
    })?;
    if labels.apply(path, &mut rows, |row| &mut row.example, progress)? {
        rows.iter_mut().for_each(say_negatives);
    }
    Ok(rows)
}

/// Reads rows as [`read_rows_by`] does, however many they are. Of pairs with a `label`, the texts that are wrong are in memory.
///
/// # Errors
/// Those of [`read_examples`]; a temporary file that can't be written.
pub fn store_rows(path: &Path, columns: &Columns, progress: &dyn Progress) -> Result<Stored<Row>> {
    let mut labels = Labels::default();
    let mut rows = Stored::default();
    for_each_example(path, columns, progress, |example, fields| {
        labels.add(&example, &fields);
        rows.push(&Row { example, fields })
    })?;
    Ok(labels.apply_to_stored(path, rows, |row| &mut row.example, say_negatives, progress)?.0)
}

/// Puts the negatives that are from wrong pairs into the fields of the right one.
fn say_negatives(row: &mut Row) {
    row.fields.shift_remove(LABEL);
    if !row.example.negatives.is_empty() {
        row.fields.insert("neg".into(), row.example.negatives.clone().into());
    }
}

fn for_each_example(
    path: &Path,
    columns: &Columns,
    progress: &dyn Progress,
    mut take: impl FnMut(Example, Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let mut strings = Remark::default();
    let reading = for_each_row(path, columns, |object, _| take(example(&object, &mut strings)?, object.fields))?;
    files::note(path, &reading, progress);
    strings.warn_of_strings(path, progress);
    not_empty(path, reading.n_rows, ROWS)
}

/// Reads rows as [`read_examples`] does, with their scores: `{"query", "pos", "neg", "pos_scores": [number], "neg_scores": [number]}`,
/// or scored pairs `{"query": str, "pos": str, "score": number}` and `{"sentence1": str, "sentence2": str, "score": number}`, where
/// `score` may be called `label`.
///
/// # Errors
/// Those of [`read_examples`]; another number of scores than of texts; a scored pair of more than two texts.
pub fn read_scored_examples(path: &Path, progress: &dyn Progress) -> Result<Vec<Example>> {
    read_scored_examples_by(path, &Columns::default(), progress)
}

/// Reads rows as [`read_scored_examples`] does, with columns that the user has named.
///
/// # Errors
/// Those of [`read_scored_examples`].
pub fn read_scored_examples_by(path: &Path, columns: &Columns, progress: &dyn Progress) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    for_each_scored(path, columns, progress, |example| {
        examples.push(example);
        Ok(())
    })?;
    Ok(examples)
}

/// Reads rows as [`read_scored_examples_by`] does, however many they are.
///
/// # Errors
/// Those of [`read_scored_examples`]; a temporary file that can't be written.
pub fn store_scored_examples(path: &Path, columns: &Columns, progress: &dyn Progress) -> Result<StoredExamples> {
    let mut examples = StoredExamples::default();
    for_each_scored(path, columns, progress, |example| examples.push(&example))?;
    Ok(examples)
}

fn for_each_scored(
    path: &Path,
    columns: &Columns,
    progress: &dyn Progress,
    mut take: impl FnMut(Example) -> Result<()>,
) -> Result<()> {
    let mut strings = Remark::default();
    let reading = for_each_row(path, columns, |object, _| take(scored_example(&object, &mut strings)?))?;
    files::note(path, &reading, progress);
    strings.warn_of_strings(path, progress);
    not_empty(path, reading.n_rows, ROWS)
}

pub(super) fn example(object: &Object<'_>, strings: &mut Remark) -> Result<Example> {
    let mut list = |field: &str| -> Result<Vec<String>> {
        let list = object.texts(field)?;
        if list.was_string {
            strings.add(field, object.line());
        }
        Ok(list.texts)
    };
    let query = object.text("query")?;
    let positives = list("pos")?;
    if positives.is_empty() {
        return Err(object.error("field `pos` is an empty list".into(), "give each query at least one positive"));
    }
    let negatives = if object.has("neg") { list("neg")? } else { Vec::new() };
    Ok(Example { query, positives, negatives, scores: Scores::None, line: object.line() })
}

pub(super) fn scored_example(object: &Object<'_>, strings: &mut Remark) -> Result<Example> {
    let score = ["score", "label"].into_iter().find(|field| object.has(field));
    let Some(score) = score else {
        let mut example = example(object, strings)?;
        let (n_positives, n_negatives) = (example.positives.len(), example.negatives.len());
        if object.has("pos_scores") || object.has("neg_scores") {
            let positives = object.numbers("pos_scores", n_positives)?;
            let negatives = if n_negatives > 0 { object.numbers("neg_scores", n_negatives)? } else { Vec::new() };
            example.scores = Scores::Teacher { positives, negatives };
        }
        return Ok(example);
    };
    // The one text of a pair is a string by right.
    let example = example(object, &mut Remark::default())?;
    let n_passages = example.positives.len() + example.negatives.len();
    if n_passages != 1 {
        return Err(object.error(
            format!("field `{score}` scores a pair of two texts, but the row has a query and {n_passages} passages"),
            "one row per pair, or one score per passage in `pos_scores` and `neg_scores`",
        ));
    }
    Ok(Example { scores: Scores::Pair(object.number(score)?), ..example })
}

/// Reads a candidate pool. Each line is `{"context": [str]}` (every string is one candidate), or `{"text": str}`, or
/// `{"id" or "_id", "text", "title"}` (title and text joined by a space, as BEIR does). Equal texts are kept.
///
/// # Errors
/// A line that is none of these, an empty text, no candidates at all.
pub fn read_pool(path: &Path, progress: &dyn Progress) -> Result<Vec<String>> {
    read_pool_by(path, &Columns::default(), progress)
}

/// Reads candidates as [`read_pool`] does, with columns that the user has named.
///
/// # Errors
/// Those of [`read_pool`].
pub fn read_pool_by(path: &Path, columns: &Columns, progress: &dyn Progress) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for_each_candidate(path, columns, progress, |text| {
        texts.push(text);
        Ok(())
    })?;
    Ok(texts)
}

/// Reads the distinct ones of candidates as [`read_pool_by`] does, however many they are.
///
/// # Errors
/// Those of [`read_pool`]; a temporary file that can't be written.
pub fn store_pool(path: &Path, columns: &Columns, progress: &dyn Progress) -> Result<StoredPool> {
    let mut pool = StoredPool::default();
    for_each_candidate(path, columns, progress, |text| pool.add(&text).map(drop))?;
    Ok(pool)
}

fn for_each_candidate(
    path: &Path,
    columns: &Columns,
    progress: &dyn Progress,
    mut take: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    let mut strings = Remark::default();
    let mut n = 0;
    let reading = for_each_text(path, columns, |object, _| {
        if object.has("context") {
            let list = object.texts("context")?;
            if list.was_string {
                strings.add("context", object.line());
            }
            n += list.texts.len();
            list.texts.into_iter().try_for_each(&mut take)
        } else if object.has("text") {
            n += 1;
            take(titled_text(&object)?)
        } else {
            Err(object.error(
                "neither field `context` nor field `text` is there".into(),
                r#"a candidate is {"context": ["..."]} or {"text": "..."}; other names can be given with `--columns text=...`"#,
            ))
        }
    })?;
    files::note(path, &reading, progress);
    strings.warn_of_strings(path, progress);
    not_empty(path, n, r#"one object per line, like {"context": ["..."]} or {"text": "..."}"#)
}

/// What a line of a file with texts is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextForm {
    /// The text itself.
    Lines,
    /// An object with a field `text` (and maybe `title`) or `query`.
    JsonLines,
}

impl TextForm {
    /// The form that the ending of a file name says: [`JsonLines`](TextForm::JsonLines) for `.jsonl`, `.json` and `.ndjson`.
    pub fn of(path: &Path) -> TextForm {
        let ending = path.extension().unwrap_or_default();
        match ["jsonl", "json", "ndjson"].iter().any(|known| ending.eq_ignore_ascii_case(known)) {
            true => TextForm::JsonLines,
            false => TextForm::Lines,
        }
    }
}

/// Reads texts to embed, one per line, so that vector i belongs to line i, in the form that the file's ending says.
///
/// # Errors
/// A line that is not what it should be, an empty text, no texts at all.
pub fn read_texts(path: &Path) -> Result<Vec<String>> {
    read_texts_as(path, TextForm::of(path))
}

/// Reads texts to embed as [`read_texts`] does, in a given form.
///
/// # Errors
/// Those of [`read_texts`].
pub fn read_texts_as(path: &Path, form: TextForm) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    if form == TextForm::JsonLines {
        for_each_text(path, &Columns::default(), |object, _| {
            texts.push(if object.has("query") { object.text("query")? } else { titled_text(&object)? });
            Ok(())
        })?;
    } else {
        for entry in Lines::open(path)? {
            let (line, text) = entry?;
            if text.trim().is_empty() {
                let hint = "remove the line: vector i belongs to line i".to_string();
                return Err(Error::Row {
                    path: path.into(),
                    line,
                    problem: "the line is empty".into(),
                    hint: Some(hint),
                });
            }
            texts.push(text);
        }
    }
    not_empty(path, texts.len(), r#"one text per line, or in a .jsonl file one {"text": "..."} per line"#)?;
    Ok(texts)
}

fn titled_text(object: &Object<'_>) -> Result<String> {
    let text = object.text("text")?;
    match object.fields.get("title") {
        Some(Value::String(title)) if !title.trim().is_empty() => Ok(format!("{title} {text}")),
        _ => Ok(text),
    }
}

pub(super) const ROWS: &str = r#"one object per line, like {"query": "...", "pos": ["..."]}"#;

pub(super) fn not_empty(path: &Path, n: usize, form: &str) -> Result<()> {
    if n == 0 {
        let hint = Some(format!("expected {form}"));
        return Err(Error::Data { path: path.into(), problem: "the file has no rows".into(), hint });
    }
    Ok(())
}

/// The field of [`Labels`].
const LABEL: &str = "label";

/// Whether the text of a pair answers its query, as far as all rows of a file say so.
struct Labels(Option<Vec<bool>>);

impl Default for Labels {
    fn default() -> Self {
        Labels(Some(Vec::new()))
    }
}

/// Whether the only text of a row is a right answer (1) or a wrong one (0), where the row says it.
pub(super) fn label_of(n_texts: usize, fields: &Map<String, Value>) -> Option<bool> {
    let label = fields.get(LABEL).filter(|_| n_texts == 1)?;
    label.as_bool().or_else(|| [0.0, 1.0].iter().position(|number| label.as_f64() == Some(*number)).map(|one| one == 1))
}

impl Labels {
    fn add(&mut self, example: &Example, fields: &Map<String, Value>) {
        let label = label_of(example.positives.len() + example.negatives.len(), fields);
        self.0 = self.0.take().zip(label).map(|(mut labels, label)| {
            labels.push(label);
            labels
        });
    }

    /// Takes the wrong pairs out of `rows`, and gives their texts to the right pairs of the same query as negatives. Says whether the
    /// rows were such pairs.
    fn apply<T>(
        self,
        path: &Path,
        rows: &mut Vec<T>,
        example: impl Fn(&mut T) -> &mut Example,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let Some(labels) = self.0.filter(|labels| labels.contains(&false)) else { return Ok(false) };
        let mut wrong = WrongPairs::default();
        let mut is_right = labels.iter();
        rows.retain_mut(|row| {
            let is_right = is_right.next() == Some(&true);
            if !is_right {
                wrong.add(example(row));
            }
            is_right
        });
        rows.iter_mut().for_each(|row| wrong.give(example(row)));
        wrong.say(path, labels.len(), rows.len(), progress)?;
        Ok(true)
    }

    /// As [`apply`](Self::apply). `change` sees each row that is left, with its negatives.
    fn apply_to_stored<T: Clone + Serialize + DeserializeOwned>(
        self,
        path: &Path,
        rows: Stored<T>,
        example: impl Fn(&mut T) -> &mut Example,
        change: impl Fn(&mut T),
        progress: &dyn Progress,
    ) -> Result<(Stored<T>, bool)> {
        let Some(labels) = self.0.filter(|labels| labels.contains(&false)) else { return Ok((rows, false)) };
        let mut wrong = WrongPairs::default();
        for (row, _) in rows.rows().zip(&labels).filter(|(_, is_right)| !**is_right) {
            wrong.add(example(&mut row?.into_owned()));
        }
        let mut right = Stored::default();
        for (row, _) in rows.rows().zip(&labels).filter(|(_, is_right)| **is_right) {
            let mut row = row?.into_owned();
            wrong.give(example(&mut row));
            change(&mut row);
            right.push(&row)?;
        }
        wrong.say(path, labels.len(), right.n_rows(), progress)?;
        Ok((right, true))
    }
}

/// Of each query the texts that do not answer it, and whether it has one that does.
#[derive(Default)]
struct WrongPairs(HashMap<TextId, (bool, Vec<String>)>);

impl WrongPairs {
    /// Takes the text of a wrong pair.
    fn add(&mut self, pair: &mut Example) {
        let (_, texts) = self.0.entry(TextId::of(&pair.query)).or_default();
        texts.append(&mut pair.positives);
    }

    /// Makes them the negatives of a right pair.
    fn give(&mut self, pair: &mut Example) {
        if let Some((has_right, texts)) = self.0.get_mut(&TextId::of(&pair.query)) {
            *has_right = true;
            pair.negatives.clone_from(texts);
        }
    }

    fn say(&self, path: &Path, n: usize, n_right: usize, progress: &dyn Progress) -> Result<()> {
        if n_right == 0 {
            return Err(Error::Data {
                path: path.into(),
                problem: format!("every `{LABEL}` is 0, so no query has a right answer"),
                hint: Some("right answers have the label 1; `--loss contrastive` learns from wrong pairs, too".into()),
            });
        }
        let place = path.display();
        progress.note(&format!(
            "{place}: `{LABEL}` says which of the {n} pairs are right: {n_right} rows, the {} wrong ones are negatives of their queries",
            n - n_right
        ));
        let n_without = self.0.values().filter(|(has_right, _)| !has_right).count();
        if n_without > 0 {
            progress.warn(&format!("{place}: {n_without} queries have no right pair and are left out"));
        }
        Ok(())
    }
}

/// Fields that deserve a word: `(field, how many rows, first line)`.
#[derive(Default)]
pub(super) struct Remark {
    seen: Vec<(String, usize, usize)>,
}

impl Remark {
    fn add(&mut self, field: &str, line: usize) {
        match self.seen.iter_mut().find(|(name, _, _)| name == field) {
            Some((_, n, _)) => *n += 1,
            None => self.seen.push((field.to_string(), 1, line)),
        }
    }

    /// Says what is not used; labels are where they `are_labels`.
    fn note_unused(self, path: &Path, are_labels: bool, progress: &dyn Progress) {
        for (field, n, line) in self.seen.into_iter().filter(|(field, ..)| !are_labels || field != LABEL) {
            progress.note(&format!("{}:{line}: field `{field}` is not used (rows that have it: {n})", path.display()));
        }
    }

    pub(super) fn warn_of_strings(self, path: &Path, progress: &dyn Progress) {
        for (field, n, line) in self.seen {
            let place = path.display();
            progress.warn(&format!("{place}:{line}: field `{field}` is a string, taken as a list of one (rows: {n})"));
        }
    }
}
