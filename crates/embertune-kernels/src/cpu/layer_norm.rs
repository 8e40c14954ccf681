//! LayerNorm with the dropout and the residual before it, one pass over memory each way.

use rayon::prelude::*;

use crate::cpu::dropout::masked;
use crate::cpu::elementwise::add_assign;
use crate::cpu::isa::per_isa;
use crate::cpu::math::mul_add;
use crate::cpu::rows::{dot, row_states, rows_per_task, sum_map};
use crate::cpu::{Buffer, Cpu};
use crate::dropout::Dropout;
use crate::ops::{Norm, NormSaved, Ragged};

pub(super) fn layer_norm_forward(
    cpu: &Cpu,
    x: &[f32],
    residual: Option<&Buffer>,
    texts: Ragged<'_>,
    dropout: Option<Dropout>,
    norm: Norm<'_, Buffer>,
) -> (Buffer, NormSaved<Buffer>) {
    let (n, width) = (texts.n_tokens(), norm.gamma.len());
    assert_eq!((x.len(), norm.beta.len()), (n * width, width), "x and beta of LayerNorm, {n} rows of {width}");
    assert!(residual.is_none_or(|r| r.len() == x.len()), "residual of LayerNorm, {n} rows of {width}");
    let states = dropout.map(|dropout| row_states(texts, dropout));

    let mut y = cpu.pool.take(x.len());
    let mut normed = cpu.pool.take(x.len());
    let mut rstd = cpu.pool.take(n);
    let rows = rows_per_task(width);
    let chunk = (rows * width).max(1);
    y.par_chunks_mut(chunk).zip(normed.par_chunks_mut(chunk)).zip(rstd.par_chunks_mut(rows)).enumerate().for_each(
        |(i, ((y, normed), rstd))| {
            let elements = i * chunk..i * chunk + y.len();
            let input = Input {
                x: &x[elements.clone()],
                residual: residual.map(|r| &r[elements]),
                mask: dropout.zip(states.as_ref()).map(|(dropout, states)| (dropout, &states[i * rows..])),
            };
            forward_rows(cpu.isa, input, norm, y, normed, rstd);
        },
    );
    (y, NormSaved { normed, rstd })
}

/// Some rows of what goes into a LayerNorm.
struct Input<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    /// The dropout and the state of each row.
    mask: Option<(Dropout, &'a [u32])>,
}

per_isa! {
    fn forward_rows<const FMA: bool>(
        input: Input<'_>,
        norm: Norm<'_, Buffer>,
        y: &mut [f32],
        normed: &mut [f32],
        rstd: &mut [f32],
    ) {
        let (gamma, beta) = (&norm.gamma[..], &norm.beta[..]);
        let width = gamma.len();
        let rows = y.chunks_exact_mut(width).zip(normed.chunks_exact_mut(width)).zip(rstd).enumerate();
        for (row, ((y, s), rstd)) in rows {
            let elements = row * width..(row + 1) * width;
            let x = &input.x[elements.clone()];
            let residual = input.residual.map(|residual| &residual[elements]);
            let mask = input.mask.map(|(dropout, states)| (states[row], dropout.threshold(), dropout.scale()));
            match (mask, residual) {
                (Some((state, threshold, scale)), Some(residual)) => {
                    for (column, (s, (&x, &r))) in (0_u32..).zip(s.iter_mut().zip(x.iter().zip(residual))) {
                        *s = masked(x, state, column, threshold, scale) + r;
                    }
                }
                (Some((state, threshold, scale)), None) => {
                    for (column, (s, &x)) in (0_u32..).zip(s.iter_mut().zip(x)) {
                        *s = masked(x, state, column, threshold, scale);
                    }
                }
                (None, Some(residual)) => {
                    for (s, (&x, &r)) in s.iter_mut().zip(x.iter().zip(residual)) {
                        *s = x + r;
                    }
                }
                (None, None) => s.copy_from_slice(x),
            }
            let mean = sum_map(s, |s| s) / width as f32;
            // Two passes: the sum of squares minus the square of the mean would cancel.
            let var = sum_map(s, |s| (s - mean) * (s - mean)) / width as f32;
            *rstd = 1.0 / (var + norm.eps).sqrt();
            for ((y, s), (&gamma, &beta)) in y.iter_mut().zip(s).zip(gamma.iter().zip(beta)) {
                *s = (*s - mean) * *rstd;
                *y = mul_add::<FMA>(*s, gamma, beta);
            }
        }
    }
}

