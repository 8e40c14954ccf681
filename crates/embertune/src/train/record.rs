//! What a run leaves behind about itself: the lines of its log and its record. No text of the data is in either.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use crate::comm::Traffic;
use crate::data::files::files_of;
use crate::error::{Error, Result};
use crate::loss::BatchStats;
use crate::train::forecast::Forecast;
use crate::train::guards::Guards;
use crate::train::measure::{History, Scores};
use crate::train::merge::Merging;
use crate::train::settings::TrainSettings;
use crate::train::temperature::LearnedTemperature;
use crate::train::trainer::{Plan, SetLoss, StepReport};

/// A line of `log.jsonl`: means over the steps since the line before, and the last of these steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogEntry {
    /// Optimizer step, from 1.
    pub step: usize,
    /// Epochs done.
    pub epoch: f64,
    /// Mean over the window.
    pub loss: f64,
    /// Mean over the batches of each data set in the window, as `loss/<name>`; of a run on several.
    #[serde(flatten)]
    pub set_losses: BTreeMap<String, f64>,
    /// Learning rate that the last step used.
    pub lr: f64,
    /// Gradient norm of the last step, before clipping.
    pub grad_norm: f64,
    /// Temperature that the last step used.
    pub temperature: f64,
    /// Share of queries whose positive was closer than every negative, over the window.
    pub in_batch_accuracy: f64,
    /// Mean similarity of query and positive, over the window.
    pub positive_similarity: f64,
    /// Mean similarity of query and closest negative, over the window.
    pub hardest_negative_similarity: f64,
    /// The first of these less the second.
    pub similarity_margin: f64,
    /// Mean number of negatives of a query, over the window: the other passages of its batch, without those that are masked.
    pub negatives_per_query: f64,
    /// Pairs of query and passage in the window that were no negatives because the passage is a known positive, or near to one.
    pub masked_known: usize,
    /// Pairs in the window that were no negatives because they are too similar, by `mask_margin` or by the guide.
    pub masked_similar: usize,
    /// Rows per second, over the window.
    pub examples_per_s: f64,
    /// Tokens per second, over the window.
    pub tokens_per_s: f64,
    /// Of several ranks, what rank 0 sends and receives in a step, mean over the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_per_step: Option<Traffic>,
}

/// The steps since the last line of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    n_steps: usize,
    loss_sum: f64,
    /// Of each data set.
    #[serde(default)]
    set_losses: Vec<SetLoss>,
    stats: BatchStats,
    n_tokens: usize,
    seconds: f64,
    #[serde(default)]
    traffic: Traffic,
}

impl Window {
    /// Adds a step that took `seconds`, with what went over the wire in it.
    pub fn add(&mut self, report: &StepReport, seconds: f64, traffic: Traffic) {
        self.n_steps += 1;
        self.seconds += seconds;
        self.traffic += traffic;
        self.loss_sum += report.loss;
        SetLoss::add_all(&mut self.set_losses, &report.set_losses);
        self.stats.add(&report.stats);
        self.n_tokens += report.n_tokens;
    }

    /// Whether no step has been added.
    pub fn is_empty(&self) -> bool {
        self.n_steps == 0
    }

    /// The line of the log that ends with the step `last`, on data sets of these names, or on a single one without a name.
    pub fn entry(&self, last: &StepReport, set_names: &[String]) -> LogEntry {
        let set_losses = set_names.iter().zip(&self.set_losses).filter(|(_, loss)| loss.n_batches > 0);
        LogEntry {
            step: last.step,
            epoch: last.epoch,
            loss: self.loss_sum / self.n_steps as f64,
            set_losses: set_losses
                .map(|(name, loss)| (format!("loss/{name}"), loss.sum / loss.n_batches as f64))
                .collect(),
            lr: last.learning_rate,
            grad_norm: last.grad_norm,
            temperature: last.temperature,
            in_batch_accuracy: self.stats.accuracy(),
            positive_similarity: self.stats.positive_similarity(),
            hardest_negative_similarity: self.stats.hardest_negative_similarity(),
            similarity_margin: self.stats.positive_similarity() - self.stats.hardest_negative_similarity(),
            negatives_per_query: self.stats.n_negatives as f64 / self.stats.n_queries.max(1) as f64,
            masked_known: self.stats.n_masked_known,
            masked_similar: self.stats.n_masked_similar,
            examples_per_s: self.stats.n_queries as f64 / self.seconds,
            tokens_per_s: self.n_tokens as f64 / self.seconds,
            wire_per_step: (self.traffic != Traffic::default()).then(|| self.traffic.per(self.n_steps)),
        }
    }
}

