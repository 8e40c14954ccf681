//! How long work looks on standard error: a bar on a terminal, a line now and then elsewhere (a log file, CI).

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use embertune::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal, a stage says where it is this often.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows the progress of one operation after the other.
pub struct Display {
    on_terminal: bool,
    stage: Mutex<Option<Stage>>,
}

struct Stage {
    what: String,
    total: u64,
    done: u64,
    started: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Display {
    /// Bars where standard error is a terminal, else lines.
    pub fn new() -> Display {
        Display { on_terminal: std::io::stderr().is_terminal(), stage: Mutex::new(None) }
    }

    fn stage(&self) -> MutexGuard<'_, Option<Stage>> {
        // A panic elsewhere leaves numbers at worst a little behind.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of text, above the bar where there is one.
    pub fn line(&self, text: &str) {
        match self.stage().as_ref().and_then(|stage| stage.bar.as_ref()) {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// What stands behind the numbers of the bar; nothing without a terminal.
    pub fn message(&self, text: String) {
        if let Some(bar) = self.stage().as_ref().and_then(|stage| stage.bar.as_ref()) {
            bar.set_message(text);
        }
    }
}

impl Progress for Display {
    fn start(&self, what: &str, total: u64) {
        let bar = self.on_terminal.then(|| {
            let template = "{prefix} {wide_bar} {pos}/{len} {msg} {elapsed} left {eta}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_prefix(what.to_string())
        });
        let now = Instant::now();
        let what = what.to_string();
        *self.stage() = Some(Stage { what, total, done: 0, started: now, last_line: now, bar });
    }

    fn advance(&self, n: u64) {
        let mut stage = self.stage();
        let Some(stage) = stage.as_mut() else { return };
        stage.done += n;
        if let Some(bar) = &stage.bar {
            bar.inc(n);
        } else if stage.last_line.elapsed() >= LINE_INTERVAL {
            stage.last_line = Instant::now();
            let Stage { what, done, total, .. } = stage;
            eprintln!("{what}: {done}/{total}, {}", seconds(stage.started.elapsed()));
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
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
