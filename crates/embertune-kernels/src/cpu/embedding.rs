//! Sums of embedding rows, and their gradients as a scatter-add in a fixed order.

use rayon::prelude::*;

use crate::cpu::elementwise::add_assign;
use crate::cpu::rows::rows_per_task;
use crate::cpu::{Buffer, Cpu};
use crate::ops::Lookup;

pub(super) fn embedding_forward(cpu: &Cpu, lookups: &[Lookup<'_, Buffer>], width: usize) -> Buffer {
    let n = lookups.first().map_or(0, |lookup| lookup.rows.len());
    assert!(lookups.iter().all(|lookup| lookup.rows.len() == n), "lookups of different lengths");
    let mut y = cpu.pool.take(n * width);
    let rows = rows_per_task(width);
    y.par_chunks_mut((rows * width).max(1)).enumerate().for_each(|(i, block)| {
        for (token, y) in (i * rows..).zip(block.chunks_exact_mut(width)) {
            let mut sources = lookups.iter().map(|l| row(l.table, l.rows[token], width));
            if let Some(first) = sources.next() {
                y.copy_from_slice(first);
            }
            sources.for_each(|source| add_assign(cpu.isa, y, source));
        }
    });
    y
}

/// The tokens are sorted by table row, so that tasks own table rows and add a row's tokens in the order of the batch.
pub(super) fn embedding_backward(
    cpu: &Cpu,
    d_y: &[f32],
    rows: &[u32],
    padding_row: Option<u32>,
    width: usize,
    d_table: &mut [f32],
) {
    assert_eq!(d_y.len(), rows.len() * width, "d_y of an embedding, {} rows of {width}", rows.len());
    let mut order: Vec<(u32, u32)> =
        rows.iter().copied().zip(0_u32..).filter(|&(row, _)| Some(row) != padding_row).collect();
    order.par_sort_unstable();
    let table_rows = rows_per_task(width);
    d_table.par_chunks_mut((table_rows * width).max(1)).enumerate().for_each(|(i, block)| {
        let first_row = (i * table_rows) as u32;
        let tokens = &order[order.partition_point(|&(row, _)| row < first_row)..];
        let end = tokens.partition_point(|&(row, _)| (row - first_row) as usize * width < block.len());
        for &(table_row, token) in &tokens[..end] {
            // y[t] = table[rows[t]]
            let at = (table_row - first_row) as usize * width;
            add_assign(cpu.isa, &mut block[at..at + width], row(d_y, token, width));
        }
    });
}

fn row(table: &[f32], row: u32, width: usize) -> &[f32] {
    &table[row as usize * width..(row as usize + 1) * width]
}
