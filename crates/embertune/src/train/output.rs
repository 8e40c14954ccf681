//! The folders of a run: what is written as it goes, how it becomes the output folder, and how an interrupted run is found again.
//!
//! While a run goes on everything is in `<output_dir>.partial`: `log.jsonl`, `run.toml`, the `checkpoint-<step>` folders, the best
//! model, `best-<step>`, and the rows of rounds of mining, `mined-<step>.jsonl`. When the training is done the model, the log, the run record and the checkpoints are put together there, and the
//! whole is renamed to `output_dir`. So `output_dir` is always a complete model, or not there, or what it was before; and a process
//! that is killed at any instant leaves the checkpoints whole, or the output folder.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use embertune_kernels::Ops;
use serde::{Deserialize, Serialize};

use crate::data::atomic::{sync_folder, write_file};
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::train::checkpoint::{self, State};
use crate::train::checksums;
use crate::train::tensorboard::EventFile;
use crate::train::trainer::Trainer;

/// The log, in the folder of the run.
const LOG: &str = checkpoint::LOG;
/// The run record.
const RECORD: &str = "run.json";
/// The settings, to be used again.
const CONFIG: &str = "run.toml";
/// TensorBoard's events.
const EVENTS: &str = "runs";
/// Held by the process that trains into the folder.
const LOCK: &str = "lock";
/// The model, while the output folder is put together.
const MODEL: &str = "model";
/// The model after the last step, where the output folder is the best one.
const LAST: &str = "last";
/// The old output folder, while it is replaced.
const REPLACED: &str = "replaced";
const CHECKPOINT: &str = "checkpoint-";
const BEST: &str = "best-";
/// The rows with the negatives of a round of mining, `mined-<step>.jsonl`.
const MINED: &str = "mined-";

/// Where an interrupted run goes on from (`--resume_from_checkpoint`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resume {
    /// Its last checkpoint; the beginning, where it has none yet.
    Last,
    /// A folder.
    Path(PathBuf),
}

/// Where a run writes.
pub struct RunFolder {
    output: PathBuf,
    partial: PathBuf,
    log: File,
    events: Option<EventFile>,
    from: Option<PathBuf>,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder for what is written as the run goes on, or finds that of an interrupted run.
    ///
    /// # Errors
    /// `output` exists, not empty, and is not to be replaced, or is no model folder; checkpoints of an interrupted run are there and are not
    /// to be resumed; there is nothing to resume; another process trains into the folder.
    pub fn open(output: &Path, overwrite: bool, resume: Option<&Resume>) -> Result<Self> {
        let setting = |problem: String, hint: &str| Error::Setting { problem, hint: Some(hint.into()) };
        let place = output.display();
        let Some(name) = output.file_name() else {
            return Err(setting(format!("`--output_dir {place}` is not the name of a folder"), "name a new folder"));
        };
        let partial = output.with_file_name(format!("{}.partial", name.to_string_lossy()));
        let held = if partial.is_dir() {
            let held = lock(&partial)?;
            undo_finish(output, &partial)?;
            Some(held)
        } else {
            None
        };
        if is_empty(output) && !output.is_symlink() {
            // As if it were not there. One that has to stay would otherwise end the run when everything is done.
            fs::remove_dir(output).map_err(|error| {
                setting(
                    format!("`--output_dir {place}` is an empty folder that cannot be replaced: {error}"),
                    "a mounted folder stays where it is: name a new folder in it",
                )
            })?;
        }
        if output.exists() && !overwrite {
            return Err(setting(
                format!("`--output_dir {place}` exists"),
                match resume {
                    Some(_) if checkpoints(&partial).is_empty() => "the run is complete: there is nothing to resume",
                    _ => "name a new folder, or pass `--overwrite_output_dir True`",
                },
            ));
        }
        // Nothing is deleted on the strength of a flag that was not made by us, or is not at least a model.
        if output.exists() && !output.join("config.json").is_file() {
            return Err(setting(
                format!("`--output_dir {place}` is not a model folder, and is not replaced"),
                "name a new folder",
            ));
        }
        let found = checkpoints(&partial);
        let from = match resume {
            None => None,
            Some(Resume::Path(path)) => Some(path.clone()),
            Some(Resume::Last) if found.is_empty() && output.exists() => {
                return Err(setting(
                    format!(
                        "`--resume_from_checkpoint last`: there is no interrupted run beside {place}, which exists"
                    ),
                    "the run is complete; leave the flag out to train anew",
                ));
            }
            Some(Resume::Last) => found.last().map(|(_, path)| path.clone()),
        };
        let goes_on = from.as_deref().is_some_and(|from| is_in(from, &partial));
        if !goes_on && !overwrite && !found.is_empty() {
            return Err(setting(
                format!("{} holds checkpoints of an interrupted run", partial.display()),
                "go on with `--resume_from_checkpoint last`, or begin anew with `--overwrite_output_dir True`",
            ));
        }
        fs::create_dir_all(&partial).map_err(Error::io(&partial, "create"))?;
        let held = held.map_or_else(|| lock(&partial), Ok)?;
        if !goes_on {
            clear(&partial, |name| name != LOCK)?;
        }
        let log = partial.join(LOG);
        let log = File::options().append(true).create(true).open(&log).map_err(Error::io(&log, "create"))?;
        Ok(RunFolder { output: output.into(), partial, log, events: None, from, _lock: held })
    }

