//! Ctrl-C and the system's request to end: the first one asks the work to stop where nothing is lost, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use embertune::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Raised by the first signal.
pub type Flag = Arc<AtomicBool>;

/// The exit code of the second signal, and of the first where nobody can be asked.
const INTERRUPTED: i32 = 130;

/// Raises `stop` at the first signal from now on.
///
/// # Errors
/// Where the system refuses to watch a signal.
pub fn listen(stop: &Flag) -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // In this order: the second signal finds the flag of the first.
        flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(stop))
            .and_then(|_| flag::register(signal, Arc::clone(stop)))
            .map_err(Error::io("signals", "watch"))?;
    }
    Ok(())
}

/// Whether a signal came.
pub fn is_requested(stop: &Flag) -> bool {
    stop.load(Ordering::Relaxed)
}
