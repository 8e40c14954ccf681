//! Gradient checks and known values of `reference::embedding`.

use embertune_kernels::Ops;
use embertune_kernels::ops::Lookup;
use embertune_kernels::testing::{grad_check, seeded_f64};

use super::{BEFORE, OPS, added, begun};

const WIDTH: usize = 3;

#[test]
fn backward_is_the_derivative_of_forward() {
    // Some rows are taken several times, some never.
    let (words, positions) = (seeded_f64(5 * WIDTH, 1), seeded_f64(4 * WIDTH, 2));
    let (word_rows, position_rows) = ([4, 0, 4, 4, 2], [0, 1, 2, 0, 1]);
    let d_y = seeded_f64(5 * WIDTH, 3);
    let forward = |words: &[f64], positions: &[f64]| {
        OPS.embedding_forward(
            &[
                Lookup { table: &words.to_vec(), rows: &word_rows },
                Lookup { table: &positions.to_vec(), rows: &position_rows },
            ],
            WIDTH,
        )
    };
    let (mut d_words, mut d_positions) = (begun(words.len()), begun(positions.len()));
    OPS.embedding_backward(&d_y, &word_rows, None, WIDTH, &mut d_words);
    OPS.embedding_backward(&d_y, &position_rows, None, WIDTH, &mut d_positions);
    grad_check("words", &words, &d_y, &added(&d_words), |words| forward(words, &positions));
    grad_check("positions", &positions, &d_y, &added(&d_positions), |positions| forward(&words, positions));
}

#[test]
fn a_token_is_the_sum_of_its_rows() {
    let (a, b) = (vec![1.0, 2.0, 3.0, 4.0], vec![10.0, 20.0]);
    let y = OPS.embedding_forward(&[Lookup { table: &a, rows: &[1, 0] }, Lookup { table: &b, rows: &[0, 0] }], 2);
    assert_eq!(y, [13.0, 24.0, 11.0, 22.0]);
}

#[test]
fn the_padding_row_gets_no_gradient() {
    let mut d_table = begun(3);
    OPS.embedding_backward(&vec![1.0, 2.0, 4.0, 8.0], &[0, 1, 2, 1], Some(1), 1, &mut d_table);
    assert_eq!(d_table, [BEFORE + 1.0, BEFORE, BEFORE + 4.0]);
}

#[test]
fn no_tokens_are_no_work() {
    let table = vec![1.0; 4];
    let mut d_table = begun(4);
    assert!(OPS.embedding_forward(&[Lookup { table: &table, rows: &[] }], 2).is_empty());
    OPS.embedding_backward(&vec![], &[], None, 2, &mut d_table);
    assert_eq!(d_table, begun(4));
}
