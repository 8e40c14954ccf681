//! Loops over one or two rows: sums in a fixed order that vector units can follow, and how rows are split into tasks.

use crate::cpu::math::mul_add;
use crate::dropout::Dropout;
use crate::ops::Ragged;

/// Number of partial sums of a row: two AVX-512 registers, enough to hide the latency of an addition.
const LANES: usize = 32;

/// `sum of map(x)` in `LANES` partial sums.
#[inline(always)]
pub(crate) fn sum_map(x: &[f32], map: impl Fn(f32) -> f32) -> f32 {
    let mut acc = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (acc, &x) in acc.iter_mut().zip(chunk) {
            *acc += map(x);
        }
    }
    for (acc, &x) in acc.iter_mut().zip(rest) {
        *acc += map(x);
    }
    fold(acc, |a, b| a + b)
}

/// `sum of a * b`.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for (acc, (&a, &b)) in acc.iter_mut().zip(a.iter().zip(b)) {
            *acc = mul_add::<FMA>(a, b, *acc);
        }
    }
    for (acc, (&a, &b)) in acc.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *acc = mul_add::<FMA>(a, b, *acc);
    }
    fold(acc, |a, b| a + b)
}

/// All elements, combined in halves: `N` is a power of two.
#[inline(always)]
pub(crate) fn fold<const N: usize>(mut acc: [f32; N], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = N / 2;
    while n > 0 {
        for i in 0..n {
            acc[i] = combine(acc[i], acc[i + n]);
        }
        n /= 2;
    }
    acc[0]
}

/// Number of rows of `width` in one task: about 16 Ki elements, which pays for handing the task out and leaves the
/// caches room. It depends on the width alone, so tasks and their sums do not depend on the number of threads.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (16_384 / width.max(1)).max(1)
}

/// The state of the dropout mask of every token, `[n_tokens]`.
pub(crate) fn row_states(texts: Ragged<'_>, dropout: Dropout) -> Vec<u32> {
    let mut states = Vec::with_capacity(texts.n_tokens());
    for (text, &key) in texts.keys.iter().enumerate() {
        states.extend((0..texts.range(text).len()).map(|row| dropout.row_state(key, row as u32)));
    }
    states
}
