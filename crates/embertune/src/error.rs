//! What can go wrong, in words that a user can act on: what failed, where, the value seen, the value allowed, and a hint.

use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Every error of the library. `Display` gives one line without a final period; [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `read`, `write`, `create`, ...
        action: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A row of a data file is not what it should be.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        /// The data file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What was seen and what is allowed.
        problem: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A whole data file is not usable.
    #[error("{}: {problem}", path.display())]
    Data {
        /// The data file.
        path: PathBuf,
        /// What was seen and what is allowed.
        problem: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A model folder or a file in it is not usable.
    #[error("{}: {problem}", path.display())]
    Model {
        /// The folder or file.
        path: PathBuf,
        /// What was seen and what is allowed, with the tensor's name where there is one.
        problem: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A setting, or a combination of settings, that cannot work.
    #[error("{problem}")]
    Setting {
        /// The flag by name, the value seen, the values allowed.
        problem: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Training cannot go on.
    #[error("step {step}: {problem}")]
    Training {
        /// Optimizer step, from 1.
        step: usize,
        /// What was seen, with the tensor or the rows.
        problem: String,
        /// What to do.
        hint: Option<String>,
    },
    /// One of the processes that work together keeps the others from going on.
    #[error("rank {rank} on {host}: {problem}")]
    Rank {
        /// Its number.
        rank: usize,
        /// The machine that it runs on.
        host: String,
        /// What was seen.
        problem: String,
        /// What to do.
        hint: Option<String>,
    },
    /// What ended the work on all ranks, rank 0 says.
    #[error("the work has ended on all ranks; rank 0 says why")]
    Ended,
    /// The user stopped work that has nothing to lose.
    #[error("interrupted")]
    Stopped,
    /// The user stopped a training.
    #[error("interrupted after step {step}; {} holds the run until there", checkpoint.display())]
    Interrupted {
        /// Optimizer steps done.
        step: usize,
        /// Where to go on from.
        checkpoint: PathBuf,
    },
}

impl Error {
    /// Whether the user wanted it.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Error::Interrupted { .. } | Error::Stopped)
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Io { source, action, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull if action.contains("temporary") => {
                    Some("free some space, or name a folder with more of it in the environment variable `TMPDIR`")
                }
                std::io::ErrorKind::StorageFull => Some("free some space or choose another output path"),
                std::io::ErrorKind::PermissionDenied => Some("check the permissions of the path"),
                std::io::ErrorKind::InvalidData => Some("copy or download the file again"),
                _ => None,
            },
            Error::Interrupted { .. } => Some("go on with the same command and `--resume_from_checkpoint last`"),
            Error::Ended | Error::Stopped => None,
            Error::Row { hint, .. }
            | Error::Data { hint, .. }
            | Error::Model { hint, .. }
            | Error::Setting { hint, .. }
            | Error::Training { hint, .. }
            | Error::Rank { hint, .. } => hint.as_deref(),
        }
    }

    /// An [`Error::Io`] for `map_err`: `File::open(p).map_err(Error::io(p, "read"))`.
    pub fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, action, source }
    }
}
