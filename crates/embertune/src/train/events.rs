//! What a training run tells its caller while it goes on, and how the caller stops it.

use std::path::Path;
use std::time::Duration;

use crate::progress::{Progress, Quiet, Silent};
use crate::train::measure::{History, Measure, Verdict};
use crate::train::record::EvaluationEntry;
use crate::train::trainer::{Plan, StepReport};

/// Receives the events of a training run, and the progress of what comes before it (loading, tokenizing).
pub trait Observer: Progress {
    /// The next step is about to be done, after `steps_done` steps of an interrupted run.
    fn training_begins(&self, plan: &Plan, steps_done: usize);
    /// An optimizer step is done.
    fn step_done(&self, event: &StepEvent<'_>);
    /// The model was evaluated.
    fn evaluated(&self, event: &EvaluationEvent<'_>);
    /// No more steps are to come.
    fn training_ends(&self);
    /// A complete model folder was written.
    fn saved(&self, folder: &Path);
}

/// An optimizer step and the pace of the run.
#[derive(Clone, Copy, Debug)]
pub struct StepEvent<'a> {
    /// What the step did.
    pub report: &'a StepReport,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Rows per second, since the beginning of the training.
    pub examples_per_s: f64,
    /// Time until the last step, at the present pace.
    pub time_left: Duration,
}

/// An evaluation and what it means.
#[derive(Clone, Copy, Debug)]
pub struct EvaluationEvent<'a> {
    /// Its numbers.
    pub entry: &'a EvaluationEntry,
    /// What is compared.
    pub measure: Measure,
    /// Whether it is the best so far.
    pub verdict: Verdict,
    /// All evaluations until now, this one included.
    pub history: &'a History,
}

impl Observer for Quiet<'_> {
    fn training_begins(&self, _plan: &Plan, _steps_done: usize) {}
    fn step_done(&self, _event: &StepEvent<'_>) {}
    fn evaluated(&self, _event: &EvaluationEvent<'_>) {}
    fn training_ends(&self) {}
    fn saved(&self, _folder: &Path) {}
}

impl Observer for Silent {
    fn training_begins(&self, _plan: &Plan, _steps_done: usize) {}
    fn step_done(&self, _event: &StepEvent<'_>) {}
    fn evaluated(&self, _event: &EvaluationEvent<'_>) {}
    fn training_ends(&self) {}
    fn saved(&self, _folder: &Path) {}
}
