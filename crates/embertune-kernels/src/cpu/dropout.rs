//! Dropout as a pass of its own. Its forward and its backward are the same function.

use rayon::prelude::*;

use crate::cpu::isa::per_isa;
use crate::cpu::rows::{row_states, rows_per_task};
use crate::cpu::{Buffer, Cpu};
use crate::dropout::{Dropout, hash};
use crate::ops::Ragged;

/// `y = x * mask / (1 - p)`.
pub(super) fn dropout_forward(cpu: &Cpu, x: &[f32], texts: Ragged<'_>, dropout: Dropout, width: usize) -> Buffer {
    assert_eq!(x.len(), texts.n_tokens() * width, "x of dropout, {} rows of {width}", texts.n_tokens());
    let states = row_states(texts, dropout);
    let mut y = cpu.pool.take(x.len());
    let rows = rows_per_task(width);
    let chunk = (rows * width).max(1);
    y.par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk).zip(states.par_chunks(rows)))
        .for_each(|(y, (x, states))| mask_rows(cpu.isa, y, x, states, dropout));
    y
}

/// `d_x = d_y * mask / (1 - p)`.
pub(super) fn dropout_backward(cpu: &Cpu, d_y: &[f32], texts: Ragged<'_>, dropout: Dropout, width: usize) -> Buffer {
    dropout_forward(cpu, d_y, texts, dropout, width)
}

per_isa! {
    fn mask_rows<const FMA: bool>(y: &mut [f32], x: &[f32], states: &[u32], dropout: Dropout) {
        let width = y.len() / states.len();
        let (threshold, scale) = (dropout.threshold(), dropout.scale());
        for ((y, x), &state) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(states) {
            for (column, (y, &x)) in (0_u32..).zip(y.iter_mut().zip(x)) {
                *y = masked(x, state, column, threshold, scale);
            }
        }
    }
}

/// `x * mask / (1 - p)` for one element.
#[inline(always)]
pub(super) fn masked(x: f32, state: u32, column: u32, threshold: u32, scale: f32) -> f32 {
    if hash(state, column) >= threshold { x * scale } else { 0.0 }
}
