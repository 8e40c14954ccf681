//! A [`Progress`] that remembers what it was told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use embertune::progress::Progress;

/// Everything that was said, in order.
#[derive(Default)]
pub struct Said {
    lines: Mutex<Vec<String>>,
    units: Mutex<u64>,
    step: AtomicUsize,
    stop_at: Option<usize>,
}

impl Said {
    /// Asks a training to stop after this step.
    pub fn stopping_at(step: usize) -> Said {
        Said { stop_at: Some(step), ..Said::default() }
    }

    pub fn at_step(&self, step: usize) {
        self.step.store(step, Ordering::Relaxed);
    }

    pub fn is_stop_due(&self) -> bool {
        self.stop_at == Some(self.step.load(Ordering::Relaxed))
    }

    /// Warnings as `warning: ...`, notes as `note: ...`.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Sum of what was reported as done.
    pub fn units(&self) -> u64 {
        *self.units.lock().unwrap()
    }
}

impl Progress for Said {
    fn start(&self, _what: &str, _total: u64) {}
    fn advance(&self, n: u64) {
        *self.units.lock().unwrap() += n;
    }
    fn finish(&self) {}
    fn warn(&self, message: &str) {
        self.lines.lock().unwrap().push(format!("warning: {message}"));
    }
    fn note(&self, message: &str) {
        self.lines.lock().unwrap().push(format!("note: {message}"));
    }
    fn is_stop_requested(&self) -> bool {
        self.is_stop_due()
    }
}
