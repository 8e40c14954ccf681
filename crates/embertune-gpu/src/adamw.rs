//! One step of AdamW with decoupled decay (Loshchilov and Hutter 2019, arXiv:1711.05101), as `torch.optim.AdamW`.

use burn_cubecl::CubeRuntime;
use cubecl::prelude::*;
use embertune_kernels::ops::AdamWStep;

use crate::Gpu;
use crate::tensors::{Buffer, array, written};

/// Changes the weight `w` and its moments `m` and `v` by the gradient `g`, in one pass; all of one length.
pub(crate) fn adamw_step<R: CubeRuntime>(
    gpu: &Gpu<R>,
    w: &mut Buffer<R>,
    g: &Buffer<R>,
    m: &mut Buffer<R>,
    v: &mut Buffer<R>,
    step: AdamWStep,
) {
    let [n] = w.dims();
    assert_eq!((g.dims(), m.dims(), v.dims()), ([n], [n], [n]), "lengths of g, m and v for a weight of {n}");
    if n == 0 {
        return;
    }
    let (count, dim) = gpu.grid(n);
    update::launch::<R>(
        &gpu.client,
        count,
        dim,
        written(w),
        array(g),
        written(m),
        written(v),
        step.beta1 as f32,
        (1.0 - step.beta1) as f32,
        step.beta2 as f32,
        (1.0 - step.beta2) as f32,
        step.grad_scale,
        step.lr * step.weight_decay,
        step.lr / step.bias_correction1,
        1.0 / step.bias_correction2,
        step.eps,
    );
}

#[cube(launch)]
fn update(
    w: &mut Array<f32>,
    g: &Array<f32>,
    m: &mut Array<f32>,
    v: &mut Array<f32>,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    grad_scale: f32,
    decay: f32,
    rate: f32,
    second_scale: f32,
    eps: f32,
) {
    if ABSOLUTE_POS < w.len() {
        let grad = grad_scale * g[ABSOLUTE_POS];
        let first = beta1 * m[ABSOLUTE_POS] + rest1 * grad;
        let second = beta2 * v[ABSOLUTE_POS] + rest2 * grad * grad;
        let weight = w[ABSOLUTE_POS];
        w[ABSOLUTE_POS] = weight - decay * weight - rate * first / ((second * second_scale).sqrt() + eps);
        m[ABSOLUTE_POS] = first;
        v[ABSOLUTE_POS] = second;
    }
}
