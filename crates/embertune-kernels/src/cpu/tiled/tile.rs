//! A tile of the output in registers: [`TILE`] rows by [`PANEL`] columns, 24 of the 32 AVX-512 registers.
//!
//! Of the shapes that fill the registers it is among those that load least: a step of the sum takes 11 loads for 24 multiply-adds, a tile of
//! 14 x 32 takes 16 for 28. Measured against others in docs/LOG.md.

use std::ops::Range;

use crate::cpu::isa::{Detected, Isa};
use crate::cpu::matmul::{Output, View};

/// Rows of a tile. Each element of the left side is broadcast from memory.
pub(crate) const TILE: usize = 8;
/// Columns of a tile: three registers.
pub(crate) const PANEL: usize = 48;
/// Terms of a sum that are added in registers. A [`Strip`] of so many columns takes a quarter of L1, eight panels of so many rows half of L2.
pub(crate) const DEPTH: usize = 384;

/// Elements from one row of a strip to the next: an odd number of cache lines, so that rows do not compete for places in L1.
const STRIP_STRIDE: usize = DEPTH + 16;

/// The proof that this machine can multiply tiles.
#[derive(Clone, Copy)]
pub(crate) struct Tiles(Detected);

impl Tiles {
    /// `None` where `isa` is not AVX-512.
    pub(crate) fn new(isa: Detected) -> Option<Self> {
        (isa.isa() == Isa::Avx512).then_some(Tiles(isa))
    }

    pub(super) fn isa(self) -> Detected {
        self.0
    }

