//! The data of the benchmarks, made from the data sets once and kept in `.cache/bench/data`: rows with a hard negative, cut so that
//! both sides train on the same batches, and passages to encode.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::options::MINILM;
use super::setup::Setup;

/// Rows of a set that get a hard negative: enough for two batches of 1,024 and a step to warm up.
const MAX_ROWS: usize = 4096;

/// Rows of `set` with one hard negative each, mined with MiniLM from the positives of all rows, ranks 10 to 60. In file order.
pub fn mined(setup: &Setup, set: &str) -> Result<PathBuf, String> {
    let path = setup.cache.join(format!("data/{set}.mined.jsonl"));
    if path.exists() {
        return Ok(path);
    }
    eprintln!("bench: mining hard negatives of {set}");
    let rows = setup.cache.join(format!("data/{set}.rows.jsonl"));
    let lines = read_lines(&setup.data_file(set, "train.jsonl")?)?;
    write_lines(&rows, lines.iter().take(MAX_ROWS))?;
    let mut arguments: Vec<String> =
        ["mine", "--range_for_sampling", "10-60", "--negative_number", "1"].map(String::from).into();
    arguments.extend(["--seed", "42", "--precision", "fp32", "--input_file"].map(String::from));
    arguments.extend([text(&rows), "--output_file".into(), text(&path)]);
    arguments.extend(["--model_name_or_path".into(), text(&setup.model(MINILM))]);
    setup.runner.run(&setup.embertune, &arguments, setup.threads)?;
    Ok(path)
}

/// Rows for `n_steps` batches of `batch`. No text comes twice in a batch: Embertune never takes a known positive as a negative,
/// sentence-transformers does, and the losses could not be compared.
pub fn batches(setup: &Setup, set: &str, batch: usize, n_steps: usize) -> Result<PathBuf, String> {
    let mut chosen: Vec<String> = Vec::new();
    let mut texts = HashSet::new();
    for line in read_lines(&mined(setup, set)?)? {
        if chosen.len() == batch * n_steps {
            break;
        }
        if chosen.len().is_multiple_of(batch) {
            texts.clear();
        }
        let row: Value = serde_json::from_str(&line).map_err(|error| format!("{set}: {error}"))?;
        let of_row = texts_of(&row).ok_or_else(|| format!("{set}: a row has no text in query, pos or neg: {line}"))?;
        if of_row.iter().all(|text| !texts.contains(text)) {
            texts.extend(of_row);
            chosen.push(line);
        }
    }
    if chosen.len() < batch * n_steps {
        return Err(format!("{set} has {} rows for {n_steps} batches of {batch}", chosen.len()));
    }
    let path = setup.cache.join(format!("data/{set}.b{batch}x{n_steps}.jsonl"));
    write_lines(&path, chosen.iter())?;
    Ok(path)
}

/// The first `n` rows of a set with their hard negatives, as they come.
pub fn first_rows(setup: &Setup, set: &str, n: usize) -> Result<PathBuf, String> {
    let lines = read_lines(&mined(setup, set)?)?;
    if lines.len() < n {
        return Err(format!("{set} has {} rows with a hard negative, {n} are needed", lines.len()));
    }
    let path = setup.cache.join(format!("data/{set}.first{n}.jsonl"));
    write_lines(&path, lines.iter().take(n))?;
    Ok(path)
}

/// `n` passages, spread evenly over the corpus of `set`, as JSON lines `{"text"}`.
pub fn passages(setup: &Setup, set: &str, n: usize) -> Result<PathBuf, String> {
    let lines = read_lines(&setup.data_file(set, "corpus.jsonl")?)?;
    let n = n.min(lines.len());
    let path = setup.cache.join(format!("data/{set}.passages{n}.jsonl"));
    let spread = (0..n).map(|i| &lines[i * lines.len() / n]);
    let only_text = |line: &String| -> Result<String, String> {
        let row: Value = serde_json::from_str(line).map_err(|error| format!("{set}: {error}"))?;
        Ok(json!({"text": row["text"]}).to_string())
    };
    let lines = spread.map(only_text).collect::<Result<Vec<_>, _>>()?;
    write_lines(&path, lines.iter())?;
    Ok(path)
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn texts_of(row: &Value) -> Option<[String; 3]> {
    let texts = [row.get("query")?, row.get("pos")?.get(0)?, row.get("neg")?.get(0)?];
    let texts: Vec<_> = texts.into_iter().filter_map(Value::as_str).map(key).collect();
    texts.try_into().ok()
}

/// Texts that differ in white space alone count as the same.
fn key(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub fn read_lines(path: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.lines().map(String::from).collect())
}

pub fn write_lines<'a>(path: &Path, lines: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let write = || {
        let mut file = std::io::BufWriter::new(fs::File::create(path)?);
        for line in lines {
            writeln!(file, "{line}")?;
        }
        file.flush()
    };
    write().map_err(|error| format!("{}: {error}", path.display()))
}
