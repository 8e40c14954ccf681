//! Gradient checks and known values of `reference::layer_norm`.

use embertune_kernels::Ops;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::Norm;
use embertune_kernels::testing::{BATCHES, Texts, assert_close, grad_check, seeded_f64};

use super::{OPS, TORCH, added, begun, dropouts};

/// Large enough to bound the curvature of rows that are nearly constant, where differences would be inexact.
const EPS: f32 = 0.05;

/// The settings of a norm are f32, where 1e-5 is off by a relative 2e-8; it stands beside a variance of 1.
const EPS_ROUNDING: f64 = 1e-12;

/// The gradients of input, residual, gamma and beta, against differences.
fn check(lengths: &[usize], width: usize, residual: Option<&Vec<f64>>, dropout: Option<Dropout>) {
    let what = format!("layer_norm, lengths {lengths:?}, width {width}, residual {}, {dropout:?}", residual.is_some());
    let texts = Texts::new(lengths, 7);
    let x = seeded_f64(texts.n_tokens() * width, 1);
    let (gamma, beta) = (seeded_f64(width, 2), seeded_f64(width, 3));
    let d_y = seeded_f64(x.len(), 4);
    let forward = |x: &[f64], residual: Option<&Vec<f64>>, gamma: &[f64], beta: &[f64]| {
        let norm = Norm { gamma: &gamma.to_vec(), beta: &beta.to_vec(), eps: EPS };
        OPS.layer_norm_forward(&x.to_vec(), residual, texts.ragged(), dropout, norm)
    };

    let (_, saved) = forward(&x, residual, &gamma, &beta);
    let norm = Norm { gamma: &gamma, beta: &beta, eps: EPS };
    let (mut d_gamma, mut d_beta) = (begun(width), begun(width));
    let d_s = OPS.layer_norm_backward(&d_y, &saved, norm, &mut d_gamma, &mut d_beta);
    let d_x = dropout.map(|dropout| OPS.dropout_backward(&d_s, texts.ragged(), dropout, width));

    grad_check(&format!("{what}: x"), &x, &d_y, d_x.as_ref().unwrap_or(&d_s), |x| {
        forward(x, residual, &gamma, &beta).0
    });
    if let Some(residual) = residual {
        grad_check(&format!("{what}: residual"), residual, &d_y, &d_s, |residual| {
            forward(&x, Some(&residual.to_vec()), &gamma, &beta).0
        });
    }
    grad_check(&format!("{what}: gamma"), &gamma, &d_y, &added(&d_gamma), |gamma| {
        forward(&x, residual, gamma, &beta).0
    });
    grad_check(&format!("{what}: beta"), &beta, &d_y, &added(&d_beta), |beta| forward(&x, residual, &gamma, beta).0);
}

#[test]
fn backward_is_the_derivative_of_forward() {
    for lengths in BATCHES.iter().filter(|lengths| lengths.len() != 2) {
        for width in [1, 2, 7] {
            let residual = seeded_f64(lengths.iter().sum::<usize>() * width, 5);
            for dropout in dropouts() {
                check(lengths, width, None, dropout);
                check(lengths, width, Some(&residual), dropout);
            }
        }
    }
}

#[test]
fn values_are_those_of_torch() {
    // F.layer_norm(torch.tensor([[1., 2., 4.]]), (3,), torch.tensor([1., 2., 3.]), torch.tensor([.5, 0., -.5]), 1e-5)
    let norm = Norm { gamma: &vec![1.0, 2.0, 3.0], beta: &vec![0.5, 0.0, -0.5], eps: 1e-5 };
    let expected = [-0.5690415314502977, -0.5345207657251491, 3.5089057429386155];
    let texts = Texts::new(&[1], 0);
    let (y, _) = OPS.layer_norm_forward(&vec![1.0, 2.0, 4.0], None, texts.ragged(), None, norm);
    assert_close(&y, &expected, EPS_ROUNDING, TORCH);
    let (x, residual) = (vec![0.25, 5.0, 1.0], vec![0.75, -3.0, 3.0]);
    let (y, _) = OPS.layer_norm_forward(&x, Some(&residual), texts.ragged(), None, norm);
    assert_close(&y, &expected, EPS_ROUNDING, TORCH);
}

#[test]
fn dropout_acts_on_the_input_and_not_on_the_residual() {
    let texts = Texts::new(&[2, 1], 7);
    let (x, residual) = (seeded_f64(3 * 8, 1), seeded_f64(3 * 8, 2));
    let dropout = Dropout { p: 0.5, site: 1 };
    let norm = Norm { gamma: &seeded_f64(8, 3), beta: &seeded_f64(8, 4), eps: 1e-12 };
    let (y, _) = OPS.layer_norm_forward(&x, Some(&residual), texts.ragged(), Some(dropout), norm);
    let dropped = OPS.dropout_forward(&x, texts.ragged(), dropout, 8);
    let (expected, _) = OPS.layer_norm_forward(&dropped, Some(&residual), texts.ragged(), None, norm);
    assert_eq!(y, expected);
}
