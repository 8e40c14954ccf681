//! Pooling: the tokens of a text become one vector. Formulas as in sentence-transformers.
//!
//! Each dimension of the result is a weighted sum of that dimension of the tokens, `y = sum_t weight[t] x[t]`; the kinds
//! of pooling differ in the weights alone.

use std::ops::Range;

use super::real::{Real, store};
use crate::ops::{Pooling, Ragged};

/// `x`: `[n_tokens, width]`, `skip`: `[n_texts]`, `y`: `[n_texts, width]`.
pub fn pool_forward<T: Real>(x: &[T], texts: Ragged<'_>, skip: &[u32], pooling: Pooling, width: usize) -> Vec<T> {
    assert_eq!(x.len(), texts.n_tokens() * width, "x of {} tokens of width {width}", texts.n_tokens());
    let mut y = vec![0.0; texts.n_texts() * width];
    for text in 0..texts.n_texts() {
        let tokens = pooled(texts, skip, text);
        for c in 0..width {
            let column: Vec<f64> = tokens.clone().map(|token| x[token * width + c].to_f64()).collect();
            let weights = weights(pooling, &column, skip[text]);
            y[text * width + c] = column.iter().zip(weights).map(|(x, weight)| weight * x).sum();
        }
    }
    store(y)
}

/// `d_y`: `[n_texts, width]`, `d_x`: `[n_tokens, width]`.
pub fn pool_backward<T: Real>(
    d_y: &[T],
    x: &[T],
    texts: Ragged<'_>,
    skip: &[u32],
    pooling: Pooling,
    width: usize,
) -> Vec<T> {
    assert_eq!(x.len(), texts.n_tokens() * width, "x of {} tokens of width {width}", texts.n_tokens());
    assert_eq!(d_y.len(), texts.n_texts() * width, "d_y of {} texts of width {width}", texts.n_texts());
    let mut d_x = vec![0.0; x.len()];
    for text in 0..texts.n_texts() {
        let tokens = pooled(texts, skip, text);
        for c in 0..width {
            let column: Vec<f64> = tokens.clone().map(|token| x[token * width + c].to_f64()).collect();
            let weights = weights(pooling, &column, skip[text]);
            for (token, weight) in tokens.clone().zip(weights) {
                // y[text * width + c] = sum of weight * x. The weights of `Max` depend on x, but not where the
                // derivative exists.
                d_x[token * width + c] = weight * d_y[text * width + c].to_f64();
            }
        }
    }
    store(d_x)
}

/// The tokens of a text that are pooled.
fn pooled(texts: Ragged<'_>, skip: &[u32], text: usize) -> Range<usize> {
    assert_eq!(skip.len(), texts.n_texts(), "one skip per text");
    let Range { start, end } = texts.range(text);
    let first = start + skip[text] as usize;
    assert!(first < end, "text {text} of {} tokens leaves out {}", end - start, skip[text]);
    first..end
}

/// The weight of each pooled token in one dimension. `column` holds the values of that dimension.
fn weights(pooling: Pooling, column: &[f64], skip: u32) -> Vec<f64> {
    let n = column.len();
    match pooling {
        Pooling::Cls => one_hot(n, 0),
        Pooling::LastToken => one_hot(n, n - 1),
        Pooling::Max => {
            let largest = column.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // No position holds the largest value if all are NaN; then the first passes the NaN on.
            one_hot(n, column.iter().position(|&x| x == largest).unwrap_or(0))
        }
        Pooling::Mean => vec![1.0 / n as f64; n],
        Pooling::MeanSqrtLen => vec![1.0 / (n as f64).sqrt(); n],
        Pooling::WeightedMean => {
            let positions = (1..=n).map(|i| skip as f64 + i as f64);
            let total: f64 = positions.clone().sum();
            positions.map(|position| position / total).collect()
        }
    }
}

fn one_hot(n: usize, index: usize) -> Vec<f64> {
    (0..n).map(|i| f64::from(i == index)).collect()
}
