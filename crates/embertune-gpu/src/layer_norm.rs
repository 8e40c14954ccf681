//! LayerNorm of a dropped-out input plus a residual. The formulas: `docs/math/layer_norm_backward.md`.

use burn_cubecl::CubeRuntime;
use cubecl::prelude::*;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::{Norm, NormSaved, Ragged};

use crate::Gpu;
use crate::dropout::dropped_and_added;
use crate::tensors::{Buffer, array, flat, matrix, written};

/// `s = dropout(x) + residual; y = (s - mean(s)) / sqrt(var(s) + eps) * gamma + beta`, row by row of `width = len(gamma)`.
pub(crate) fn layer_norm_forward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    x: &Buffer<R>,
    residual: Option<&Buffer<R>>,
    texts: Ragged<'_>,
    dropout: Option<Dropout>,
    norm: Norm<'_, Buffer<R>>,
) -> (Buffer<R>, NormSaved<Buffer<R>>) {
    let ([width], n_tokens) = (norm.gamma.dims(), texts.n_tokens());
    assert_eq!(norm.beta.dims(), [width], "beta of width {width}");
    let s = dropped_and_added(gpu, x, residual, texts, dropout, width);
    let (y, normed, rstd) = (gpu.empty(n_tokens * width), gpu.empty(n_tokens * width), gpu.empty(n_tokens));
    if n_tokens > 0 {
        // In two passes, as the mean may be far greater than what differs from it.
        let s = matrix(&s, width);
        let mean = s.clone().mean_dim(1);
        let centered = s.sub(mean);
        let var = centered.clone().mul(centered.clone()).mean_dim(1);
        let (count, dim) = gpu.grid(n_tokens * width);
        normalize_rows::launch::<R>(
            &gpu.client,
            count,
            dim,
            array(&centered),
            array(&var),
            array(norm.gamma),
            array(norm.beta),
            written(&y),
            written(&normed),
            written(&rstd),
            width,
            norm.eps,
        );
    }
    (y, NormSaved { normed, rstd })
}

/// `y` of the forward again.
pub(crate) fn layer_norm_output<R: CubeRuntime>(saved: &NormSaved<Buffer<R>>, norm: Norm<'_, Buffer<R>>) -> Buffer<R> {
    let [width] = norm.gamma.dims();
    if saved.normed.dims() == [0] {
        return saved.normed.clone();
    }
    flat(matrix(&saved.normed, width).mul(matrix(norm.gamma, width)).add(matrix(norm.beta, width)))
}

/// Returns `d_s`: `[n_tokens, width]`; adds to `d_gamma` and `d_beta`: `[width]`.
pub(crate) fn layer_norm_backward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    d_y: &Buffer<R>,
    saved: &NormSaved<Buffer<R>>,
    norm: Norm<'_, Buffer<R>>,
    d_gamma: &mut Buffer<R>,
    d_beta: &mut Buffer<R>,
) -> Buffer<R> {
    let ([width], [n_tokens]) = (norm.gamma.dims(), saved.rstd.dims());
    assert_eq!(d_y.dims(), [n_tokens * width], "d_y of {n_tokens} tokens of width {width}");
    let d_s = gpu.empty(n_tokens * width);
    if n_tokens == 0 {
        return d_s;
    }
    let (d_y, normed) = (matrix(d_y, width), matrix(&saved.normed, width));
    // y = normed * gamma + beta
    let d_normed = d_y.clone().mul(matrix(norm.gamma, width));
    let along = d_normed.clone().mul(normed.clone()).mean_dim(1);
    let mean = d_normed.clone().mean_dim(1);
    let (count, dim) = gpu.grid(n_tokens * width);
    input_gradient::launch::<R>(
        &gpu.client,
        count,
        dim,
        array(&d_normed),
        array(&saved.normed),
        array(&mean),
        array(&along),
        array(&saved.rstd),
        written(&d_s),
        width,
    );
    let sum_gamma = flat(d_y.clone().mul(normed).sum_dim(0));
    d_gamma.inplace(|d_gamma| d_gamma.add(sum_gamma));
    let sum_beta = flat(d_y.sum_dim(0));
    d_beta.inplace(|d_beta| d_beta.add(sum_beta));
    d_s
}

#[cube(launch)]
fn normalize_rows(
    centered: &Array<f32>,
    var: &Array<f32>,
    gamma: &Array<f32>,
    beta: &Array<f32>,
    y: &mut Array<f32>,
    normed: &mut Array<f32>,
    rstd: &mut Array<f32>,
    width: usize,
    eps: f32,
) {
    if ABSOLUTE_POS < y.len() {
        let token = ABSOLUTE_POS / width;
        let column = ABSOLUTE_POS % width;
        let scale = 1.0f32 / (var[token] + eps).sqrt();
        let value = centered[ABSOLUTE_POS] * scale;
        normed[ABSOLUTE_POS] = value;
        y[ABSOLUTE_POS] = value * gamma[column] + beta[column];
        if column == 0 {
            rstd[token] = scale;
        }
    }
}

#[cube(launch)]
fn input_gradient(
    d_normed: &Array<f32>,
    normed: &Array<f32>,
    mean: &Array<f32>,
    along: &Array<f32>,
    rstd: &Array<f32>,
    d_s: &mut Array<f32>,
    width: usize,
) {
    if ABSOLUTE_POS < d_s.len() {
        let token = ABSOLUTE_POS / width;
        // normed = (s - mean(s)) * rstd: what is constant, and what is parallel to normed, cancels.
        d_s[ABSOLUTE_POS] = rstd[token] * (d_normed[ABSOLUTE_POS] - mean[token] - normed[ABSOLUTE_POS] * along[token]);
    }
}