    /// The checkpoint to go on from.
    pub fn resumes_from(&self) -> Option<&Path> {
        self.from.as_deref()
    }

    /// Brings the folder to where it was after `step`, the step of [`resumes_from`](Self::resumes_from): removes what came later, and
    /// takes the log from the checkpoint. The best model, of step `best`, has to be there.
    ///
    /// # Errors
    /// The best model is not there, or damaged; what the file system says.
    pub fn rewind(&mut self, step: usize, best: Option<usize>) -> Result<()> {
        let Some(from) = &self.from else { return Ok(()) };
        if let Some(best) = best.map(|step| self.partial.join(format!("{BEST}{step}"))) {
            if !best.is_dir() {
                return Err(Error::Model {
                    path: from.clone(),
                    problem: format!("the best model until there is missing: there is no {}", best.display()),
                    hint: Some("resume from the last checkpoint, or begin anew".into()),
                });
            }
            checksums::check(&best)?;
        }
        let log = from.join(LOG);
        let text = fs::read(&log).map_err(Error::io(&log, "read"))?;
        let later = |name: &str| {
            let stem = name.strip_suffix(".jsonl").unwrap_or(name);
            let number =
                [CHECKPOINT, BEST, MINED].iter().find_map(|kind| stem.strip_prefix(kind)?.parse::<usize>().ok());
            // A run that was stopped in its evaluation evaluates the step of the checkpoint again.
            let is_found_later = name.starts_with(BEST) && number == Some(step) && best != number;
            number.is_some_and(|number| number > step) || is_found_later || name.starts_with('.') || name == LAST
        };
        clear(&self.partial, later)?;
        let mut rewrite = || -> io::Result<()> {
            self.log.set_len(0)?;
            self.log.write_all(&text)
        };
        rewrite().map_err(Error::io(self.partial.join(LOG), "write"))
    }

    /// Writes the settings of the run as they are in effect, as a file of flags.
    ///
    /// # Errors
    /// A full disk, say.
    pub fn save_config(&self, text: &str) -> Result<()> {
        write_file(&self.partial.join(CONFIG), |out| out.write_all(text.as_bytes()))
    }

    /// Where the optimizer's moments are, until they are part of a checkpoint.
    pub fn moments(&self) -> PathBuf {
        self.partial.join(format!(".{}", checkpoint::MOMENTS))
    }

    /// Where the rows with the negatives of the round after `step` are.
    pub fn mined(&self, step: usize) -> PathBuf {
        self.partial.join(format!("{MINED}{step}.jsonl"))
    }

    /// Also writes TensorBoard's events from now on: in `logging_dir`, in a folder by the name of the run, or in the run's own folder.
    /// `last_step` is the step that a resumed run goes on after.
    ///
    /// # Errors
    /// Those of [`EventFile::open`].
    pub fn report(&mut self, logging_dir: Option<&Path>, last_step: Option<usize>) -> Result<()> {
        let name = self.output.file_name().unwrap_or_default();
        let folder = logging_dir.map_or_else(|| self.partial.join(EVENTS), |folder| folder.join(name));
        self.events = Some(EventFile::open(&folder, last_step)?);
        Ok(())
    }

    /// Adds a line to the log.
    ///
    /// # Errors
    /// A full disk, say.
    pub fn log(&mut self, entry: &impl Serialize) -> Result<()> {
        let path = self.partial.join(LOG);
        let mut line = serde_json::to_vec(entry).map_err(|e| Error::io(&path, "write")(e.into()))?;
        line.push(b'\n');
        if let Some(events) = &mut self.events {
            events.add(&serde_json::from_slice(&line).map_err(|e| Error::io(&path, "write")(e.into()))?)?;
        }
        self.log.write_all(&line).map_err(Error::io(path, "write"))
    }

