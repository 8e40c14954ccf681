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
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _what: &str, _total: u64) {}
    fn advance(&self, _n: u64) {}
    fn finish(&self) {}
    fn warn(&self, _message: &str) {}
    fn note(&self, _message: &str) {}
}
