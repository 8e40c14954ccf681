//! Gradient checks and known values of `reference::dropout`.

use embertune_kernels::Ops;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::testing::{BATCHES, Texts, grad_check, seeded_f64};

use super::{OPS, dropouts};

const WIDTH: usize = 6;

#[test]
fn backward_is_the_derivative_of_forward() {
    for lengths in BATCHES {
        let texts = Texts::new(lengths, 7);
        let x = seeded_f64(texts.n_tokens() * WIDTH, 1);
        let d_y = seeded_f64(x.len(), 2);
        for dropout in dropouts().into_iter().flatten() {
            let d_x = OPS.dropout_backward(&d_y, texts.ragged(), dropout, WIDTH);
            grad_check(&format!("{dropout:?}, lengths {lengths:?}"), &x, &d_y, &d_x, |x| {
                OPS.dropout_forward(&x.to_vec(), texts.ragged(), dropout, WIDTH)
            });
        }
    }
}

#[test]
fn an_element_is_kept_by_text_key_position_and_column() {
    let texts = Texts::new(&[2, 3], 7);
    let dropout = Dropout { p: 0.5, site: 11 };
    let y = OPS.dropout_forward(&vec![3.0; 5 * WIDTH], texts.ragged(), dropout, WIDTH);
    for (token, (text, position)) in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)].into_iter().enumerate() {
        let state = dropout.row_state(texts.ragged().keys[text], position);
        for column in 0..WIDTH {
            let expected = if dropout.keeps(state, column as u32) { 6.0 } else { 0.0 };
            assert_eq!(y[token * WIDTH + column], expected, "token {token}, column {column}");
        }
    }
}

#[test]
fn without_probability_nothing_changes() {
    let texts = Texts::new(&[4, 1], 7);
    let x = seeded_f64(5 * WIDTH, 1);
    assert_eq!(OPS.dropout_forward(&x, texts.ragged(), Dropout { p: 0.0, site: 0 }, WIDTH), x);
}
