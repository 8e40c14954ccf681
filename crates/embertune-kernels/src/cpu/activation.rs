//! Element-wise activations and their derivatives, by the formulas in [`Activation`].

use rayon::prelude::*;

use crate::cpu::elementwise::BLOCK;
use crate::cpu::isa::per_isa;
use crate::cpu::math::{erf, exp, exp_below_88, mul_add, sigmoid, tanh};
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

/// `d *= act'(x)`; returns `act(x)`.
pub(super) fn backward_with_value(cpu: &Cpu, d: &mut [f32], x: &[f32], act: Activation) -> Buffer {
    assert_eq!(d.len(), x.len(), "lengths of d and x of an activation");
    let mut y = cpu.pool.take(x.len());
    d.par_chunks_mut(BLOCK)
        .zip(y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)))
        .for_each(|(d, (y, x))| both(cpu.isa, d, y, x, act));
    y
}

per_isa! {
    /// `d *= act'(x); y = act(x)`.
    pub(super) fn both<const FMA: bool>(d: &mut [f32], y: &mut [f32], x: &[f32], act: Activation) {
        match act {
            Activation::GeluErf => map_both::<GeluErf, FMA>(d, y, x),
            Activation::GeluTanh => map_both::<GeluTanh, FMA>(d, y, x),
            Activation::Relu => map_both::<Relu, FMA>(d, y, x),
            Activation::Silu => map_both::<Silu, FMA>(d, y, x),
            Activation::Tanh => map_both::<Tanh, FMA>(d, y, x),
            Activation::Sigmoid => map_both::<Sigmoid, FMA>(d, y, x),
            Activation::Identity => y.copy_from_slice(x),
        }
    }
}

per_isa! {
    /// `y = act(x)`.
    pub(super) fn forward<const FMA: bool>(y: &mut [f32], x: &[f32], act: Activation) {
        match act {
            Activation::GeluErf => map::<GeluErf, FMA>(y, x),
            Activation::GeluTanh => map::<GeluTanh, FMA>(y, x),
            Activation::Relu => map::<Relu, FMA>(y, x),
            Activation::Silu => map::<Silu, FMA>(y, x),
            Activation::Tanh => map::<Tanh, FMA>(y, x),
            Activation::Sigmoid => map::<Sigmoid, FMA>(y, x),
            Activation::Identity => y.copy_from_slice(x),
        }
    }
}

per_isa! {
    fn backward<const FMA: bool>(d_x: &mut [f32], d_y: &[f32], x: &[f32], act: Activation) {
        match act {
            Activation::GeluErf => map_backward::<GeluErf, FMA>(d_x, d_y, x),
            Activation::GeluTanh => map_backward::<GeluTanh, FMA>(d_x, d_y, x),
            Activation::Relu => map_backward::<Relu, FMA>(d_x, d_y, x),
            Activation::Silu => map_backward::<Silu, FMA>(d_x, d_y, x),
            Activation::Tanh => map_backward::<Tanh, FMA>(d_x, d_y, x),
            Activation::Sigmoid => map_backward::<Sigmoid, FMA>(d_x, d_y, x),
            Activation::Identity => d_x.copy_from_slice(d_y),
        }
    }
}

#[inline(always)]
fn map<F: Function, const FMA: bool>(y: &mut [f32], x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = F::value::<FMA>(x);
    }
}

#[inline(always)]
fn map_backward<F: Function, const FMA: bool>(d_x: &mut [f32], d_y: &[f32], x: &[f32]) {
    for (d_x, (&d_y, &x)) in d_x.iter_mut().zip(d_y.iter().zip(x)) {
        *d_x = d_y * F::derivative::<FMA>(x);
    }
}

/// What value and derivative have in common is computed once: both are inlined here.
#[inline(always)]
fn map_both<F: Function, const FMA: bool>(d: &mut [f32], y: &mut [f32], x: &[f32]) {
    for ((d, y), &x) in d.iter_mut().zip(y).zip(x) {
        *y = F::value::<FMA>(x);
        *d *= F::derivative::<FMA>(x);
    }
}

/// A function of one element. Implementations are `#[inline(always)]`; closures cannot be, and one that is compiled on its
/// own lacks the instruction set of the loop, so that a fused multiply-add is a library call.
trait Function {
    fn value<const FMA: bool>(x: f32) -> f32;
    fn derivative<const FMA: bool>(x: f32) -> f32;
}

struct GeluErf;

impl Function for GeluErf {
    #[inline(always)]
    fn value<const FMA: bool>(x: f32) -> f32 {
        x * normal_cdf::<FMA>(x)
    }

    #[inline(always)]
    fn derivative<const FMA: bool>(x: f32) -> f32 {
        // y = x cdf(x)
        let pdf = FRAC_1_SQRT_2PI * exp_below_88::<FMA>(-0.5 * x * x);
        mul_add::<FMA>(x, pdf, normal_cdf::<FMA>(x))
    }
}

#[inline(always)]
fn normal_cdf<const FMA: bool>(x: f32) -> f32 {
    0.5 * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2))
}

struct GeluTanh;

impl Function for GeluTanh {
    #[inline(always)]
    fn value<const FMA: bool>(x: f32) -> f32 {
        0.5 * x * (1.0 + tanh::<FMA>(gelu_tanh_inner::<FMA>(x)))
    }

    #[inline(always)]
    fn derivative<const FMA: bool>(x: f32) -> f32 {
        // y = 0.5 x (1 + tanh(inner(x)))
        let t = tanh::<FMA>(gelu_tanh_inner::<FMA>(x));
        let d_inner = SQRT_2_OVER_PI * mul_add::<FMA>(3.0 * GELU_CUBIC * x, x, 1.0);
        0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * d_inner
    }
}

/// `sqrt(2/pi) (x + 0.044715 x^3)`.
#[inline(always)]
fn gelu_tanh_inner<const FMA: bool>(x: f32) -> f32 {
    SQRT_2_OVER_PI * mul_add::<FMA>(GELU_CUBIC * x * x, x, x)
}

struct Relu;

impl Function for Relu {
    #[inline(always)]
    fn value<const FMA: bool>(x: f32) -> f32 {
        // In this order a NaN stays.
        if x < 0.0 { 0.0 } else { x }
    }

    #[inline(always)]
    fn derivative<const FMA: bool>(x: f32) -> f32 {
        if x > 0.0 { 1.0 } else { 0.0 }
    }
}

struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn value<const FMA: bool>(x: f32) -> f32 {
        x / (1.0 + exp::<FMA>(-x))
    }

    #[inline(always)]
    fn derivative<const FMA: bool>(x: f32) -> f32 {
        // y = x s, s = sigmoid(x)
        let s = sigmoid::<FMA>(x);
        s * (1.0 + x * (1.0 - s))
    }
}

struct Tanh;

impl Function for Tanh {
    #[inline(always)]
    fn value<const FMA: bool>(x: f32) -> f32 {
        tanh::<FMA>(x)
    }

    #[inline(always)]
    fn derivative<const FMA: bool>(x: f32) -> f32 {
        let t = tanh::<FMA>(x);
        1.0 - t * t
    }
}

struct Sigmoid;

impl Function for Sigmoid {
    #[inline(always)]
    fn value<const FMA: bool>(x: f32) -> f32 {
        sigmoid::<FMA>(x)
    }

    #[inline(always)]
    fn derivative<const FMA: bool>(x: f32) -> f32 {
        let s = sigmoid::<FMA>(x);
        s * (1.0 - s)
    }
}
