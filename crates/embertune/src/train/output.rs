//! The folders of a run: what is written as it goes, and how it becomes the output folder.
//!
//! While a run goes on everything is in `<output_dir>.partial`: `log.jsonl` and the `checkpoint-<step>` model folders. When the
//! training is done the model, the log, the run record and the checkpoints are put together there, and the whole is renamed
//! to `output_dir`. So `output_dir` is always a complete model, or not there, or what it was before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use embertune_kernels::Ops;
use serde::Serialize;

use crate::data::atomic::{sync_folder, write_file};
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;

/// The log, in the folder of the run.
const LOG: &str = "log.jsonl";
/// The run record.
const RECORD: &str = "run.json";
/// The model, while the output folder is put together.
const MODEL: &str = "model";
/// The old output folder, while it is replaced.
const REPLACED: &str = "replaced";
const CHECKPOINT: &str = "checkpoint-";

/// Where a run writes.
pub struct RunFolder {
    output: PathBuf,
    partial: PathBuf,
    log: File,
}

impl RunFolder {
    /// Makes the folder for what is written as the run goes on.
    ///
    /// # Errors
    /// `output` exists and is not to be replaced, or is no model folder; checkpoints of an interrupted run are there.
    pub fn create(output: &Path, overwrite: bool) -> Result<Self> {
        let setting = |problem: String, hint: &str| Error::Setting { problem, hint: Some(hint.into()) };
        let place = output.display();
        let Some(name) = output.file_name() else {
            return Err(setting(format!("`--output_dir {place}` is not the name of a folder"), "name a new folder"));
        };
        if output.exists() && !overwrite {
            return Err(setting(
                format!("`--output_dir {place}` exists"),
                "name a new folder, or pass `--overwrite_output_dir True`",
            ));
        }
        // Nothing is deleted on the strength of a flag that was not made by us, or is not at least a model.
        if output.exists() && !is_empty(output) && !output.join("config.json").is_file() {
            return Err(setting(
                format!("`--output_dir {place}` is not a model folder, and is not replaced"),
                "name a new folder",
            ));
        }
        let partial = output.with_file_name(format!("{}.partial", name.to_string_lossy()));
        if !overwrite && !checkpoints(&partial).is_empty() {
            return Err(setting(
                format!("{} holds checkpoints of an interrupted run", partial.display()),
                "move them away, or pass `--overwrite_output_dir True`",
            ));
        }
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(Error::io(&partial, "remove"))?;
        }
        fs::create_dir_all(&partial).map_err(Error::io(&partial, "create"))?;
        let log = partial.join(LOG);
        let log = File::create(&log).map_err(Error::io(&log, "create"))?;
        Ok(RunFolder { output: output.into(), partial, log })
    }

    /// Adds a line to the log.
    ///
    /// # Errors
    /// A full disk, say.
    pub fn log(&mut self, entry: &impl Serialize) -> Result<()> {
        let path = self.partial.join(LOG);
        let mut line = serde_json::to_vec(entry).map_err(|e| Error::io(&path, "write")(e.into()))?;
        line.push(b'\n');
        self.log.write_all(&line).map_err(Error::io(path, "write"))
    }

    /// Writes the model as `checkpoint-<step>`, and removes the oldest checkpoints beyond `limit`.
    ///
    /// # Errors
    /// Those of [`EmbeddingModel::save`].
    pub fn checkpoint<O: Ops>(&self, model: &EmbeddingModel<O>, step: usize, limit: Option<usize>) -> Result<PathBuf> {
        let folder = self.partial.join(format!("{CHECKPOINT}{step}"));
        model.save(&folder)?;
        let all = checkpoints(&self.partial);
        let keep = limit.map_or(all.len(), |limit| limit.max(1));
        for (_, old) in &all[..all.len().saturating_sub(keep)] {
            fs::remove_dir_all(old).map_err(Error::io(old, "remove"))?;
        }
        Ok(folder)
    }

    /// Writes the model and the record, and puts everything at the output folder in one step.
    ///
    /// # Errors
    /// Those of [`EmbeddingModel::save`], and what the file system says. The output folder is as it was, then.
    pub fn finish<O: Ops>(self, model: &EmbeddingModel<O>, record: &impl Serialize) -> Result<()> {
        let whole = self.partial.join(MODEL);
        model.save(&whole)?;
        write_file(&whole.join(RECORD), |out| {
            serde_json::to_writer_pretty(&mut *out, record)?;
            out.write_all(b"\n")
        })?;
        self.log.sync_all().map_err(Error::io(self.partial.join(LOG), "write"))?;
        rename(&self.partial.join(LOG), &whole.join(LOG))?;
        for (step, checkpoint) in checkpoints(&self.partial) {
            rename(&checkpoint, &whole.join(format!("{CHECKPOINT}{step}")))?;
        }
        sync_folder(&whole).map_err(Error::io(&whole, "write"))?;
        if self.output.exists() {
            rename(&self.output, &self.partial.join(REPLACED))?;
        }
        rename(&whole, &self.output)?;
        fs::remove_dir_all(&self.partial).map_err(Error::io(&self.partial, "remove"))
    }
}

/// A run that ends before it wrote anything leaves nothing behind; what an interrupted run wrote stays.
impl Drop for RunFolder {
    fn drop(&mut self) {
        let is_untouched = self.log.metadata().is_ok_and(|log| log.len() == 0) && checkpoints(&self.partial).is_empty();
        if is_untouched {
            // Nobody is there any more to be told of an error, and what stays is an empty log.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io(to, "create"))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// The checkpoints in a folder, by step.
fn checkpoints(folder: &Path) -> Vec<(usize, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(io::Result::ok);
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix(CHECKPOINT)?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_folder_is_refused_unless_it_is_a_model_to_be_replaced() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        RunFolder::create(&output, false).unwrap();
        fs::create_dir(&output).unwrap();
        fs::write(output.join("notes.txt"), "mine").unwrap();
        for (overwrite, problem) in [(false, "exists"), (true, "not a model folder")] {
            let error = RunFolder::create(&output, overwrite).err().unwrap();
            assert!(error.to_string().contains(problem), "{error}");
        }
        fs::write(output.join("config.json"), "{}").unwrap();
        RunFolder::create(&output, true).unwrap();
        assert!(output.join("notes.txt").exists());
    }

    #[test]
    fn checkpoints_of_an_interrupted_run_are_not_lost() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        let folder = RunFolder::create(&output, false).unwrap();
        fs::create_dir(root.path().join("model.partial/checkpoint-5")).unwrap();
        drop(folder);
        let error = RunFolder::create(&output, false).err().unwrap();
        assert!(error.to_string().contains("model.partial holds checkpoints"), "{error}");
        RunFolder::create(&output, true).unwrap();
    }

    #[test]
    fn a_run_that_wrote_nothing_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        drop(RunFolder::create(&output, false).unwrap());
        assert!(is_empty(root.path()));
        RunFolder::create(&output, false).unwrap().log(&1).unwrap();
        assert!(root.path().join("model.partial/log.jsonl").exists());
    }

    #[test]
    fn checkpoints_are_listed_by_number() {
        let root = tempfile::tempdir().unwrap();
        for name in ["checkpoint-100", "checkpoint-20", "checkpoint-x", "other"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let steps: Vec<_> = checkpoints(root.path()).into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [20, 100]);
    }
}
