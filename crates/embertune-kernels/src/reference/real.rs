//! [`Real`]: the number types that the reference stores.

/// A type of stored numbers. The arithmetic of the reference is `f64` whatever the type: every operation reads `T`,
/// computes in `f64` and rounds once on writing, so `Reference<f32>` is as exact as its inputs and outputs allow.
pub trait Real: Copy + Send + Sync + 'static {
    /// Exact.
    fn to_f64(self) -> f64;
    /// The nearest number of this type.
    fn from_f64(value: f64) -> Self;
}

impl Real for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn from_f64(value: f64) -> f32 {
        value as f32
    }
}

impl Real for f64 {
    fn to_f64(self) -> f64 {
        self
    }

    fn from_f64(value: f64) -> f64 {
        value
    }
}

/// Rounds a result for storage.
pub(super) fn store<T: Real>(values: Vec<f64>) -> Vec<T> {
    values.into_iter().map(T::from_f64).collect()
}

/// `sum = sum + term`, the form in which backwards add to parameter gradients.
pub(super) fn add_to<T: Real>(sum: &mut T, term: f64) {
    *sum = T::from_f64(sum.to_f64() + term);
}