pub(super) fn layer_norm_output(cpu: &Cpu, saved: &NormSaved<Buffer>, norm: Norm<'_, Buffer>) -> Buffer {
    let width = norm.gamma.len();
    assert_eq!(saved.normed.len(), saved.rstd.len() * width, "normed of LayerNorm of {width}");
    let mut y = cpu.pool.take(saved.normed.len());
    let chunk = (rows_per_task(width) * width).max(1);
    y.par_chunks_mut(chunk)
        .zip(saved.normed.par_chunks(chunk))
        .for_each(|(y, normed)| output_rows(cpu.isa, normed, norm, y));
    y
}

per_isa! {
    fn output_rows<const FMA: bool>(normed: &[f32], norm: Norm<'_, Buffer>, y: &mut [f32]) {
        let (gamma, beta) = (&norm.gamma[..], &norm.beta[..]);
        for (y, normed) in y.chunks_exact_mut(gamma.len()).zip(normed.chunks_exact(gamma.len())) {
            for ((y, &normed), (&gamma, &beta)) in y.iter_mut().zip(normed).zip(gamma.iter().zip(beta)) {
                *y = mul_add::<FMA>(normed, gamma, beta);
            }
        }
    }
}

pub(super) fn layer_norm_backward(
    cpu: &Cpu,
    d_y: &[f32],
    saved: &NormSaved<Buffer>,
    norm: Norm<'_, Buffer>,
    d_gamma: &mut [f32],
    d_beta: &mut [f32],
) -> Buffer {
    let width = norm.gamma.len();
    assert_eq!((d_gamma.len(), d_beta.len()), (width, width), "d_gamma and d_beta of LayerNorm");
    assert_eq!((d_y.len(), d_y.len()), (saved.normed.len(), saved.rstd.len() * width), "d_y of LayerNorm of {width}");

    let mut d_s = cpu.pool.take(d_y.len());
    let rows = rows_per_task(width);
    let chunk = (rows * width).max(1);
    // The sums of each block of rows, d_gamma beside d_beta; added in order below.
    let mut partial = cpu.pool.zeros(d_y.len().div_ceil(chunk) * 2 * width);
    d_s.par_chunks_mut(chunk).zip(partial.par_chunks_mut((2 * width).max(1))).enumerate().for_each(
        |(i, (d_s, partial))| {
            let first = i * chunk;
            let (d_gamma, d_beta) = partial.split_at_mut(width);
            let rows = BackwardRows {
                d_y: &d_y[first..first + d_s.len()],
                normed: &saved.normed[first..first + d_s.len()],
                rstd: &saved.rstd[i * rows..],
                gamma: norm.gamma,
            };
            backward_rows(cpu.isa, rows, d_s, d_gamma, d_beta);
        },
    );
    for partial in partial.chunks_exact((2 * width).max(1)) {
        add_assign(cpu.isa, d_gamma, &partial[..width]);
        add_assign(cpu.isa, d_beta, &partial[width..]);
    }
    d_s
}

struct BackwardRows<'a> {
    d_y: &'a [f32],
    normed: &'a [f32],
    rstd: &'a [f32],
    gamma: &'a [f32],
}

per_isa! {
    fn backward_rows<const FMA: bool>(
        rows: BackwardRows<'_>,
        d_s: &mut [f32],
        d_gamma: &mut [f32],
        d_beta: &mut [f32],
    ) {
        let width = rows.gamma.len();
        let inputs = rows.d_y.chunks_exact(width).zip(rows.normed.chunks_exact(width)).zip(rows.rstd);
        for (d_s, ((d_y, normed), &rstd)) in d_s.chunks_exact_mut(width).zip(inputs) {
            // y = normed * gamma + beta
            for ((d_gamma, d_beta), (&d_y, &normed)) in
                d_gamma.iter_mut().zip(d_beta.iter_mut()).zip(d_y.iter().zip(normed))
            {
                *d_gamma = mul_add::<FMA>(d_y, normed, *d_gamma);
                *d_beta += d_y;
            }
            for (d_s, (&d_y, &gamma)) in d_s.iter_mut().zip(d_y.iter().zip(rows.gamma)) {
                *d_s = d_y * gamma;
            }
            // normed = (s - mean(s)) * rstd(s)
            let mean = sum_map(d_s, |d| d) / width as f32;
            let mean_with_normed = dot::<FMA>(d_s, normed) / width as f32;
            for (d_s, &normed) in d_s.iter_mut().zip(normed) {
                *d_s = rstd * mul_add::<FMA>(-normed, mean_with_normed, *d_s - mean);
            }
        }
    }
}