    /// The checkpoint after `step`, where it is there: that which the run went on from.
    pub fn checkpoint_after(&self, step: usize) -> Option<PathBuf> {
        Some(self.partial.join(format!("{CHECKPOINT}{step}"))).filter(|folder| folder.is_dir())
    }

    /// Writes `checkpoint-<step>`, with the file that is at [`moments`](Self::moments); then removes the oldest checkpoints beyond `limit`, and
    /// best models that no checkpoint counts on.
    ///
    /// # Errors
    /// Those of [`EmbeddingModel::save`]. The checkpoints before are as they were, then.
    pub fn checkpoint<O: Ops>(&self, trainer: &Trainer<'_, O>, state: &State, limit: Option<usize>) -> Result<PathBuf> {
        let folder = self.partial.join(format!("{CHECKPOINT}{}", trainer.steps_done()));
        let write = |folder: &Path| state.write(trainer, &self.moments(), &self.partial.join(LOG), folder);
        trainer.model().save_with(&folder, write)?;
        let all = checkpoints(&self.partial);
        let keep = limit.map_or(all.len(), |limit| limit.max(1));
        for (_, old) in &all[..all.len().saturating_sub(keep)] {
            remove(old)?;
        }
        self.drop_old_best(state.so_far.history.best.map(|best| best.step))?;
        Ok(folder)
    }

    /// Writes the best model so far, that after `step`.
    ///
    /// # Errors
    /// Those of [`EmbeddingModel::save`].
    pub fn save_best<O: Ops>(&self, model: &EmbeddingModel<O>, step: usize) -> Result<()> {
        let folder = self.partial.join(format!("{BEST}{step}"));
        model.save_with(&folder, |folder| {
            model.save_adapter(folder)?;
            checksums::write(folder)
        })?;
        self.drop_old_best(Some(step))
    }

    /// A run that is resumed at a checkpoint needs the best model of then: it stays as long as the checkpoint does.
    fn drop_old_best(&self, best: Option<usize>) -> Result<()> {
        let needed: Vec<_> = checkpoints(&self.partial)
            .iter()
            .filter_map(|(_, folder)| Some(State::read(folder).ok()?.so_far.history.best?.step))
            .chain(best)
            .collect();
        for (step, folder) in numbered(&self.partial, BEST) {
            if !needed.contains(&step) {
                remove(&folder)?;
            }
        }
        Ok(())
    }

    /// Makes `model` that of the step `best`, another one than the last. The last one is then in `last` of the output folder.
    ///
    /// # Errors
    /// Those of [`EmbeddingModel::save`] and [`EmbeddingModel::restore`]; a folder that is damaged.
    pub fn take_best<O: Ops>(&self, model: &mut EmbeddingModel<O>, best: usize) -> Result<()> {
        model.save(&self.partial.join(LAST))?;
        let best = self.partial.join(format!("{BEST}{best}"));
        checksums::check(&best)?;
        model.restore(&best)
    }

    /// Writes the model and the record, and puts everything at the output folder in one step. The model's adapters are merged, and with
    /// `with_adapter` in `adapter` as well. The checkpoint `passing`, which was there to go on from to this end, goes.
    ///
    /// # Errors
    /// Those of [`EmbeddingModel::save`], and what the file system says. The output folder is as it was, then, and the last model is in
    /// the partial one.
    pub fn finish<O: Ops>(
        self,
        model: &EmbeddingModel<O>,
        with_adapter: bool,
        record: &impl Serialize,
        passing: Option<&Path>,
    ) -> Result<()> {
        let whole = self.partial.join(MODEL);
        model.save_with(&whole, |folder| if with_adapter { model.save_adapter(folder) } else { Ok(()) })?;
        write_file(&whole.join(RECORD), |out| {
            serde_json::to_writer_pretty(&mut *out, record)?;
            out.write_all(b"\n")
        })?;
        self.log.sync_all().map_err(Error::io(self.partial.join(LOG), "write"))?;
        if self.partial.join(LAST).is_dir() {
            rename(&self.partial.join(LAST), &whole.join(LAST))?;
        }
        // Until the last rename `undo_finish` can take back all that follows.
        rename(&self.partial.join(LOG), &whole.join(LOG))?;
        self.events.as_ref().map_or(Ok(()), EventFile::sync)?;
        for name in [CONFIG, EVENTS] {
            if self.partial.join(name).exists() {
                rename(&self.partial.join(name), &whole.join(name))?;
            }
        }
        for (step, checkpoint) in checkpoints(&self.partial) {
            if passing != Some(&checkpoint) {
                rename(&checkpoint, &whole.join(format!("{CHECKPOINT}{step}")))?;
            }
        }
        for (name, mined) in rounds(&self.partial) {
            rename(&mined, &whole.join(name))?;
        }
        sync_folder(&whole).map_err(Error::io(&whole, "write"))?;
        if self.output.exists() {
            rename(&self.output, &self.partial.join(REPLACED))?;
        }
        rename(&whole, &self.output)?;
        if let Some(parent) = self.output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent).map_err(Error::io(parent, "write"))?;
        }
        if let Some(passing) = passing.filter(|passing| is_in(passing, &self.partial)) {
            // By its name first: a part of it is none to go on from.
            remove(passing)?;
        }
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

