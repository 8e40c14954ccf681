//! Element-wise activations and their derivatives, by the formulas in [`Activation`].

use rayon::prelude::*;

use crate::cpu::elementwise::BLOCK;
use crate::cpu::isa::per_isa;
use crate::cpu::math::{erf, exp, mul_add, sigmoid, tanh};
use crate::cpu::{Buffer, Cpu};
use crate::ops::Activation;

const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

pub(super) fn activation_forward(cpu: &Cpu, x: &[f32], act: Activation) -> Buffer {
    let mut y = cpu.pool.take(x.len());
    y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(y, x)| forward(cpu.isa, y, x, act));
    y
}

pub(super) fn activation_backward(cpu: &Cpu, d_y: &[f32], x: &[f32], act: Activation) -> Buffer {
    assert_eq!(d_y.len(), x.len(), "lengths of d_y and x of an activation");
    let mut d_x = cpu.pool.take(x.len());
    d_x.par_chunks_mut(BLOCK)
        .zip(d_y.par_chunks(BLOCK).zip(x.par_chunks(BLOCK)))
        .for_each(|(d_x, (d_y, x))| backward(cpu.isa, d_x, d_y, x, act));
    d_x
}

// The functions of one element are named and always inlined: a closure may be compiled on its own, without the
// instruction set of the loop, and then a fused multiply-add is a library call.

per_isa! {
    fn forward<const FMA: bool>(y: &mut [f32], x: &[f32], act: Activation) {
        match act {
            Activation::GeluErf => map(y, x, gelu_erf_forward::<FMA>),
            Activation::GeluTanh => map(y, x, gelu_tanh_forward::<FMA>),
            Activation::Relu => map(y, x, relu_forward),
            Activation::Silu => map(y, x, silu_forward::<FMA>),
            Activation::Tanh => map(y, x, tanh::<FMA>),
            Activation::Sigmoid => map(y, x, sigmoid::<FMA>),
            Activation::Identity => y.copy_from_slice(x),
        }
    }
}

per_isa! {
    fn backward<const FMA: bool>(d_x: &mut [f32], d_y: &[f32], x: &[f32], act: Activation) {
        match act {
            Activation::GeluErf => map_backward(d_x, d_y, x, gelu_erf_backward::<FMA>),
            Activation::GeluTanh => map_backward(d_x, d_y, x, gelu_tanh_backward::<FMA>),
            Activation::Relu => map_backward(d_x, d_y, x, relu_backward),
            Activation::Silu => map_backward(d_x, d_y, x, silu_backward::<FMA>),
            Activation::Tanh => map_backward(d_x, d_y, x, tanh_backward::<FMA>),
            Activation::Sigmoid => map_backward(d_x, d_y, x, sigmoid_backward::<FMA>),
            Activation::Identity => d_x.copy_from_slice(d_y),
        }
    }
}

#[inline(always)]
fn map(y: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = f(x);
    }
}

/// `d_x = d_y f'(x)`; `derivative` is `f'`.
#[inline(always)]
fn map_backward(d_x: &mut [f32], d_y: &[f32], x: &[f32], derivative: impl Fn(f32) -> f32) {
    for (d_x, (&d_y, &x)) in d_x.iter_mut().zip(d_y.iter().zip(x)) {
        *d_x = d_y * derivative(x);
    }
}

#[inline(always)]
fn gelu_erf_forward<const FMA: bool>(x: f32) -> f32 {
    x * normal_cdf::<FMA>(x)
}

#[inline(always)]
fn gelu_erf_backward<const FMA: bool>(x: f32) -> f32 {
    // y = x cdf(x)
    let pdf = FRAC_1_SQRT_2PI * exp::<FMA>(-0.5 * x * x);
    mul_add::<FMA>(x, pdf, normal_cdf::<FMA>(x))
}

#[inline(always)]
fn normal_cdf<const FMA: bool>(x: f32) -> f32 {
    0.5 * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_tanh_forward<const FMA: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh::<FMA>(gelu_tanh_inner::<FMA>(x)))
}

#[inline(always)]
fn gelu_tanh_backward<const FMA: bool>(x: f32) -> f32 {
    // y = 0.5 x (1 + tanh(inner(x)))
    let t = tanh::<FMA>(gelu_tanh_inner::<FMA>(x));
    let d_inner = SQRT_2_OVER_PI * mul_add::<FMA>(3.0 * GELU_CUBIC * x, x, 1.0);
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * d_inner
}

/// `sqrt(2/pi) (x + 0.044715 x^3)`.
#[inline(always)]
fn gelu_tanh_inner<const FMA: bool>(x: f32) -> f32 {
    SQRT_2_OVER_PI * mul_add::<FMA>(GELU_CUBIC * x * x, x, x)
}

#[inline(always)]
fn relu_forward(x: f32) -> f32 {
    // In this order a NaN stays.
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn relu_backward(x: f32) -> f32 {
    if x > 0.0 { 1.0 } else { 0.0 }
}

#[inline(always)]
fn silu_forward<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}

#[inline(always)]
fn silu_backward<const FMA: bool>(x: f32) -> f32 {
    // y = x s, s = sigmoid(x)
    let s = sigmoid::<FMA>(x);
    s * (1.0 + x * (1.0 - s))
}

#[inline(always)]
fn tanh_backward<const FMA: bool>(x: f32) -> f32 {
    let t = tanh::<FMA>(x);
    1.0 - t * t
}

#[inline(always)]
fn sigmoid_backward<const FMA: bool>(x: f32) -> f32 {
    let s = sigmoid::<FMA>(x);
    s * (1.0 - s)
}
