//! One Adafactor step over one buffer: two passes over gradient and weight, and little memory beside them.

use rayon::prelude::*;

use crate::cpu::Cpu;
use crate::cpu::elementwise::{BLOCK, add_assign};
use crate::cpu::isa::per_isa;
use crate::cpu::rows::{rows_per_task, sum_map};
use crate::ops::AdafactorStep;

pub(super) fn adafactor_step(
    cpu: &Cpu,
    w: &mut [f32],
    g: &[f32],
    rows: &mut [f32],
    columns: &mut [f32],
    step: AdafactorStep,
) {
    let len = w.len() / step.parts;
    let (n_rows, n_columns) = step.matrix.unwrap_or((len, 0));
    assert_eq!(
        (g.len(), rows.len(), columns.len()),
        (w.len(), step.parts * n_rows, step.parts * n_columns),
        "g, rows, columns"
    );
    for part in 0..step.parts {
        let range = part * len..(part + 1) * len;
        let (w, g, rows) = (&mut w[range.clone()], &g[range], &mut rows[part * n_rows..][..n_rows]);
        match step.matrix {
            None => vector(cpu, w, g, rows, step),
            Some(_) => matrix(cpu, w, g, rows, &mut columns[part * n_columns..][..n_columns], step),
        }
    }
}

fn vector(cpu: &Cpu, w: &mut [f32], g: &[f32], v: &mut [f32], step: AdafactorStep) {
    v.par_chunks_mut(BLOCK).zip(g.par_chunks(BLOCK)).for_each(|(v, g)| square(cpu.isa, v, g, step));
    let squares = g.par_chunks(BLOCK).zip(v.par_chunks(BLOCK)).map(|(g, v)| update_square(cpu.isa, g, v, 1.0, step));
    let squares: Vec<f64> = squares.collect();
    let scale = factor(squares.iter().sum(), w.len(), step);
    w.par_chunks_mut(BLOCK)
        .zip(g.par_chunks(BLOCK).zip(v.par_chunks(BLOCK)))
        .for_each(|(w, (g, v))| update(cpu.isa, w, g, v, scale, step));
}

fn matrix(cpu: &Cpu, w: &mut [f32], g: &[f32], rows: &mut [f32], columns: &mut [f32], step: AdafactorStep) {
    let (n_rows, width) = (rows.len(), columns.len());
    let n = rows_per_task(width);
    // Sums of the columns over blocks of rows, added in order.
    let mut partial = cpu.pool.zeros(n_rows.div_ceil(n) * width);
    partial
        .par_chunks_exact_mut(width)
        .zip(rows.par_chunks_mut(n).zip(g.par_chunks(n * width)))
        .for_each(|(sums, (rows, g))| square_sums(cpu.isa, sums, rows, g, step));
    let mut sums = cpu.pool.zeros(width);
    partial.chunks_exact(width).for_each(|partial| add_assign(cpu.isa, &mut sums, partial));
    let share = ((1.0 - step.beta2) / n_rows as f64) as f32;
    columns.iter_mut().zip(sums.iter()).for_each(|(c, sum)| *c = step.beta2 as f32 * *c + share * sum);
    let mean = rows.iter().copied().map(f64::from).sum::<f64>() / n_rows as f64;
    let row_factor = |r: f32| (1.0 / (f64::from(r) / mean).sqrt()) as f32;

    let squares = rows.par_chunks(n).zip(g.par_chunks(n * width)).map(|(rows, g)| {
        let rows = rows.iter().zip(g.chunks_exact(width));
        rows.map(|(&r, g)| update_square(cpu.isa, g, columns, row_factor(r), step)).sum()
    });
    let squares: Vec<f64> = squares.collect();
    let scale = factor(squares.iter().sum(), w.len(), step);
    w.par_chunks_mut(n * width).zip(g.par_chunks(n * width).zip(rows.par_chunks(n))).for_each(|(w, (g, rows))| {
        for ((w, g), &r) in w.chunks_exact_mut(width).zip(g.chunks_exact(width)).zip(rows) {
            update(cpu.isa, w, g, columns, scale * row_factor(r), step);
        }
    });
}

/// `lr` over the factor that brings the root of the mean square of the update down to the threshold.
fn factor(squares: f64, len: usize, step: AdafactorStep) -> f32 {
    let rms = (squares / len.max(1) as f64).sqrt();
    (f64::from(step.lr) / (rms / f64::from(step.clip_threshold)).max(1.0)) as f32
}

per_isa! {
    /// `v = b2 v + (1 - b2) (g^2 + eps)`.
    fn square<const FMA: bool>(v: &mut [f32], g: &[f32], step: AdafactorStep) {
        let (keep, share) = (step.beta2 as f32, (1.0 - step.beta2) as f32);
        for (v, &g) in v.iter_mut().zip(g) {
            let g = g * step.grad_scale;
            *v = keep * *v + share * (g * g + step.eps);
        }
    }
}

per_isa! {
    /// Of `s = g^2 + eps`: `rows = b2 rows + (1 - b2) mean of each row`, `sums += sum of the rows`.
    fn square_sums<const FMA: bool>(sums: &mut [f32], rows: &mut [f32], g: &[f32], step: AdafactorStep) {
        let (keep, share) = (step.beta2 as f32, ((1.0 - step.beta2) / sums.len() as f64) as f32);
        for (r, g) in rows.iter_mut().zip(g.chunks_exact(sums.len())) {
            let square = |g: f32| {
                let g = g * step.grad_scale;
                g * g + step.eps
            };
            *r = keep * *r + share * sum_map(g, square);
            for (sum, &g) in sums.iter_mut().zip(g) {
                *sum += square(g);
            }
        }
    }
}

per_isa! {
    /// Sum of the squares of `factor g / sqrt(v)`, in 16 partial sums of f64.
    fn update_square<const FMA: bool>(g: &[f32], v: &[f32], factor: f32, step: AdafactorStep) -> f64 {
        let mut acc = [0.0_f64; 16];
        let square = |g: f32, v: f32| {
            let u = factor * (g * step.grad_scale / v.sqrt());
            f64::from(u) * f64::from(u)
        };
        let ((g, g_rest), (v, v_rest)) = (g.as_chunks::<16>(), v.as_chunks::<16>());
        for (g, v) in g.iter().zip(v) {
            for (acc, (&g, &v)) in acc.iter_mut().zip(g.iter().zip(v)) {
                *acc += square(g, v);
            }
        }
        for (acc, (&g, &v)) in acc.iter_mut().zip(g_rest.iter().zip(v_rest)) {
            *acc += square(g, v);
        }
        acc.iter().sum()
    }
}

per_isa! {
    /// `w = (1 - lr wd) w - factor g / sqrt(v)`.
    fn update<const FMA: bool>(w: &mut [f32], g: &[f32], v: &[f32], factor: f32, step: AdafactorStep) {
        let keep = 1.0 - step.lr * step.weight_decay;
        for (w, (&g, &v)) in w.iter_mut().zip(g.iter().zip(v)) {
            *w = *w * keep - factor * (g * step.grad_scale / v.sqrt());
        }
    }
}
