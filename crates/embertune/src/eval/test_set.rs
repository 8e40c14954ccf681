//! A test set: documents, queries, and how relevant which document is to which query, all by name.
//!
//! Rows of the original's form have no names: the n-th distinct passage of the pool is `d<n>`, the n-th query `q<n>`, and
//! texts are compared by [`TextId`]. A BEIR folder brings its names, and its documents stay apart even where their texts are
//! equal: published numbers count them so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use rayon::prelude::*;
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3Default;

use super::retrieval::{Query, queries_of};
use super::words::words;
use crate::data::beir::{BeirFolder, NamedText, Qrel, read_named_texts, read_qrels};
use crate::data::{Pool, Row, TextId};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The words of so many documents are counted at once by a thread: enough that adding the counts up takes no time.
const PARALLEL_DOCUMENTS: usize = 4096;

/// A document that can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its name.
    pub id: String,
    /// Its text.
    pub text: String,
}

/// A query with its judgments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestQuery {
    /// Its name.
    pub id: String,
    /// Its text; empty where only judgments are known.
    pub text: String,
    /// `(document, grade)`, each document once; at least 1 is relevant, more is better. The document may be in no pool.
    pub judged: Vec<(String, i32)>,
    /// What else the data says about the query, by field: what results can be sliced by.
    pub fields: BTreeMap<String, String>,
}

/// Documents, queries and judgments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestSet {
    /// What to call it.
    pub name: String,
    /// What is searched. Empty where only judgments are known, for runs that were made elsewhere.
    pub documents: Vec<Document>,
    /// Candidates that were left out because an equal one was there already.
    pub n_duplicates: usize,
    /// The queries, in their order.
    pub queries: Vec<TestQuery>,
}

impl TestSet {
    /// The set that rows of the original's form and a pool of passages are.
    pub fn of_rows(name: &str, queries: &[Query], pool: &Pool) -> TestSet {
        let name_of = |id: TextId| match pool.row(id) {
            Some(row) => format!("d{}", row + 1),
            None => format!("missing-{:032x}", id.0),
        };
        let queries = queries.iter().enumerate().map(|(i, query)| TestQuery {
            id: format!("q{}", i + 1),
            text: query.text.clone(),
            judged: query.judged.iter().map(|(id, grade)| (name_of(*id), *grade)).collect(),
            fields: BTreeMap::new(),
        });
        let documents = pool.texts().iter().enumerate();
        TestSet {
            name: name.into(),
            queries: queries.collect(),
            documents: documents.map(|(i, text)| Document { id: format!("d{}", i + 1), text: text.clone() }).collect(),
            n_duplicates: pool.n_duplicates(),
        }
    }

    /// The set that evaluation rows and a pool of passages are; the fields of a query are those of its first row.
    pub fn of_row_file(name: &str, rows: Vec<Row>, pool: Vec<String>, progress: &dyn Progress) -> TestSet {
        let examples: Vec<_> = rows.iter().map(|row| row.example.clone()).collect();
        let mut set = TestSet::of_rows(name, &queries_of(&examples, progress), &Pool::new(pool));
        let mut fields_of = HashMap::new();
        for row in rows {
            fields_of.entry(TextId::of(&row.example.query)).or_insert_with(|| plain_fields(row.fields));
        }
        for query in &mut set.queries {
            query.fields = fields_of.remove(&TextId::of(&query.text)).unwrap_or_default();
        }
        set
    }

