//! Matrix products in `f32` through `gemm-f32`, the part of crate `gemm` for this type: the others would be compiled for nothing.
//!
//! Work is split over blocks of the output whose sizes depend on the shapes alone, never over the sum: results are
//! bitwise equal for any number of threads.

use std::ops::Range;

use gemm_common::Parallelism;
use gemm_f32::gemm::f32::get_gemm_fn;
use rayon::prelude::*;

/// A matrix in memory: element `(row, col)` is `data[row * row_stride + col * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// A matrix `[rows, cols]` whose rows begin `row_stride` elements apart.
    pub(crate) fn rows(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        View { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transposed matrix.
    pub(crate) fn transposed(self) -> Self {
        View { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn n_cols(&self) -> usize {
        self.cols
    }

    /// Whether each row lies in one piece. If not, each column does.
    pub(crate) fn has_whole_rows(&self) -> bool {
        self.col_stride == 1
    }

    /// Some columns of a row that lies in one piece.
    #[inline]
    pub(crate) fn row(&self, row: usize, cols: Range<usize>) -> &'a [f32] {
        debug_assert!(self.has_whole_rows() && row < self.rows && cols.end <= self.cols, "row {row}, columns {cols:?}");
        &self.data[row * self.row_stride..][cols]
    }

    /// Some rows and columns.
    fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        let start = rows.start * self.row_stride + cols.start * self.col_stride;
        View { data: &self.data[start.min(self.data.len())..], rows: rows.len(), cols: cols.len(), ..self }
    }

    /// Number of elements from the first to behind the last.
    fn span(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            return 0;
        }
        (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1
    }
}

/// Rows of `a` from which on `a b^T` is faster with `b` transposed first: `gemm` packs a transposed right side slowly, and
/// once per task.
const WORTH_TRANSPOSING: usize = 16;

/// What a product does to its output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Replaces what is there.
    Set,
    /// Adds to it.
    Add,
}

/// `out = a b`, or `out += a b`, on this thread. `out`: rows of `b.cols` elements, `out_stride` apart.
pub(crate) fn product(out: &mut [f32], out_stride: usize, output: Output, a: View<'_>, b: View<'_>) {
    let span = View::rows(out, a.rows, b.cols, out_stride).span();
    assert!(span <= out.len(), "the output of a product leaves its slice: {span} > {}", out.len());
    assert!(out_stride >= b.cols || a.rows <= 1, "rows of the output overlap: {out_stride} < {}", b.cols);
    // SAFETY: `out` is borrowed uniquely and holds all rows by the assertions.
    unsafe { product_at(out.as_mut_ptr(), out_stride, output, a, b) }
}

