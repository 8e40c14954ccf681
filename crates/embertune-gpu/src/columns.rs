//! Some columns of a matrix, and their gradient.

use std::ops::Range;

use burn_cubecl::CubeRuntime;

use crate::Gpu;
use crate::tensors::{Buffer, flat, matrix};

/// `y = x[:, columns]`.
pub(crate) fn columns_forward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    x: &Buffer<R>,
    width: usize,
    columns: Range<usize>,
) -> Buffer<R> {
    let n = rows(x, width, &columns);
    if n * columns.len() == 0 {
        return gpu.empty(0);
    }
    flat(matrix(x, width).slice([0..n, columns]))
}

/// `d_x[:, columns] += d_y`.
pub(crate) fn columns_backward<R: CubeRuntime>(
    _: &Gpu<R>,
    d_y: &Buffer<R>,
    width: usize,
    columns: Range<usize>,
    d_x: &mut Buffer<R>,
) {
    let n = rows(d_x, width, &columns);
    assert_eq!(d_y.dims(), [n * columns.len()], "d_y of columns {columns:?} of {width}");
    if n * columns.len() == 0 {
        return;
    }
    // y[t, c] = x[t, columns.start + c]
    let sum = matrix(d_x, width).slice([0..n, columns.clone()]).add(matrix(d_y, columns.len()));
    d_x.inplace(|d_x| flat(d_x.reshape([n, width]).slice_assign([0..n, columns], sum)));
}

fn rows<R: CubeRuntime>(x: &Buffer<R>, width: usize, columns: &Range<usize>) -> usize {
    let [len] = x.dims();
    assert!(
        columns.end <= width && len.is_multiple_of(width),
        "columns {columns:?} of {len} numbers in rows of {width}"
    );
    len / width
}
