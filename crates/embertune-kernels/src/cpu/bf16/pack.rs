//! `f32` matrices as pairs of bf16, in the layouts that [`product`](super::product) reads.
//!
//! Rounding is to nearest, ties to even, as PyTorch's. A sum of odd length gets a zero. What fills the last panel may be anything, which a product ignores.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::Buffer;
use crate::cpu::bf16::BLOCK_COLUMNS;
use crate::cpu::buffer::Pool;
use crate::cpu::isa::{Detected, per_isa};
use crate::cpu::scatter::Scatter;

/// What is paired with the last row of a sum of odd length.
pub(crate) static ZEROS: [f32; BLOCK_COLUMNS] = [0.0; BLOCK_COLUMNS];

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
        let mut rows = Rows::unwritten(pool, x.len().checked_div(k).unwrap_or(0), k);
        if !x.is_empty() {
            let (per_task, pairs) = ((16_384 / k).max(1), rows.pairs);
            rows.as_bits_mut()
                .par_chunks_mut(per_task * pairs)
                .zip(x.par_chunks(per_task * k))
                .for_each(|(out, x)| pack_rows_of_pairs(isa, out, x, k));
        }
        rows
    }

    /// `rows` rows of `k` elements, to be written.
    pub(crate) fn unwritten(pool: &Pool, rows: usize, k: usize) -> Self {
        let pairs = k.div_ceil(2);
        Rows { data: pool.take(rows * pairs), rows, pairs }
    }

    /// All pairs, `[rows, pairs]`, to be written.
    pub(crate) fn as_bits_mut(&mut self) -> &mut [u32] {
        self.data.as_bits_mut()
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
        const PAIRS_PER_TASK: usize = 16;
        let mut panels = Panels::unwritten(pool, columns, x.len().checked_div(columns).unwrap_or(0));
        let to = panels.scatter();
        // Two rows of `x` are a pair of every column.
        x.par_chunks((2 * PAIRS_PER_TASK * columns).max(1)).enumerate().for_each(|(task, rows)| {
            let mut pairs = [0; BLOCK_COLUMNS];
            for (pair, rows) in (task * PAIRS_PER_TASK..).zip(rows.chunks(2 * columns)) {
                let (low, high) = rows.split_at(columns);
                for first in (0..columns).step_by(BLOCK_COLUMNS) {
                    let stretch = first..columns.min(first + BLOCK_COLUMNS);
                    let pairs = &mut pairs[..stretch.len()];
                    // The sum may be odd.
                    let high = if high.is_empty() { &ZEROS[..stretch.len()] } else { &high[stretch.clone()] };
                    zip_pairs(isa, pairs, &low[stretch], high);
                    // SAFETY: these pairs of all columns are this task's.
                    unsafe { to.write(pair, first, pairs) };
                }
            }
        });
        panels
    }

    /// From the transposed matrix `x`, `[columns, k]`.
    pub(crate) fn pack_columns(isa: Detected, pool: &Pool, x: &[f32], k: usize) -> Self {
        let mut panels = Panels::unwritten(pool, x.len().checked_div(k).unwrap_or(0), k);
        let pairs = panels.pairs;
        panels.for_each(|panel, first, part| pack_columns_of_panel::<WIDTH>(isa, part, x, k, panel, first), pairs);
        panels
    }

    /// Panels of `columns` columns and `k` rows, to be written. What fills the last panel may hold anything: a product ignores it.
    pub(crate) fn unwritten(pool: &Pool, columns: usize, k: usize) -> Self {
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

    /// For tasks that each write some pairs of some columns.
    pub(crate) fn scatter(&mut self) -> PanelScatter<'_, WIDTH> {
        PanelScatter { pairs: self.pairs, data: Scatter::new(self.data.as_bits_mut()) }
    }

    /// Some pairs of a panel, `[pairs][WIDTH]`.
    pub(crate) fn part(&self, panel: usize, pairs: Range<usize>) -> &[u32] {
        let start = panel * self.pairs;
        &self.data.as_bits()[(start + pairs.start) * WIDTH..(start + pairs.end) * WIDTH]
    }
}

/// Panels that tasks write in parallel, each its own columns and pairs.
pub(crate) struct PanelScatter<'a, const WIDTH: usize> {
    pairs: usize,
    data: Scatter<'a, u32>,
}

impl<const WIDTH: usize> PanelScatter<'_, WIDTH> {
    /// Writes a pair of each of some columns, which begin with a panel.
    ///
    /// # Safety
    /// While this runs no other thread writes this pair of these columns.
    pub(crate) unsafe fn write(&self, pair: usize, first_column: usize, pairs: &[u32]) {
        assert!(first_column.is_multiple_of(WIDTH) && pair < self.pairs, "pair {pair} of column {first_column}");
        let (whole, rest) = pairs.as_chunks::<WIDTH>();
        let at = |panel: usize| ((first_column / WIDTH + panel) * self.pairs + pair) * WIDTH;
        // SAFETY: by the contract. A copy of known size is a few instructions, another a call.
        whole.iter().enumerate().for_each(|(panel, whole)| unsafe { self.data.write(at(panel), whole) });
        if !rest.is_empty() {
            // SAFETY: by the contract.
            unsafe { self.data.write(at(whole.len()), rest) };
        }
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

const _: () = assert!(cfg!(target_endian = "little"), "the low half of a pair is the first in memory");

/// The bf16 of pairs one by one.
#[inline(always)]
fn halves(pairs: &[u32]) -> &[u16] {
    // SAFETY: a `u32` is two `u16`, whose alignment is less, and every bit pattern is valid for both.
    unsafe { std::slice::from_raw_parts(pairs.as_ptr().cast(), 2 * pairs.len()) }
}

/// The bf16 of pairs one by one, to be written.
#[inline(always)]
fn halves_mut(pairs: &mut [u32]) -> &mut [u16] {
    // SAFETY: as in `halves`; `&mut` makes the borrow unique.
    unsafe { std::slice::from_raw_parts_mut(pairs.as_mut_ptr().cast(), 2 * pairs.len()) }
}

#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    bf16_bits(low) | bf16_bits(high) << 16
}

per_isa! {
    /// Rows of `k` elements as rows of pairs.
    pub(crate) fn pack_rows_of_pairs<const FMA: bool>(out: &mut [u32], x: &[f32], k: usize) {
        for (out, x) in out.chunks_exact_mut(k.div_ceil(2)).zip(x.chunks_exact(k)) {
            if x.len() % 2 == 1 && let Some(last) = out.last_mut() {
                *last = 0;
            }
            for (out, &x) in halves_mut(out).iter_mut().zip(x) {
                *out = bf16_bits(x) as u16;
            }
        }
    }
}

per_isa! {
    /// The elements of a row of pairs, of an even number.
    pub(crate) fn unpack_rows_of_pairs<const FMA: bool>(out: &mut [f32], pairs: &[u32]) {
        for (out, &half) in out.iter_mut().zip(halves(pairs)) {
            *out = f32::from_bits(u32::from(half) << 16);
        }
    }
}

per_isa! {
    /// Pairs of two rows.
    pub(crate) fn zip_pairs<const FMA: bool>(out: &mut [u32], low: &[f32], high: &[f32]) {
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
