//! Errors of the library as the user sees them: what, where, and what to do about it, on standard error.

use std::io::ErrorKind;
use std::process::ExitCode;

use embertune::Error;

/// The exit code of every error, as clap's own for a wrong command line.
const FAILED: u8 = 2;
/// What shells call 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// The exit code where the work is done and a requirement is not met.
const UNMET: u8 = 1;

/// Shows the requirements that are not met and gives the exit code that goes with them.
pub fn report_unmet(unmet: &[String]) -> ExitCode {
    for line in unmet {
        eprintln!("{line}");
    }
    exit_code(!unmet.is_empty())
}

/// The exit code of work that is done, where something is not as it was required to be, or is.
pub fn exit_code(is_unmet: bool) -> ExitCode {
    if is_unmet { ExitCode::from(UNMET) } else { ExitCode::SUCCESS }
}

/// The exit code of an error that somebody else shows.
pub fn failed() -> ExitCode {
    ExitCode::from(FAILED)
}

/// The exit code where the user wanted the work to stop.
pub fn interrupted() -> ExitCode {
    ExitCode::from(INTERRUPTED)
}

/// Shows an error and gives the exit code that goes with it.
pub fn report(error: &Error) -> ExitCode {
    if let Error::Io { source, .. } = error
        && source.kind() == ErrorKind::BrokenPipe
    {
        // Whoever read our output (`| head`) has seen enough.
        return ExitCode::SUCCESS;
    }
    let is_interrupted = error.is_interruption();
    eprintln!("{}{error}", if is_interrupted { "" } else { "error: " });
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(if is_interrupted { INTERRUPTED } else { FAILED })
}
