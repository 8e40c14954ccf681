//! Embedding tables: `y[t] = sum over lookups of table[rows[t]]`.

use burn_cubecl::CubeRuntime;
use cubecl::prelude::*;
use embertune_kernels::ops::Lookup;

use crate::Gpu;
use crate::tensors::{Buffer, array, flat, index_array, matrix, written};

/// `y`: `[n_tokens, width]`; each `table`: `[n_rows, width]`, each `rows`: `[n_tokens]`.
pub(crate) fn embedding_forward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    lookups: &[Lookup<'_, Buffer<R>>],
    width: usize,
) -> Buffer<R> {
    let taken = lookups
        .iter()
        .filter(|lookup| !lookup.rows.is_empty())
        .map(|Lookup { table, rows }| matrix(table, width).select(0, gpu.indices(rows.iter().copied())));
    taken.reduce(|sum, taken| sum.add(taken)).map_or_else(|| gpu.empty(0), flat)
}

/// `d_y`: `[n_tokens, width]`; adds to `d_table`: `[n_rows, width]`.
pub(crate) fn embedding_backward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    d_y: &Buffer<R>,
    rows: &[u32],
    padding_row: Option<u32>,
    width: usize,
    d_table: &mut Buffer<R>,
) {
    assert_eq!(d_y.dims(), [rows.len() * width], "d_y of {} tokens of width {width}", rows.len());
    // The tokens of each row in their order, so that no two threads add to one row, and sums do not depend on who is first.
    let mut tokens: Vec<u32> =
        (0..rows.len() as u32).filter(|&token| padding_row != Some(rows[token as usize])).collect();
    tokens.sort_by_key(|&token| rows[token as usize]);
    let same = tokens.chunk_by(|&a, &b| rows[a as usize] == rows[b as usize]);
    let (mut distinct, mut ends) = (Vec::new(), vec![0]);
    for tokens in same {
        distinct.push(rows[tokens[0] as usize]);
        ends.push(ends[ends.len() - 1] + tokens.len() as u32);
    }
    let n_distinct = distinct.len();
    if n_distinct == 0 {
        return;
    }
    let plan = gpu.indices(distinct.into_iter().chain(ends).chain(tokens));
    let (count, dim) = gpu.grid(n_distinct * width);
    add_rows::launch::<R>(&gpu.client, count, dim, array(d_y), index_array(&plan), written(d_table), n_distinct, width);
}

/// One thread for each element of the rows that occur. `plan`: the `n_distinct` rows, where the tokens of each begin in what follows, and
/// the tokens.
#[cube(launch)]
fn add_rows(d_y: &Array<f32>, plan: &Array<u32>, d_table: &mut Array<f32>, n_distinct: usize, width: usize) {
    if ABSOLUTE_POS < n_distinct * width {
        let nth = ABSOLUTE_POS / width;
        let column = ABSOLUTE_POS % width;
        let at = plan[nth] as usize * width + column;
        let first = plan[n_distinct + nth] as usize;
        let end = plan[n_distinct + nth + 1] as usize;
        let tokens = 2 * n_distinct + 1;
        let mut sum = d_table[at];
        for i in first..end {
            // y[token, column] += table[row, column]
            sum += d_y[plan[tokens + i] as usize * width + column];
        }
        d_table[at] = sum;
    }
}
