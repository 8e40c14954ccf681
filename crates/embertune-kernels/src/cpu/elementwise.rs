//! Passes over memory that are simple sums and products of elements, rows and columns.

use rayon::prelude::*;

use crate::cpu::Cpu;
use crate::cpu::isa::per_isa;
use crate::cpu::math::mul_add;
use crate::cpu::rows::rows_per_task;

/// Elements in one task of a pass that has no rows.
pub(super) const BLOCK: usize = 16_384;

per_isa! {
    /// `a += b`.
    pub(super) fn add_assign<const FMA: bool>(a: &mut [f32], b: &[f32]) {
        for (a, &b) in a.iter_mut().zip(b) {
            *a += b;
        }
    }
}

per_isa! {
    /// `a *= factor`.
    pub(super) fn scale<const FMA: bool>(a: &mut [f32], factor: f32) {
        for a in a {
            *a *= factor;
        }
    }
}

per_isa! {
    /// Adds every row of `a` to `sums`.
    fn add_rows_to<const FMA: bool>(sums: &mut [f32], a: &[f32]) {
        for a in a.chunks_exact(sums.len()) {
            for (sum, &a) in sums.iter_mut().zip(a) {
                *sum += a;
            }
        }
    }
}

per_isa! {
    /// `y += factor * x`.
    pub(super) fn axpy<const FMA: bool>(y: &mut [f32], factor: f32, x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = mul_add::<FMA>(factor, x, *y);
        }
    }
}

per_isa! {
    /// Sum of the squares in 16 partial sums of f64.
    fn squares<const FMA: bool>(a: &[f32]) -> f64 {
        let mut acc = [0.0_f64; 16];
        let (chunks, rest) = a.as_chunks::<16>();
        for chunk in chunks {
            for (acc, &a) in acc.iter_mut().zip(chunk) {
                *acc += f64::from(a) * f64::from(a);
            }
        }
        for (acc, &a) in acc.iter_mut().zip(rest) {
            *acc += f64::from(a) * f64::from(a);
        }
        acc.iter().sum()
    }
}

/// `sums += sum of the rows of a`: blocks of rows in parallel, their sums added in order.
pub(super) fn column_sums(cpu: &Cpu, a: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    let rows = rows_per_task(width);
    let mut partial = cpu.pool.zeros(a.len().div_ceil((rows * width).max(1)) * width);
    partial
        .par_chunks_exact_mut(width.max(1))
        .zip(a.par_chunks(rows * width.max(1)))
        .for_each(|(partial, a)| add_rows_to(cpu.isa, partial, a));
    add_rows_to(cpu.isa, sums, &partial);
}

pub(super) fn set_zero(a: &mut [f32]) {
    a.par_chunks_mut(BLOCK).for_each(|a| a.fill(0.0));
}

pub(super) fn add_assign_all(cpu: &Cpu, a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "lengths of a += b");
    a.par_chunks_mut(BLOCK).zip(b.par_chunks(BLOCK)).for_each(|(a, b)| add_assign(cpu.isa, a, b));
}

pub(super) fn scale_all(cpu: &Cpu, a: &mut [f32], factor: f32) {
    a.par_chunks_mut(BLOCK).for_each(|a| scale(cpu.isa, a, factor));
}

/// Blocks in parallel, their sums added in order.
pub(super) fn squared_norm(cpu: &Cpu, a: &[f32]) -> f64 {
    let partial: Vec<f64> = a.par_chunks(BLOCK).map(|a| squares(cpu.isa, a)).collect();
    partial.iter().sum()
}
