//! One step of Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), as `transformers.Adafactor` with `scale_parameter` and
//! `relative_step` off and without a first moment.

use super::real::Real;
use crate::ops::AdafactorStep;

/// Changes the weights `w` and their second moments by the gradient `g`; see [`Ops::adafactor_step`](crate::Ops::adafactor_step).
pub fn adafactor_step<T: Real>(w: &mut [T], g: &[T], rows: &mut [T], columns: &mut [T], step: AdafactorStep) {
    let len = w.len() / step.parts;
    let (n_rows, n_columns) = step.matrix.unwrap_or((len, 0));
    assert_eq!(
        (g.len(), rows.len(), columns.len()),
        (w.len(), step.parts * n_rows, step.parts * n_columns),
        "g, rows, columns"
    );
    for part in 0..step.parts {
        let range = part * len..(part + 1) * len;
        let rows = &mut rows[part * n_rows..][..n_rows];
        let columns = &mut columns[part * n_columns..][..n_columns];
        update(&mut w[range.clone()], &g[range], rows, columns, step);
    }
}

fn update<T: Real>(w: &mut [T], g: &[T], rows: &mut [T], columns: &mut [T], step: AdafactorStep) {
    let AdafactorStep { beta2, .. } = step;
    let [lr, eps, threshold, decay, scale] =
        [step.lr, step.eps, step.clip_threshold, step.weight_decay, step.grad_scale].map(f64::from);
    let g: Vec<f64> = g.iter().map(|g| scale * g.to_f64()).collect();
    let follow = |moment: &mut T, value: f64| *moment = T::from_f64(beta2 * moment.to_f64() + (1.0 - beta2) * value);
    let mut u: Vec<f64> = match step.matrix {
        None => {
            rows.iter_mut().zip(&g).for_each(|(v, g)| follow(v, g * g + eps));
            rows.iter().zip(&g).map(|(v, g)| g / v.to_f64().sqrt()).collect()
        }
        Some((n_rows, n_columns)) => {
            let square = |row: usize, column: usize| g[row * n_columns + column].powi(2) + eps;
            for (row, r) in rows.iter_mut().enumerate() {
                follow(r, (0..n_columns).map(|column| square(row, column)).sum::<f64>() / n_columns as f64);
            }
            for (column, c) in columns.iter_mut().enumerate() {
                follow(c, (0..n_rows).map(|row| square(row, column)).sum::<f64>() / n_rows as f64);
            }
            let mean = rows.iter().map(|r| r.to_f64()).sum::<f64>() / n_rows as f64;
            let of = |i: usize| (rows[i / n_columns].to_f64() / mean).sqrt() * columns[i % n_columns].to_f64().sqrt();
            g.iter().enumerate().map(|(i, g)| g / of(i)).collect()
        }
    };
    let rms = (u.iter().map(|u| u * u).sum::<f64>() / u.len().max(1) as f64).sqrt();
    let clip = (rms / threshold).max(1.0);
    u.iter_mut().for_each(|u| *u *= lr / clip);
    for (w, u) in w.iter_mut().zip(u) {
        *w = T::from_f64(w.to_f64() * (1.0 - lr * decay) - u);
    }
}
