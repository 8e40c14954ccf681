//! Inputs, comparisons and gradient checks for tests of operations. Everything is seeded; nothing is read from outside.

use crate::dropout::{hash, splitmix64};
use crate::ops::Ragged;

/// Sizes around the widths of vector registers (8 and 16 lanes), and odd ones.
pub const LENGTHS: &[usize] = &[0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 384];

/// Lengths of the texts of ragged batches: none, single tokens, texts of equal and of mixed lengths.
pub const BATCHES: &[&[usize]] = &[&[], &[1], &[1, 1, 1], &[5], &[3, 1, 4, 1, 5], &[16, 16], &[33, 2, 17, 1, 8]];

/// Step of the differences in [`grad_check`]. Their truncation error is of its fourth power, 1e-16; their rounding error
/// is about 1e-16 / 1e-4 of the sum of the outputs.
const STEP: f64 = 1e-4;
/// Largest relative error of a gradient in [`grad_check`].
const GRAD_REL: f64 = 1e-6;
/// Largest absolute error of a gradient in [`grad_check`] relative to the largest one of the tensor, for elements in
/// which terms cancel: a thousand times the rounding error of the differences.
const GRAD_ABS: f64 = 1e-9;

/// `len` numbers spread evenly over `-1.0..1.0`, the same for the same seed.
pub fn seeded(len: usize, seed: u64) -> Vec<f32> {
    let state = splitmix64(seed) as u32;
    // The upper 24 bits, so that every value is exact in f32.
    (0..len).map(|i| (hash(state, i as u32) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

/// [`seeded`] in f64.
pub fn seeded_f64(len: usize, seed: u64) -> Vec<f64> {
    seeded(len, seed).into_iter().map(f64::from).collect()
}

/// A ragged batch that owns its offsets and keys.
#[derive(Clone, Debug)]
pub struct Texts {
    cu_seqlens: Vec<u32>,
    keys: Vec<u64>,
}

impl Texts {
    /// Texts of these lengths, each with a key of its own that depends on `seed`.
    pub fn new(lengths: &[usize], seed: u64) -> Self {
        let mut cu_seqlens = vec![0];
        for &len in lengths {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + len as u32);
        }
        let keys = (0..lengths.len() as u64).map(|text| splitmix64(seed ^ splitmix64(text))).collect();
        Texts { cu_seqlens, keys }
    }

    /// The form that the operations take.
    pub fn ragged(&self) -> Ragged<'_> {
        Ragged { cu_seqlens: &self.cu_seqlens, keys: &self.keys }
    }

    /// Number of tokens of all texts.
    pub fn n_tokens(&self) -> usize {
        self.ragged().n_tokens()
    }
}

/// Checks `|actual - expected| <= abs + rel * |expected|` of every element, and the lengths.
///
/// # Panics
/// With the worst element, if one differs by more or is not finite.
#[track_caller]
pub fn assert_close<A, E>(actual: &[A], expected: &[E], abs: f64, rel: f64)
where
    A: Copy + Into<f64>,
    E: Copy + Into<f64>,
{
    assert_eq!(actual.len(), expected.len(), "lengths of actual and expected");
    // The error as a multiple of what is allowed; a NaN becomes infinite so that it cannot pass.
    let excess = |(&a, &e): (&A, &E)| {
        let (a, e): (f64, f64) = (a.into(), e.into());
        let ratio = if a == e { 0.0 } else { (a - e).abs() / (abs + rel * e.abs()) };
        if ratio.is_nan() { f64::INFINITY } else { ratio }
    };
    let worst = actual.iter().zip(expected).map(excess).enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    if let Some((i, ratio)) = worst {
        let (a, e): (f64, f64) = (actual[i].into(), expected[i].into());
        assert!(
            ratio <= 1.0,
            "element {i} of {}: {a:e}, expected {e:e}: {ratio:.3} times the allowed abs {abs:e} + rel {rel:e}",
            actual.len()
        );
    }
}

/// Checks `d_x`, what a backward says is the gradient of `sum(forward(x) * d_out)` (a random `d_out` stands for a loss),
/// against central differences of four points, each element within a relative 1e-6.
///
/// `forward` must be smooth within 2e-4 of `x` in every coordinate.
///
/// # Panics
/// With `what` and the element, if one differs by more.
#[track_caller]
pub fn grad_check(what: &str, x: &[f64], d_out: &[f64], d_x: &[f64], forward: impl Fn(&[f64]) -> Vec<f64>) {
    assert_eq!(d_x.len(), x.len(), "{what}: lengths of gradient and input");
    let mut x = x.to_vec();
    let mut numeric = Vec::with_capacity(x.len());
    for i in 0..x.len() {
        let at = x[i];
        let mut loss = |offset: f64| -> f64 {
            x[i] = at + offset * STEP;
            let y = forward(&x);
            assert_eq!(y.len(), d_out.len(), "{what}: lengths of output and d_out");
            y.iter().zip(d_out).map(|(y, d)| y * d).sum()
        };
        let (near, far) = (loss(1.0) - loss(-1.0), loss(2.0) - loss(-2.0));
        numeric.push((8.0 * near - far) / (12.0 * STEP));
        x[i] = at;
    }
    let largest = numeric.iter().fold(0.0_f64, |largest, d| largest.max(d.abs()));
    for (i, (&actual, &numeric)) in d_x.iter().zip(&numeric).enumerate() {
        let error = (actual - numeric).abs();
        assert!(
            error <= GRAD_REL * numeric.abs() + GRAD_ABS * largest.max(1.0),
            "{what}: gradient {i} of {} is {actual:e}, differences give {numeric:e} (error {error:e})",
            d_x.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cubes(x: &[f64]) -> Vec<f64> {
        x.iter().map(|x| x * x * x).collect()
    }

    #[test]
    fn seeded_numbers_fill_their_range_and_differ_by_seed() {
        let values = seeded(10_000, 1);
        assert!(values.iter().all(|v| (-1.0..1.0).contains(v)));
        let mean = values.iter().sum::<f32>() / 10_000.0;
        // Five standard deviations of a mean of ten thousand numbers of variance 1/3.
        assert!(mean.abs() < 5.0 * (1.0_f32 / 3.0 / 10_000.0).sqrt(), "{mean}");
        assert_eq!(values[..10], seeded(10, 1));
        assert_ne!(values[..10], seeded(10, 2));
    }

    #[test]
    fn close_numbers_are_close() {
        assert_close(&[1.0_f32, 0.0, f32::INFINITY], &[1.0 + 0.9e-3, 1e-4, f64::INFINITY], 1e-4, 1e-3);
    }

    #[test]
    #[should_panic(expected = "element 1 of 3")]
    fn numbers_too_far_apart_are_found() {
        assert_close(&[1.0, 2.01, 3.0], &[1.0, 2.0, 3.0], 0.0, 1e-3);
    }

    #[test]
    #[should_panic(expected = "element 0 of 2")]
    fn nan_is_close_to_nothing() {
        assert_close(&[f32::NAN, 1.0], &[f32::NAN, 1.0], 1.0, 1.0);
    }

    #[test]
    fn a_right_gradient_passes() {
        grad_check("cubes", &[1.0, -2.0, 0.5], &[1.0, 0.5, 4.0], &[3.0, 6.0, 3.0], cubes);
    }

    #[test]
    #[should_panic(expected = "cubes: gradient 1 of 2")]
    fn a_gradient_off_by_two_millionths_is_found() {
        grad_check("cubes", &[1.0, -2.0], &[1.0, 0.5], &[3.0, 6.000_012], cubes);
    }
}