/// Keeps two processes from training into the same folder. The system lets go of the lock when the process ends, however it does.
fn lock(partial: &Path) -> Result<File> {
    let path = partial.join(LOCK);
    let file = File::options().append(true).create(true).open(&path).map_err(Error::io(&path, "create"))?;
    match file.try_lock() {
        // Some file systems have no locks: then nobody is kept from anything.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Setting {
            problem: format!("another process is training into {}", partial.display()),
            hint: Some("wait for it, or choose another `--output_dir`".into()),
        }),
    }
}

/// Takes back what a run that was killed in [`RunFolder::finish`] had begun to put together.
fn undo_finish(output: &Path, partial: &Path) -> Result<()> {
    let whole = partial.join(MODEL);
    for (step, checkpoint) in checkpoints(&whole) {
        rename(&checkpoint, &partial.join(format!("{CHECKPOINT}{step}")))?;
    }
    for (name, mined) in rounds(&whole) {
        rename(&mined, &partial.join(name))?;
    }
    if whole.join(EVENTS).exists() {
        rename(&whole.join(EVENTS), &partial.join(EVENTS))?;
    }
    if whole.exists() {
        remove(&whole)?;
    }
    let replaced = partial.join(REPLACED);
    if replaced.exists() && !output.exists() {
        rename(&replaced, output)?;
    }
    Ok(())
}

