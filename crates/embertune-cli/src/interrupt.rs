//! Ctrl-C and the system's request to end: while work listens that can stop where nothing is lost, the first one asks it to, and the
//! second ends the process; later each ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use embertune::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The exit code of a signal that ends the process.
const INTERRUPTED: i32 = 130;

/// What signals have asked for.
#[derive(Default)]
pub struct Signals {
    /// That the work stops.
    stop: Arc<AtomicBool>,
    /// Nobody would stop, or was asked to before: the next signal ends the process.
    ends: Arc<AtomicBool>,
}

/// Work that stops when it is asked to. Once it is done the system's own handling of signals would not come back by itself.
#[must_use]
pub struct Listening<'a>(&'a Signals);

impl Signals {
    /// Watches signals from now on, once in a process; what is given lives as long as the work that asks [`Signals::is_stop_requested`].
    ///
    /// # Errors
    /// Where the system refuses to watch a signal.
    pub fn listen(&self) -> Result<Listening<'_>> {
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag of the first.
            flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&self.ends))
                .and_then(|_| flag::register(signal, Arc::clone(&self.ends)))
                .and_then(|_| flag::register(signal, Arc::clone(&self.stop)))
                .map_err(Error::io("signals", "watch"))?;
        }
        Ok(Listening(self))
    }

    /// Whether work that listens, or listened, was asked to stop.
    pub fn is_stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.ends.store(true, Ordering::Relaxed);
    }
}
