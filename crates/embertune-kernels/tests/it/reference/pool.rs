//! Gradient checks and known values of `reference::pool`.

use embertune_kernels::Ops;
use embertune_kernels::ops::Pooling;
use embertune_kernels::testing::{Texts, assert_close, grad_check, seeded_f64};

use super::{OPS, TORCH};

const ALL: [Pooling; 6] =
    [Pooling::Cls, Pooling::Mean, Pooling::Max, Pooling::MeanSqrtLen, Pooling::WeightedMean, Pooling::LastToken];

#[test]
fn backward_is_the_derivative_of_forward() {
    let cases: [(&[usize], &[u32]); 5] =
        [(&[], &[]), (&[1], &[0]), (&[5, 1, 3], &[0, 0, 0]), (&[5, 1, 3], &[2, 0, 1]), (&[4, 17], &[3, 16])];
    for (lengths, skip) in cases {
        let texts = Texts::new(lengths, 7);
        for width in [1, 3] {
            let (x, d_y) = (seeded_f64(texts.n_tokens() * width, 1), seeded_f64(lengths.len() * width, 2));
            for pooling in ALL {
                let what = format!("{pooling:?}, lengths {lengths:?}, skip {skip:?}, width {width}");
                let d_x = OPS.pool_backward(&d_y, &x, texts.ragged(), skip, pooling, width);
                grad_check(&what, &x, &d_y, &d_x, |x| {
                    OPS.pool_forward(&x.to_vec(), texts.ragged(), skip, pooling, width)
                });
            }
        }
    }
}

/// `x`: three tokens of width 2, then one.
fn check_values(pooling: Pooling, skip: u32, expected: [f64; 4]) {
    let x = vec![1.0, -8.0, 4.0, -2.0, 2.0, -5.0, 7.0, 9.0];
    let y = OPS.pool_forward(&x, Texts::new(&[3, 1], 0).ragged(), &[skip, 0], pooling, 2);
    assert_close(&y, &expected, 0.0, TORCH);
}

#[test]
fn values_follow_the_formulas() {
    let (root2, root3) = (2.0_f64.sqrt(), 3.0_f64.sqrt());
    check_values(Pooling::Cls, 0, [1.0, -8.0, 7.0, 9.0]);
    check_values(Pooling::Cls, 1, [4.0, -2.0, 7.0, 9.0]);
    check_values(Pooling::LastToken, 0, [2.0, -5.0, 7.0, 9.0]);
    check_values(Pooling::LastToken, 2, [2.0, -5.0, 7.0, 9.0]);
    check_values(Pooling::Max, 0, [4.0, -2.0, 7.0, 9.0]);
    check_values(Pooling::Max, 2, [2.0, -5.0, 7.0, 9.0]);
    check_values(Pooling::Mean, 0, [7.0 / 3.0, -5.0, 7.0, 9.0]);
    check_values(Pooling::Mean, 1, [3.0, -3.5, 7.0, 9.0]);
    check_values(Pooling::MeanSqrtLen, 0, [7.0 / root3, -15.0 / root3, 7.0, 9.0]);
    check_values(Pooling::MeanSqrtLen, 1, [6.0 / root2, -7.0 / root2, 7.0, 9.0]);
    check_values(Pooling::WeightedMean, 0, [15.0 / 6.0, -27.0 / 6.0, 7.0, 9.0]);
    check_values(Pooling::WeightedMean, 1, [14.0 / 5.0, -19.0 / 5.0, 7.0, 9.0]);
}

#[test]
fn of_equal_largest_values_the_first_gets_the_gradient() {
    let texts = Texts::new(&[4], 0);
    let x = vec![1.0, 3.0, 3.0, 2.0];
    let d_x = OPS.pool_backward(&vec![5.0], &x, texts.ragged(), &[0], Pooling::Max, 1);
    assert_eq!(d_x, [0.0, 5.0, 0.0, 0.0]);
}

#[test]
#[should_panic(expected = "leaves out 2")]
fn a_text_of_which_nothing_is_left_is_refused() {
    OPS.pool_forward(&vec![1.0, 2.0], Texts::new(&[2], 0).ragged(), &[2], Pooling::Mean, 1);
}
