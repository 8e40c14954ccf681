//! Where a sequence of operations runs.

/// Runs `work` on one of the threads that operations share their work among. Called from any other thread, each operation would hand its
/// work over, sleep and be woken, thousands of times in a training step.
pub(crate) fn on_a_worker<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
