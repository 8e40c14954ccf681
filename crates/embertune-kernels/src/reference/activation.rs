//! Element-wise activations, by the formulas that `transformers` uses for their names.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use super::real::Real;
use crate::ops::Activation;

/// The factor of `x^3` in the tanh form of GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415).
const GELU_CUBIC: f64 = 0.044715;

/// `y = act(x)`.
pub fn activation_forward<T: Real>(x: &[T], act: Activation) -> Vec<T> {
    x.iter().map(|&x| T::from_f64(value(x.to_f64(), act))).collect()
}

/// `d_x = d_y act'(x)`.
pub fn activation_backward<T: Real>(d_y: &[T], x: &[T], act: Activation) -> Vec<T> {
    assert_eq!(d_y.len(), x.len(), "lengths of d_y and x");
    d_y.iter().zip(x).map(|(&d_y, &x)| T::from_f64(d_y.to_f64() * slope(x.to_f64(), act))).collect()
}

fn value(x: f64, act: Activation) -> f64 {
    match act {
        Activation::GeluErf => x * normal_cdf(x),
        Activation::GeluTanh => 0.5 * x * (1.0 + gelu_inner(x).tanh()),
        Activation::Relu => x.max(0.0),
        Activation::Silu => x * sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
        Activation::Identity => x,
    }
}

/// The derivative of [`value`]. At the kink of ReLU it is 0, as in PyTorch.
fn slope(x: f64, act: Activation) -> f64 {
    match act {
        // x * normal_cdf(x)
        Activation::GeluErf => {
            let normal_pdf = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (-0.5 * x * x).exp();
            normal_cdf(x) + x * normal_pdf
        }
        // 0.5 * x * (1.0 + tanh(gelu_inner(x)))
        Activation::GeluTanh => {
            let t = gelu_inner(x).tanh();
            let d_inner = (2.0 / PI).sqrt() * (1.0 + 3.0 * GELU_CUBIC * x * x);
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * d_inner
        }
        // max(x, 0.0)
        Activation::Relu => f64::from(x > 0.0),
        // x * sigmoid(x)
        Activation::Silu => {
            let s = sigmoid(x);
            s + x * s * (1.0 - s)
        }
        // tanh(x)
        Activation::Tanh => 1.0 - x.tanh() * x.tanh(),
        // sigmoid(x)
        Activation::Sigmoid => sigmoid(x) * (1.0 - sigmoid(x)),
        // x
        Activation::Identity => 1.0,
    }
}

/// `0.5 (1 + erf(x / sqrt 2))`, by `erfc` so that it stays exact where it is near zero.
fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

fn gelu_inner(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + GELU_CUBIC * x * x * x)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
