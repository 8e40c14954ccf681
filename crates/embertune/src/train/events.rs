//! What a training run tells its caller while it goes on.

use std::path::Path;
use std::time::Duration;

use crate::progress::{Progress, Silent};
use crate::train::trainer::{Plan, StepReport};

/// Receives the events of a training run, and the progress of what comes before it (loading, tokenizing).
pub trait Observer: Progress {
    /// The first step is about to be done.
    fn training_begins(&self, plan: &Plan);
    /// An optimizer step is done.
    fn step_done(&self, event: &StepEvent<'_>);
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

impl Observer for Silent {
    fn training_begins(&self, _plan: &Plan) {}
    fn step_done(&self, _event: &StepEvent<'_>) {}
    fn saved(&self, _folder: &Path) {}
}
