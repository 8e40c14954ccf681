//! How long work looks on standard error: a bar on a terminal, a line now and then elsewhere (a log file, CI).

use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use embertune::progress::Progress;
use embertune::train::measure::{Measure, Verdict};
use embertune::train::{EvaluationEvent, Observer, Plan, StepEvent};
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::Signals;

/// Without a terminal, a stage says where it is this often.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// A bar that says how long it will still take.
const WORK: &str = "{prefix} {wide_bar} {pos}/{len} {eta} left";
/// A bar that leaves room for what else there is to say.
const TRAINING: &str = "{prefix} {bar:16} {pos}/{len} {wide_msg}";

/// Shows the progress of one operation after the other.
pub struct Display {
    on_terminal: bool,
    stage: Mutex<Option<Stage>>,
    signals: Signals,
}

struct Stage {
    what: String,
    total: u64,
    done: u64,
    started: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Stage {
    /// `n` more units are done; `state` is what else there is to say.
    fn advance(&mut self, n: u64, state: Option<String>) {
        self.done += n;
        if let Some(bar) = &self.bar {
            bar.inc(n);
            if let Some(state) = state {
                bar.set_message(state);
            }
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            let Stage { what, done, total, .. } = self;
            let state = state.map_or(String::new(), |state| format!(", {state}"));
            eprintln!("{what}: {done}/{total}, {}{state}", seconds(self.started.elapsed()));
        }
    }
}

impl Display {
    /// Bars where standard error is a terminal, else lines.
    pub fn new() -> Display {
        Display { on_terminal: std::io::stderr().is_terminal(), ..Display::lines() }
    }

    /// Lines, wherever they go.
    pub fn lines() -> Display {
        Display { on_terminal: false, stage: Mutex::new(None), signals: Signals::default() }
    }

    /// By which the user asks the work to stop.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    fn stage(&self) -> MutexGuard<'_, Option<Stage>> {
        // A panic elsewhere leaves numbers at worst a little behind.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, what: &str, total: u64, template: &str) {
        let bar = self.on_terminal.then(|| {
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_prefix(what.to_string())
        });
        let now = Instant::now();
        let what = what.to_string();
        *self.stage() = Some(Stage { what, total, done: 0, started: now, last_line: now, bar });
    }

    /// A line of text, above the bar where there is one.
    pub fn line(&self, text: &str) {
        match self.stage().as_ref().and_then(|stage| stage.bar.as_ref()) {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Progress for Display {
    fn start(&self, what: &str, total: u64) {
        self.begin(what, total, WORK);
    }

    fn advance(&self, n: u64) {
        if let Some(stage) = self.stage().as_mut() {
            stage.advance(n, None);
        }
    }

    fn finish(&self) {
        let Some(stage) = self.stage().take() else { return };
        if let Some(bar) = &stage.bar {
            bar.finish_and_clear();
        }
        let Stage { what, done, .. } = &stage;
        eprintln!("{what}: {done} in {}", seconds(stage.started.elapsed()));
    }

    fn warn(&self, message: &str) {
        self.line(&format!("warning: {message}"));
    }

    fn note(&self, message: &str) {
        self.line(&format!("note: {message}"));
    }

    fn is_stop_requested(&self) -> bool {
        self.signals.is_stop_requested()
    }
}

impl Observer for Display {
    fn training_begins(&self, plan: &Plan, steps_done: usize) {
        self.begin("training", plan.total_steps as u64, TRAINING);
        if let Some(stage) = self.stage().as_mut() {
            stage.advance(steps_done as u64, None);
        }
    }

    fn step_done(&self, event: &StepEvent<'_>) {
        if let Some(stage) = self.stage().as_mut() {
            stage.advance(1, Some(state_of(event)));
        }
        if event.report.step == event.total_steps {
            self.line(&format!("training: step {}, {}", event.total_steps, state_of(event)));
        }
    }

    fn evaluated(&self, event: &EvaluationEvent<'_>) {
        self.line(&evaluation_line(event));
    }

    fn training_ends(&self) {
        self.finish();
    }

    fn saved(&self, folder: &Path) {
        self.note(&format!("saved {}", folder.display()));
    }
}

/// All numbers of an evaluation, and how far the one that counts is from the base model's.
fn evaluation_line(event: &EvaluationEvent<'_>) -> String {
    let EvaluationEvent { entry, measure, verdict, history } = event;
    let mut line = match entry.step {
        0 => "evaluation: base model".to_string(),
        step => format!("evaluation: step {step}, epoch {:.2}", entry.epoch),
    };
    let baseline = history.baseline.filter(|_| entry.step > 0);
    for (of, name) in
        [(Measure::Ndcg10, "nDCG@10"), (Measure::Mrr10, "MRR@10"), (Measure::Hit1, "Hit@1"), (Measure::Loss, "loss")]
    {
        let Some(value) = entry.scores.of(of) else { continue };
        line += &format!(", {name} {value:.4}");
        if let Some(before) = baseline.and_then(|base| base.scores.of(of)).filter(|_| of == *measure) {
            line += &format!(" ({:+.4})", value - before);
        }
    }
    if *verdict == Verdict::Best {
        line += ", the best so far";
    }
    line
}

fn state_of(event: &StepEvent<'_>) -> String {
    let stats = &event.report.stats;
    let accuracy = stats.n_correct as f64 / stats.n_contrasted.max(1) as f64;
    format!(
        "loss {:.4}, lr {:.1e}, accuracy {accuracy:.2}, {:.0} examples/s, {} left",
        event.report.loss,
        event.report.learning_rate,
        event.examples_per_s,
        clock(event.time_left)
    )
}

/// `1:02:03`, or `2:03` below an hour.
fn clock(time: Duration) -> String {
    let s = time.as_secs();
    let (hours, minutes, seconds) = (s / 3600, s / 60 % 60, s % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_shown_as_on_a_clock() {
        for (s, shown) in [(0, "0:00"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (90_061, "25:01:01")] {
            assert_eq!(clock(Duration::from_secs(s)), shown);
        }
    }
}
