//! Matrix products of bf16 inputs with f32 sums, on CPUs that multiply bf16 natively (AVX-512 BF16).
//!
//! Both sides are *pairs*: two bf16 that follow each other along the sum, in one `u32`, the first in the low half, as
//! `VDPBF16PS` takes them. The right side lies in panels of [`PANEL`] columns ([`pack`]), the left side in rows or, where the sum runs over
//! the rows of both sides, in panels of [`TILE`] rows. The output is cut into tiles that stay in registers ([`tile`]).
//!
//! Work is split over blocks of the output whose sizes are constants, so results do not depend on the number of threads.

pub(crate) mod pack;
pub(crate) mod tile;

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::buffer::{LINE, Pool};
use pack::{PANEL, Panels, Rows};
use tile::{MultiplyPairs, Start, TILE, Tile};

/// Rows of the output in one task: 8 tiles. With [`PAIRS`], the left side of a task is 96 x 256 pairs = 98 KB, which stays in L2. Twice as many took
/// 2 % more time on short texts, whose narrow products are few tasks.
pub(crate) const BLOCK_ROWS: usize = 8 * TILE;
/// Panels of the output in one task.
const BLOCK_PANELS: usize = 12;
/// Columns of the output in one task: whole panels of either kind.
pub(crate) const BLOCK_COLUMNS: usize = BLOCK_PANELS * PANEL;
/// Pairs of the sum that are added before the next part of the panel is read: a panel's part is 32 KB, the size of L1.
const PAIRS: usize = 256;

/// The left side of a product.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// `[m, k]`, row by row.
    Rows(&'a Rows),
    /// `[k, m]`, in panels of [`TILE`] columns: the product takes it transposed.
    Transposed(&'a Panels<TILE>),
}

impl Left<'_> {
    /// Rows of the output.
    fn n_rows(&self) -> usize {
        match self {
            Left::Rows(rows) => rows.rows,
            Left::Transposed(panels) => panels.columns,
        }
    }

    fn n_pairs(&self) -> usize {
        match self {
            Left::Rows(rows) => rows.pairs,
            Left::Transposed(panels) => panels.pairs,
        }
    }
}

/// `out (+)= left right`: `[m, k]` times `[k, n]`. Every row of `out` starts with `start` before the products are added.
pub(crate) fn product(how: MultiplyPairs, out: &mut [f32], start: Start<'_>, left: Left<'_>, right: &Panels<PANEL>) {
    let (m, n) = (left.n_rows(), right.columns);
    assert_eq!(out.len(), m * n, "output of a product [{m}, {n}]");
    let product = Product::new(how, start, left, right);
    let out = Output { start: out.as_mut_ptr(), columns: n };
    product.for_each_block(|rows, panels| {
        let at = out.at(rows.start, panels.start * PANEL);
        // SAFETY: the block is within `out` (rows end at `m`, columns at `n`), which is borrowed uniquely, and no other task writes it.
        unsafe { product.block(rows, panels, at, n) }
    });
}

/// The left side of a product on one thread: pair `p` of row `i` is at `i * row_stride + p * pair_stride`.
#[derive(Clone, Copy)]
pub(crate) struct LeftPairs<'a> {
    pub(crate) pairs: &'a [u32],
    pub(crate) row_stride: usize,
    pub(crate) pair_stride: usize,
}

/// `out (+)= left right` on this thread: `[m, 2 n_pairs]` times `[2 n_pairs, n]`, `right` in panels of [`PANEL`] columns.
///
/// # Safety
/// `m` rows of `n` elements at `out`, `out_stride` apart, are valid for reads and writes, and no other thread touches them during the call.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn product_on_thread(
    how: MultiplyPairs,
    out: *mut f32,
    out_stride: usize,
    start: Start<'_>,
    left: LeftPairs<'_>,
    right: &[u32],
    [m, n_pairs, n]: [usize; 3],
) {
    for (panel, right) in right[..n.div_ceil(PANEL) * n_pairs * PANEL].chunks_exact(n_pairs * PANEL).enumerate() {
        let column = panel * PANEL;
        for row in (0..m).step_by(TILE) {
            let tile = Tile {
                left: &left.pairs[row * left.row_stride..],
                row_stride: left.row_stride,
                pair_stride: left.pair_stride,
                right,
                next: &[],
                n_pairs,
                n_rows: TILE.min(m - row),
                n_columns: PANEL.min(n - column),
                start,
                out: out.wrapping_add(row * out_stride + column),
                out_stride,
            };
            // SAFETY: the tile is within the output, which is this thread's by the contract.
            unsafe { how.tile(&tile) };
        }
    }
}

