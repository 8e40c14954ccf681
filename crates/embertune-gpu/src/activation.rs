//! Element-wise activations, by the formulas that `transformers` uses for their names.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn_cubecl::CubeRuntime;
use cubecl::prelude::*;
use embertune_kernels::ops::Activation;

use crate::Gpu;
use crate::tensors::{Buffer, array, written};

/// `sqrt(2 / pi)`, of the tanh form of GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415), and its factor of `x^3`.
const GELU_SCALE: f32 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
const GELU_CUBIC: f32 = 0.044715;
/// The density of the normal distribution at 0.
const DENSITY: f32 = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;

/// `y = act(x)`.
pub(crate) fn activation_forward<R: CubeRuntime>(gpu: &Gpu<R>, x: &Buffer<R>, act: Activation) -> Buffer<R> {
    let [len] = x.dims();
    if len == 0 || act == Activation::Identity {
        return x.clone();
    }
    let y = gpu.empty(len);
    let (count, dim) = gpu.grid(len);
    forward::launch::<R>(&gpu.client, count, dim, array(x), written(&y), act);
    y
}

/// `d_x = d_y act'(x)`.
pub(crate) fn activation_backward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    d_y: &Buffer<R>,
    x: &Buffer<R>,
    act: Activation,
) -> Buffer<R> {
    let [len] = x.dims();
    assert_eq!(d_y.dims(), [len], "lengths of d_y and x");
    if len == 0 || act == Activation::Identity {
        return d_y.clone();
    }
    let d_x = gpu.empty(len);
    let (count, dim) = gpu.grid(len);
    backward::launch::<R>(&gpu.client, count, dim, array(d_y), array(x), written(&d_x), act);
    gpu.note_buffers();
    d_x
}

#[cube(launch)]
fn forward(x: &Array<f32>, y: &mut Array<f32>, #[comptime] act: Activation) {
    if ABSOLUTE_POS < y.len() {
        y[ABSOLUTE_POS] = value(x[ABSOLUTE_POS], act);
    }
}

#[cube(launch)]
fn backward(d_y: &Array<f32>, x: &Array<f32>, d_x: &mut Array<f32>, #[comptime] act: Activation) {
    if ABSOLUTE_POS < d_x.len() {
        d_x[ABSOLUTE_POS] = d_y[ABSOLUTE_POS] * slope(x[ABSOLUTE_POS], act);
    }
}

/// `act(x)`, of any but the identity.
#[cube]
fn value(x: f32, #[comptime] act: Activation) -> f32 {
    if comptime!(act == Activation::GeluErf) {
        x * normal_cdf(x)
    } else if comptime!(act == Activation::GeluTanh) {
        0.5f32 * x * (1.0f32 + gelu_inner(x).tanh())
    } else if comptime!(act == Activation::Relu) {
        select(x > 0.0f32, x, 0.0f32)
    } else if comptime!(act == Activation::Silu) {
        x * sigmoid(x)
    } else if comptime!(act == Activation::Tanh) {
        x.tanh()
    } else {
        sigmoid(x)
    }
}

/// The derivative of [`value`]. At the kink of ReLU it is 0, as in PyTorch.
#[cube]
fn slope(x: f32, #[comptime] act: Activation) -> f32 {
    if comptime!(act == Activation::GeluErf) {
        // x * normal_cdf(x)
        normal_cdf(x) + x * DENSITY * (-0.5f32 * x * x).exp()
    } else if comptime!(act == Activation::GeluTanh) {
        // 0.5 * x * (1.0 + tanh(gelu_inner(x)))
        let t = gelu_inner(x).tanh();
        let d_inner = GELU_SCALE * (1.0f32 + 3.0f32 * GELU_CUBIC * x * x);
        0.5f32 * (1.0f32 + t) + 0.5f32 * x * (1.0f32 - t * t) * d_inner
    } else if comptime!(act == Activation::Relu) {
        // max(x, 0.0)
        select(x > 0.0f32, 1.0f32, 0.0f32)
    } else if comptime!(act == Activation::Silu) {
        // x * sigmoid(x)
        let s = sigmoid(x);
        s * (1.0f32 + x * (1.0f32 - s))
    } else if comptime!(act == Activation::Tanh) {
        // tanh(x)
        let t = x.tanh();
        1.0f32 - t * t
    } else {
        // sigmoid(x)
        let s = sigmoid(x);
        s * (1.0f32 - s)
    }
}

#[cube]
fn normal_cdf(x: f32) -> f32 {
    0.5f32 * (1.0f32 + Erf::erf(x * FRAC_1_SQRT_2))
}

#[cube]
fn gelu_inner(x: f32) -> f32 {
    GELU_SCALE * (x + GELU_CUBIC * x * x * x)
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + (-x).exp())
}
