//! Matrix products in `f32` on CPUs with AVX-512, by tiles of our own.
//!
//! Row by row of tiles: [`TILE`](tile::TILE) rows of the left side are copied to L1 as a [`Strip`], and the panels of the right side, half of L2 together, stream
//! past them. The order of a sum's terms depends on its length alone: neither the number of threads nor the other rows
//! change a bit of a row, however a product is cut, so it may be cut as suits the threads that there are.

mod panels;
mod tile;
pub(crate) mod transpose;

use std::ops::Range;

use rayon::prelude::*;

pub(crate) use panels::Panels;
pub(crate) use tile::Tiles;

use crate::cpu::buffer::Pool;
use crate::cpu::matmul::{Output, Target, View};
use panels::pack;
use tile::{DEPTH, PANEL, Strip, TILE, Tile};

/// Panels of the output in one task. So many of [`DEPTH`] steps are 576 KiB: half of the L2 of the CPUs that have AVX-512.
const BLOCK_PANELS: usize = 8;
/// Tasks for each thread: more would wait less for the last one, and pack more.
const TASKS_PER_THREAD: usize = 2;

/// The right side of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Packed before, for many products.
    Panels(&'a Panels),
    /// Packed by each task as it needs it.
    Matrix(View<'a>),
}

impl Right<'_> {
    /// `[k, n]`.
    fn shape(&self) -> (usize, usize) {
        match self {
            Right::Panels(panels) => (panels.k, panels.n),
            Right::Matrix(matrix) => (matrix.n_rows(), matrix.n_cols()),
        }
    }

    /// The smallest block of the output that is worth a task. Where a task packs, its part of both sides has to be used a few hundred times.
    fn min_block(&self) -> usize {
        match self {
            Right::Panels(_) => 2 * TILE * BLOCK_PANELS * PANEL,
            Right::Matrix(_) => 192 * 192,
        }
    }
}

/// `out (+)= left right`, `[m, k]` times `[k, n]`, in parallel. `finish(first column, part of a row)` is called once for each finished part while
/// it is in the cache.
pub(crate) fn parallel_product(
    tiles: Tiles,
    pool: &Pool,
    out: &mut [f32],
    output: Output,
    left: View<'_>,
    right: Right<'_>,
    finish: impl Fn(usize, &mut [f32]) + Sync,
) {
    let (m, (k, n)) = (left.n_rows(), right.shape());
    assert_eq!(left.n_cols(), k, "inner sizes of a product");
    assert_eq!(out.len(), m * n, "output of a product [{m}, {n}]");
    if out.is_empty() {
        return;
    }
    let n_panels = n.div_ceil(PANEL);
    let (rows, panels) = block_size(m, n_panels, TASKS_PER_THREAD * rayon::current_num_threads(), right.min_block());
    let n_row_blocks = m.div_ceil(rows);
    let product = Product { tiles, pool, out: Target::new(out), out_stride: n, n, output, left, right, k };
    // One block of panels after the other, so that it stays in a core's L2.
    (0..n_row_blocks * n_panels.div_ceil(panels)).into_par_iter().for_each(|task| {
        let (row, panel) = (task % n_row_blocks * rows, task / n_row_blocks * panels);
        product.block(row..m.min(row + rows), panel..n_panels.min(panel + panels), &finish);
    });
}

/// `out = left right`, or `out += left right`, on this thread. `out`: rows of `n` elements, `out_stride` apart.
#[allow(clippy::too_many_arguments)]
pub(crate) fn product(
    tiles: Tiles,
    pool: &Pool,
    out: &mut [f32],
    out_stride: usize,
    output: Output,
    left: View<'_>,
    right: View<'_>,
) {
    let (m, k, n) = (left.n_rows(), left.n_cols(), right.n_cols());
    assert_eq!(right.n_rows(), k, "inner sizes of a product");
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= out_stride && (m - 1) * out_stride + n <= out.len(), "[{m}, {n}] leaves its slice of {}", out.len());
    let (out, right) = (Target::new(out), Right::Matrix(right));
    let product = Product { tiles, pool, out, out_stride, n, output, left, right, k };
    let n_panels = n.div_ceil(PANEL);
    for first in (0..n_panels).step_by(BLOCK_PANELS) {
        product.block(0..m, first..n_panels.min(first + BLOCK_PANELS), &|_, _| ());
    }
}

