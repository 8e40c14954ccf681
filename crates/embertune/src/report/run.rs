//! What a finished run has left behind: its record, its log, the verdict, the findings about its data.
//!
//! Only what the report shows is read, and a field that an earlier version did not write is empty: a report of an old run is better than none.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::audit::AuditFacts;
use super::verdict::{VERDICT, VerdictRecord};
use crate::error::{Error, Result};
use crate::train::measure::Scores;

/// The model's folder within the folder that `embertune tune` writes.
const MODEL_OF_TUNE: &str = "model";
/// The page of the audit that `embertune tune` lets make.
pub(super) const AUDIT_PAGE: &str = "audit.html";
/// The same for programs.
const AUDIT: &str = "audit.json";

/// All that is known about a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What to call it: the name of its folder.
    pub name: String,
    /// The folder that was named: of a training run, or of `embertune tune`.
    pub folder: PathBuf,
    /// The folder of the model: the same, or `model` in it.
    pub model: PathBuf,
    /// Whether the page of an audit lies beside the report.
    pub has_audit_page: bool,
    /// `audit.json`, where the data was audited.
    pub audit: Option<AuditFacts>,
    /// `run.json`.
    pub facts: Facts,
    /// `log.jsonl`.
    pub log: Log,
    /// `verdict.json`, where the model was compared.
    pub verdict: Option<VerdictRecord>,
}

/// `run.json`, as far as it is shown.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Version of Embertune.
    pub embertune: String,
    /// All settings by their names.
    pub settings: Map<String, Value>,
    /// In front of queries, of passages.
    pub prompts: [String; 2],
    /// The data file.
    pub data: FileFacts,
    /// The other data files.
    pub more_data: Vec<FileFacts>,
    /// The file of held-out rows.
    pub eval_data: Option<FileFacts>,
    /// What was expected.
    pub forecast: ForecastFacts,
    /// How long the run was.
    pub counts: CountFacts,
    /// Where the time went.
    pub seconds: SecondFacts,
    /// Largest memory of the process, where the system says it.
    pub peak_memory_bytes: Option<u64>,
    /// Threads that computed.
    pub threads: usize,
    /// The step whose model it is.
    pub step_of_model: usize,
    /// After which steps the run was interrupted.
    pub resumed_after: Vec<usize>,
    /// How base and tuned model were mixed.
    pub merging: Option<MergingFacts>,
}

/// How base and tuned model were mixed.
#[derive(Clone, Debug, Deserialize)]
pub struct MergingFacts {
    /// The share of the training that was kept.
    pub alpha: f64,
}

/// A file that the run read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FileFacts {
    /// As given.
    pub path: PathBuf,
    /// Length of the file.
    pub size_bytes: u64,
    /// Hash of its bytes.
    pub xxh3_128: String,
}

/// What was expected of a run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ForecastFacts {
    /// Rows of a batch.
    pub batch_size: usize,
    /// Tokens of the first epoch.
    pub tokens_per_epoch: usize,
    /// Share of the distinct texts that are cut.
    pub truncated_share: f64,
    /// The most memory.
    pub memory_bytes: u64,
    /// Seconds of all steps.
    pub train_seconds: f64,
}

/// How long a run was.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CountFacts {
    /// Rows of the data.
    pub rows: usize,
    /// Distinct texts.
    pub texts: usize,
    /// Trainable values.
    pub parameters: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Queries that had no negative in their batch.
    pub queries_without_negative: usize,
}

/// Where the time went.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SecondFacts {
    /// Loading the model.
    pub load: f64,
    /// Reading and tokenizing.
    pub data: f64,
    /// All steps.
    pub train: f64,
    /// Writing checkpoints.
    pub checkpoints: f64,
    /// Evaluating.
    pub evaluation: f64,
}

/// `log.jsonl`.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Lines about steps.
    pub steps: Vec<StepLine>,
    /// Lines about evaluations; step 0 is the base model.
    pub evaluations: Vec<EvaluationLine>,
}

/// A line of the log about steps.
#[derive(Clone, Debug, Deserialize)]
pub struct StepLine {
    /// The last of them, from 1.
    pub step: usize,
    /// Mean loss.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Share of queries whose positive was closest.
    pub in_batch_accuracy: f64,
    /// Mean similarity of query and positive.
    pub positive_similarity: f64,
    /// Mean similarity of query and closest negative.
    pub hardest_negative_similarity: f64,
}

