//! Test sets by id: BEIR's `corpus.jsonl` and `queries.jsonl`, and judgments in BEIR's or TREC's form.
//!
//! Layouts: <https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset> and trec_eval's README.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::lines::Lines;
use super::object::Object;
use crate::error::{Error, Result};

/// A text with the name that judgments and runs know it by.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedText {
    /// The name, not empty and without white space.
    pub id: String,
    /// The text; of a passage with a title, both, joined by a space. May be empty: published sets have such passages.
    pub text: String,
    /// All fields of the line; BEIR keeps what else is known in an object `metadata`.
    pub fields: Map<String, Value>,
}

/// How relevant a document is to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qrel {
    /// Name of the query.
    pub query: String,
    /// Name of the document.
    pub document: String,
    /// At least 1 is relevant, more is better.
    pub grade: i32,
}

/// Where the files of a BEIR folder are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeirFolder {
    /// The passages.
    pub corpus: PathBuf,
    /// The queries of all splits.
    pub queries: PathBuf,
    /// The judgments of one split.
    pub qrels: PathBuf,
}

impl BeirFolder {
    /// Finds the files of `split`: its judgments are `qrels/<split>.tsv`, or `qrels.<split>.tsv`, or `qrels.tsv` for `test`.
    ///
    /// # Errors
    /// Where one of the files is missing.
    pub fn find(folder: &Path, split: &str) -> Result<BeirFolder> {
        if !folder.is_dir() {
            return Err(Error::Data {
                path: folder.to_path_buf(),
                problem: "there is no such folder".into(),
                hint: Some("a BEIR folder has corpus.jsonl, queries.jsonl and qrels/test.tsv".into()),
            });
        }
        let missing = |what: String, hint: &str| Error::Data {
            path: folder.to_path_buf(),
            problem: format!("{what} is missing"),
            hint: Some(hint.into()),
        };
        let file = |name: &str| {
            part_of(folder, name).ok_or_else(|| {
                missing(format!("`{name}`"), "a BEIR folder has corpus.jsonl, queries.jsonl and qrels/test.tsv")
            })
        };
        let mut names = vec![format!("qrels/{split}.tsv"), format!("qrels.{split}.tsv")];
        if split == "test" {
            names.push("qrels.tsv".into());
        }
        let found = names.iter().find_map(|name| part_of(folder, name));
        let tried = || names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
        let qrels = found.ok_or_else(|| missing(tried(), "name the split that has judgments with `--split`"))?;
        Ok(BeirFolder { corpus: file("corpus.jsonl")?, queries: file("queries.jsonl")?, qrels })
    }
}

/// A file of a BEIR folder, packed or not.
pub fn part_of(folder: &Path, name: &str) -> Option<PathBuf> {
    ["", ".gz", ".zst"].iter().map(|packing| folder.join(format!("{name}{packing}"))).find(|path| path.is_file())
}

