//! The right side of a product in panels of [`PANEL`] columns, in the order in which a tile reads it: `[panel][step][column]`.

use std::ops::Range;

use rayon::prelude::*;

use super::tile::{PANEL, Tiles};
use super::transpose::SQUARE;
use crate::cpu::Buffer;
use crate::cpu::buffer::Pool;
use crate::cpu::isa::per_isa;
use crate::cpu::matmul::View;

/// A matrix `[k, n]` that is multiplied by many others.
pub(crate) struct Panels {
    data: Buffer,
    /// Rows: the length of a sum.
    pub(super) k: usize,
    /// Columns, those that only fill the last panel not counted.
    pub(super) n: usize,
}

impl Panels {
    /// From a matrix whose rows, or whose columns, lie in one piece.
    pub(crate) fn pack(tiles: Tiles, pool: &Pool, matrix: View<'_>) -> Self {
        let (k, n) = (matrix.n_rows(), matrix.n_cols());
        let mut data = pool.take(n.div_ceil(PANEL) * k * PANEL);
        if k > 0 {
            data.par_chunks_exact_mut(k * PANEL)
                .enumerate()
                .for_each(|(panel, to)| pack(tiles, to, matrix, 0..k, panel..panel + 1));
        }
        Panels { data, k, n }
    }

    /// Some steps of a panel, `[steps][PANEL]`.
    pub(super) fn part(&self, panel: usize, steps: Range<usize>) -> &[f32] {
        let start = panel * self.k;
        &self.data[(start + steps.start) * PANEL..(start + steps.end) * PANEL]
    }
}

/// Some steps of some panels: `to` is `[panels][steps][PANEL]`.
pub(super) fn pack(tiles: Tiles, to: &mut [f32], matrix: View<'_>, steps: Range<usize>, panels: Range<usize>) {
    assert_eq!(to.len(), panels.len() * steps.len() * PANEL, "panels {panels:?} of {steps:?} steps");
    if to.is_empty() {
        return;
    }
    if matrix.has_whole_rows() {
        pack_rows(tiles.isa(), to, matrix, steps, panels);
    } else {
        pack_columns(tiles, to, matrix.transposed(), steps, panels);
    }
}

per_isa! {
    /// Row by row, as the memory of the matrix lies.
    fn pack_rows<const FMA: bool>(to: &mut [f32], matrix: View<'_>, steps: Range<usize>, panels: Range<usize>) {
        let (to, _) = to.as_chunks_mut::<PANEL>();
        let columns = panels.start * PANEL..matrix.n_cols().min(panels.end * PANEL);
        for (step, row) in steps.clone().enumerate() {
            for (panel, from) in matrix.row(row, columns.clone()).chunks(PANEL).enumerate() {
                let to = &mut to[panel * steps.len() + step];
                match <&[f32; PANEL]>::try_from(from) {
                    // A copy of known size is a few instructions, another a call.
                    Ok(whole) => *to = *whole,
                    Err(_) => {
                        to[..from.len()].copy_from_slice(from);
                        to[from.len()..].fill(0.0);
                    }
                }
            }
        }
    }
}

/// `rows` are the columns of the matrix.
fn pack_columns(tiles: Tiles, to: &mut [f32], rows: View<'_>, steps: Range<usize>, panels: Range<usize>) {
    for (panel, to) in panels.zip(to.chunks_exact_mut(steps.len() * PANEL)) {
        for (part, to) in to.chunks_mut(SQUARE * PANEL).enumerate() {
            let first = steps.start + part * SQUARE;
            let steps = first..first + to.len() / PANEL;
            for column in (0..PANEL).step_by(SQUARE) {
                let of_matrix = panel * PANEL + column;
                let n_columns = rows.n_rows().saturating_sub(of_matrix).min(SQUARE);
                let square = std::array::from_fn(|i| {
                    if i < n_columns { rows.row(of_matrix + i, steps.clone()) } else { Default::default() }
                });
                tiles.transpose(&mut to[column..], PANEL, &square);
            }
        }
    }
}