/// A line of `log.jsonl` about an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluationEntry {
    /// Optimizer steps done; 0 is the base model.
    pub step: usize,
    /// Epochs done.
    pub epoch: f64,
    /// Its numbers, each a field of its own.
    #[serde(flatten)]
    pub scores: Scores,
    /// How long it took.
    pub eval_seconds: f64,
}

/// What a run knows about itself at a step: all of it is in a checkpoint, and the run goes on from there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SoFar {
    /// How long it was.
    pub counts: Counts,
    /// Losses.
    pub losses: Losses,
    /// Where the time went.
    pub seconds: Seconds,
    /// The steps since the last line of the log.
    pub window: Window,
    /// What went over the wire to and from rank 0 in all steps.
    #[serde(default)]
    pub traffic: Traffic,
    /// Evaluations.
    pub history: History,
    /// What was said once.
    pub guards: Guards,
    /// The temperature, where it is learnt.
    pub temperature: Option<LearnedTemperature>,
    /// After which steps the run was interrupted and resumed.
    pub resumed_after: Vec<usize>,
    /// The step after which it was interrupted before it was evaluated, as was due.
    #[serde(default)]
    pub unevaluated: Option<StepReport>,
}

impl SoFar {
    /// Adds a step that took `seconds`, with what went over the wire in it.
    pub fn add(&mut self, report: &StepReport, seconds: f64, traffic: Traffic) {
        self.counts.add(report);
        self.window.add(report, seconds, traffic);
        self.seconds.train += seconds;
        self.traffic += traffic;
        let Losses { first, last, mean } = &mut self.losses;
        *first = if report.step == 1 { report.loss } else { *first };
        *last = report.loss;
        *mean += (report.loss - *mean) / report.step as f64;
    }
}

/// `run.json`.
#[derive(Clone, Debug, Serialize)]
pub struct RunRecord {
    /// Version of this format.
    pub format: u32,
    /// Version of Embertune.
    pub embertune: &'static str,
    /// All settings, defaults included.
    pub settings: TrainSettings,
    /// The temperature in use; where it was learnt, the last.
    pub temperature: f64,
    /// Dropout in use: of the hidden states, of the attention's probabilities.
    pub dropout: [f32; 2],
    /// Prompt in front of queries, of passages.
    pub prompts: [String; 2],
    /// The data file.
    pub data: FileRecord,
    /// The other data files.
    pub more_data: Vec<FileRecord>,
    /// What the run was expected to take.
    pub forecast: Forecast,
    /// The file of held-out rows.
    pub eval_data: Option<FileRecord>,
    /// The file of candidates.
    pub candidate_pool: Option<FileRecord>,
    /// How long the run was.
    pub counts: Counts,
    /// Where the time went.
    pub seconds: Seconds,
    /// Largest resident memory of the process so far, where the system says it (Linux).
    pub peak_memory_bytes: Option<u64>,
    /// Threads that computed.
    pub threads: usize,
    /// Processes that trained together.
    pub ranks: usize,
    /// What went over the wire to and from rank 0 in all steps.
    pub traffic: Traffic,
    /// Losses.
    pub losses: Losses,
    /// Evaluations: of the base model, the best and the last one.
    pub evaluation: History,
    /// How tuned and base model were mixed.
    pub merging: Option<Merging>,
    /// The step whose model the output folder holds.
    pub step_of_model: usize,
    /// After which steps the run was interrupted and resumed.
    pub resumed_after: Vec<usize>,
}

/// A file or folder that a run read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    /// As given.
    pub path: PathBuf,
    /// Length of its files.
    pub size_bytes: u64,
    /// Hash of their bytes, hexadecimal.
    pub xxh3_128: String,
}

/// How long a run was.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Rows of the data.
    pub rows: usize,
    /// Rows that each epoch left out.
    pub rows_left_out: usize,
    /// Distinct texts.
    pub texts: usize,
    /// Values that are trained.
    pub parameters: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Those with a rising learning rate.
    pub warmup_steps: usize,
    /// Rows trained on, over all epochs.
    pub examples: usize,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Queries without any negative left in their batch: they learnt nothing.
    pub queries_without_negative: usize,
}