/// Reads `{"_id" or "id": str, "text": str, "title": str}` lines: a corpus, or queries.
///
/// # Errors
/// A line that is not of this form, a name that is used twice, no lines at all.
pub fn read_named_texts(path: &Path) -> Result<Vec<NamedText>> {
    let mut texts: Vec<NamedText> = Vec::new();
    let mut line_of: HashMap<String, usize> = HashMap::new();
    for entry in Lines::open(path)? {
        let (line, text) = entry?;
        if text.trim().is_empty() {
            continue;
        }
        let object = Object::parse(path, line, &text)?;
        let id = object.text(if object.has("_id") || !object.has("id") { "_id" } else { "id" })?;
        if id.contains(char::is_whitespace) {
            let problem = format!("the name `{id}` has white space in it");
            return Err(object.error(problem, "judgments and run files separate names by white space: rename it"));
        }
        if let Some(first) = line_of.insert(id.clone(), line) {
            return Err(object.error(
                format!("the name `{id}` is used already, in line {first}"),
                "every document and every query has a name of its own",
            ));
        }
        let string = |field: &str| object.fields.get(field).and_then(Value::as_str).unwrap_or_default();
        let text = match (string("title").trim().is_empty(), object.has("text")) {
            (_, false) => object.text("text")?,
            (true, true) => string("text").to_string(),
            (false, true) => format!("{} {}", string("title"), string("text")),
        };
        texts.push(NamedText { id, text, fields: object.fields });
    }
    if texts.is_empty() {
        return Err(no_lines(path, r#"one object per line, like {"_id": "d1", "text": "..."}"#));
    }
    Ok(texts)
}

/// Reads judgments, one per line: `query document grade` as in BEIR, maybe below a line of headings, or
/// `query iteration document grade` as in TREC. Fields are separated by white space.
///
/// # Errors
/// A line that is neither, a document that is judged twice for one query with different grades, no lines at all.
pub fn read_qrels(path: &Path) -> Result<Vec<Qrel>> {
    let mut qrels: Vec<Qrel> = Vec::new();
    let mut seen: HashMap<(String, String), (i32, usize)> = HashMap::new();
    for entry in Lines::open(path)? {
        let (line, text) = entry?;
        let fail = |problem: String, hint: &str| {
            Err(Error::Row { path: path.to_path_buf(), line, problem, hint: Some(hint.into()) })
        };
        let fields: Vec<_> = text.split_whitespace().collect();
        let (query, document, grade) = match fields[..] {
            [] => continue,
            [query, document, grade] | [query, _, document, grade] => (query, document, grade),
            _ => {
                let problem = format!("found {} fields, expected 3 (BEIR) or 4 (TREC)", fields.len());
                return fail(problem, "a judgment is `query-id document-id grade`, or `query-id 0 document-id grade`");
            }
        };
        let Ok(grade) = grade.parse() else {
            if qrels.is_empty() && is_heading(query, grade) {
                continue;
            }
            return fail(format!("the grade `{grade}` is no whole number"), "0 is irrelevant, 1 and more are relevant");
        };
        match seen.insert((query.into(), document.into()), (grade, line)) {
            Some((known, _)) if known == grade => continue,
            Some((known, first)) => {
                let problem = format!("`{document}` has grade {grade} for `{query}`, and {known} in line {first}");
                return fail(problem, "remove one of the two lines");
            }
            None => qrels.push(Qrel { query: query.into(), document: document.into(), grade }),
        }
    }
    if qrels.is_empty() {
        return Err(no_lines(path, "one judgment per line, like `q1 d7 1`"));
    }
    Ok(qrels)
}

/// Whether a line whose grade is no number is one of headings, like `query-id corpus-id score`, and no mistyped judgment.
fn is_heading(query: &str, grade: &str) -> bool {
    let query = query.to_lowercase();
    !grade.contains(|c: char| c.is_ascii_digit()) && ["query", "qid", "topic"].iter().any(|name| query.contains(name))
}

fn no_lines(path: &Path, form: &str) -> Error {
    let hint = Some(format!("expected {form}"));
    Error::Data { path: path.into(), problem: "the file has no rows".into(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn both_forms_of_judgments_say_the_same() {
        let of = |text: &str| read_qrels(&written("qrels", text).1).unwrap_err().to_string();
        assert!(of("q d\n").contains(":1: found 2 fields"));
        assert!(of("q d 1\nq e one\n").contains(":2: the grade `one`"));
        assert!(of("q d l\nq e 1\n").contains(":1: the grade `l`"));
        assert!(of("query-id\tcorpus-id\tscore\nqid pid rel\nq d l\n").contains(":3: the grade `l`"));
        assert!(of("q d 1\nq d 2\n").contains("`d` has grade 2 for `q`, and 1 in line 1"));
        assert!(of("query-id\tcorpus-id\tscore\n").contains("no rows"));
        let read = |text: &str| {
            let (_folder, path) = written("qrels", text);
            read_qrels(&path).unwrap()
        };
        let beir = read("query-id\tcorpus-id\tscore\nq\td\t2\n\nq\te\t0\nq\td\t2\n");
        assert_eq!(beir, read("q 0 d 2\nq Q0 e 0\n"));
        assert_eq!(beir.len(), 2);
        assert_eq!(beir[0], Qrel { query: "q".into(), document: "d".into(), grade: 2 });
    }

    #[test]
    fn titles_and_empty_texts_are_read_as_beir_does() {
        let lines = "{\"_id\": \"a\", \"title\": \"T\", \"text\": \"x\"}\n{\"id\": \"b\", \"text\": \"\", \"n\": 1}\n";
        let (_folder, path) = written("corpus.jsonl", lines);
        let texts = read_named_texts(&path).unwrap();
        assert_eq!([texts[0].text.as_str(), texts[1].text.as_str()], ["T x", ""]);
        assert_eq!(texts[1].fields["n"], 1);
        for (line, expected) in [
            ("{\"_id\": \"a\", \"text\": \"y\"}", "`a` is used already, in line 1"),
            ("{\"_id\": \"c d\", \"text\": \"y\"}", "white space"),
            ("{\"_id\": \"c\"}", "field `text` is missing"),
            ("{\"text\": \"y\"}", "field `_id` is missing"),
        ] {
            let (_folder, path) = written("corpus.jsonl", &format!("{lines}{line}\n"));
            let error = read_named_texts(&path).unwrap_err().to_string();
            assert!(error.contains(":3: ") && error.contains(expected), "{error}");
        }
    }
}
