//! Scaling each row to length 1.

use super::real::{Real, store};

/// Rows shorter than this are divided by this, as `torch.nn.functional.normalize` does, so that zero stays zero.
const MIN_LENGTH: f64 = 1e-12;

/// `y = x / max(|x|, 1e-12)`; `x`, `y`: `[n, width]`.
pub fn normalize_forward<T: Real>(x: &[T], width: usize) -> Vec<T> {
    assert_eq!(x.len() % width, 0, "x of {} numbers in rows of {width}", x.len());
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks_exact(width) {
        let length = length(x);
        y.extend(x.iter().map(|x| x.to_f64() / length.max(MIN_LENGTH)));
    }
    store(y)
}

/// `d_x = (d_y - y (y . d_y)) / |x|`; `d_y`, `x`, `d_x`: `[n, width]`.
pub fn normalize_backward<T: Real>(d_y: &[T], x: &[T], width: usize) -> Vec<T> {
    assert_eq!(d_y.len(), x.len(), "lengths of d_y and x");
    let mut d_x = Vec::with_capacity(x.len());
    for (d_y, x) in d_y.chunks_exact(width).zip(x.chunks_exact(width)) {
        let length = length(x);
        if length < MIN_LENGTH {
            // y = x / 1e-12
            d_x.extend(d_y.iter().map(|d| d.to_f64() / MIN_LENGTH));
            continue;
        }
        // y = x / |x|: what is parallel to x only changes the length, which the division takes out.
        let y: Vec<f64> = x.iter().map(|x| x.to_f64() / length).collect();
        let along: f64 = y.iter().zip(d_y).map(|(y, d)| y * d.to_f64()).sum();
        d_x.extend(y.iter().zip(d_y).map(|(y, d)| (d.to_f64() - y * along) / length));
    }
    store(d_x)
}

fn length<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>().sqrt()
}