/// Removes the entries of a folder whose names `is_old`.
fn clear(folder: &Path, is_old: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
        let path = entry.map_err(Error::io(folder, "read"))?.path();
        if path.file_name().is_some_and(|name| is_old(&name.to_string_lossy())) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes a file or folder. A folder loses its name first, so that a part of it is never taken for the whole.
fn remove(path: &Path) -> Result<()> {
    if !path.is_dir() {
        return fs::remove_file(path).map_err(Error::io(path, "remove"));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let doomed = path.with_file_name(format!(".{}.removed", name.trim_start_matches('.')));
    if doomed != path {
        if doomed.exists() {
            fs::remove_dir_all(&doomed).map_err(Error::io(&doomed, "remove"))?;
        }
        fs::rename(path, &doomed).map_err(Error::io(path, "remove"))?;
    }
    fs::remove_dir_all(&doomed).map_err(Error::io(path, "remove"))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io(to, "create"))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Whether `path` lies directly in `folder`, however both are written.
fn is_in(path: &Path, folder: &Path) -> bool {
    match (path.canonicalize(), folder.canonicalize()) {
        (Ok(path), Ok(folder)) => path.parent() == Some(&folder),
        _ => false,
    }
}

/// The checkpoints in a folder, by step.
fn checkpoints(folder: &Path) -> Vec<(usize, PathBuf)> {
    numbered(folder, CHECKPOINT)
}

/// The files of rounds of mining in a folder, by name.
fn rounds(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(io::Result::ok);
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    named.filter(|(name, _)| name.starts_with(MINED) && name.ends_with(".jsonl")).collect()
}

/// The entries `<kind><number>` of a folder, by number.
fn numbered(folder: &Path, kind: &str) -> Vec<(usize, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(io::Result::ok);
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix(kind)?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(output: &Path, overwrite: bool) -> Result<RunFolder> {
        RunFolder::open(output, overwrite, None)
    }

    #[test]
    fn an_existing_folder_is_refused_unless_it_is_a_model_to_be_replaced() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        open(&output, false).unwrap();
        fs::create_dir(&output).unwrap();
        fs::write(output.join("notes.txt"), "mine").unwrap();
        for (overwrite, problem) in [(false, "exists"), (true, "not a model folder")] {
            let error = open(&output, overwrite).err().unwrap();
            assert!(error.to_string().contains(problem), "{error}");
        }
        fs::write(output.join("config.json"), "{}").unwrap();
        open(&output, true).unwrap();
        assert!(output.join("notes.txt").exists());
    }

    #[test]
    fn an_empty_folder_is_as_none() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        for resume in [None, Some(&Resume::Last)] {
            fs::create_dir(&output).unwrap();
            RunFolder::open(&output, false, resume).unwrap();
        }
    }

    #[test]
    fn checkpoints_of_an_interrupted_run_are_not_lost() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        let folder = open(&output, false).unwrap();
        fs::create_dir(root.path().join("model.partial/checkpoint-5")).unwrap();
        drop(folder);
        let error = open(&output, false).err().unwrap();
        assert!(error.to_string().contains("model.partial holds checkpoints"), "{error}");
        assert!(error.hint().unwrap().contains("--resume_from_checkpoint last"));
        // A checkpoint from elsewhere would be another run.
        let elsewhere = Resume::Path(root.path().join("checkpoint-9"));
        let error = RunFolder::open(&output, false, Some(&elsewhere)).err().unwrap();
        assert!(error.to_string().contains("model.partial holds checkpoints"), "{error}");
        let folder = RunFolder::open(&output, false, Some(&Resume::Last)).unwrap();
        assert_eq!(folder.resumes_from(), Some(&*root.path().join("model.partial/checkpoint-5")));
        drop(folder);
        open(&output, true).unwrap();
        assert!(is_empty(root.path()));
    }

    #[test]
    fn a_run_that_wrote_nothing_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        drop(open(&output, false).unwrap());
        assert!(is_empty(root.path()));
        open(&output, false).unwrap().log(&1).unwrap();
        assert!(root.path().join("model.partial/log.jsonl").exists());
    }

    #[test]
    fn checkpoints_are_listed_by_number() {
        let root = tempfile::tempdir().unwrap();
        for name in ["checkpoint-100", "checkpoint-20", "checkpoint-x", ".checkpoint-7.partial-1", "other"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let steps: Vec<_> = checkpoints(root.path()).into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [20, 100]);
    }

    #[test]
    fn two_runs_into_one_folder_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        let first = open(&output, true).unwrap();
        let error = open(&output, true).err().unwrap();
        assert!(error.to_string().contains("another process is training into"), "{error}");
        drop(first);
        open(&output, true).unwrap();
    }

    #[test]
    fn an_output_folder_that_was_being_put_together_is_taken_apart_again() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        let partial = root.path().join("model.partial");
        for folder in ["checkpoint-7", "model/checkpoint-5", "replaced"] {
            fs::create_dir_all(partial.join(folder)).unwrap();
        }
        fs::write(partial.join("replaced/config.json"), "{}").unwrap();
        let folder = RunFolder::open(&output, true, Some(&Resume::Last)).unwrap();
        assert!(output.join("config.json").is_file(), "what was to be replaced is back");
        assert!(partial.join("checkpoint-5").is_dir() && !partial.join("model").exists());
        assert_eq!(folder.resumes_from(), Some(&*partial.join("checkpoint-7")));
    }

    #[test]
    fn rewinding_removes_what_came_later_and_takes_the_log_of_the_checkpoint() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        let partial = root.path().join("model.partial");
        for folder in ["checkpoint-5", "checkpoint-7", "best-4", "best-6", ".checkpoint-8.partial-1", "last"] {
            fs::create_dir_all(partial.join(folder)).unwrap();
        }
        fs::write(partial.join("log.jsonl"), "1\n2\n3\n").unwrap();
        fs::write(partial.join("checkpoint-5/log.jsonl"), "1\n").unwrap();
        let from = Resume::Path(partial.join("checkpoint-5"));
        let mut folder = RunFolder::open(&output, false, Some(&from)).unwrap();
        let error = folder.rewind(5, Some(3)).unwrap_err();
        assert!(error.to_string().contains("best-3"), "{error}");
        assert!(partial.join("checkpoint-7").exists(), "a refused checkpoint changes nothing");
        checksums::write(&partial.join("best-4")).unwrap();
        folder.rewind(5, Some(4)).unwrap();
        folder.log(&2).unwrap();
        assert_eq!(fs::read_to_string(partial.join("log.jsonl")).unwrap(), "1\n2\n");
        let mut names: Vec<_> =
            fs::read_dir(&partial).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["best-4", "checkpoint-5", "lock", "log.jsonl"]);
    }

    #[test]
    fn a_complete_run_has_nothing_to_resume() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("model");
        fs::create_dir(&output).unwrap();
        fs::write(output.join("config.json"), "{}").unwrap();
        for overwrite in [false, true] {
            let error = RunFolder::open(&output, overwrite, Some(&Resume::Last)).err().unwrap();
            assert!(error.hint().unwrap().contains("complete"), "{error}");
        }
    }
}
