//! `Reference<f32>` is `Reference<f64>` rounded, and the buffer operations.

use embertune_kernels::Ops;
use embertune_kernels::ops::{Activation, Weight};
use embertune_kernels::reference::Reference;
use embertune_kernels::testing::{seeded, seeded_f64};

use super::OPS;

const NARROW: Reference<f32> = Reference::new();

fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

#[test]
fn f32_results_are_the_f64_results_rounded_once() {
    let (x, weight) = (seeded(6 * 50, 1), seeded(4 * 50, 2));
    let y = NARROW.linear_forward(&x, Weight { master: &weight, packed: &(), rows: 4, cols: 50 }, None);
    let wide = Weight { master: &seeded_f64(4 * 50, 2), packed: &(), rows: 4, cols: 50 };
    assert_eq!(y, rounded(&OPS.linear_forward(&seeded_f64(6 * 50, 1), wide, None)));

    let y = NARROW.activation_forward(&x, Activation::GeluErf);
    assert_eq!(y, rounded(&OPS.activation_forward(&seeded_f64(6 * 50, 1), Activation::GeluErf)));
}

#[test]
fn a_buffer_comes_back_as_it_went_up() {
    let values = seeded(100, 1);
    assert_eq!(OPS.download(&OPS.upload(&values)), values);
    assert_eq!(NARROW.download(&NARROW.upload(&values)), values);
    assert_eq!(OPS.len(&OPS.upload(&values)), 100);
    assert_eq!(OPS.zeros(3), [0.0; 3]);
}

#[test]
fn buffers_add_scale_and_measure() {
    let mut a = vec![1.0, 2.0, -3.0];
    OPS.add_assign(&mut a, &vec![0.5, 0.0, 1.0]);
    assert_eq!(a, [1.5, 2.0, -2.0]);
    OPS.scale(&mut a, 2.0);
    assert_eq!(a, [3.0, 4.0, -4.0]);
    assert_eq!(OPS.squared_norm(&a), 41.0);
    OPS.set_zero(&mut a);
    assert_eq!(a, [0.0; 3]);
}

#[test]
fn a_norm_of_many_f32_values_loses_nothing() {
    // 4e6 squares of 1e-3 summed in f32 are off by some percent.
    let a = vec![1e-3_f32; 4_000_000];
    let expected = f64::from(1e-3_f32).powi(2) * 4e6;
    // A sum of 4e6 terms in f64.
    assert!((NARROW.squared_norm(&a) / expected - 1.0).abs() < 4e6 * f64::EPSILON);
}