    /// Reads a BEIR folder. Queries without judgments in this split are left out.
    ///
    /// # Errors
    /// A file that is missing or not of its form; a judgment of a query that is not there.
    pub fn read_beir(folder: &Path, split: &str) -> Result<TestSet> {
        let files = BeirFolder::find(folder, split)?;
        let corpus = read_named_texts(&files.corpus)?;
        let queries = read_named_texts(&files.queries)?;
        let name = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let name = name.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into_owned());
        TestSet::of_named(&name, corpus, queries, &read_qrels(&files.qrels)?, &files.qrels)
    }

    /// The set of the judgments alone, for runs that were made elsewhere.
    ///
    /// # Errors
    /// A file that is not of its form.
    pub fn read_judgments(path: &Path) -> Result<TestSet> {
        let qrels = read_qrels(path)?;
        let mut seen = HashSet::new();
        let named = |id: &str| NamedText { id: id.into(), text: String::new(), fields: Default::default() };
        let queries = qrels.iter().filter(|qrel| seen.insert(&qrel.query)).map(|qrel| named(&qrel.query)).collect();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        TestSet::of_named(&name, Vec::new(), queries, &qrels, path)
    }

    fn of_named(
        name: &str,
        corpus: Vec<NamedText>,
        queries: Vec<NamedText>,
        qrels: &[Qrel],
        qrels_path: &Path,
    ) -> Result<TestSet> {
        let mut judged: HashMap<&str, Vec<(String, i32)>> = HashMap::new();
        for qrel in qrels {
            judged.entry(&qrel.query).or_default().push((qrel.document.clone(), qrel.grade));
        }
        let queries: Vec<_> = queries
            .into_iter()
            .filter_map(|NamedText { id, text, fields }| {
                let judged = judged.remove(id.as_str())?;
                Some(TestQuery { id, text, judged, fields: plain_fields(fields) })
            })
            .collect();
        if let Some(unknown) = judged.keys().min() {
            return Err(Error::Data {
                path: qrels_path.to_path_buf(),
                problem: format!("the query `{unknown}` has judgments but no text (such queries: {})", judged.len()),
                hint: Some("every query of the judgments has a line with its `_id` in queries.jsonl".into()),
            });
        }
        let documents = corpus.into_iter().map(|NamedText { id, text, .. }| Document { id, text }).collect();
        Ok(TestSet { name: name.into(), documents, n_duplicates: 0, queries })
    }

    /// A name for the queries and their judgments, equal where both are. Two results are comparable where it is.
    pub fn judgments_id(&self) -> String {
        let mut parts = Vec::new();
        for query in &self.queries {
            parts.extend([query.id.clone(), query.text.clone()]);
            let mut judged: Vec<_> = query.judged.iter().map(|(id, grade)| format!("{id} {grade}")).collect();
            judged.sort_unstable();
            parts.push(judged.join("\n"));
        }
        hash(parts.iter().map(String::as_str))
    }

    /// A name for the documents, equal where all of them are. `None` where they are not known.
    pub fn documents_id(&self) -> Option<String> {
        let parts = self.documents.iter().flat_map(|document| [document.id.as_str(), document.text.as_str()]);
        (!self.documents.is_empty()).then(|| hash(parts))
    }

    /// For each query, how many documents contain its rarest word: 0 where a word of it is in no document. `None` where the
    /// query has no words or the documents are not known.
    pub fn documents_with_rarest_word(&self) -> Vec<Option<usize>> {
        let words_of: Vec<Vec<String>> = self.queries.iter().map(|query| words(&query.text)).collect();
        let mut place_of: HashMap<&str, usize> = HashMap::new();
        for word in words_of.iter().flatten() {
            let n = place_of.len();
            place_of.entry(word).or_insert(n);
        }
        // How many of the documents contain each word of the queries.
        let count = |documents: &[Document]| {
            let mut counts = vec![0; place_of.len()];
            for document in documents {
                let words = words(&document.text);
                let mut found: Vec<_> = words.iter().filter_map(|word| place_of.get(word.as_str())).collect();
                found.sort_unstable();
                found.dedup();
                found.into_iter().for_each(|&place| counts[place] += 1);
            }
            counts
        };
        let sum = |a: Vec<usize>, b: Vec<usize>| a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let counts = self.documents.par_chunks(PARALLEL_DOCUMENTS).map(count).reduce(|| vec![0; place_of.len()], sum);
        let rarest = |words: &Vec<String>| words.iter().map(|word| counts[place_of[word.as_str()]]).min();
        words_of.iter().map(|words| rarest(words).filter(|_| !self.documents.is_empty())).collect()
    }
}

/// Strings, numbers and truth values by name, those within an object `metadata` too. What is not one of these can't be a
/// slice; neither can names and texts, which every query has of its own.
pub fn plain_fields(fields: impl IntoIterator<Item = (String, Value)>) -> BTreeMap<String, String> {
    let mut plain = BTreeMap::new();
    for (name, value) in fields {
        match value {
            Value::Object(inner) if name == "metadata" => plain.extend(plain_fields(inner)),
            _ if matches!(name.as_str(), "_id" | "id" | "text" | "title" | "query" | "pos" | "neg") => {}
            Value::String(text) => drop(plain.insert(name, text)),
            Value::Number(number) => drop(plain.insert(name, number.to_string())),
            Value::Bool(flag) => drop(plain.insert(name, flag.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => {}
        }
    }
    plain
}

fn hash<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Xxh3Default::new();
    for part in parts {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    format!("{:032x}", hash.digest128())
}
