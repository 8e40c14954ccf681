//! `y = x w^T + bias` and its backward.

use crate::cpu::bf16::pack::{PANEL, Panels, Rows};
use crate::cpu::bf16::tile::{MultiplyPairs, Start, TILE};
use crate::cpu::bf16::{self, Left};
use crate::cpu::elementwise::{add_assign, column_sums};
use crate::cpu::matmul::{Output, View, parallel_product, transpose};
use crate::cpu::tiled::{self, Right, Tiles};
use crate::cpu::{Buffer, Cpu};
use crate::ops::{LinearGrads, Weight};

/// A weight matrix prepared for products.
pub struct Packed(Form);

impl Packed {
    pub(super) fn form(&self) -> &Form {
        &self.0
    }
}

pub(super) enum Form {
    /// `[cols, rows]`: the forward multiplies by the transposed weight, which `gemm` would bring into this order anew for
    /// every block of the output. The backward multiplies by the master as it is.
    F32 { transposed: Buffer },
    /// The right side of the forward, `[cols, rows]`. In the backward a task packs what it needs of the master, as of `x`.
    Tiles { tiles: Tiles, forward: tiled::Panels },
    /// The right sides of the forward, `[cols, rows]`, and of the backward, `[rows, cols]`.
    Bf16 { how: MultiplyPairs, forward: Panels<PANEL>, backward: Panels<PANEL> },
}

pub(super) fn pack(cpu: &Cpu, master: &[f32], rows: usize, cols: usize) -> Packed {
    Packed(match (cpu.bf16, Tiles::new(cpu.isa)) {
        (Some(how), _) => Form::Bf16 {
            how,
            forward: Panels::pack_columns(cpu.isa, &cpu.pool, master, cols),
            backward: Panels::pack_rows(cpu.isa, &cpu.pool, master, cols),
        },
        (None, Some(tiles)) => {
            let transposed = View::rows(master, rows, cols, cols).transposed();
            Form::Tiles { tiles, forward: tiled::Panels::pack(tiles, &cpu.pool, transposed) }
        }
        (None, None) => {
            let mut transposed = cpu.pool.take(master.len());
            transpose(&mut transposed, master, rows, cols);
            Form::F32 { transposed }
        }
    })
}

pub(super) fn linear_forward(cpu: &Cpu, x: &[f32], w: Weight<'_, Cpu>, bias: Option<&Buffer>) -> Buffer {
    let n = n_rows(x, w);
    let mut y = cpu.pool.take(n * w.rows);
    let add_bias = |col: usize, y: &mut [f32]| {
        if let Some(bias) = bias {
            add_assign(cpu.isa, y, &bias[col..col + y.len()]);
        }
    };
    match &w.packed.0 {
        Form::F32 { transposed } => {
            let (x, w) = (View::rows(x, n, w.cols, w.cols), View::rows(transposed, w.cols, w.rows, w.rows));
            parallel_product(&mut y, Output::Set, x, w, add_bias);
        }
        Form::Tiles { tiles, forward } => {
            let x = View::rows(x, n, w.cols, w.cols);
            tiled::parallel_product(*tiles, &cpu.pool, &mut y, Output::Set, x, Right::Panels(forward), add_bias);
        }
        Form::Bf16 { how, forward, .. } => {
            let x = Rows::pack(cpu.isa, &cpu.pool, x, w.cols);
            let start = bias.map_or(Start::Zero, |bias| Start::Row(bias));
            bf16::product(*how, &mut y, start, Left::Rows(&x), forward);
        }
    }
    y
}

pub(super) fn linear_backward(
    cpu: &Cpu,
    d_y: &[f32],
    x: &[f32],
    w: Weight<'_, Cpu>,
    grads: Option<LinearGrads<'_, Buffer>>,
) -> Buffer {
    if let Some(grads) = grads {
        add_gradients(cpu, d_y, x, w, grads);
    }
    input_gradient(cpu, d_y, w)
}

