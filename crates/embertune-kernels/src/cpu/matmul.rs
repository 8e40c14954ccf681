//! Matrix products in `f32` through crate `gemm`.
//!
//! Work is split over blocks of the output whose sizes depend on the shapes alone, never over the sum: results are
//! bitwise equal for any number of threads.

use gemm::Parallelism;
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

    /// Number of elements from the first to behind the last.
    fn span(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            return 0;
        }
        (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1
    }
}

/// What a product does to its output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Replaces what is there.
    Set,
    /// Adds to it.
    Add,
}

/// `out = factor * a b`, or `out += factor * a b`, on this thread. `out`: rows of `b.cols` elements, `out_stride` apart.
pub(crate) fn product(out: &mut [f32], out_stride: usize, output: Output, factor: f32, a: View<'_>, b: View<'_>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(b.rows, k, "inner sizes of a product");
    let out_view = View::rows(out, m, n, out_stride);
    let spans = (out_view.span() <= out.len(), a.span() <= a.data.len(), b.span() <= b.data.len());
    assert_eq!(spans, (true, true, true), "a product of [{m}, {k}] and [{k}, {n}] leaves its slices");
    assert!(out_stride >= n || m <= 1, "rows of the output overlap: {out_stride} < {n}");
    if m == 0 || n == 0 {
        return;
    }
    let alpha = match output {
        Output::Set => 0.0,
        Output::Add => 1.0,
    };
    // SAFETY: every element that `gemm` reads or writes is within the three slices (the spans above), the output is
    // borrowed uniquely and its rows do not overlap; strides of a slice fit an isize.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            output == Output::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            alpha,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Rows of the output in one task of a product with output rows of `n` and sums of `k`.
fn block_rows(m: usize, n: usize, k: usize) -> usize {
    let _ = (n, k);
    // Each task packs the whole right side: more rows, less packing. At least 16 tasks keep many threads busy.
    m.div_ceil(16).next_multiple_of(48).clamp(48, 480)
}

/// `out (+)= a b` in parallel over blocks of output rows; `then(first_row, block)` finishes a block while it is in the cache.
pub(crate) fn product_by_rows(
    out: &mut [f32],
    output: Output,
    a: View<'_>,
    b: View<'_>,
    then: impl Fn(&mut [f32]) + Sync,
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(out.len(), m * n, "output of a product [{m}, {n}]");
    if out.is_empty() {
        return;
    }
    let rows = block_rows(m, n, k);
    out.par_chunks_mut(rows * n).enumerate().for_each(|(i, block)| {
        let first = i * rows;
        let a = View { data: &a.data[(first * a.row_stride).min(a.data.len())..], rows: block.len() / n, ..a };
        product(block, n, output, 1.0, a, b);
        then(block);
    });
}

/// `out[m, n] = a[m, k] b[n, k]^T`, in parallel in the current rayon pool.
///
/// # Panics
/// Where a slice is not as long as its shape says.
pub fn matmul_nt(out: &mut [f32], a: &[f32], b: &[f32], m: usize, n: usize, k: usize) {
    check(out, a, b, m, n, k);
    product_by_rows(out, Output::Set, View::rows(a, m, k, k), View::rows(b, n, k, k).transposed(), |_| ());
}

/// `out[m, n] = a[m, k] b[k, n]`, in parallel in the current rayon pool.
///
/// # Panics
/// Where a slice is not as long as its shape says.
pub fn matmul_nn(out: &mut [f32], a: &[f32], b: &[f32], m: usize, n: usize, k: usize) {
    check(out, a, b, m, n, k);
    product_by_rows(out, Output::Set, View::rows(a, m, k, k), View::rows(b, k, n, n), |_| ());
}

/// `out[m, n] = a[k, m]^T b[k, n]`, in parallel in the current rayon pool.
///
/// # Panics
/// Where a slice is not as long as its shape says.
pub fn matmul_tn(out: &mut [f32], a: &[f32], b: &[f32], m: usize, n: usize, k: usize) {
    check(out, a, b, m, n, k);
    product_by_rows(out, Output::Set, View::rows(a, k, m, m).transposed(), View::rows(b, k, n, n), |_| ());
}

fn check(out: &[f32], a: &[f32], b: &[f32], m: usize, n: usize, k: usize) {
    assert_eq!((out.len(), a.len(), b.len()), (m * n, m * k, k * n), "sizes of a product m {m}, n {n}, k {k}");
}