/// A line of the log about an evaluation.
#[derive(Clone, Debug, Deserialize)]
pub struct EvaluationLine {
    /// Steps done.
    pub step: usize,
    /// What came out.
    #[serde(flatten)]
    pub scores: Scores,
}

impl Run {
    /// Reads the folder of a training run, or one that `embertune tune` wrote.
    ///
    /// # Errors
    /// No `run.json` in it, or a file that is not of its form.
    pub fn read(folder: &Path) -> Result<Run> {
        let record = |folder: &Path| folder.join("run.json");
        let model = if record(folder).is_file() { folder.to_path_buf() } else { folder.join(MODEL_OF_TUNE) };
        if !record(&model).is_file() {
            return Err(Error::Data {
                path: folder.into(),
                problem: "this is not the folder of a run: there is no `run.json` in it".into(),
                hint: Some("name a folder that `embertune train` or `embertune tune` has written".into()),
            });
        }
        let verdict = [folder, &model].map(|folder| folder.join(VERDICT)).into_iter().find(|path| path.is_file());
        let name = folder.canonicalize().unwrap_or_else(|_| folder.into());
        Ok(Run {
            name: name.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into()),
            folder: folder.into(),
            facts: read_json(&record(&model))?,
            log: Log::read(&model.join("log.jsonl"))?,
            verdict: verdict.map(|path| VerdictRecord::read(&path)).transpose()?,
            has_audit_page: folder.join(AUDIT_PAGE).is_file(),
            audit: Some(folder.join(AUDIT)).filter(|path| path.is_file()).map(|path| read_json(&path)).transpose()?,
            model,
        })
    }

    /// What has to be said where nothing of the training was kept, and nobody had asked for that.
    pub fn kept_base(&self) -> Option<&'static str> {
        let is_base = self.facts.merging.as_ref().is_some_and(|merging| merging.alpha == 0.0);
        let is_judged = self.facts.settings.get("merge_alpha").is_some_and(|alpha| alpha == "auto");
        (is_base && is_judged).then_some(
            "nothing that this training made was better than the base model on the held-out queries, so the base model is what was saved",
        )
    }

    /// Calls runs after the paths that were given where their folders have the same name: `a/model` and `b/model`.
    pub fn tell_apart(runs: &mut [Run]) {
        let names: Vec<_> = runs.iter().map(|run| run.name.clone()).collect();
        for run in runs.iter_mut().filter(|run| names.iter().filter(|name| **name == run.name).count() > 1) {
            run.name = run.folder.display().to_string();
        }
    }

    /// Leaves out all texts of the data: names, ranks and numbers stay.
    pub fn leave_out_texts(&mut self) {
        if let Some(record) = &mut self.verdict {
            record.comparison.leave_out_texts();
        }
        if let Some(audit) = &mut self.audit {
            audit.leave_out_texts();
        }
    }

    /// A setting as a word, where it is one.
    pub fn setting(&self, name: &str) -> Option<String> {
        match self.facts.settings.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

impl Log {
    fn read(path: &Path) -> Result<Log> {
        let mut log = Log::default();
        // A run that was told not to log has no lines, maybe no file.
        let text =
            if path.is_file() { fs::read_to_string(path).map_err(Error::io(path, "read"))? } else { String::new() };
        for (line, text) in (1..).zip(text.lines()) {
            let bad = |error: serde_json::Error| Error::Row {
                path: path.into(),
                line,
                problem: format!("no line of a log: {error}"),
                hint: Some("the log is as `embertune train` writes it".into()),
            };
            let value: Value = serde_json::from_str(text).map_err(bad)?;
            if value.get("loss").is_some() {
                log.steps.push(serde_json::from_value(value).map_err(bad)?);
            } else if value.get("eval_mrr@10").is_some() {
                log.evaluations.push(serde_json::from_value(value).map_err(bad)?);
            }
        }
        Ok(log)
    }
}

/// Reads a file that holds one JSON object.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    serde_json::from_str(&text).map_err(|error| Error::Data {
        path: path.into(),
        problem: format!("not of the form that Embertune writes: {error}"),
        hint: None,
    })
}