/// Where the time went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seconds {
    /// Loading the model.
    pub load: f64,
    /// Reading and tokenizing the data.
    pub data: f64,
    /// All steps.
    pub train: f64,
    /// Writing checkpoints.
    pub checkpoints: f64,
    /// Evaluating.
    pub evaluation: f64,
    /// Rounds of mining.
    #[serde(default)]
    pub mining: f64,
}

/// Losses of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Losses {
    /// Loss of the first step.
    pub first: f64,
    /// Loss of the last step.
    pub last: f64,
    /// Mean over all steps.
    pub mean: f64,
}

impl Counts {
    /// What is known before the first step.
    pub fn planned(plan: &Plan, texts: usize, parameters: usize) -> Self {
        Counts {
            rows: plan.n_rows,
            rows_left_out: plan.n_rows_left_out(),
            texts,
            parameters,
            warmup_steps: plan.warmup_steps,
            ..Counts::default()
        }
    }

    /// Adds a step.
    pub fn add(&mut self, report: &StepReport) {
        self.steps += 1;
        self.examples += report.stats.n_queries;
        self.tokens += report.n_tokens;
        self.queries_without_negative += report.stats.n_idle;
    }
}

impl FileRecord {
    /// Reads a file to the end; of a folder, those that are its training data, one after the other.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let mut hash = Xxh3Default::new();
        let mut size_bytes = 0;
        let mut block = vec![0; 1 << 16];
        for path in files_of(path)? {
            let mut file = BufReader::new(File::open(&path).map_err(Error::io(&path, "read"))?);
            loop {
                let n = file.read(&mut block).map_err(Error::io(&path, "read"))?;
                if n == 0 {
                    break;
                }
                hash.update(&block[..n]);
                size_bytes += n as u64;
            }
        }
        Ok(FileRecord { path: path.into(), size_bytes, xxh3_128: format!("{:032x}", hash.digest128()) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn report(step: usize, loss: f64) -> StepReport {
        let stats = BatchStats {
            n_queries: 4,
            n_contrasted: 4,
            n_correct: step,
            n_negatives: 8,
            positive_similarity_sum: 2.0,
            hardest_similarity_sum: 1.0,
            ..BatchStats::default()
        };
        let learning_rate = 0.1 * step as f64;
        StepReport {
            step,
            epoch: 0.5,
            loss,
            set_losses: vec![SetLoss { sum: loss, n_batches: 1 }, SetLoss::default()],
            learning_rate,
            grad_norm: 3.0,
            temperature: 0.02,
            stats,
            n_tokens: 100,
        }
    }

    #[test]
    fn a_log_line_is_the_mean_of_its_window_and_the_rate_of_its_last_step() {
        let mut window = Window::default();
        let (first, last) = (report(1, 4.0), report(2, 2.0));
        window.add(&first, 0.5, Traffic::default());
        let names = ["a".into(), "b".into()];
        assert_eq!(window.entry(&first, &names).wire_per_step, None, "of a process alone nothing is said");
        window.add(&last, 1.5, Traffic { sent_bytes: 10, received_bytes: 4, seconds: 1.0 });
        let entry = window.entry(&last, &names);
        assert_eq!(entry.set_losses, BTreeMap::from([("loss/a".into(), 3.0)]));
        assert_eq!((entry.step, entry.loss, entry.lr), (2, 3.0, 0.2));
        assert_eq!((entry.in_batch_accuracy, entry.positive_similarity), (3.0 / 8.0, 0.5));
        assert_eq!((entry.hardest_negative_similarity, entry.similarity_margin), (0.25, 0.25));
        assert_eq!(entry.negatives_per_query, 2.0);
        assert_eq!((entry.examples_per_s, entry.tokens_per_s), (4.0, 100.0));
        assert_eq!(entry.wire_per_step, Some(Traffic { sent_bytes: 5, received_bytes: 2, seconds: 0.5 }));
    }

    #[test]
    fn a_file_is_known_by_size_and_hash() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "").unwrap();
        let empty = FileRecord::of(file.path()).unwrap();
        // XXH3-128 of nothing, from the reference implementation's tests.
        assert_eq!((empty.size_bytes, empty.xxh3_128.as_str()), (0, "99aa06d3014798d86001c324468d497f"));
    }
}
