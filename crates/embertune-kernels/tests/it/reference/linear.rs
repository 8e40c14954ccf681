//! Gradient checks and known values of `reference::linear`.

use embertune_kernels::Ops;
use embertune_kernels::ops::{Activation, FeedForward, FeedForwardGrads, LinearGrads, Weight};
use embertune_kernels::reference::Reference;
use embertune_kernels::testing::{grad_check, seeded_f64};

use super::{OPS, added, begun};

/// The gradients of input, weight and bias, against differences.
fn check(n: usize, rows: usize, cols: usize, bias: Option<&Vec<f64>>) {
    let what = format!("linear, {n} x {cols} to {rows}, bias {}", bias.is_some());
    let (x, weight, d_y) = (seeded_f64(n * cols, 1), seeded_f64(rows * cols, 2), seeded_f64(n * rows, 3));
    let forward = |x: &[f64], weight: &[f64], bias: Option<&Vec<f64>>| {
        OPS.linear_forward(&x.to_vec(), Weight { master: &weight.to_vec(), packed: &(), rows, cols }, bias)
    };

    let (mut d_weight, mut d_bias) = (begun(weight.len()), bias.map(|bias| begun(bias.len())));
    let grads = LinearGrads { d_weight: &mut d_weight, d_bias: d_bias.as_mut() };
    let d_x = OPS.linear_backward(&d_y, &x, Weight { master: &weight, packed: &(), rows, cols }, Some(grads));

    grad_check(&format!("{what}: x"), &x, &d_y, &d_x, |x| forward(x, &weight, bias));
    grad_check(&format!("{what}: weight"), &weight, &d_y, &added(&d_weight), |weight| forward(&x, weight, bias));
    if let (Some(bias), Some(d_bias)) = (bias, d_bias) {
        grad_check(&format!("{what}: bias"), bias, &d_y, &added(&d_bias), |bias| {
            forward(&x, &weight, Some(&bias.to_vec()))
        });
    }
}

#[test]
fn backward_is_the_derivative_of_forward() {
    for (n, rows, cols) in [(0, 2, 3), (1, 1, 1), (4, 3, 5), (3, 7, 2), (5, 1, 4)] {
        check(n, rows, cols, None);
        check(n, rows, cols, Some(&seeded_f64(rows, 4)));
    }
}

#[test]
fn weights_are_stored_output_by_output() {
    let weight = vec![1.0, 2.0, 3.0, 10.0, 20.0, 30.0];
    let w = Weight { master: &weight, packed: &(), rows: 2, cols: 3 };
    let y = OPS.linear_forward(&vec![1.0, 0.0, -1.0, 0.5, 0.5, 0.5], w, Some(&vec![100.0, 200.0]));
    assert_eq!(y, [98.0, 180.0, 103.0, 230.0]);
}

#[test]
fn a_frozen_layer_passes_the_same_gradient_on() {
    let (x, weight, d_y) = (seeded_f64(12, 1), seeded_f64(15, 2), seeded_f64(20, 3));
    let w = Weight { master: &weight, packed: &(), rows: 5, cols: 3 };
    let mut d_weight = begun(15);
    let trained = OPS.linear_backward(&d_y, &x, w, Some(LinearGrads { d_weight: &mut d_weight, d_bias: None }));
    assert_eq!(OPS.linear_backward(&d_y, &x, w, None), trained);
}

#[test]
fn backward_of_a_feed_forward_block_is_the_derivative_of_its_forward() {
    let (n, wide, hidden) = (4, 5, 3);
    let (x, d_y) = (seeded_f64(n * hidden, 1), seeded_f64(n * hidden, 2));
    let (up, down) = (seeded_f64(wide * hidden, 3), seeded_f64(hidden * wide, 4));
    let (up_bias, down_bias) = (seeded_f64(wide, 5), seeded_f64(hidden, 6));
    for activation in [Activation::GeluErf, Activation::GeluTanh, Activation::Silu, Activation::Tanh] {
        let layers = |tensors: &dyn Fn(usize) -> Vec<f64>, run: &mut dyn FnMut(FeedForward<'_, Reference<f64>>)| {
            let [up, up_bias, down, down_bias] = std::array::from_fn(tensors);
            run(FeedForward {
                up: Weight { master: &up, packed: &(), rows: wide, cols: hidden },
                up_bias: &up_bias,
                activation,
                down: Weight { master: &down, packed: &(), rows: hidden, cols: wide },
                down_bias: &down_bias,
            });
        };
        let tensors = [&up, &up_bias, &down, &down_bias];
        let forward = |x: &[f64], changed: Option<(usize, &[f64])>| {
            let mut y = Vec::new();
            let of = |i: usize| match changed {
                Some((at, values)) if at == i => values.to_vec(),
                _ => tensors[i].clone(),
            };
            layers(&of, &mut |layers| y = OPS.feed_forward_forward(&x.to_vec(), layers).0);
            y
        };
        let mut d: Vec<_> = tensors.iter().map(|tensor| begun(tensor.len())).collect();
        let mut d_x = Vec::new();
        layers(&|i| tensors[i].clone(), &mut |layers| {
            let [d_up, d_up_bias, d_down, d_down_bias] = &mut d[..] else { unreachable!() };
            let grads = FeedForwardGrads {
                up: Some(LinearGrads { d_weight: d_up, d_bias: Some(d_up_bias) }),
                down: Some(LinearGrads { d_weight: d_down, d_bias: Some(d_down_bias) }),
            };
            let saved = OPS.feed_forward_forward(&x, layers).1;
            d_x = OPS.feed_forward_backward(&d_y, &x, &saved, layers, grads);
        });
        grad_check(&format!("{activation:?}: x"), &x, &d_y, &d_x, |x| forward(x, None));
        for (i, name) in ["up", "up_bias", "down", "down_bias"].into_iter().enumerate() {
            let what = format!("{activation:?}: {name}");
            grad_check(&what, tensors[i], &d_y, &added(&d[i]), |values| forward(&x, Some((i, values))));
        }
    }
}
