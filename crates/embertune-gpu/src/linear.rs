//! Linear layers on flat tokens: `y = x w^T + bias`.

use burn_cubecl::CubeRuntime;
use embertune_kernels::ops::{LinearGrads, Weight};

use crate::Gpu;
use crate::products::product;
use crate::tensors::{Buffer, Matrix, flat, matrix};

/// `x`: `[n, cols]`, `w`: `[rows, cols]`, `bias`: `[rows]`, `y`: `[n, rows]`.
pub(crate) fn linear_forward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    x: &Buffer<R>,
    w: Weight<'_, Gpu<R>>,
    bias: Option<&Buffer<R>>,
) -> Buffer<R> {
    if x.dims() == [0] {
        return gpu.empty(0);
    }
    let y = product(gpu.factor(matrix(x, w.cols)), factor(w).transpose());
    gpu.note_buffers();
    flat(match bias {
        Some(bias) => y.add(matrix(bias, w.rows)),
        None => y,
    })
}

/// Returns `d_x`: `[n, cols]`; adds to `d_weight`: `[rows, cols]` and `d_bias`: `[rows]`.
pub(crate) fn linear_backward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    d_y: &Buffer<R>,
    x: &Buffer<R>,
    w: Weight<'_, Gpu<R>>,
    grads: Option<LinearGrads<'_, Buffer<R>>>,
) -> Buffer<R> {
    assert_eq!(d_y.dims()[0] * w.cols, x.dims()[0] * w.rows, "d_y of {} outputs, x of {} inputs", w.rows, w.cols);
    if x.dims() == [0] {
        return gpu.empty(0);
    }
    // y = x w^T + bias
    let d_y = matrix(d_y, w.rows);
    let d_y_factor = gpu.factor(d_y.clone());
    let d_x = flat(product(d_y_factor.clone(), factor(w)));
    if let Some(LinearGrads { d_weight, d_bias }) = grads {
        let sum = flat(product(d_y_factor.transpose(), gpu.factor(matrix(x, w.cols))));
        gpu.note_buffers();
        d_weight.inplace(|d_weight| d_weight.add(sum));
        if let Some(d_bias) = d_bias {
            let sum = flat(d_y.sum_dim(0));
            d_bias.inplace(|d_bias| d_bias.add(sum));
        }
    }
    d_x
}

/// The weight as products multiply it.
fn factor<R: CubeRuntime>(w: Weight<'_, Gpu<R>>) -> Matrix<R> {
    matrix(w.packed.as_ref().unwrap_or(w.master), w.cols)
}
