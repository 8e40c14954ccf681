//! Dropout on activations, with the counter-based masks of [`Dropout`].

use super::real::{Real, store};
use crate::dropout::Dropout;
use crate::ops::Ragged;

/// `y = x * mask / (1 - p)`; `x`, `y`: `[n_tokens, width]`.
pub fn dropout_forward<T: Real>(x: &[T], texts: Ragged<'_>, dropout: Dropout, width: usize) -> Vec<T> {
    let factors = factors(texts, dropout, width);
    assert_eq!(x.len(), factors.len(), "numbers of {} tokens of width {width}", texts.n_tokens());
    store(x.iter().zip(factors).map(|(&x, factor)| x.to_f64() * factor).collect())
}

/// `d_x = d_y * mask / (1 - p)`: the forward is linear and diagonal, so it is its own backward.
pub fn dropout_backward<T: Real>(d_y: &[T], texts: Ragged<'_>, dropout: Dropout, width: usize) -> Vec<T> {
    // y = x * factor
    dropout_forward(d_y, texts, dropout, width)
}

/// `mask / (1 - p)` of every element, `[n_tokens, width]`.
pub(super) fn factors(texts: Ragged<'_>, dropout: Dropout, width: usize) -> Vec<f64> {
    let mut factors = Vec::with_capacity(texts.n_tokens() * width);
    for text in 0..texts.n_texts() {
        for position in 0..texts.range(text).len() {
            let state = dropout.row_state(texts.keys[text], position as u32);
            factors.extend((0..width).map(|column| factor(dropout, state, column)));
        }
    }
    factors
}

/// `mask / (1 - p)` of one element.
pub(super) fn factor(dropout: Dropout, row_state: u32, column: usize) -> f64 {
    if dropout.keeps(row_state, column as u32) { f64::from(dropout.scale()) } else { 0.0 }
}
