//! What a path of data stands for: a file of any form, a folder of such files, as Hugging Face's data sets are, or a BEIR folder.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::beir::{BeirFolder, part_of, read_named_texts, read_qrels};
use super::columns::Columns;
use super::object::Object;
use super::source::{ARROW_HINT, Raw, Reading, ending, for_each_object};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Endings of the files that a folder is searched for.
const ENDINGS: [&str; 6] = ["jsonl", "ndjson", "json", "csv", "tsv", "parquet"];
/// Files of a data set that are about it.
const ABOUT: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// Reads the rows of training or evaluation data at `path`, their parts by the names that [`Columns::row`] gives them. Of a folder that
/// has files called `train...` only these are read; of a BEIR folder, the judgments called `train`, or else the only ones. A file
/// of judgments in such a folder stands for the folder.
///
/// # Errors
/// A path that is not there, a folder without data, what can't be read, and errors of `take`.
pub fn for_each_row(
    path: &Path,
    columns: &Columns,
    mut take: impl FnMut(Object<'_>, Raw<'_>) -> Result<()>,
) -> Result<Reading> {
    match Kind::of(path, "train")? {
        Kind::Beir(folder) => for_each_judged(path, &folder, take),
        Kind::Files(files) => {
            let named = columns.of_rows().collect();
            read_all(path, &files, columns, named, &mut |object, raw| take(object.into_row(columns), raw))
        }
    }
}

/// Reads the candidates or texts at `path`; only columns that the user has named get other names. Of a BEIR folder, it is the corpus.
///
/// # Errors
/// Those of [`for_each_row`].
pub fn for_each_text(
    path: &Path,
    columns: &Columns,
    mut take: impl FnMut(Object<'_>, Raw<'_>) -> Result<()>,
) -> Result<Reading> {
    let files = match Kind::of(path, "corpus")? {
        Kind::Beir(folder) => vec![folder.corpus],
        Kind::Files(files) => files,
    };
    let named = columns.of_texts().collect();
    read_all(path, &files, columns, named, &mut |object, raw| take(object.into_text(columns), raw))
}

/// Whether `path` can be read more than once, as a pipe can't.
///
/// # Errors
/// Where it can't.
pub fn check_readable_again(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(known) if !known.is_file() && !known.is_dir() => Err(Error::Data {
            path: path.to_path_buf(),
            problem: "it is no file, and has to be read more than once".into(),
            hint: Some("write what comes through the pipe to a file first".into()),
        }),
        _ => Ok(()),
    }
}

/// Says what was read, unless it is a plain file of JSON lines, of which there is nothing to say.
pub fn note(path: &Path, reading: &Reading, progress: &dyn Progress) {
    if reading.is_plain { warn_of_unseen(path, reading, progress) } else { tell(path, reading, progress) }
}

/// Says what was read.
pub fn tell(path: &Path, reading: &Reading, progress: &dyn Progress) {
    progress.note(&format!("{}: {}", path.display(), reading.sentence()));
    warn_of_unseen(path, reading, progress);
}

fn warn_of_unseen(path: &Path, reading: &Reading, progress: &dyn Progress) {
    for column in &reading.unseen {
        progress.warn(&format!("{}: no row has the column `{column}` of `--columns`", path.display()));
    }
}

/// The files that `path` stands for as training data, in their order.
///
/// # Errors
/// Those of [`for_each_row`] that come before reading.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(match Kind::of(path, "train")? {
        Kind::Beir(BeirFolder { corpus, queries, qrels }) => vec![corpus, queries, qrels],
        Kind::Files(files) => files,
    })
}

enum Kind {
    Files(Vec<PathBuf>),
    Beir(BeirFolder),
}

impl Kind {
    /// `wanted` is how the names of files begin that are taken instead of all.
    fn of(path: &Path, wanted: &str) -> Result<Kind> {
        if !path.is_dir() {
            return Ok(match judgments_of_folder(path) {
                Some(folder) => Kind::Beir(folder),
                None => Kind::Files(vec![path.to_path_buf()]),
            });
        }
        if part_of(path, "corpus.jsonl").is_some() && part_of(path, "queries.jsonl").is_some() {
            return beir_folder(path).map(Kind::Beir);
        }
        let mut files = Vec::new();
        for folder in [path.to_path_buf(), path.join("data")] {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries {
                let file = entry.map_err(Error::io(&folder, "read"))?.path();
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_data = ENDINGS.contains(&ending(&file).as_str()) && !ABOUT.contains(&name.as_str());
                if is_data && !name.starts_with('.') && file.is_file() {
                    files.push((name.starts_with(wanted), file));
                }
            }
        }
        files.sort();
        let has_wanted = files.iter().any(|(is_wanted, _)| *is_wanted);
        let files: Vec<_> =
            files.into_iter().filter(|(is_wanted, _)| *is_wanted || !has_wanted).map(|(_, f)| f).collect();
        if files.is_empty() {
            let is_saved = ["dataset_dict.json", "state.json"].iter().any(|name| path.join(name).is_file());
            return Err(Error::Data {
                path: path.to_path_buf(),
                problem: format!(
                    "no data files in this folder or in `data` in it: none ends in .{}",
                    ENDINGS.join(", .")
                ),
                hint: Some(match is_saved {
                    true => ARROW_HINT.into(),
                    false => {
                        "name a file, or a folder of files, or a BEIR folder with corpus.jsonl and queries.jsonl".into()
                    }
                }),
            });
        }
        Ok(Kind::Files(files))
    }
}

