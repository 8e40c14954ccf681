//! Scaling each row to length 1.

use burn_cubecl::CubeRuntime;

use crate::Gpu;
use crate::tensors::{Buffer, Matrix, flat, matrix};

/// Rows shorter than this are divided by this, as `torch.nn.functional.normalize` does, so that zero stays zero.
const MIN_LENGTH: f32 = 1e-12;

/// `y = x / max(|x|, 1e-12)`; `x`, `y`: `[n, width]`.
pub(crate) fn normalize_forward<R: CubeRuntime>(gpu: &Gpu<R>, x: &Buffer<R>, width: usize) -> Buffer<R> {
    if x.dims() == [0] {
        return gpu.empty(0);
    }
    let x = matrix(x, width);
    flat(x.clone().div(lengths(x).clamp_min(MIN_LENGTH)))
}

/// `d_x = (d_y - y (y . d_y)) / |x|`; `d_y`, `x`, `d_x`: `[n, width]`.
pub(crate) fn normalize_backward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    d_y: &Buffer<R>,
    x: &Buffer<R>,
    width: usize,
) -> Buffer<R> {
    assert_eq!(d_y.dims(), x.dims(), "lengths of d_y and x");
    if x.dims() == [0] {
        return gpu.empty(0);
    }
    let (d_y, x) = (matrix(d_y, width), matrix(x, width));
    let lengths = lengths(x.clone());
    let divisors = lengths.clone().clamp_min(MIN_LENGTH);
    // y = x / |x|: what is parallel to x only changes the length, which the division takes out; but y = x / 1e-12 keeps it.
    let y = x.div(divisors.clone());
    let along = y.clone().mul(d_y.clone()).sum_dim(1).mask_fill(lengths.lower_elem(MIN_LENGTH), 0.0);
    flat(d_y.sub(y.mul(along)).div(divisors))
}

/// `[n, 1]`.
fn lengths<R: CubeRuntime>(x: Matrix<R>) -> Matrix<R> {
    x.clone().mul(x).sum_dim(1).sqrt()
}
