//! `y = x w^T + bias` and its backward.

use crate::cpu::elementwise::{add_assign, column_sums};
use crate::cpu::matmul::{Output, View, parallel_product, transpose};
use crate::cpu::{Buffer, Cpu};
use crate::ops::{LinearGrads, Weight};

/// A weight matrix prepared for products.
pub struct Packed {
    /// `[cols, rows]`: the forward multiplies by the transposed weight, which `gemm` would bring into this order anew for
    /// every block of the output. The backward multiplies by the master as it is.
    transposed: Buffer,
}

pub(super) fn pack(cpu: &Cpu, master: &[f32], rows: usize, cols: usize) -> Packed {
    let mut transposed = cpu.pool.take(master.len());
    transpose(&mut transposed, master, rows, cols);
    Packed { transposed }
}

pub(super) fn linear_forward(cpu: &Cpu, x: &[f32], w: Weight<'_, Cpu>, bias: Option<&Buffer>) -> Buffer {
    let n = n_rows(x, w);
    let mut y = cpu.pool.take(n * w.rows);
    let (x, w) = (View::rows(x, n, w.cols, w.cols), View::rows(&w.packed.transposed, w.cols, w.rows, w.rows));
    parallel_product(&mut y, Output::Set, x, w, |col, y| {
        if let Some(bias) = bias {
            add_assign(cpu.isa, y, &bias[col..col + y.len()]);
        }
    });
    y
}

pub(super) fn linear_backward(
    cpu: &Cpu,
    d_y: &[f32],
    x: &[f32],
    w: Weight<'_, Cpu>,
    grads: Option<LinearGrads<'_, Buffer>>,
) -> Buffer {
    let n = n_rows(x, w);
    assert_eq!(d_y.len(), n * w.rows, "d_y of a linear layer [{}, {}]", w.rows, w.cols);
    let d_y_view = View::rows(d_y, n, w.rows, w.rows);
    if let Some(LinearGrads { d_weight, d_bias }) = grads {
        // y[t, r] = sum_c x[t, c] w[r, c] + bias[r]
        let x = View::rows(x, n, w.cols, w.cols);
        parallel_product(d_weight, Output::Add, d_y_view.transposed(), x, |_, _| ());
        if let Some(d_bias) = d_bias {
            column_sums(cpu, d_y, d_bias);
        }
    }
    let mut d_x = cpu.pool.take(x.len());
    parallel_product(&mut d_x, Output::Set, d_y_view, View::rows(w.master, w.rows, w.cols, w.cols), |_, _| ());
    d_x
}

fn n_rows(x: &[f32], w: Weight<'_, Cpu>) -> usize {
    assert_eq!(w.master.len(), w.rows * w.cols, "a weight [{}, {}]", w.rows, w.cols);
    assert_eq!(x.len() % w.cols, 0, "x of a linear layer with {} inputs", w.cols);
    x.len() / w.cols
}
