//! How long work tells its caller about itself: the library reports, the caller draws.

/// Receives the progress of a long operation. All methods may be called from any thread.
pub trait Progress: Sync {
    /// A stage begins: `what` is being done, `total` units of it (texts, queries, steps) are to come.
    fn start(&self, what: &str, total: u64);
    /// `n` more units are done.
    fn advance(&self, n: u64);
    /// The stage is over.
    fn finish(&self);
    /// Something the user should know, in one line.
    fn warn(&self, message: &str);
    /// Something worth saying that is no warning, in one line.
    fn note(&self, message: &str);
    /// Whether the user wants the work to end: embedding ends at its next chunk then, with [`Error::Stopped`](crate::Error::Stopped), and a
    /// training after its step, with a checkpoint.
    fn is_stop_requested(&self) -> bool {
        false
    }
}

/// Says nothing.
pub struct Silent;

/// Says nothing, and ends where another wants it.
pub struct Quiet<'a>(pub &'a dyn Progress);

impl Progress for Quiet<'_> {
    fn start(&self, _what: &str, _total: u64) {}
    fn advance(&self, _n: u64) {}
    fn finish(&self) {}
    fn warn(&self, _message: &str) {}
    fn note(&self, _message: &str) {}
    fn is_stop_requested(&self) -> bool {
        self.0.is_stop_requested()
    }
}

impl Progress for Silent {
    fn start(&self, _what: &str, _total: u64) {}
    fn advance(&self, _n: u64) {}
    fn finish(&self) {}
    fn warn(&self, _message: &str) {}
    fn note(&self, _message: &str) {}
}
