//! What fails on a device. The runtimes work in threads of their own, which panic where memory is full or a kernel does not compile, and go
//! on: what they compute from then on is of no use, and whoever reads it is to be told.

use std::any::Any;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

/// A device that cannot be used, or no longer.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// What the driver, or the lack of one, says.
    pub reason: String,
    /// Of a device whose memory is full: how many bytes its buffers took, as far as it counts them.
    pub full_at_bytes: Option<usize>,
}

impl Unavailable {
    /// For the reason that a runtime or a driver gives.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Unavailable { reason: reason.into(), full_at_bytes: None }
    }

    /// With what its buffers took, where `reason` is a lack of memory.
    pub(crate) fn with_bytes(self, held_bytes: usize) -> Self {
        // CubeCL's two errors, wgpu's two, and the drivers of Vulkan and CUDA.
        let words = [
            "allocate buffer of size",
            "out-of-memory",
            "Out of Memory",
            "Not enough memory",
            "OUT_OF_",
            "out of memory",
        ];
        let is_full = words.iter().any(|words| self.reason.contains(words));
        Unavailable { full_at_bytes: is_full.then_some(held_bytes), ..self }
    }
}

/// The first panic of a runtime that nobody was told of.
static FIRST: Mutex<Option<String>> = Mutex::new(None);

/// Whether a device is being opened: a runtime panics in any thread where its driver is missing.
static OPENING: AtomicBool = AtomicBool::new(false);

/// What `open` gives, or what failed. From then on panics in the threads of the runtimes are taken note of instead of printed.
///
/// # Errors
/// The failure.
pub(crate) fn opening<T>(open: impl FnOnce() -> Result<T, String>) -> Result<T, Unavailable> {
    watch();
    OPENING.store(true, Ordering::Relaxed);
    let opened = caught(open);
    OPENING.store(false, Ordering::Relaxed);
    opened
}

fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let otherwise = take_hook();
        set_hook(Box::new(move |panic| {
            let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_some() || OPENING.load(Ordering::Relaxed) || is_of_runtime() {
                first.get_or_insert_with(|| message(panic));
            } else {
                drop(first);
                otherwise(panic);
            }
        }));
    });
}

/// CubeCL calls its threads by the stage of the work and the numbers of the device.
fn is_of_runtime() -> bool {
    thread::current().name().is_some_and(|name| name.starts_with("DSU-") || name.starts_with("DSD-"))
}

fn message(panic: &PanicHookInfo<'_>) -> String {
    panic.payload_as_str().unwrap_or("the driver does not say why").to_string()
}

/// What failed since the last time that somebody asked.
pub fn take_failure() -> Option<Unavailable> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner).take().map(Unavailable::new)
}

/// What `work` gives, or what failed on the device, until now or in it.
///
/// # Errors
/// The failure; other panics go on.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, Unavailable> {
    let done: Result<_, Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(work));
    match (take_failure(), done) {
        (Some(failure), _) => Err(failure),
        (None, Ok(done)) => done.map_err(Unavailable::new),
        (None, Err(panic)) => resume_unwind(panic),
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "metal")))]
mod tests {
    use super::*;
    use crate::wgpu;

    #[test]
    fn full_memory_is_an_error_that_says_how_full_it_was() {
        let gpu = match wgpu(None) {
            Ok(gpu) => gpu,
            Err(error) => return eprintln!("SKIPPED: no GPU, nothing is checked: {error}"),
        };
        let small = gpu.floats(&[1.0; 1000]);
        let too_large = gpu.empty(1 << 40);
        let panic = catch_unwind(AssertUnwindSafe(|| gpu.read(too_large))).expect_err("4 TB of memory");
        let failure = panic.downcast::<Unavailable>().expect("what a command can tell its user");
        assert!(failure.full_at_bytes.is_some_and(|bytes| bytes >= 4000), "{failure}");
        assert!(take_failure().is_none(), "it was told once");
        assert_eq!(gpu.read(small), [1.0; 1000]);

        // Where nobody reads it, the next one who waits is told.
        drop(gpu.empty(1 << 40));
        let failure = gpu.synchronize().expect_err("a buffer of 4 TB was wanted");
        assert!(failure.full_at_bytes.is_some(), "{failure}");
    }
}
