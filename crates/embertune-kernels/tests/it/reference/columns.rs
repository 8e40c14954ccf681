//! Gradient checks and known values of `reference::columns`.

use embertune_kernels::Ops;
use embertune_kernels::testing::{grad_check, seeded_f64};

use super::{OPS, added, begun};

const WIDTH: usize = 7;

#[test]
fn backward_is_the_derivative_of_forward() {
    let x = seeded_f64(3 * WIDTH, 1);
    for columns in [0..1, 2..5, 6..7, 0..WIDTH] {
        let d_y = seeded_f64(3 * columns.len(), 2);
        let mut d_x = begun(x.len());
        OPS.columns_backward(&d_y, WIDTH, columns.clone(), &mut d_x);
        grad_check(&format!("{columns:?}"), &x, &d_y, &added(&d_x), |x| {
            OPS.columns_forward(&x.to_vec(), WIDTH, columns.clone())
        });
    }
}

#[test]
fn columns_come_in_their_order() {
    assert_eq!(OPS.columns_forward(&vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 1..3), [2.0, 3.0, 5.0, 6.0]);
}
