//! Linear layers: `y = x w^T + bias`.

use super::Reference;
use super::real::{Real, add_to, store};
use crate::ops::{LinearGrads, Weight};

/// `x`: `[n, cols]`, `w`: `[rows, cols]`, `bias`: `[rows]`, `y`: `[n, rows]`.
pub fn linear_forward<T: Real>(x: &[T], w: Weight<'_, Reference<T>>, bias: Option<&Vec<T>>) -> Vec<T> {
    let Weight { rows, cols, master: weight, .. } = w;
    let n = check_shapes(x, w);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), rows, "bias of {rows} outputs");
    }
    let mut y = vec![0.0; n * rows];
    for i in 0..n {
        for r in 0..rows {
            let mut sum = bias.map_or(0.0, |bias| bias[r].to_f64());
            for c in 0..cols {
                sum += x[i * cols + c].to_f64() * weight[r * cols + c].to_f64();
            }
            y[i * rows + r] = sum;
        }
    }
    store(y)
}

/// Returns `d_x`: `[n, cols]`; adds to `d_weight`: `[rows, cols]` and `d_bias`: `[rows]`.
pub fn linear_backward<T: Real>(
    d_y: &[T],
    x: &[T],
    w: Weight<'_, Reference<T>>,
    grads: Option<LinearGrads<'_, Vec<T>>>,
) -> Vec<T> {
    let Weight { rows, cols, master: weight, .. } = w;
    let n = check_shapes(x, w);
    assert_eq!(d_y.len(), n * rows, "d_y of {n} x {rows}");

    // sum += x[i, c] * weight[r, c]
    let mut d_x = vec![0.0; n * cols];
    for i in 0..n {
        for r in 0..rows {
            let d = d_y[i * rows + r].to_f64();
            for c in 0..cols {
                d_x[i * cols + c] += d * weight[r * cols + c].to_f64();
            }
        }
    }
    let Some(LinearGrads { d_weight, d_bias }) = grads else {
        return store(d_x);
    };

    // sum += x[i, c] * weight[r, c]
    assert_eq!(d_weight.len(), rows * cols, "d_weight of {rows} x {cols}");
    for r in 0..rows {
        for c in 0..cols {
            let sum = (0..n).map(|i| d_y[i * rows + r].to_f64() * x[i * cols + c].to_f64()).sum();
            add_to(&mut d_weight[r * cols + c], sum);
        }
    }
    // sum = bias[r]
    if let Some(d_bias) = d_bias {
        assert_eq!(d_bias.len(), rows, "d_bias of {rows} outputs");
        for r in 0..rows {
            let sum = (0..n).map(|i| d_y[i * rows + r].to_f64()).sum();
            add_to(&mut d_bias[r], sum);
        }
    }
    store(d_x)
}

/// Number of rows of `x`.
fn check_shapes<T: Real>(x: &[T], w: Weight<'_, Reference<T>>) -> usize {
    assert_eq!(w.master.len(), w.rows * w.cols, "a weight of {} x {}", w.rows, w.cols);
    assert_eq!(x.len() % w.cols, 0, "x of {} numbers in rows of {}", x.len(), w.cols);
    x.len() / w.cols
}