    /// Computes a tile.
    ///
    /// # Safety
    /// The rows of the strip, of `n_columns` elements each, at `out`, `out_stride` apart, are valid for reads and writes, and no other
    /// thread touches them during the call.
    pub(super) unsafe fn tile(self, tile: &Tile<'_>) {
        let Tile { strip, right, n_columns, .. } = *tile;
        assert!((1..=PANEL).contains(&n_columns), "a tile of {n_columns} columns");
        assert_eq!(right.len(), strip.depth * PANEL, "right side of a tile");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `self` exists only where AVX-512 was found; `right` is as long as the sum (asserted), a strip as its own sizes say;
        // the output is the caller's by this function's contract.
        unsafe {
            match strip.order {
                Order::Rows => x86::tile_of_order::<STRIP_STRIDE, 1>(tile),
                Order::Steps => x86::tile_of_order::<1, TILE>(tile),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("`Tiles` exists only on x86-64");
    }
}

/// One tile of a product.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no machine has `Tiles` but x86-64"))]
pub(super) struct Tile<'a> {
    pub(super) strip: &'a Strip,
    /// `[depth][PANEL]`.
    pub(super) right: &'a [f32],
    /// Columns of the output, `1..=PANEL`.
    pub(super) n_columns: usize,
    pub(super) output: Output,
    /// The first element of the output; rows are `out_stride` apart.
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

/// Up to [`TILE`] rows and [`DEPTH`] columns of the left side, copied to where no two lines of them get into each other's way.
#[repr(align(64))]
pub(super) struct Strip {
    data: [f32; TILE * STRIP_STRIDE],
    order: Order,
    n_rows: usize,
    depth: usize,
}

/// How a strip lies in memory: as the matrix that it was copied from.
#[derive(Clone, Copy)]
enum Order {
    /// Row after row, `STRIP_STRIDE` apart.
    Rows,
    /// The elements of all rows for one step of the sum, then those for the next, `TILE` apart.
    Steps,
}

impl Strip {
    pub(super) fn new() -> Self {
        Strip { data: [0.0; TILE * STRIP_STRIDE], order: Order::Rows, n_rows: 0, depth: 0 }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Takes these rows and columns of a matrix whose rows, or whose columns, lie in one piece.
    pub(super) fn load(&mut self, left: View<'_>, rows: Range<usize>, steps: Range<usize>) {
        assert!((1..=TILE).contains(&rows.len()) && steps.len() <= DEPTH, "a strip of {rows:?} x {steps:?}");
        (self.n_rows, self.depth) = (rows.len(), steps.len());
        if left.has_whole_rows() {
            self.order = Order::Rows;
            for (to, row) in self.data.chunks_exact_mut(STRIP_STRIDE).zip(rows) {
                to[..steps.len()].copy_from_slice(left.row(row, steps.clone()));
            }
        } else {
            self.order = Order::Steps;
            let columns = left.transposed();
            for (to, step) in self.data.as_chunks_mut::<TILE>().0.iter_mut().zip(steps) {
                let from = columns.row(step, rows.clone());
                match <&[f32; TILE]>::try_from(from) {
                    // A copy of known size is a few instructions, another a call.
                    Ok(whole) => *to = *whole,
                    Err(_) => to[..from.len()].copy_from_slice(from),
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{PANEL, Tile};
    use crate::cpu::matmul::Output;

    const LANES: usize = 16;

    /// Element `p` of row `i` of the strip is at `i * ROW + p * STEP`.
    ///
    /// # Safety
    /// As [`tile`].
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile_of_order<const ROW: usize, const STEP: usize>(of: &Tile<'_>) {
        // SAFETY: passed on; so many registers hold `n_columns`.
        unsafe {
            match of.n_columns.div_ceil(LANES) {
                1 => tile_of_width::<1, ROW, STEP>(of),
                2 => tile_of_width::<2, ROW, STEP>(of),
                _ => tile_of_width::<3, ROW, STEP>(of),
            }
        }
    }

    /// # Safety
    /// As [`tile`].
    #[target_feature(enable = "avx512f")]
    unsafe fn tile_of_width<const N: usize, const ROW: usize, const STEP: usize>(of: &Tile<'_>) {
        // SAFETY: passed on.
        unsafe {
            match of.strip.n_rows {
                8 => tile::<8, N, ROW, STEP>(of),
                7 => tile::<7, N, ROW, STEP>(of),
                6 => tile::<6, N, ROW, STEP>(of),
                5 => tile::<5, N, ROW, STEP>(of),
                4 => tile::<4, N, ROW, STEP>(of),
                3 => tile::<3, N, ROW, STEP>(of),
                2 => tile::<2, N, ROW, STEP>(of),
                _ => tile::<1, N, ROW, STEP>(of),
            }
        }
    }

    /// # Safety
    /// The machine has AVX-512 F. `M` rows of `of.out`, of `n_columns <= 16 N` elements each, are valid for reads and writes. `strip` is
    /// readable at `i * ROW + p * STEP` for all `i < M`, `p < depth`; `right` has `depth * PANEL` elements.
    #[target_feature(enable = "avx512f")]
    unsafe fn tile<const M: usize, const N: usize, const ROW: usize, const STEP: usize>(of: &Tile<'_>) {
        let columns = (1_u64 << of.n_columns) - 1;
        let masks: [__mmask16; N] = std::array::from_fn(|part| (columns >> (part * LANES)) as u16);
        // Masked accesses touch the first `n_columns` elements of a row alone; an address beyond them may be out of bounds.
        let at = |row: usize, part: usize| of.out.wrapping_add(row * of.out_stride + part * LANES);
        // The output arrives while the sum is computed.
        for row in 0..M {
            for part in 0..N {
                _mm_prefetch::<_MM_HINT_T0>(at(row, part).cast());
            }
        }
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        let (mut left, mut right) = (of.strip.data.as_ptr(), of.right.as_ptr());
        // SAFETY: by the contract.
        unsafe {
            for _ in 0..of.strip.depth {
                let columns: [__m512; N] = std::array::from_fn(|part| _mm512_loadu_ps(right.add(part * LANES)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let left = _mm512_set1_ps(*left.add(row * ROW));
                    for (sum, &right) in sums.iter_mut().zip(&columns) {
                        *sum = _mm512_fmadd_ps(left, right, *sum);
                    }
                }
                left = left.wrapping_add(STEP);
                right = right.add(PANEL);
            }
            for (row, sums) in sums.iter().enumerate() {
                for (part, (&sum, &mask)) in sums.iter().zip(&masks).enumerate() {
                    let to = at(row, part);
                    let sum = match of.output {
                        Output::Set => sum,
                        Output::Add => _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to)),
                    };
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }
}
