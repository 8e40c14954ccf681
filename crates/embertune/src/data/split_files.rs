//! A data file as three files, `train`, `dev` and `test`, in a new folder. Rows keep their bytes.
//!
//! The file is read twice, so that no texts but the queries are held in memory: once to decide, once to write.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::atomic::write_folder;
use super::columns::Columns;
use super::files::{check_readable_again, for_each_row, tell};
use super::jsonl::{ROWS, label_of, not_empty};
use super::source::Raw;
use super::split::{Side, SplitSettings, SplitSummary, Splitter};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// What a split has made.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitFiles {
    /// The file of each side that was asked for, in the order of [`Side::ALL`].
    pub files: Vec<(Side, PathBuf)>,
    /// The counts.
    pub summary: SplitSummary,
}

/// Splits the rows of `data` into the files `train`, `dev` and `test` of the folder `out`, which must not exist or be empty. Their endings
/// are `.csv` or `.tsv` where all of `data` is, else `.jsonl`; lines and records keep their bytes, and what is neither becomes JSON lines.
/// What was read, what stays together, and what could not be held, is said to `progress`.
///
/// # Errors
/// Rows that can't be read, those of [`Splitter::split`], a folder that is not empty or can't be written. Nothing is left behind then.
pub fn split_files(
    data: &Path,
    columns: &Columns,
    out: &Path,
    settings: &SplitSettings,
    progress: &dyn Progress,
) -> Result<SplitFiles> {
    check_readable_again(data)?;
    write_folder(out, |folder| {
        let mut splitter = Splitter::default();
        if let Some(path) = &settings.apart_from {
            for_each_row(path, columns, |object, _| {
                splitter.keep_apart(object.text("query")?);
                Ok(())
            })?;
        }
        let mut heading = None;
        let reading = for_each_row(data, columns, |object, raw| {
            let this = match raw {
                Raw::Csv(_, heading) => heading,
                Raw::Json(_) | Raw::None => &[],
            };
            // Files with other columns have no heading together.
            match &heading {
                Some(known) if known != this => heading = Some(Vec::new()),
                Some(_) => {}
                None => heading = Some(this.to_vec()),
            }
            let query = object.text("query")?;
            let mut positives = object.texts("pos")?.texts;
            if label_of(positives.len(), &object.fields) == Some(false) && !object.has("neg") {
                // A wrong answer that several queries share ties nothing.
                positives.clear();
            }
            splitter.add(&query, positives.iter().map(String::as_str));
            Ok(())
        })?;
        tell(data, &reading, progress);
        not_empty(data, reading.n_rows, ROWS)?;
        let split = splitter.split(settings)?;
        split.summary.remarks(settings).iter().for_each(|remark| progress.note(remark));

        let heading = heading.unwrap_or_default();
        let ending = match heading.as_slice() {
            [] => "jsonl",
            heading if heading.contains(&b'\t') => "tsv",
            _ => "csv",
        };
        let name = |side: Side| format!("{}.{ending}", side.name());
        let is_made = |side: Side| split.summary.n_queries[side as usize] > 0;
        let mut outputs = Vec::new();
        for side in Side::ALL {
            let path = folder.join(name(side));
            let file = is_made(side).then(|| File::create(&path).map_err(Error::io(out, "write"))).transpose()?;
            outputs.push(file.map(BufWriter::new));
        }
        for output in outputs.iter_mut().flatten() {
            output.write_all(&heading).map_err(Error::io(out, "write"))?;
        }
        let mut sides = split.sides.iter();
        for_each_row(data, columns, |object, raw| {
            let changed = || object.error("the file has changed while it was read".into(), "run the command again");
            let Some(side) = sides.next().ok_or_else(changed)? else { return Ok(()) };
            let output = outputs[*side as usize].as_mut().ok_or_else(changed)?;
            let written = match raw {
                Raw::Json(text) => writeln!(output, "{text}"),
                Raw::Csv(record, _) if !heading.is_empty() => write_record(output, record),
                Raw::Csv(..) | Raw::None => serde_json::to_writer(&mut *output, &object.fields)
                    .map_err(io::Error::from)
                    .and_then(|()| output.write_all(b"\n")),
            };
            written.map_err(Error::io(out, "write"))
        })?;
        if sides.next().is_some() {
            return Err(Error::Data {
                path: data.to_path_buf(),
                problem: "the file has changed while it was read".into(),
                hint: Some("run the command again".into()),
            });
        }
        for output in outputs.into_iter().flatten() {
            let file = output.into_inner().map_err(|error| Error::io(out, "write")(error.into_error()))?;
            file.sync_all().map_err(Error::io(out, "write"))?;
        }
        let files = Side::ALL.into_iter().filter(|&side| is_made(side)).map(|side| (side, out.join(name(side))));
        Ok(SplitFiles { files: files.collect(), summary: split.summary })
    })
}

/// A record may be the last of its file, without a line end.
fn write_record(output: &mut impl Write, record: &[u8]) -> io::Result<()> {
    output.write_all(record)?;
    if record.ends_with(b"\n") { Ok(()) } else { output.write_all(b"\n") }
}