/// A block of the output of a product.
pub(crate) struct Block<'a> {
    /// Not above [`BLOCK_ROWS`], of which the first is a multiple.
    pub(crate) rows: Range<usize>,
    /// Not above [`BLOCK_COLUMNS`], of which the first is a multiple.
    pub(crate) columns: Range<usize>,
    /// `[rows, columns]`.
    pub(crate) values: &'a mut [f32],
}

/// `left right`, every row of which starts with `start`, given to `finish` block by block, each while it is in L2, and kept nowhere.
pub(crate) fn product_by_blocks(
    how: MultiplyPairs,
    pool: &Pool,
    start: Start<'_>,
    left: Left<'_>,
    right: &Panels<PANEL>,
    finish: impl Fn(Block<'_>) + Sync,
) {
    assert!(!matches!(start, Start::Output), "a product by blocks has no output that it could add to");
    let product = Product::new(how, start, left, right);
    product.for_each_block(|rows, panels| {
        let columns = panels.start * PANEL..right.columns.min(panels.end * PANEL);
        let mut values = pool.take(rows.len() * columns.len());
        // SAFETY: `values` holds the block, and is this task's.
        unsafe { product.block(rows.clone(), panels, values.as_mut_ptr(), columns.len()) };
        finish(Block { rows, columns, values: &mut values });
    });
}

/// What the tasks of a product share.
struct Product<'a> {
    how: MultiplyPairs,
    start: Start<'a>,
    left: Left<'a>,
    right: &'a Panels<PANEL>,
}

impl<'a> Product<'a> {
    fn new(how: MultiplyPairs, start: Start<'a>, left: Left<'a>, right: &'a Panels<PANEL>) -> Self {
        assert_eq!(left.n_pairs(), right.pairs, "inner sizes of a product, in pairs");
        if let Start::Row(row) = start {
            assert_eq!(row.len(), right.columns, "the row that a product of {} columns starts with", right.columns);
        }
        Product { how, start, left, right }
    }

    /// Calls `work(rows, panels)` for every block of the output, in parallel.
    fn for_each_block(&self, work: impl Fn(Range<usize>, Range<usize>) + Sync) {
        let (m, n_panels) = (self.left.n_rows(), self.right.columns.div_ceil(PANEL));
        let (n_row_blocks, n_column_blocks) = (m.div_ceil(BLOCK_ROWS), n_panels.div_ceil(BLOCK_PANELS));
        (0..n_row_blocks * n_column_blocks).into_par_iter().for_each(|task| {
            let (row_block, column_block) = (task % n_row_blocks, task / n_row_blocks);
            let rows = row_block * BLOCK_ROWS..m.min((row_block + 1) * BLOCK_ROWS);
            work(rows, column_block * BLOCK_PANELS..n_panels.min((column_block + 1) * BLOCK_PANELS));
        });
    }

    /// Computes a block of the output to `out`, where rows are `stride` apart.
    ///
    /// # Safety
    /// The elements of the block at `out` are valid for reads and writes, and no other thread touches them during the call.
    unsafe fn block(&self, rows: Range<usize>, panels: Range<usize>, out: *mut f32, stride: usize) {
        let (n, n_pairs) = (self.right.columns, self.right.pairs);
        let out = Output { start: out, columns: stride };
        let first_column = panels.start * PANEL;
        // At least one part, so that an empty sum still writes what it starts with.
        for first in (0..n_pairs.max(1)).step_by(PAIRS) {
            let pairs = first..n_pairs.min(first + PAIRS);
            for panel in panels.clone() {
                // The first tiles of a panel bring the next one along.
                let next = if panel + 1 < panels.end { self.right.part(panel + 1, pairs.clone()) } else { &[] };
                let mut next = next.chunks(pairs.len().max(1) * LINE);
                for row in rows.clone().step_by(TILE) {
                    let columns = panel * PANEL..n.min((panel + 1) * PANEL);
                    let n_rows = TILE.min(rows.end - row);
                    let (left, row_stride, pair_stride) = match self.left {
                        Left::Rows(left) => (left.from(row, pairs.clone(), n_rows), left.pairs, 1),
                        Left::Transposed(left) => (left.part(row / TILE, pairs.clone()), 1, TILE),
                    };
                    let start = match self.start {
                        _ if first > 0 => Start::Output,
                        Start::Row(row) => Start::Row(&row[columns.clone()]),
                        other => other,
                    };
                    let tile = Tile {
                        left,
                        row_stride,
                        pair_stride,
                        right: self.right.part(panel, pairs.clone()),
                        next: next.next().unwrap_or_default(),
                        n_pairs: pairs.len(),
                        n_rows,
                        n_columns: columns.len(),
                        start,
                        out: out.at(row - rows.start, columns.start - first_column),
                        out_stride: stride,
                    };
                    // SAFETY: the tile is within the block, by the contract of this function.
                    unsafe { self.how.tile(&tile) };
                }
            }
        }
    }
}