/// Rows and panels of a task: the largest block of which there are `n_tasks`, not below `min_size` elements.
fn block_size(m: usize, n_panels: usize, n_tasks: usize, min_size: usize) -> (usize, usize) {
    let (mut rows, mut panels) = (m.next_multiple_of(TILE), n_panels.min(BLOCK_PANELS));
    while m.div_ceil(rows) * n_panels.div_ceil(panels) < n_tasks && rows * panels * PANEL >= 2 * min_size {
        // The longer side, so that a task reads little.
        if panels > 1 && panels * PANEL > rows {
            panels = panels.div_ceil(2);
        } else {
            rows = (rows / 2).next_multiple_of(TILE);
        }
    }
    (rows, panels)
}

/// What the tasks of a product share.
struct Product<'a> {
    tiles: Tiles,
    pool: &'a Pool,
    /// Rows of `n` elements, `out_stride` apart.
    out: Target,
    out_stride: usize,
    n: usize,
    output: Output,
    left: View<'a>,
    right: Right<'a>,
    k: usize,
}

impl Product<'_> {
    /// Computes a block of the output, which no other task touches.
    fn block(&self, rows: Range<usize>, panels: Range<usize>, finish: &impl Fn(usize, &mut [f32])) {
        let columns = panels.start * PANEL..self.n.min(panels.end * PANEL);
        let mut packed = match self.right {
            Right::Panels(_) => None,
            Right::Matrix(_) => Some(self.pool.take(panels.len() * PANEL * DEPTH.min(self.k))),
        };
        let mut strip = Strip::new();
        // Once at least, so that an empty sum is written, too.
        for first in (0..self.k.max(1)).step_by(DEPTH) {
            let steps = first..self.k.min(first + DEPTH);
            let output = if first == 0 { self.output } else { Output::Add };
            if let (Right::Matrix(matrix), Some(packed)) = (self.right, &mut packed) {
                let len = panels.len() * PANEL * steps.len();
                pack(self.tiles, &mut packed[..len], matrix, steps.clone(), panels.clone());
            }
            for row in rows.clone().step_by(TILE) {
                strip.load(self.left, row..rows.end.min(row + TILE), steps.clone());
                for panel in panels.clone() {
                    let right = match (self.right, &packed) {
                        (Right::Panels(right), _) => right.part(panel, steps.clone()),
                        (Right::Matrix(_), packed) => {
                            let len = PANEL * steps.len();
                            &packed.as_deref().unwrap_or_default()[(panel - panels.start) * len..][..len]
                        }
                    };
                    let column = panel * PANEL;
                    let tile = Tile {
                        strip: &strip,
                        right,
                        n_columns: PANEL.min(self.n - column),
                        output,
                        out: self.out.at(row * self.out_stride + column),
                        out_stride: self.out_stride,
                    };
                    // SAFETY: the tile is within `out` (rows end at `m`, columns at `n`), whose size the caller has
                    // checked and which it has borrowed uniquely, and within the block of this task, which no other task touches.
                    unsafe { self.tiles.tile(&tile) };
                }
                if steps.end == self.k {
                    for row in row..row + strip.n_rows() {
                        // SAFETY: as above, and the slices of different rows do not overlap.
                        let part = unsafe {
                            std::slice::from_raw_parts_mut(
                                self.out.at(row * self.out_stride + columns.start),
                                columns.len(),
                            )
                        };
                        finish(columns.start, part);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Detected;
    use crate::testing::{assert_close, seeded};

    /// Sums of f32 against f64, relative to the number of terms, which are below 1.
    const TOLERANCE: f64 = 2e-7;

    fn transposed(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
    }

    /// `before + left right`, by every way that a product takes its two sides.
    fn check(tiles: Tiles, m: usize, n: usize, k: usize) {
        let (a, b, before) = (seeded(m * k, 1), seeded(k * n, 2), seeded(m * n, 3));
        let (a_t, b_t) = (transposed(&a, m, k), transposed(&b, k, n));
        let expected: Vec<f64> = (0..m * n)
            .map(|i| (0..k).map(|p| f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n])).sum::<f64>())
            .collect();
        let pool = Pool::default();
        let lefts = [View::rows(&a, m, k, k), View::rows(&a_t, k, m, m).transposed()];
        let rights = [View::rows(&b, k, n, n), View::rows(&b_t, n, k, k).transposed()];
        let tolerance = TOLERANCE * (k + 1) as f64;
        for left in lefts {
            for matrix in rights {
                // Rows that others lie between.
                let stride = n + 3;
                let mut out = vec![f32::NAN; m * stride];
                product(tiles, &pool, &mut out, stride, Output::Set, left, matrix);
                let rows: Vec<f32> = out.chunks(stride).flat_map(|row| row[..n].to_vec()).collect();
                assert_close(&rows, &expected, tolerance, 0.0);
                assert!(out.chunks(stride).all(|row| row[n..].iter().all(|x| x.is_nan())));
                let panels = Panels::pack(tiles, &pool, matrix);
                for right in [Right::Matrix(matrix), Right::Panels(&panels)] {
                    let mut out = before.clone();
                    parallel_product(tiles, &pool, &mut out, Output::Set, left, right, |_, _| ());
                    assert_close(&out, &expected, tolerance, 0.0);
                    out.copy_from_slice(&before);
                    parallel_product(tiles, &pool, &mut out, Output::Add, left, right, |first, part| {
                        part.iter_mut().zip(first..).for_each(|(x, column)| *x += column as f32);
                    });
                    let expected: Vec<f64> = (expected.iter().zip(&before).enumerate())
                        .map(|(i, (product, &before))| product + f64::from(before) + (i % n) as f64)
                        .collect();
                    assert_close(&out, &expected, tolerance, 1e-7);
                }
            }
        }
    }

    #[test]
    fn products_are_those_of_plain_loops() {
        let Some(tiles) = Tiles::new(Detected::widest()) else {
            return eprintln!("SKIPPED: avx512 is not on this machine");
        };
        for m in [1, 7, 8, 9, 200] {
            for n in [1, 47, 48, 49, 500] {
                for k in [0, 1, 33, 385] {
                    check(tiles, m, n, k);
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it_nor_on_the_number_of_threads() {
        let Some(tiles) = Tiles::new(Detected::widest()) else {
            return eprintln!("SKIPPED: avx512 is not on this machine");
        };
        let (m, n, k) = (403, 500, 400);
        let (a, b) = (seeded(m * k, 1), seeded(k * n, 2));
        let run = |threads, rows: Range<usize>| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
            pool.install(|| {
                let mut out = vec![0.0; rows.len() * n];
                let left = View::rows(&a[rows.start * k..], rows.len(), k, k);
                let right = Right::Matrix(View::rows(&b, k, n, n));
                parallel_product(tiles, &Pool::default(), &mut out, Output::Set, left, right, |_, _| ());
                out
            })
        };
        let all = run(1, 0..m);
        assert!([2, 4, 16].into_iter().all(|threads| run(threads, 0..m) == all));
        assert!([0..1, 5..6, 3..403].into_iter().all(|rows| run(2, rows.clone()) == all[rows.start * n..rows.end * n]));
    }

    #[test]
    fn blocks_are_enough_for_the_threads_and_worth_a_task() {
        for (m, n_panels, n_tasks) in [(2048, 8, 4), (2048, 32, 8), (384, 8, 4), (8, 1, 64), (1, 64, 8), (5000, 16, 64)]
        {
            let (rows, panels) = block_size(m, n_panels, n_tasks, 192 * 192);
            let blocks = m.div_ceil(rows) * n_panels.div_ceil(panels);
            assert!(rows.is_multiple_of(TILE) && panels <= BLOCK_PANELS, "{m} x {n_panels}: {rows} x {panels}");
            assert!(blocks >= n_tasks || rows * panels * PANEL < 2 * 192 * 192, "{m} x {n_panels}: {rows} x {panels}");
        }
    }
}
