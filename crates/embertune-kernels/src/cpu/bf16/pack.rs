//! `f32` matrices as pairs of bf16, in the layouts that [`product`](super::product) reads.
//!
//! Rounding is to nearest, ties to even, as PyTorch's. A sum of odd length gets a zero, a panel beyond the last column zeros.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::Buffer;
use crate::cpu::buffer::Pool;
use crate::cpu::isa::{Detected, per_isa};

/// Columns of a panel of the right side: two AVX-512 registers of sums.
pub(crate) const PANEL: usize = 32;

/// A matrix `[rows, k]` row by row, the sum along the row.
pub(crate) struct Rows {
    data: Buffer,
    /// Number of rows.
    pub(crate) rows: usize,
    /// Pairs in a row.
    pub(crate) pairs: usize,
}

impl Rows {
    /// From `x`, `[rows, k]`.
    pub(crate) fn pack(isa: Detected, pool: &Pool, x: &[f32], k: usize) -> Self {
        let (rows, pairs) = (x.len().checked_div(k).unwrap_or(0), k.div_ceil(2));
        let mut data = pool.take(rows * pairs);
        if !x.is_empty() {
            let per_task = (16_384 / k).max(1);
            data.as_bits_mut()
                .par_chunks_mut(per_task * pairs)
                .zip(x.par_chunks(per_task * k))
                .for_each(|(out, x)| pack_rows_of_pairs(isa, out, x, k));
        }
        Rows { data, rows, pairs }
    }

    /// `n_rows` rows from `row` on, without the pairs before `pairs`; rows are [`Rows::pairs`] apart.
    pub(crate) fn from(&self, row: usize, pairs: Range<usize>, n_rows: usize) -> &[u32] {
        if pairs.is_empty() {
            return &[];
        }
        let start = row * self.pairs;
        &self.data.as_bits()[start + pairs.start..start + (n_rows - 1) * self.pairs + pairs.end]
    }
}

/// A matrix `[k, columns]` in panels of `WIDTH` columns, the sum down the columns: `[panel][pair][column]`.
pub(crate) struct Panels<const WIDTH: usize> {
    data: Buffer,
    /// Number of columns, those that only fill the last panel not counted.
    pub(crate) columns: usize,
    /// Pairs in a column.
    pub(crate) pairs: usize,
}

impl<const WIDTH: usize> Panels<WIDTH> {
    /// From `x`, `[k, columns]`.
    pub(crate) fn pack_rows(isa: Detected, pool: &Pool, x: &[f32], columns: usize) -> Self {
        let mut panels = Panels::empty(pool, columns, x.len().checked_div(columns).unwrap_or(0));
        let pairs = panels.pairs;
        panels.for_each(|panel, first, part| pack_rows_of_panel::<WIDTH>(isa, part, x, columns, panel, first), pairs);
        panels
    }

    /// From the transposed matrix `x`, `[columns, k]`.
    pub(crate) fn pack_columns(isa: Detected, pool: &Pool, x: &[f32], k: usize) -> Self {
        let mut panels = Panels::empty(pool, x.len().checked_div(k).unwrap_or(0), k);
        let pairs = panels.pairs;
        panels.for_each(|panel, first, part| pack_columns_of_panel::<WIDTH>(isa, part, x, k, panel, first), pairs);
        panels
    }

    fn empty(pool: &Pool, columns: usize, k: usize) -> Self {
        let pairs = k.div_ceil(2);
        Panels { data: pool.take(columns.div_ceil(WIDTH) * pairs * WIDTH), columns, pairs }
    }

    /// Calls `fill(panel, first pair, part)` for every part of every panel, in parallel.
    fn for_each(&mut self, fill: impl Fn(usize, usize, &mut [u32]) + Sync, pairs: usize) {
        const PAIRS_PER_TASK: usize = 256;
        if pairs > 0 {
            self.data.as_bits_mut().par_chunks_mut(pairs * WIDTH).enumerate().for_each(|(panel, data)| {
                data.par_chunks_mut(PAIRS_PER_TASK * WIDTH)
                    .enumerate()
                    .for_each(|(part, data)| fill(panel, part * PAIRS_PER_TASK, data));
            });
        }
    }

    /// Some pairs of a panel, `[pairs][WIDTH]`.
    pub(crate) fn part(&self, panel: usize, pairs: Range<usize>) -> &[u32] {
        let start = panel * self.pairs;
        &self.data.as_bits()[(start + pairs.start) * WIDTH..(start + pairs.end) * WIDTH]
    }
}

/// The bf16 nearest to `x`, in the low half. NaN stays NaN.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    // Rounding could carry a NaN's mantissa into the exponent.
    if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    bf16_bits(low) | bf16_bits(high) << 16
}

per_isa! {
    fn pack_rows_of_pairs<const FMA: bool>(out: &mut [u32], x: &[f32], k: usize) {
        for (out, x) in out.chunks_exact_mut(k.div_ceil(2)).zip(x.chunks_exact(k)) {
            let (pairs, rest) = x.as_chunks::<2>();
            for (out, &[low, high]) in out.iter_mut().zip(pairs) {
                *out = pair(low, high);
            }
            if let (Some(out), &[last]) = (out.last_mut(), rest) {
                *out = pair(last, 0.0);
            }
        }
    }
}

/// Pairs from `first` on of panel `panel` of `x`, `[k, columns]`.
fn pack_rows_of_panel<const WIDTH: usize>(
    isa: Detected,
    out: &mut [u32],
    x: &[f32],
    columns: usize,
    panel: usize,
    first: usize,
) {
    let range = panel * WIDTH..columns.min((panel + 1) * WIDTH);
    let zeros = [0.0; WIDTH];
    for (out, rows) in out.as_chunks_mut::<WIDTH>().0.iter_mut().zip(x[2 * first * columns..].chunks(2 * columns)) {
        let (low, high) = rows.split_at(columns);
        // The sum may be odd.
        let high = if high.is_empty() { &zeros[..range.len()] } else { &high[range.clone()] };
        out[range.len()..].fill(0);
        zip_pairs(isa, &mut out[..range.len()], &low[range.clone()], high);
    }
}

per_isa! {
    fn zip_pairs<const FMA: bool>(out: &mut [u32], low: &[f32], high: &[f32]) {
        for (out, (&low, &high)) in out.iter_mut().zip(low.iter().zip(high)) {
            *out = pair(low, high);
        }
    }
}

/// Pairs from `first` on of panel `panel` of the transposed `x`, `[columns, k]`.
fn pack_columns_of_panel<const WIDTH: usize>(
    isa: Detected,
    out: &mut [u32],
    x: &[f32],
    k: usize,
    panel: usize,
    first: usize,
) {
    let mut row = [0; 256];
    let n_pairs = out.len() / WIDTH;
    let row = &mut row[..n_pairs];
    for column in 0..WIDTH {
        row.fill(0);
        if let Some(x) = x.chunks_exact(k).nth(panel * WIDTH + column) {
            let x = &x[2 * first..k.min(2 * (first + n_pairs))];
            pack_rows_of_pairs(isa, row, x, x.len());
        }
        for (out, &pair) in out.chunks_exact_mut(WIDTH).zip(&*row) {
            out[column] = pair;
        }
    }
}