/// Where tasks write: each its own tiles.
struct Output {
    start: *mut f32,
    columns: usize,
}

impl Output {
    /// The element of a row and a column that exist.
    fn at(&self, row: usize, column: usize) -> *mut f32 {
        self.start.wrapping_add(row * self.columns + column)
    }
}

// SAFETY: tasks of `product` write disjoint blocks of an output that `product` has borrowed uniquely.
unsafe impl Sync for Output {}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::cpu::buffer::Pool;
    use crate::cpu::isa::Detected;
    use crate::testing::{assert_close, seeded};

    /// Sums of f32 in another order, relative to the sum of the magnitudes.
    const TOLERANCE: f64 = 2e-6;

    fn rounded(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| f64::from(bf16::from_f32(x).to_f32())).collect()
    }

    /// Every way to multiply that this machine has.
    fn ways() -> Vec<MultiplyPairs> {
        [MultiplyPairs::native(), Some(MultiplyPairs::emulated())].into_iter().flatten().collect()
    }

    fn check(m: usize, n: usize, k: usize) {
        let (a, b) = (seeded(m * k, 1), seeded(k * n, 2));
        let (start, before) = (seeded(n, 3), seeded(m * n, 4));
        let (a64, b64) = (rounded(&a), rounded(&b));
        let expected = |first: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            (0..m * n)
                .map(|i| first(i / n, i % n) + (0..k).map(|p| a64[i / n * k + p] * b64[p * n + i % n]).sum::<f64>())
                .collect()
        };
        let transpose = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
            (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
        };
        let pool = Pool::default();
        let isa = Detected::widest();
        let tolerance = TOLERANCE * (k as f64).max(1.0);
        for how in ways() {
            for (right, left_is_rows) in [
                (Panels::pack_rows(isa, &pool, &b, n), true),
                (Panels::pack_columns(isa, &pool, &transpose(&b, k, n), k), true),
                (Panels::pack_rows(isa, &pool, &b, n), false),
            ] {
                let rows = Rows::pack(isa, &pool, &a, k);
                let transposed = Panels::pack_rows(isa, &pool, &transpose(&a, m, k), m);
                let left = if left_is_rows { Left::Rows(&rows) } else { Left::Transposed(&transposed) };
                let mut out = before.clone();
                product(how, &mut out, Start::Zero, left, &right);
                assert_close(&out, &expected(&|_, _| 0.0), tolerance, 0.0);
                product(how, &mut out, Start::Row(&start), left, &right);
                assert_close(&out, &expected(&|_, j| f64::from(start[j])), tolerance, 0.0);
                out.copy_from_slice(&before);
                product(how, &mut out, Start::Output, left, &right);
                assert_close(&out, &expected(&|i, j| f64::from(before[i * n + j])), tolerance, 0.0);
            }
        }
    }

    #[test]
    fn products_are_those_of_the_rounded_inputs() {
        for m in [1, 5, 12, 13, 200] {
            for n in [1, 16, 31, 32, 33, 48, 400] {
                for k in [1, 2, 3, 64, 515] {
                    check(m, n, k);
                }
            }
        }
    }

    #[test]
    fn number_of_threads_does_not_change_a_product() {
        let (m, n, k) = (400, 800, 600);
        let (a, b) = (seeded(m * k, 1), seeded(k * n, 2));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
            pool.install(|| {
                let (buffers, isa) = (Pool::default(), Detected::widest());
                let how = MultiplyPairs::native().unwrap_or(MultiplyPairs::emulated());
                let mut out = vec![0.0; m * n];
                let rows = Rows::pack(isa, &buffers, &a, k);
                product(how, &mut out, Start::Zero, Left::Rows(&rows), &Panels::pack_rows(isa, &buffers, &b, n));
                out
            })
        };
        let one = run(1);
        assert!([2, 4].into_iter().all(|threads| run(threads) == one));
    }
}
