//! Reading JSON lines: training and evaluation rows, candidate pools, texts to embed.
//!
//! The first row that is not what it should be ends the reading, with file, line and what to do. What is accepted
//! although it deserves a word (a string where a list belongs, fields that are not used) is said once per file, with counts.

use std::path::Path;

use serde_json::{Map, Value};

use crate::data::example::Example;
use crate::data::lines::Lines;
use crate::data::object::Object;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// A row together with all its fields, for writing it back.
#[derive(Clone, Debug)]
pub struct Row {
    /// The row.
    pub example: Example,
    /// All fields in the order of the file, `query`, `pos` and `neg` among them.
    pub fields: Map<String, Value>,
}

/// Reads training or evaluation rows `{"query": str, "pos": [str], "neg": [str]}`. `neg` may be absent. Blank lines are skipped.
///
/// Other fields, such as FlagEmbedding's `pos_scores` and `prompt`, are not used, which is said once.
///
/// # Errors
/// A row that is not valid JSON or not UTF-8, a field missing or of a wrong type, an empty text, an empty `pos`, no rows at all.
pub fn read_examples(path: &Path, progress: &dyn Progress) -> Result<Vec<Example>> {
    let mut unused = Remark::default();
    let mut examples = Vec::new();
    for row in read_rows(path, progress)? {
        for field in row.fields.keys().filter(|field| !matches!(field.as_str(), "query" | "pos" | "neg")) {
            unused.add(field, row.example.line);
        }
        examples.push(row.example);
    }
    for (field, n, line) in unused.seen {
        progress.note(&format!("{}:{line}: field `{field}` is not used (rows that have it: {n})", path.display()));
    }
    Ok(examples)
}

/// Reads rows as [`read_examples`] does, and keeps their other fields.
///
/// # Errors
/// Those of [`read_examples`].
pub fn read_rows(path: &Path, progress: &dyn Progress) -> Result<Vec<Row>> {
    let mut strings = Remark::default();
    let mut rows = Vec::new();
    for_each_object(path, |line, object| {
        let mut list = |field: &str| -> Result<Vec<String>> {
            let list = object.texts(field)?;
            if list.was_string {
                strings.add(field, line);
            }
            Ok(list.texts)
        };
        let query = object.text("query")?;
        let positives = list("pos")?;
        if positives.is_empty() {
            return Err(object.error("field `pos` is an empty list".into(), "give each query at least one positive"));
        }
        let negatives = if object.has("neg") { list("neg")? } else { Vec::new() };
        rows.push(Row { example: Example { query, positives, negatives, line }, fields: object.fields });
        Ok(())
    })?;
    strings.warn_of_strings(path, progress);
    not_empty(path, rows, r#"one object per line, like {"query": "...", "pos": ["..."]}"#)
}

/// Reads a candidate pool. Each line is `{"context": [str]}` (every string is one candidate), or `{"text": str}`, or
/// `{"id" or "_id", "text", "title"}` (title and text joined by a space, as BEIR does). Equal texts are kept.
///
/// # Errors
/// A line that is none of these, an empty text, no candidates at all.
pub fn read_pool(path: &Path, progress: &dyn Progress) -> Result<Vec<String>> {
    let mut strings = Remark::default();
    let mut texts = Vec::new();
    for_each_object(path, |line, object| {
        if object.has("context") {
            let list = object.texts("context")?;
            if list.was_string {
                strings.add("context", line);
            }
            texts.extend(list.texts);
        } else if object.has("text") {
            texts.push(titled_text(&object)?);
        } else {
            return Err(object.error(
                "neither field `context` nor field `text` is there".into(),
                r#"a candidate is {"context": ["..."]} or {"text": "..."}"#,
            ));
        }
        Ok(())
    })?;
    strings.warn_of_strings(path, progress);
    not_empty(path, texts, r#"one object per line, like {"context": ["..."]} or {"text": "..."}"#)
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
        for_each_object(path, |_, object| {
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
    not_empty(path, texts, r#"one text per line, or in a .jsonl file one {"text": "..."} per line"#)
}

fn titled_text(object: &Object<'_>) -> Result<String> {
    let text = object.text("text")?;
    match object.fields.get("title") {
        Some(Value::String(title)) if !title.trim().is_empty() => Ok(format!("{title} {text}")),
        _ => Ok(text),
    }
}

fn for_each_object(path: &Path, mut take: impl FnMut(usize, Object<'_>) -> Result<()>) -> Result<()> {
    for entry in Lines::open(path)? {
        let (line, text) = entry?;
        if !text.trim().is_empty() {
            take(line, Object::parse(path, line, &text)?)?;
        }
    }
    Ok(())
}

fn not_empty<T>(path: &Path, items: Vec<T>, form: &str) -> Result<Vec<T>> {
    if items.is_empty() {
        let hint = Some(format!("expected {form}"));
        return Err(Error::Data { path: path.into(), problem: "the file has no rows".into(), hint });
    }
    Ok(items)
}

/// Fields that deserve a word: `(field, how many rows, first line)`.
#[derive(Default)]
struct Remark {
    seen: Vec<(String, usize, usize)>,
}

impl Remark {
    fn add(&mut self, field: &str, line: usize) {
        match self.seen.iter_mut().find(|(name, _, _)| name == field) {
            Some((_, n, _)) => *n += 1,
            None => self.seen.push((field.to_string(), 1, line)),
        }
    }

    fn warn_of_strings(self, path: &Path, progress: &dyn Progress) {
        for (field, n, line) in self.seen {
            let place = path.display();
            progress.warn(&format!("{place}:{line}: field `{field}` is a string, taken as a list of one (rows: {n})"));
        }
    }
}
