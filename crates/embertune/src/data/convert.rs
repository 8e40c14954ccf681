//! Rows of any form as rows of any other, one at a time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::atomic::{write_file, write_folder};
use super::columns::Columns;
use super::csv::escaped;
use super::files::{check_readable_again, for_each_row, tell};
use super::identity::TextId;
use super::jsonl::{ROWS, not_empty};
use super::object::Object;
use super::packed::Packing;
use super::source::{Form, Reading, ending};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// What the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file.
    File(Form),
    /// A folder with `corpus.jsonl`, `queries.jsonl` and `qrels/<name>.tsv`, where the name is that of the input if it is `train` or `dev`,
    /// else `test`. Positives have grade 1, negatives 0.
    Beir,
}

impl Target {
    /// What the name of `output` says.
    ///
    /// # Errors
    /// A name that says nothing, or what can't be written.
    pub fn of(output: &Path) -> Result<Target> {
        let name = output.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        Ok(Target::File(match ending(output).as_str() {
            "jsonl" | "ndjson" => Form::JsonLines,
            "json" => Form::JsonArray,
            "csv" => Form::Csv,
            "tsv" => Form::Tsv,
            "parquet" => Form::Parquet,
            _ => {
                let problem = format!("`{name}` does not say what it shall be");
                let hint = "let it end in .jsonl, .json, .csv or .tsv, with .gz, .zst or neither, or in .parquet, or say it with `--to`";
                return Err(Error::Setting { problem, hint: Some(hint.into()) });
            }
        }))
    }
}

/// What a row of the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowShape {
    /// `query`, `pos`, `neg`, and all other fields.
    Rows,
    /// `anchor` and `positive`, for each positive.
    Pairs,
    /// `anchor`, `positive` and `negative`, for each positive with each negative.
    Triplets,
    /// `anchor`, `positive` and all negatives, `negative_1`, `negative_2` and so on, for each positive.
    NTuples,
    /// `query`, `passage` and `label`, 1 for each positive and 0 for each negative.
    LabeledPairs,
}

/// Rows that were read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Rows of the input.
    pub n_read: usize,
    /// Rows of the output; of a BEIR folder its judgments.
    pub n_written: usize,
}

/// Converts the rows of `input` and writes them to `output`, whole or not at all. A file is replaced, a folder is not. What was read is
/// said to `progress`. Candidates, which have no query, stay as they are in their shape [`RowShape::Rows`].
///
/// # Errors
/// Rows that can't be read, or have no such shape; an output that can't be written.
pub fn convert(
    input: &Path,
    columns: &Columns,
    output: &Path,
    target: Target,
    shape: RowShape,
    progress: &dyn Progress,
) -> Result<Converted> {
    let mut counts = Counts::default();
    let is_read_twice = [Form::Csv, Form::Tsv, Form::Parquet].map(Target::File).contains(&target);
    if is_read_twice {
        check_readable_again(input)?;
    }
    match target {
        Target::Beir => write_folder(output, |folder| {
            let mut beir = BeirWriter::new(input, folder).map_err(Error::io(output, "write"))?;
            let reading = for_each_row(input, columns, |object, _| {
                counts.leave_out(&object.fields, &["query", "pos", "neg"]);
                counts.n_written += beir.add(&object)?.map_err(Error::io(output, "write"))?;
                Ok(())
            })?;
            counts.n_read = said(input, &reading, progress)?;
            beir.finish().map_err(Error::io(output, "write"))
        })?,
        Target::File(form) => {
            let mut failed = None;
            let written = write_file(output, |out| {
                let done = match (form, Packing::of_name(output)) {
                    (Form::Parquet, Packing::None) => {
                        write_parquet(input, columns, (output, out), shape, &mut counts, progress)
                    }
                    (Form::Parquet, packing) => Err(Error::Setting {
                        problem: format!("`{}`: Parquet packs its columns itself", output.display()),
                        hint: Some(format!("leave {} around it out", packing.name())),
                    }),
                    (_, packing) => packing.write(
                        out,
                        |out| write_rows(input, columns, (output, out), (form, shape), &mut counts, progress),
                        Error::io(output, "write"),
                    ),
                };
                // Gives the file up; the caller gets the error itself.
                done.map_err(|error| {
                    failed = Some(error);
                    io::Error::other("no rows")
                })
            });
            if let Some(error) = failed {
                return Err(error);
            }
            written?;
        }
    }
    if counts.n_left_out > 0 {
        progress
            .warn(&format!("{} rows without negatives make no triplet or tuple and are left out", counts.n_left_out));
    }
    if !counts.fields_left_out.is_empty() {
        let names: Vec<_> = counts.fields_left_out.iter().map(|name| format!("`{name}`")).collect();
        progress.warn(&format!("fields that have no place in the output are left out: {}", names.join(", ")));
    }
    Ok(Converted { n_read: counts.n_read, n_written: counts.n_written })
}

