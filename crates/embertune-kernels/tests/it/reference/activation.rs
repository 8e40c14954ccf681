//! Gradient checks and known values of `reference::activation`.

use embertune_kernels::Ops;
use embertune_kernels::ops::Activation;
use embertune_kernels::testing::{assert_close, grad_check, seeded_f64};

use super::{OPS, TORCH};

const ALL: [Activation; 7] = [
    Activation::GeluErf,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Silu,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Identity,
];

#[test]
fn backward_is_the_derivative_of_forward() {
    let x: Vec<f64> = seeded_f64(99, 1).iter().map(|x| 5.0 * x).collect();
    let d_y = seeded_f64(99, 2);
    for act in ALL {
        let d_x = OPS.activation_backward(&d_y, &x, act);
        grad_check(&format!("{act:?}"), &x, &d_y, &d_x, |x| OPS.activation_forward(&x.to_vec(), act));
    }
}

#[test]
fn values_are_those_of_torch() {
    // x = torch.tensor([-3.0, -0.5, 0.0, 1.0, 30.0], dtype=torch.float64); F.gelu(x), F.gelu(x, approximate="tanh"), ...
    let x = vec![-3.0, -0.5, 0.0, 1.0, 30.0];
    let expected = |act| match act {
        Activation::GeluErf => [-0.00404969409489031, -0.15426876936299344, 0.0, 0.841344746068543, 30.0],
        Activation::GeluTanh => [-0.0036373920817729943, -0.15428599017485606, 0.0, 0.8411919906082768, 30.0],
        Activation::Relu => [0.0, 0.0, 0.0, 1.0, 30.0],
        Activation::Silu => [-0.14227761953270035, -0.1887703343990727, 0.0, 0.7310585786300049, 29.999999999997197],
        Activation::Tanh => [-0.9950547536867305, -0.46211715726000974, 0.0, 0.7615941559557649, 1.0],
        Activation::Sigmoid => [0.04742587317756678, 0.3775406687981454, 0.5, 0.7310585786300049, 0.9999999999999065],
        Activation::Identity => [-3.0, -0.5, 0.0, 1.0, 30.0],
    };
    for act in ALL {
        assert_close(&OPS.activation_forward(&x, act), &expected(act), 0.0, TORCH);
    }
}

#[test]
fn nothing_overflows_far_from_zero() {
    let x = vec![-1e30, -800.0, 800.0, 1e30];
    for act in ALL {
        let y = OPS.activation_forward(&x, act);
        let d_x = OPS.activation_backward(&vec![1.0; 4], &x, act);
        assert!(y.iter().chain(&d_x).all(|v| v.is_finite()), "{act:?}: {y:?}, {d_x:?}");
    }
}
