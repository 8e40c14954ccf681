//! `tune.json`: which stages were begun and done, by which command and from which files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use embertune::data::atomic::write_file;
use embertune::train::record::FileRecord;
use embertune::{Error, Result};
use serde::{Deserialize, Serialize};

use super::plan::Stage;

/// The name of the form of the file.
const FORMAT: &str = "embertune-tune";
/// Counts up where a file of an earlier form can no longer be read.
const VERSION: u32 = 1;

/// What was done so far.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    format: String,
    version: u32,
    stages: BTreeMap<String, Entry>,
}

/// A stage that was begun.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    command: Vec<String>,
    /// The files that it reads, as they were when it began.
    reads: Vec<FileRecord>,
    is_done: bool,
}

impl State {
    /// Where it is in the folder of `tune`.
    pub fn path(out: &Path) -> PathBuf {
        out.join("tune.json")
    }

    /// Reads it; empty where there is none.
    pub fn read(out: &Path) -> Result<State> {
        let path = State::path(out);
        if !path.is_file() {
            return Ok(State { format: FORMAT.into(), version: VERSION, stages: BTreeMap::new() });
        }
        let fail = |problem: String| Error::Data {
            path: path.clone(),
            problem,
            hint: Some("name a new folder with `--out`".into()),
        };
        let text = fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let state: State = serde_json::from_str(&text).map_err(|e| fail(format!("not as `tune` writes it: {e}")))?;
        if state.format != FORMAT || state.version != VERSION {
            let State { format, version, .. } = state;
            return Err(fail(format!("found `{format}` version {version}, expected `{FORMAT}` version {VERSION}")));
        }
        Ok(state)
    }

    /// Whether a stage was done by the same command from the same files, and what it wrote is there. A model folder is there as a whole or
    /// not at all, so that it is done even where nobody lived to say so.
    pub fn is_done(&self, stage: &Stage) -> Result<bool> {
        let Some(entry) = self.stages.get(stage.name) else { return Ok(false) };
        let is_there = stage.writes.iter().all(|path| path.exists());
        let is_done = entry.is_done || stage.partial().is_some_and(|partial| !partial.exists());
        Ok(is_done && is_there && entry.is_of(stage)?)
    }

    /// Notes that a stage begins, and removes what is there in its place; a training that was interrupted stays, if it is the same.
    pub fn begin(&mut self, stage: &Stage, out: &Path) -> Result<()> {
        let goes_on = match self.stages.get(stage.name) {
            Some(entry) => entry.is_of(stage)?,
            None => false,
        };
        for path in stage.writes.iter().chain(&stage.partial().filter(|_| !goes_on)) {
            remove(path)?;
        }
        let reads = stage.reads.iter().map(|path| FileRecord::of(path)).collect::<Result<_>>()?;
        let entry = Entry { command: stage.command.clone(), reads, is_done: false };
        self.stages.insert(stage.name.into(), entry);
        self.write(out)
    }

    /// The command of a stage that begins now: a training that was interrupted goes on.
    pub fn command(&self, stage: &Stage) -> Vec<String> {
        let mut command = stage.command.clone();
        if stage.partial().is_some_and(|partial| partial.is_dir()) {
            command.extend(["--resume_from_checkpoint".into(), "last".into()]);
        }
        command
    }

    /// Notes that a stage is done.
    pub fn finish(&mut self, stage: &Stage, out: &Path) -> Result<()> {
        if let Some(entry) = self.stages.get_mut(stage.name) {
            entry.is_done = true;
        }
        self.write(out)
    }

    fn write(&self, out: &Path) -> Result<()> {
        write_file(&State::path(out), |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })
    }
}

impl Entry {
    /// Whether the stage has this command, and the files that it reads are as they were.
    fn is_of(&self, stage: &Stage) -> Result<bool> {
        if self.command != stage.command || !stage.reads.iter().all(|path| path.is_file()) {
            return Ok(false);
        }
        let reads: Vec<_> = stage.reads.iter().map(|path| FileRecord::of(path)).collect::<Result<_>>()?;
        Ok(self.reads == reads)
    }
}

fn remove(path: &Path) -> Result<()> {
    let outcome = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "remove")(error)),
        _ => Ok(()),
    }
}
