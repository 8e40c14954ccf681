//! Rows scaled to unit length.

use rayon::prelude::*;

use crate::cpu::isa::per_isa;
use crate::cpu::rows::{dot, rows_per_task};
use crate::cpu::{Buffer, Cpu};

/// The smallest norm that is divided by, as in `torch.nn.functional.normalize`.
const MIN_NORM: f32 = 1e-12;

pub(super) fn normalize_forward(cpu: &Cpu, x: &[f32], width: usize) -> Buffer {
    let mut y = cpu.pool.take(x.len());
    let chunk = (rows_per_task(width) * width).max(1);
    y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| forward_rows(cpu.isa, y, x, width));
    y
}

pub(super) fn normalize_backward(cpu: &Cpu, d_y: &[f32], x: &[f32], width: usize) -> Buffer {
    assert_eq!(d_y.len(), x.len(), "lengths of d_y and x of normalize");
    let mut d_x = cpu.pool.take(x.len());
    let chunk = (rows_per_task(width) * width).max(1);
    d_x.par_chunks_mut(chunk)
        .zip(d_y.par_chunks(chunk).zip(x.par_chunks(chunk)))
        .for_each(|(d_x, (d_y, x))| backward_rows(cpu.isa, d_x, d_y, x, width));
    d_x
}

per_isa! {
    fn forward_rows<const FMA: bool>(y: &mut [f32], x: &[f32], width: usize) {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let norm = norm::<FMA>(x);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x / norm;
            }
        }
    }
}

per_isa! {
    fn backward_rows<const FMA: bool>(d_x: &mut [f32], d_y: &[f32], x: &[f32], width: usize) {
        let rows = d_y.chunks_exact(width).zip(x.chunks_exact(width));
        for (d_x, (d_y, x)) in d_x.chunks_exact_mut(width).zip(rows) {
            // y = x / norm, d norm = y . d x
            let norm = norm::<FMA>(x);
            let y_dot_d_y = dot::<FMA>(x, d_y) / norm;
            for (d_x, (&d_y, &x)) in d_x.iter_mut().zip(d_y.iter().zip(x)) {
                *d_x = (d_y - x / norm * y_dot_d_y) / norm;
            }
        }
    }
}

#[inline(always)]
fn norm<const FMA: bool>(x: &[f32]) -> f32 {
    let norm = dot::<FMA>(x, x).sqrt();
    // In this order a NaN stays.
    if norm < MIN_NORM { MIN_NORM } else { norm }
}
