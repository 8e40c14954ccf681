//! One step of Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), as `transformers.Adafactor` with `scale_parameter` and
//! `relative_step` off and without a first moment.

use burn_cubecl::CubeRuntime;
use burn_tensor::Tensor;
use embertune_kernels::ops::AdafactorStep;

use crate::Gpu;
use crate::tensors::{Backend, Buffer, flat};

/// Changes the weights `w` and their second moments by the gradient `g`; see
/// [`Ops::adafactor_step`](embertune_kernels::Ops::adafactor_step).
pub(crate) fn adafactor_step<R: CubeRuntime>(
    _: &Gpu<R>,
    w: &mut Buffer<R>,
    g: &Buffer<R>,
    rows: &mut Buffer<R>,
    columns: &mut Buffer<R>,
    step: AdafactorStep,
) {
    let AdafactorStep { parts, .. } = step;
    let [len] = w.dims();
    if len == 0 {
        return;
    }
    // A vector is a matrix of one column, of which the rows' moments say everything.
    let (n_rows, n_columns) = step.matrix.unwrap_or((len / parts, 1));
    let n_column_moments = if step.matrix.is_some() { n_columns } else { 0 };
    assert_eq!(
        (g.dims(), rows.dims(), columns.dims()),
        ([len], [parts * n_rows], [parts * n_column_moments]),
        "g, rows, columns"
    );
    let shape = [parts, n_rows, n_columns];
    let follow = |moment: &Buffer<R>, value: Tensor<Backend<R>, 3>| {
        let moment = moment.clone().reshape(value.dims());
        moment.mul_scalar(step.beta2 as f32).add(value.mul_scalar((1.0 - step.beta2) as f32))
    };
    let g = g.clone().reshape(shape).mul_scalar(step.grad_scale);
    let square = g.clone().mul(g.clone()).add_scalar(step.eps);
    let row_moments = follow(rows, square.clone().mean_dim(2));
    let update = match step.matrix {
        None => g.div(row_moments.clone().sqrt()),
        Some(_) => {
            let column_moments = follow(columns, square.mean_dim(1));
            let of_rows = row_moments.clone().div(row_moments.clone().mean_dim(1)).sqrt();
            let update = g.div(of_rows).div(column_moments.clone().sqrt());
            *columns = flat(column_moments);
            update
        }
    };
    *rows = flat(row_moments);
    let mean_square = update.clone().mul(update.clone()).reshape([parts, n_rows * n_columns, 1]).mean_dim(1);
    let clip = mean_square.sqrt().div_scalar(step.clip_threshold).clamp_min(1.0);
    let update = flat(update.mul_scalar(step.lr).div(clip));
    w.inplace(|w| w.mul_scalar(1.0 - step.lr * step.weight_decay).sub(update));
}