/// [`product`] with its output at a pointer.
///
/// # Safety
/// The output, `a.rows` rows of `b.cols` elements that begin `out_stride >= b.cols` elements apart, is valid for reads and
/// writes, and nobody else reads or writes it meanwhile.
unsafe fn product_at(out: *mut f32, out_stride: usize, output: Output, a: View<'_>, b: View<'_>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(b.rows, k, "inner sizes of a product");
    assert!(a.span() <= a.data.len() && b.span() <= b.data.len(), "[{m}, {k}] x [{k}, {n}] leaves its slices");
    if m == 0 || n == 0 {
        return;
    }
    let alpha = match output {
        Output::Set => 0.0,
        Output::Add => 1.0,
    };
    // Its micro-kernels want an output whose columns lie in one piece, so this is `out^T = b^T a^T`.
    // SAFETY: `a` and `b` are within their slices (asserted above), the output is ours alone by the contract; strides of
    // slices fit an isize.
    unsafe {
        get_gemm_fn()(
            n,
            m,
            k,
            out,
            out_stride as isize,
            1,
            output == Output::Add,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            alpha,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Rows and columns of the output that are one task of a product `[m, n]`.
///
/// A task packs its part of both factors, so each element that it packs should be used in a few hundred sums; and there
/// should be enough tasks for a few threads. Chosen on a 2-core Zen 4, 2026-11-23, with `benches/linear.rs`.
fn block_size(m: usize, n: usize) -> (usize, usize) {
    const N_TASKS: usize = 16;
    const MIN_AREA: usize = 96 * 192;
    const MIN_ROWS: usize = 192;
    // The micro-kernel of `gemm` for AVX-512 makes 6 x 64 elements; others divide the 64.
    const ROWS: usize = 6;
    const COLS: usize = 64;
    let area = (m * n / N_TASKS).max(MIN_AREA);
    let rows = (area / n).max(MIN_ROWS).min(m).next_multiple_of(ROWS);
    let cols = (area / rows).clamp(COLS, n.max(COLS)).next_multiple_of(COLS);
    (rows, cols)
}

/// `out (+)= a b` in parallel over blocks of the output. `finish(first_col, part_of_row)` is called for each row of a
/// finished block while it is in the cache.
pub(crate) fn parallel_product(
    out: &mut [f32],
    output: Output,
    a: View<'_>,
    b: View<'_>,
    finish: impl Fn(usize, &mut [f32]) + Sync,
) {
    let (m, n) = (a.rows, b.cols);
    assert_eq!(out.len(), m * n, "output of a product [{m}, {n}]");
    if out.is_empty() {
        return;
    }
    let (rows, cols) = block_size(m, n);
    let blocks_per_row = n.div_ceil(cols);
    let target = Target::new(out);
    (0..m.div_ceil(rows) * blocks_per_row).into_par_iter().for_each(|i| {
        let (row, col) = (i / blocks_per_row * rows, i % blocks_per_row * cols);
        let (n_rows, n_cols) = (rows.min(m - row), cols.min(n - col));
        let a = a.part(row..row + n_rows, 0..a.cols);
        let b = b.part(0..b.rows, col..col + n_cols);
        // SAFETY: the block `[row.., col..]` lies within the `m * n` elements of `out`, whose rows are `n` apart; blocks of
        // different tasks do not overlap, and `out` is borrowed uniquely until all tasks are done.
        unsafe {
            let block = target.at(row * n + col);
            product_at(block, n, output, a, b);
            for row in 0..n_rows {
                finish(col, std::slice::from_raw_parts_mut(block.wrapping_add(row * n), n_cols));
            }
        }
    });
}

/// The output of a product, for all its tasks.
#[derive(Clone, Copy)]
pub(crate) struct Target(*mut f32);

// SAFETY: a pointer alone does nothing; those who use it see to it that tasks write disjoint elements.
unsafe impl Sync for Target {}

impl Target {
    pub(crate) fn new(out: &mut [f32]) -> Self {
        Target(out.as_mut_ptr())
    }

    /// The address of an element. A method, so that closures capture the `Sync` struct and not its field.
    pub(crate) fn at(&self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}

/// `out[c, r] = a[r, c]`, in parallel. `a`: `[rows, cols]`.
pub(crate) fn transpose(out: &mut [f32], a: &[f32], rows: usize, cols: usize) {
    /// Squares of 16 x 16 elements touch whole cache lines on both sides.
    const SQUARE: usize = 16;
    assert_eq!((out.len(), a.len()), (rows * cols, rows * cols), "sizes of a transpose [{rows}, {cols}]");
    if out.is_empty() {
        return;
    }
    out.par_chunks_mut(SQUARE * rows).enumerate().for_each(|(i, out)| {
        let first_col = i * SQUARE;
        for first_row in (0..rows).step_by(SQUARE) {
            for (col, out) in (first_col..).zip(out.chunks_exact_mut(rows)) {
                for (row, out) in (first_row..).zip(&mut out[first_row..rows.min(first_row + SQUARE)]) {
                    *out = a[row * cols + col];
                }
            }
        }
    });
}

/// `out[m, n] = a[m, k] b[n, k]^T`, in parallel in the current rayon pool.
///
/// # Panics
/// Where a slice is not as long as its shape says.
pub fn matmul_nt(out: &mut [f32], a: &[f32], b: &[f32], m: usize, n: usize, k: usize) {
    check(out, a, b, m, n, k);
    let a = View::rows(a, m, k, k);
    if m < WORTH_TRANSPOSING {
        parallel_product(out, Output::Set, a, View::rows(b, n, k, k).transposed(), |_, _| ());
    } else {
        let mut b_transposed = vec![0.0; b.len()];
        transpose(&mut b_transposed, b, n, k);
        parallel_product(out, Output::Set, a, View::rows(&b_transposed, k, n, n), |_, _| ());
    }
}

/// `out[m, n] = a[m, k] b[k, n]`, in parallel in the current rayon pool.
///
/// # Panics
/// Where a slice is not as long as its shape says.
pub fn matmul_nn(out: &mut [f32], a: &[f32], b: &[f32], m: usize, n: usize, k: usize) {
    check(out, a, b, m, n, k);
    parallel_product(out, Output::Set, View::rows(a, m, k, k), View::rows(b, k, n, n), |_, _| ());
}

/// `out[m, n] = a[k, m]^T b[k, n]`, in parallel in the current rayon pool.
///
/// # Panics
/// Where a slice is not as long as its shape says.
pub fn matmul_tn(out: &mut [f32], a: &[f32], b: &[f32], m: usize, n: usize, k: usize) {
    check(out, a, b, m, n, k);
    parallel_product(out, Output::Set, View::rows(a, k, m, m).transposed(), View::rows(b, k, n, n), |_, _| ());
}

fn check(out: &[f32], a: &[f32], b: &[f32], m: usize, n: usize, k: usize) {
    assert_eq!((out.len(), a.len(), b.len()), (m * n, m * k, k * n), "sizes of a product m {m}, n {n}, k {k}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, seeded};

    /// Sums of up to 200 products of numbers below 1.
    const TOLERANCE: f64 = 1e-5;

    #[test]
    fn products_agree_with_plain_loops() {
        for m in [0, 1, 7, 16, 200, 500] {
            for n in [0, 1, 5, 48, 401] {
                for k in [0, 1, 33, 200] {
                    let (a, b) = (seeded(m * k, 1), seeded(k * n, 2));
                    let mut expected = vec![0.0_f64; m * n];
                    for (i, e) in expected.iter_mut().enumerate() {
                        *e = (0..k).map(|j| f64::from(a[i / n * k + j]) * f64::from(b[j * n + i % n])).sum();
                    }
                    let (mut a_t, mut b_t) = (vec![0.0; a.len()], vec![0.0; b.len()]);
                    transpose(&mut a_t, &a, m, k);
                    transpose(&mut b_t, &b, k, n);
                    let mut out = vec![f32::NAN; m * n];
                    matmul_nn(&mut out, &a, &b, m, n, k);
                    assert_close(&out, &expected, TOLERANCE, TOLERANCE);
                    out.fill(f32::NAN);
                    matmul_nt(&mut out, &a, &b_t, m, n, k);
                    assert_close(&out, &expected, TOLERANCE, TOLERANCE);
                    out.fill(f32::NAN);
                    matmul_tn(&mut out, &a_t, &b, m, n, k);
                    assert_close(&out, &expected, TOLERANCE, TOLERANCE);
                }
            }
        }
    }

    #[test]
    fn blocks_cover_narrow_and_wide_outputs() {
        for (m, n) in [(1, 1), (1, 100_000), (100_000, 1), (4000, 384), (384, 1536), (30, 50)] {
            let (rows, cols) = block_size(m, n);
            assert!(rows >= 1 && cols >= 1 && rows < m + 6 && cols < n + 64, "{m} x {n}: {rows} x {cols}");
        }
    }
}
