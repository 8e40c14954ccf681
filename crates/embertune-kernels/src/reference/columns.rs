//! Some columns of a matrix, and their gradient.

use std::ops::Range;

use super::real::{Real, add_to};

/// `y = x[:, columns]`.
pub fn columns_forward<T: Real>(x: &[T], width: usize, columns: Range<usize>) -> Vec<T> {
    assert!(
        columns.end <= width && x.len().is_multiple_of(width),
        "columns {columns:?} of {} numbers in rows of {width}",
        x.len()
    );
    x.chunks_exact(width).flat_map(|row| &row[columns.clone()]).copied().collect()
}

/// `d_x[:, columns] += d_y`.
pub fn columns_backward<T: Real>(d_y: &[T], width: usize, columns: Range<usize>, d_x: &mut [T]) {
    // y[t, c] = x[t, columns.start + c]
    assert!(
        columns.end <= width && d_x.len().is_multiple_of(width),
        "columns {columns:?} of {} numbers in rows of {width}",
        d_x.len()
    );
    assert_eq!(d_y.len() * width, d_x.len() * columns.len(), "d_y of columns {columns:?} of {width}");
    for (d_x, d_y) in d_x.chunks_exact_mut(width).zip(d_y.chunks_exact(columns.len().max(1))) {
        d_x[columns.clone()].iter_mut().zip(d_y).for_each(|(d_x, d_y)| add_to(d_x, d_y.to_f64()));
    }
}
