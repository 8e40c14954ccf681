//! Embedding tables: `y[t] = sum over lookups of table[rows[t]]`.

use super::real::{Real, add_to, store};
use crate::ops::Lookup;

/// `y`: `[n_tokens, width]`; each `table`: `[n_rows, width]`, each `rows`: `[n_tokens]`.
pub fn embedding_forward<T: Real>(lookups: &[Lookup<'_, Vec<T>>], width: usize) -> Vec<T> {
    let n_tokens = lookups.first().map_or(0, |lookup| lookup.rows.len());
    let mut y = vec![0.0; n_tokens * width];
    for lookup in lookups {
        assert_eq!(lookup.rows.len(), n_tokens, "tokens of the lookups");
        for (token, &row) in lookup.rows.iter().enumerate() {
            for c in 0..width {
                y[token * width + c] += lookup.table[row as usize * width + c].to_f64();
            }
        }
    }
    store(y)
}

/// `d_y`: `[n_tokens, width]`; adds to `d_table`: `[n_rows, width]`. The forward is linear, so the tables are not needed.
pub fn embedding_backward<T: Real>(d_y: &[T], rows: &[u32], padding_row: Option<u32>, width: usize, d_table: &mut [T]) {
    assert_eq!(d_y.len(), rows.len() * width, "d_y of {} tokens of width {width}", rows.len());
    for (token, &row) in rows.iter().enumerate() {
        if padding_row == Some(row) {
            continue;
        }
        for c in 0..width {
            // y[token * width + c] += table[row * width + c]
            add_to(&mut d_table[row as usize * width + c], d_y[token * width + c].to_f64());
        }
    }
}