/// The counts of a conversion at work.
#[derive(Default)]
struct Counts {
    n_read: usize,
    n_written: usize,
    n_left_out: usize,
    /// Fields that the output has no place for.
    fields_left_out: Vec<String>,
}

impl Counts {
    /// Notes the fields that hold something and are not among `kept`.
    fn leave_out(&mut self, fields: &Map<String, Value>, kept: &[&str]) {
        let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        for (name, _) in fields.iter().filter(|(name, value)| !is_empty(value) && !kept.contains(&name.as_str())) {
            if !self.fields_left_out.contains(name) {
                self.fields_left_out.push(name.clone());
            }
        }
    }
}

fn said(input: &Path, reading: &Reading, progress: &dyn Progress) -> Result<usize> {
    tell(input, reading, progress);
    not_empty(input, reading.n_rows, ROWS)?;
    Ok(reading.n_rows)
}

fn write_rows(
    input: &Path,
    columns: &Columns,
    (path, out): (&Path, &mut dyn Write),
    (form, shape): (Form, RowShape),
    counts: &mut Counts,
    progress: &dyn Progress,
) -> Result<()> {
    let is_table = matches!(form, Form::Csv | Form::Tsv);
    let delimiter = if form == Form::Tsv { b'\t' } else { b',' };
    let heading = if is_table { heading(input, columns, shape)? } else { Vec::new() };
    let mut write = |n_before: usize, fields: &Map<String, Value>| -> io::Result<()> {
        match form {
            Form::JsonArray => out.write_all(if n_before == 0 { b"[\n" } else { b",\n" })?,
            Form::Csv | Form::Tsv if n_before == 0 => write_cells(out, heading.iter().cloned(), delimiter)?,
            _ => {}
        }
        match form {
            Form::Csv | Form::Tsv => {
                write_cells(out, heading.iter().map(|name| cell(name, fields.get(name))), delimiter)
            }
            Form::JsonArray => Ok(serde_json::to_writer(&mut *out, fields)?),
            Form::JsonLines | Form::Parquet => {
                serde_json::to_writer(&mut *out, fields)?;
                out.write_all(b"\n")
            }
        }
    };
    each_shaped(input, columns, shape, counts, progress, |n_before, fields| {
        write(n_before, fields).map_err(Error::io(path, "write"))
    })?;
    if form == Form::JsonArray { out.write_all(b"\n]\n").map_err(Error::io(path, "write")) } else { Ok(()) }
}

/// Writes a Parquet file. The input is read once more, for the kinds of its columns.
#[cfg(feature = "parquet")]
fn write_parquet(
    input: &Path,
    columns: &Columns,
    (path, out): (&Path, &mut (dyn Write + Send)),
    shape: RowShape,
    counts: &mut Counts,
    progress: &dyn Progress,
) -> Result<()> {
    use super::parquet_writer::{Layout, ParquetWriter};

    let mut layout = Layout::default();
    for_each_row(input, columns, |object, _| {
        shaped(object, shape)?.iter().for_each(|fields| layout.see(fields));
        Ok(())
    })?;
    let mut writer = ParquetWriter::new(out, layout).map_err(Error::io(path, "write"))?;
    each_shaped(input, columns, shape, counts, progress, |_, fields| {
        writer.write(fields).map_err(Error::io(path, "write"))
    })?;
    writer.finish().map_err(Error::io(path, "write"))
}

/// Says that this build writes no Parquet.
#[cfg(not(feature = "parquet"))]
fn write_parquet(
    _input: &Path,
    _columns: &Columns,
    (path, _out): (&Path, &mut (dyn Write + Send)),
    _shape: RowShape,
    _counts: &mut Counts,
    _progress: &dyn Progress,
) -> Result<()> {
    Err(Error::Setting {
        problem: format!("`{}`: this program was built without the feature `parquet`", path.display()),
        hint: Some("build with `cargo build --release --features parquet`, or write .jsonl.gz".into()),
    })
}

