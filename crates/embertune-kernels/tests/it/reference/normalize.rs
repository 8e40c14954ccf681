//! Gradient checks and known values of `reference::normalize`.

use embertune_kernels::Ops;
use embertune_kernels::testing::{assert_close, grad_check, seeded_f64};

use super::{OPS, TORCH};

#[test]
fn backward_is_the_derivative_of_forward() {
    for (n, width) in [(0, 4), (1, 1), (3, 2), (4, 7)] {
        let (x, d_y) = (seeded_f64(n * width, 1), seeded_f64(n * width, 2));
        let d_x = OPS.normalize_backward(&d_y, &x, width);
        grad_check(&format!("{n} rows of {width}"), &x, &d_y, &d_x, |x| OPS.normalize_forward(&x.to_vec(), width));
    }
}

#[test]
fn rows_get_length_one() {
    let y = OPS.normalize_forward(&vec![3.0, 4.0, 0.0, -2.0], 2);
    assert_close(&y, &[0.6, 0.8, 0.0, -1.0], 0.0, TORCH);
}

#[test]
fn rows_of_almost_no_length_are_divided_by_the_smallest_length() {
    // torch: x = torch.tensor([[0.0, 1e-13]], requires_grad=True); F.normalize(x).backward(torch.tensor([[1.0, 2.0]]))
    let x = vec![0.0, 0.0, 0.0, 1e-13];
    assert_close(&OPS.normalize_forward(&x, 2), &[0.0, 0.0, 0.0, 0.1], 0.0, TORCH);
    assert_close(&OPS.normalize_backward(&vec![1.0, 2.0, 1.0, 2.0], &x, 2), &[1e12, 2e12, 1e12, 2e12], 0.0, TORCH);
}