/// `d_weight += d_y^T x; d_bias += sum of the rows of d_y`.
pub(super) fn add_gradients(cpu: &Cpu, d_y: &[f32], x: &[f32], w: Weight<'_, Cpu>, grads: LinearGrads<'_, Buffer>) {
    let n = n_rows(x, w);
    assert_eq!(d_y.len(), n * w.rows, "d_y of a linear layer [{}, {}]", w.rows, w.cols);
    let LinearGrads { d_weight, d_bias } = grads;
    // y[t, r] = sum_c x[t, c] w[r, c] + bias[r]
    match &w.packed.0 {
        Form::F32 { .. } => {
            let (d_y, x) = (View::rows(d_y, n, w.rows, w.rows), View::rows(x, n, w.cols, w.cols));
            parallel_product(d_weight, Output::Add, d_y.transposed(), x, |_, _| ());
        }
        Form::Tiles { tiles, .. } => {
            let (d_y, x) = (View::rows(d_y, n, w.rows, w.rows), View::rows(x, n, w.cols, w.cols));
            let (d_y, x) = (d_y.transposed(), Right::Matrix(x));
            tiled::parallel_product(*tiles, &cpu.pool, d_weight, Output::Add, d_y, x, |_, _| ());
        }
        Form::Bf16 { how, .. } => {
            let d_y = Panels::<TILE>::pack_rows(cpu.isa, &cpu.pool, d_y, w.rows);
            let x = Panels::pack_rows(cpu.isa, &cpu.pool, x, w.cols);
            bf16::product(*how, d_weight, Start::Output, Left::Transposed(&d_y), &x);
        }
    }
    if let Some(d_bias) = d_bias {
        column_sums(cpu, d_y, d_bias);
    }
}

/// `d_x = d_y w`.
pub(super) fn input_gradient(cpu: &Cpu, d_y: &[f32], w: Weight<'_, Cpu>) -> Buffer {
    assert_eq!(d_y.len() % w.rows, 0, "d_y of a linear layer [{}, {}]", w.rows, w.cols);
    let n = d_y.len() / w.rows;
    let mut d_x = cpu.pool.take(n * w.cols);
    match &w.packed.0 {
        Form::F32 { .. } => {
            let (d_y, w) = (View::rows(d_y, n, w.rows, w.rows), View::rows(w.master, w.rows, w.cols, w.cols));
            parallel_product(&mut d_x, Output::Set, d_y, w, |_, _| ());
        }
        Form::Tiles { tiles, .. } => {
            let (d_y, w) = (View::rows(d_y, n, w.rows, w.rows), View::rows(w.master, w.rows, w.cols, w.cols));
            tiled::parallel_product(*tiles, &cpu.pool, &mut d_x, Output::Set, d_y, Right::Matrix(w), |_, _| ());
        }
        Form::Bf16 { how, backward, .. } => {
            let d_y = Rows::pack(cpu.isa, &cpu.pool, d_y, w.rows);
            bf16::product(*how, &mut d_x, Start::Zero, Left::Rows(&d_y), backward);
        }
    }
    d_x
}

pub(super) fn n_rows(x: &[f32], w: Weight<'_, Cpu>) -> usize {
    assert_eq!(w.master.len(), w.rows * w.cols, "a weight [{}, {}]", w.rows, w.cols);
    assert_eq!(x.len() % w.cols, 0, "x of a linear layer with {} inputs", w.cols);
    x.len() / w.cols
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::Ops;
    use crate::testing::{assert_close, seeded};

    /// Sums of up to 70 products of values below 1, in another order.
    const TOLERANCE: f64 = 1e-5;

    #[test]
    fn layers_in_bf16_equal_f32_where_the_inputs_are_bf16() {
        let (n, rows, cols) = (70, 48, 66);
        let values =
            |len, seed| -> Vec<f32> { seeded(len, seed).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect() };
        let run = |cpu: &Cpu| {
            let upload = |len, seed| cpu.upload(&values(len, seed));
            let (x, d_y, master, bias) =
                (upload(n * cols, 1), upload(n * rows, 2), upload(rows * cols, 3), upload(rows, 4));
            let (mut d_weight, mut d_bias) = (upload(rows * cols, 5), upload(rows, 6));
            let packed = cpu.pack(&master, rows, cols);
            let w = Weight { master: &master, packed: &packed, rows, cols };
            let y = cpu.linear_forward(&x, w, Some(&bias));
            let grads = LinearGrads { d_weight: &mut d_weight, d_bias: Some(&mut d_bias) };
            let d_x = cpu.linear_backward(&d_y, &x, w, Some(grads));
            [y, d_x, d_weight, d_bias].map(|values| cpu.download(&values))
        };
        let expected = run(&Cpu::new());
        for cpu in [Cpu::bf16(), Some(Cpu::bf16_emulated())].into_iter().flatten() {
            for (actual, expected) in run(&cpu).iter().zip(&expected) {
                assert_close(actual, expected, TOLERANCE, TOLERANCE);
            }
        }
    }
}