/// Gives the rows that the rows of `input` become, each with the number of those before it. What was read is said.
fn each_shaped(
    input: &Path,
    columns: &Columns,
    shape: RowShape,
    counts: &mut Counts,
    progress: &dyn Progress,
    mut take: impl FnMut(usize, &Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let reading = for_each_row(input, columns, |object, _| {
        match shape {
            RowShape::Rows => {}
            RowShape::Pairs => counts.leave_out(&object.fields, &["query", "pos"]),
            _ => counts.leave_out(&object.fields, &["query", "pos", "neg"]),
        }
        let rows = shaped(object, shape)?;
        counts.n_left_out += usize::from(rows.is_empty());
        for fields in &rows {
            take(counts.n_written, fields)?;
            counts.n_written += 1;
        }
        Ok(())
    })?;
    counts.n_read = said(input, &reading, progress)?;
    if counts.n_written == 0 {
        return Err(Error::Data {
            path: input.to_path_buf(),
            problem: "no row has a negative, so that there are no triplets or tuples".into(),
            hint: Some("mine negatives with `embertune mine`, or choose `--shape pairs`".into()),
        });
    }
    Ok(())
}

/// The rows that a row becomes.
fn shaped(object: Object<'_>, shape: RowShape) -> Result<Vec<Map<String, Value>>> {
    let is_text = !object.has("query") && (object.has("text") || object.has("context"));
    if is_text && shape == RowShape::Rows {
        return Ok(vec![object.fields]);
    }
    let query = object.text("query")?;
    let positives = object.texts("pos")?.texts;
    let negatives = if object.has("neg") { object.texts("neg")?.texts } else { Vec::new() };
    if shape == RowShape::Rows {
        let mut fields = object.fields;
        fields.insert("pos".into(), positives.into());
        if fields.contains_key("neg") {
            fields.insert("neg".into(), negatives.into());
        }
        return Ok(vec![fields]);
    }
    if let Some(score) = ["score", "label"].into_iter().find(|field| object.has(field)) {
        return Err(object.error(
            format!("field `{score}` scores the pair, whose second text need not be a right answer"),
            "scored pairs keep their shape: leave `--shape` out",
        ));
    }
    let rows: Vec<Value> = match shape {
        RowShape::Rows => Vec::new(),
        RowShape::Pairs => positives.iter().map(|text| json!({"anchor": query, "positive": text})).collect(),
        RowShape::Triplets => {
            let pairs =
                positives.iter().flat_map(|positive| negatives.iter().map(move |negative| (positive, negative)));
            pairs.map(|(p, n)| json!({"anchor": query, "positive": p, "negative": n})).collect()
        }
        RowShape::NTuples if negatives.is_empty() => Vec::new(),
        RowShape::NTuples => {
            let tuple = |positive: &String| {
                let names = (1..).map(|i| format!("negative_{i}"));
                let texts = [("anchor".into(), query.clone()), ("positive".into(), positive.clone())];
                let all = texts.into_iter().chain(names.zip(negatives.iter().cloned()));
                Value::Object(all.map(|(name, text): (String, String)| (name, text.into())).collect())
            };
            positives.iter().map(tuple).collect()
        }
        RowShape::LabeledPairs => {
            let labeled = positives.iter().map(|text| (text, 1)).chain(negatives.iter().map(|text| (text, 0)));
            labeled.map(|(text, label)| json!({"query": query, "passage": text, "label": label})).collect()
        }
    };
    Ok(rows.into_iter().filter_map(|row| if let Value::Object(fields) = row { Some(fields) } else { None }).collect())
}

/// The columns of a table: the fields of all rows, in the order in which they come up. The input is read once more for it.
fn heading(input: &Path, columns: &Columns, shape: RowShape) -> Result<Vec<String>> {
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    let mut found: Vec<String> = match shape {
        RowShape::Rows | RowShape::NTuples => Vec::new(),
        RowShape::Pairs => return Ok(names(&["anchor", "positive"])),
        RowShape::Triplets => return Ok(names(&["anchor", "positive", "negative"])),
        RowShape::LabeledPairs => return Ok(names(&["query", "passage", "label"])),
    };
    for_each_row(input, columns, |object, _| {
        let rows = if shape == RowShape::Rows { vec![object.fields] } else { shaped(object, shape)? };
        for name in rows.iter().flat_map(Map::keys).filter(|name| !name.is_empty()) {
            if !found.contains(name) {
                found.push(name.clone());
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// A field as a cell, as it is read back. A list of texts is itself if it is one text, else JSON; so a text that looks like JSON is a list of one.
fn cell(name: &str, value: Option<&Value>) -> String {
    let is_texts = matches!(Columns::default().part(name), "pos" | "neg" | "context");
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) if is_texts && text.starts_with('[') => json!([text]).to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => match items.as_slice() {
            [Value::String(text)] if is_texts && !text.starts_with('[') => text.clone(),
            _ => json!(items).to_string(),
        },
        Some(other) => other.to_string(),
    }
}

fn write_cells(out: &mut dyn Write, cells: impl Iterator<Item = String>, delimiter: u8) -> io::Result<()> {
    for (i, cell) in cells.enumerate() {
        if cell.contains('\0') {
            return Err(io::Error::other("a text has the character U+0000 in it, which tables have no room for"));
        }
        if i > 0 {
            out.write_all(&[delimiter])?;
        }
        out.write_all(escaped(&cell, delimiter).as_bytes())?;
    }
    out.write_all(b"\n")
}

/// The three files of a BEIR folder. Equal texts have one name: `q1`, `q2`, ... and `d1`, `d2`, ... in the order of the rows.
struct BeirWriter {
    corpus: BufWriter<File>,
    queries: BufWriter<File>,
    qrels: BufWriter<File>,
    /// Numbers by half of the text's id: of 5 million texts, two are confused with a probability of 1e-6.
    documents: HashMap<u64, usize>,
    asked: HashMap<u64, usize>,
    judged: HashMap<(usize, usize), i32>,
}

impl BeirWriter {
    fn new(input: &Path, folder: &Path) -> io::Result<BeirWriter> {
        let stem = input.file_name().unwrap_or_default().to_string_lossy();
        let split =
            ["train", "dev"].into_iter().find(|split| stem.split('.').any(|part| part == *split)).unwrap_or("test");
        fs::create_dir(folder.join("qrels"))?;
        let file = |name: &str| File::create(folder.join(name)).map(BufWriter::new);
        let mut qrels = file(&format!("qrels/{split}.tsv"))?;
        qrels.write_all(b"query-id\tcorpus-id\tscore\n")?;
        Ok(BeirWriter {
            corpus: file("corpus.jsonl")?,
            queries: file("queries.jsonl")?,
            qrels,
            documents: HashMap::new(),
            asked: HashMap::new(),
            judged: HashMap::new(),
        })
    }

    /// Writes what is new in a row. The number of judgments.
    fn add(&mut self, object: &Object<'_>) -> Result<io::Result<usize>> {
        let query = object.text("query")?;
        let positives = object.texts("pos")?.texts;
        let negatives = if object.has("neg") { object.texts("neg")?.texts } else { Vec::new() };
        if let Some(score) = ["score", "label"].into_iter().find(|field| object.has(field)) {
            let problem = format!("field `{score}` scores the pair, whose second text need not be a right answer");
            return Err(object.error(problem, "a BEIR folder has grades of passages: scored pairs have no such form"));
        }
        let judged = positives.iter().map(|text| (text, 1)).chain(negatives.iter().map(|text| (text, 0)));
        Ok(self.write(&query, judged))
    }

    fn write<'t>(&mut self, query: &str, judged: impl Iterator<Item = (&'t String, i32)>) -> io::Result<usize> {
        let q = named(&mut self.asked, &mut self.queries, "q", query)?;
        let mut n_written = 0;
        for (text, grade) in judged {
            let d = named(&mut self.documents, &mut self.corpus, "d", text)?;
            // A passage is judged once; positives come first, and other rows of the query may say the same again.
            if self.judged.insert((q, d), grade).is_none() {
                writeln!(self.qrels, "q{q}\td{d}\t{grade}")?;
                n_written += 1;
            }
        }
        Ok(n_written)
    }

    fn finish(self) -> io::Result<()> {
        for file in [self.corpus, self.queries, self.qrels] {
            file.into_inner()?.sync_all()?;
        }
        Ok(())
    }
}

/// The number of `text`, which is written with a name if it has none yet.
fn named(numbers: &mut HashMap<u64, usize>, out: &mut impl Write, letter: &str, text: &str) -> io::Result<usize> {
    let next = numbers.len() + 1;
    let number = *numbers.entry(TextId::of(text).0 as u64).or_insert(next);
    if number == next {
        writeln!(out, "{}", json!({"_id": format!("{letter}{number}"), "text": text}))?;
    }
    Ok(number)
}
