//! Some columns of a matrix: copied out, and added back.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::elementwise::add_assign;
use crate::cpu::rows::rows_per_task;
use crate::cpu::{Buffer, Cpu};

/// `y = x[:, columns]`.
pub(super) fn columns_forward(cpu: &Cpu, x: &[f32], width: usize, columns: Range<usize>) -> Buffer {
    check(x, width, &columns);
    let taken = columns.len();
    let mut y = cpu.pool.take(x.len() / width * taken);
    let rows = rows_per_task(width);
    y.par_chunks_mut((rows * taken).max(1)).zip(x.par_chunks(rows * width)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(taken).zip(x.chunks_exact(width)) {
            y.copy_from_slice(&x[columns.clone()]);
        }
    });
    y
}

/// `d_x[:, columns] += d_y`.
pub(super) fn columns_backward(cpu: &Cpu, d_y: &[f32], width: usize, columns: Range<usize>, d_x: &mut [f32]) {
    // y[t, c] = x[t, columns.start + c]
    check(d_x, width, &columns);
    let taken = columns.len();
    assert_eq!(d_y.len() * width, d_x.len() * taken, "d_y of columns {columns:?} of {width}");
    let rows = rows_per_task(width);
    d_x.par_chunks_mut(rows * width).zip(d_y.par_chunks((rows * taken).max(1))).for_each(|(d_x, d_y)| {
        for (d_x, d_y) in d_x.chunks_exact_mut(width).zip(d_y.chunks_exact(taken)) {
            add_assign(cpu.isa, &mut d_x[columns.clone()], d_y);
        }
    });
}

fn check(x: &[f32], width: usize, columns: &Range<usize>) {
    let fits = width > 0 && columns.start < columns.end && columns.end <= width && x.len().is_multiple_of(width);
    assert!(fits, "columns {columns:?} of {} numbers in rows of {width}", x.len());
}