/// The folder that a file of judgments is part of: it is beside `corpus.jsonl`, or in a folder that is.
fn judgments_of_folder(path: &Path) -> Option<BeirFolder> {
    let name = path.file_name()?.to_string_lossy();
    let parent = path.parent()?;
    let is_tsv = ending(path) == "tsv";
    let folder = match parent.file_name() {
        _ if is_tsv && name.starts_with("qrels") => parent,
        Some(qrels) if is_tsv && qrels == "qrels" => parent.parent()?,
        _ => return None,
    };
    let (corpus, queries) = (part_of(folder, "corpus.jsonl")?, part_of(folder, "queries.jsonl")?);
    Some(BeirFolder { corpus, queries, qrels: path.to_path_buf() })
}

fn beir_folder(folder: &Path) -> Result<BeirFolder> {
    BeirFolder::find(folder, "train").or_else(|error| {
        let is_judgments = |path: &PathBuf| judgments_of_folder(path).is_some();
        let entries =
            [folder.to_path_buf(), folder.join("qrels")].into_iter().filter_map(|folder| fs::read_dir(folder).ok());
        let mut found: Vec<_> = entries.flatten().flatten().map(|entry| entry.path()).filter(is_judgments).collect();
        found.sort();
        match found.len() {
            0 => Err(Error::Data {
                path: folder.to_path_buf(),
                problem: "no judgments: neither `qrels/train.tsv` nor any other".into(),
                hint: Some("a judgment is a line `query-id document-id grade`".into()),
            }),
            1 => judgments_of_folder(&found.remove(0)).ok_or(error),
            n => Err(Error::Data {
                path: folder.to_path_buf(),
                problem: format!("{n} files of judgments, none called `train`"),
                hint: Some(format!("name one of them, like `{}`", found[0].display())),
            }),
        }
    })
}

/// `unseen` are columns that the user has named for what is read here.
fn read_all(
    path: &Path,
    files: &[PathBuf],
    columns: &Columns,
    mut unseen: Vec<&str>,
    take: &mut dyn FnMut(Object<'_>, Raw<'_>) -> Result<()>,
) -> Result<Reading> {
    let mut all: Option<Reading> = None;
    for file in files {
        let one = for_each_object(file, columns, |object, raw| {
            unseen.retain(|column| !object.fields.contains_key(*column));
            take(object, raw)
        })?;
        all = Some(match all {
            None => one,
            Some(sum) => Reading { n_rows: sum.n_rows + one.n_rows, ..sum },
        });
    }
    let mut reading = all.unwrap_or_default();
    reading.unseen = unseen.into_iter().map(String::from).collect();
    if path.is_dir() {
        let names: Vec<_> =
            files.iter().take(3).filter_map(|file| file.file_name()).map(|n| n.to_string_lossy()).collect();
        let more = if files.len() > 3 { ", ..." } else { "" };
        reading.what = format!("{} files ({}{more}), {}", files.len(), names.join(", "), reading.what);
        reading.is_plain = false;
    }
    Ok(reading)
}

/// The rows that judgments are: a query, the passages that answer it as `pos`, those that do not as `neg`. All texts of the
/// folder are in memory.
fn for_each_judged(
    path: &Path,
    folder: &BeirFolder,
    mut take: impl FnMut(Object<'_>, Raw<'_>) -> Result<()>,
) -> Result<Reading> {
    let texts = |path| -> Result<HashMap<String, String>> {
        Ok(read_named_texts(path)?.into_iter().map(|named| (named.id, named.text)).collect())
    };
    let (corpus, queries) = (texts(&folder.corpus)?, texts(&folder.queries)?);
    let mut order: Vec<String> = Vec::new();
    let mut judged: HashMap<String, [Vec<&str>; 2]> = HashMap::new();
    let mut n_missing = 0;
    let qrels = read_qrels(&folder.qrels)?;
    for qrel in qrels {
        let Some(text) = corpus.get(&qrel.document).filter(|text| !text.trim().is_empty()) else {
            n_missing += 1;
            continue;
        };
        let [positives, negatives] = judged.entry(qrel.query).or_insert_with_key(|query| {
            order.push(query.clone());
            Default::default()
        });
        if qrel.grade > 0 { positives.push(text) } else { negatives.push(text) }
    }
    let mut n_rows = 0;
    for query in order {
        let [positives, negatives] = judged.remove(&query).unwrap_or_default();
        if positives.is_empty() {
            continue;
        }
        let Some(text) = queries.get(&query) else {
            return Err(Error::Data {
                path: folder.qrels.clone(),
                problem: format!("the query `{query}` has judgments but no text"),
                hint: Some("every query of the judgments has a line with its `_id` in queries.jsonl".into()),
            });
        };
        n_rows += 1;
        let mut fields = Map::from_iter([("query".to_string(), json!(text)), ("pos".to_string(), json!(positives))]);
        if !negatives.is_empty() {
            fields.insert("neg".into(), json!(negatives));
        }
        fields.insert("query_id".into(), Value::from(query));
        take(Object::of(path, n_rows, fields), Raw::None)?;
    }
    let judgments = folder.qrels.strip_prefix(path.parent().unwrap_or(path)).unwrap_or(&folder.qrels);
    let mut what = format!("BEIR folder, judgments in {}, {} passages", judgments.display(), corpus.len());
    if n_missing > 0 {
        what += &format!(", {n_missing} judged ones not among them or empty");
    }
    Ok(Reading { what, n_rows, ..Reading::default() })
}
