//! Gradient checks and known values of `reference::adamw`.

use embertune_kernels::Ops;
use embertune_kernels::ops::AdamWStep;
use embertune_kernels::reference::Reference;
use embertune_kernels::testing::assert_close;

use super::OPS;

/// The settings of a step are f32: 0.01 is off by a relative 2e-8 there, 1e-8 by 6e-9, and a step changes a weight by 0.01.
const SETTINGS: f64 = 1e-9;

// w = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 3.0], dtype=torch.float64))
// o = torch.optim.AdamW([w], lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
// for g in GRADIENTS: w.grad = torch.tensor(g, dtype=torch.float64); o.step(); print(w.tolist())
// The last weight has gradients as small as eps.
const START: [f64; 4] = [0.5, -1.0, 2.0, 3.0];
const GRADIENTS: [[f64; 4]; 3] = [[0.1, -0.2, 0.0, 1e-8], [0.3, 0.1, -0.5, 2e-8], [-0.2, 0.4, 1e-9, -1e-8]];
const EXPECTED: [[f64; 4]; 3] = [
    [0.4895000009999999, -0.9890000004999999, 1.998, 2.992],
    [0.479832690219559, -0.9853476302713676, 2.003443368025249, 2.9830952010535827],
    [0.4767738195977597, -0.9889356003683637, 2.007192123658757, 2.97765127977132],
];

fn step(t: i32, grad_scale: f32) -> AdamWStep {
    AdamWStep {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        bias_correction1: (1.0 - 0.9_f64.powi(t)) as f32,
        bias_correction2: (1.0 - 0.999_f64.powi(t)) as f32,
        grad_scale,
    }
}

#[test]
fn weights_follow_torch() {
    let (mut w, mut m, mut v) = (START.to_vec(), vec![0.0; 4], vec![0.0; 4]);
    for (t, (g, expected)) in (1..).zip(GRADIENTS.iter().zip(&EXPECTED)) {
        OPS.adamw_step(&mut w, &g.to_vec(), &mut m, &mut v, step(t, 1.0));
        assert_close(&w, expected, SETTINGS, 0.0);
    }
}

#[test]
fn gradients_are_scaled_before_anything_else() {
    let (mut w, mut m, mut v) = (START.to_vec(), vec![0.0; 4], vec![0.0; 4]);
    for (t, (g, expected)) in (1..).zip(GRADIENTS.iter().zip(&EXPECTED)) {
        let doubled = g.iter().map(|g| 2.0 * g).collect();
        OPS.adamw_step(&mut w, &doubled, &mut m, &mut v, step(t, 0.5));
        assert_close(&w, expected, SETTINGS, 0.0);
    }
}

#[test]
fn a_step_in_f32_is_the_step_in_f64_rounded() {
    let ops = Reference::<f32>::new();
    let (mut w, mut m, mut v) = (vec![0.5, -1.0], vec![0.25, 0.125], vec![0.5, 0.0625]);
    let (mut w64, mut m64, mut v64) = (vec![0.5, -1.0], vec![0.25, 0.125], vec![0.5, 0.0625]);
    ops.adamw_step(&mut w, &vec![0.75, 2.0], &mut m, &mut v, step(4, 1.0));
    OPS.adamw_step(&mut w64, &vec![0.75, 2.0], &mut m64, &mut v64, step(4, 1.0));
    for (narrow, wide) in [(w, w64), (m, m64), (v, v64)] {
        assert_eq!(narrow, wide.iter().map(|&wide| wide as f32).collect::<Vec<_>>());
    }
}
