//! Attention whose products multiply bf16. What each product takes is rounded once for a head of a text; sums, the softmax and its
//! derivative are f32.

use super::{Attention, QUERY_BLOCK, Task, padded, parts, softmax_backward_rows, softmax_rows, whole_lines};
use crate::cpu::Buffer;
use crate::cpu::bf16::pack::{PANEL, pack_panels, pack_rows_of_pairs, pack_transposed_panels, pack_view, zip_pairs};
use crate::cpu::bf16::tile::{MultiplyPairs, Start, TILE};
use crate::cpu::bf16::{LeftPairs, product_on_thread};
use crate::cpu::buffer::bits_mut;
use crate::cpu::scatter::Scatter;
use crate::ops::{AttentionSaved, Heads};

/// Query rows in one block: whole tiles, and pairs.
const BLOCK: usize = QUERY_BLOCK / TILE * TILE;
const _: () = assert!(BLOCK.is_multiple_of(2));

/// What the forward of one head of a text of `len` tokens needs: scores, then, as pairs, keys, values, queries and probabilities.
pub(super) fn forward_sizes(Heads { head_dim, .. }: Heads, len: usize) -> [usize; 5] {
    let (block, dim_pairs, key_pairs) = (BLOCK.min(len), head_dim.div_ceil(2), len.div_ceil(2));
    let stride = padded(len);
    [block * stride, panels(len, dim_pairs), panels(head_dim, key_pairs), block * dim_pairs, block * stride / 2]
        .map(whole_lines)
}

/// Writes the context and the log-sum-exp of one head of one text.
pub(super) fn forward(
    how: MultiplyPairs,
    attention: &Attention<'_>,
    task: &Task,
    context: &Scatter<'_>,
    lse: &Scatter<'_>,
    space: &mut [f32],
) {
    let (cpu, &Task { head, first, len, .. }) = (attention.cpu, task);
    let (head_dim, width, n_tokens) = (attention.heads.head_dim, attention.heads.width(), attention.texts.n_tokens());
    let bias_by_distance = attention.bias_by_distance(task);
    let (dim_pairs, key_pairs, stride) = (head_dim.div_ceil(2), len.div_ceil(2), padded(len));
    let [scores, keys, values, queries, probabilities] = parts(space, forward_sizes(attention.heads, len));
    let [keys, values, queries, probabilities] = [keys, values, queries, probabilities].map(bits_mut);
    pack_transposed_panels(cpu.isa, keys, attention.part(1, head, first, len));
    pack_panels(cpu.isa, values, attention.part(2, head, first, len));
    let mut row_lse = [0.0; BLOCK];
    for query in (0..len).step_by(BLOCK) {
        let n = BLOCK.min(len - query);
        let token = first + query;
        let scores = &mut scores[..n * stride];
        let queries = &mut queries[..n * dim_pairs];
        pack_view(cpu.isa, queries, attention.part(0, head, token, n));
        // SAFETY: `scores` holds `n` rows of `stride >= len`, and is this task's.
        unsafe {
            let left = by_rows(queries, dim_pairs);
            product_on_thread(how, scores.as_mut_ptr(), stride, Start::Zero, left, keys, [n, dim_pairs, len]);
        }
        let rows = attention.block(task, query, n, &bias_by_distance);
        softmax_rows(cpu.isa, scores, &mut row_lse[..n], &rows);
        let probabilities = &mut probabilities[..n * stride / 2];
        pack_rows_of_pairs(cpu.isa, probabilities, scores, stride);
        let out = context.rows_at(token * width + head * head_dim, n, head_dim, width);
        // SAFETY: these columns of these tokens belong to this task: one task per text and head.
        unsafe {
            let left = by_rows(probabilities, stride / 2);
            product_on_thread(how, out, width, Start::Zero, left, values, [n, key_pairs, head_dim]);
            lse.write(head * n_tokens + token, &row_lse[..n]);
        }
    }
}

/// What the backward of one head of a text of `len` tokens needs: probabilities and the gradient of the scores, then, as pairs, what the
/// products take.
pub(super) fn backward_sizes(Heads { head_dim, .. }: Heads, len: usize) -> [usize; 12] {
    let (block, dim_pairs, key_pairs) = (BLOCK.min(len), head_dim.div_ceil(2), len.div_ceil(2));
    let (block_pairs, stride) = (block.div_ceil(2), padded(len));
    [
        2 * block_pairs * stride,
        2 * block_pairs * stride,
        panels(len, dim_pairs),
        panels(len, dim_pairs),
        panels(head_dim, key_pairs),
        block * dim_pairs,
        panels(head_dim, block_pairs),
        block * dim_pairs,
        panels(head_dim, block_pairs),
        block_pairs * stride,
        block_pairs * stride,
        block * stride / 2,
    ]
    .map(whole_lines)
}

/// Writes the gradients of query, key and value of one head of one text. Returns the gradient of the bias by distance.
pub(super) fn backward(
    how: MultiplyPairs,
    attention: &Attention<'_>,
    task: &Task,
    d_context: &[f32],
    saved: &AttentionSaved<Buffer>,
    d_qkv: &Scatter<'_>,
    space: &mut [f32],
) -> Vec<f32> {
    let (cpu, &Task { head, first, len, .. }) = (attention.cpu, task);
    let (head_dim, width) = (attention.heads.head_dim, attention.heads.width());
    let bias_by_distance = attention.bias_by_distance(task);
    let mut d_by_distance = vec![0.0; bias_by_distance.len()];
    let (dim_pairs, key_pairs, stride) = (head_dim.div_ceil(2), len.div_ceil(2), padded(len));
    let [p_space, d_s_space, rest @ ..] = parts(space, backward_sizes(attention.heads, len));
    let [keys, values, key_rows, q, q_rows, d_out, d_out_rows, p_columns, d_s_columns, d_s_pairs] = rest.map(bits_mut);
    pack_transposed_panels(cpu.isa, keys, attention.part(1, head, first, len));
    pack_transposed_panels(cpu.isa, values, attention.part(2, head, first, len));
    pack_panels(cpu.isa, key_rows, attention.part(1, head, first, len));
    let d_part = |part: usize, token: usize, n: usize| {
        d_qkv.rows_at(token * 3 * width + part * width + head * head_dim, n, head_dim, 3 * width)
    };
    for query in (0..len).step_by(BLOCK) {
        let n = BLOCK.min(len - query);
        let (token, n_pairs) = (first + query, n.div_ceil(2));
        let queries = attention.part(0, head, token, n);
        let rows = attention.backward_rows(task, query, n, d_context, saved);
        let (p, d_s) = (&mut p_space[..n * stride], &mut d_s_space[..n * stride]);
        let (q, d_out) = (&mut q[..n * dim_pairs], &mut d_out[..n * dim_pairs]);
        let (q_rows, d_out_rows) =
            (&mut q_rows[..panels(head_dim, n_pairs)], &mut d_out_rows[..panels(head_dim, n_pairs)]);
        pack_view(cpu.isa, q, queries);
        pack_panels(cpu.isa, q_rows, queries);
        pack_view(cpu.isa, d_out, rows.d_context);
        pack_panels(cpu.isa, d_out_rows, rows.d_context);
        // SAFETY: `p` and `d_s` hold `n` rows of `stride >= len`, and are this task's.
        unsafe {
            let shape = [n, dim_pairs, len];
            product_on_thread(how, p.as_mut_ptr(), stride, Start::Zero, by_rows(q, dim_pairs), keys, shape);
            // context = dropped v, where dropped = dropout(p)
            product_on_thread(how, d_s.as_mut_ptr(), stride, Start::Zero, by_rows(d_out, dim_pairs), values, shape);
        }
        let block = attention.block(task, query, n, &bias_by_distance);
        softmax_backward_rows(cpu.isa, p, d_s, &mut d_by_distance, &rows, &block);
        let d_s_pairs = &mut d_s_pairs[..n * stride / 2];
        pack_rows_of_pairs(cpu.isa, d_s_pairs, d_s, stride);
        for (values, pairs) in [(&mut *p_space, &mut *p_columns), (&mut *d_s_space, &mut *d_s_columns)] {
            values[n * stride..2 * n_pairs * stride].fill(0.0);
            for (rows, pairs) in values.chunks_exact(2 * stride).zip(pairs.chunks_exact_mut(stride)).take(n_pairs) {
                let (low, high) = rows.split_at(stride);
                zip_pairs(cpu.isa, pairs, low, high);
            }
        }
        let start = if query == 0 { Start::Zero } else { Start::Output };
        let (d_q, d_k, d_v) = (d_part(0, token, n), d_part(1, first, len), d_part(2, first, len));
        // SAFETY: these columns of these tokens belong to this task: one task per text and head.
        unsafe {
            let of_token = 3 * width;
            let shape = [len, n_pairs, head_dim];
            product_on_thread(how, d_v, of_token, start, by_columns(p_columns, stride), d_out_rows, shape);
            // scores = q k^T / sqrt(head_dim), whose factor is in d_s
            product_on_thread(how, d_k, of_token, start, by_columns(d_s_columns, stride), q_rows, shape);
            let left = by_rows(d_s_pairs, stride / 2);
            product_on_thread(how, d_q, of_token, Start::Zero, left, key_rows, [n, key_pairs, head_dim]);
        }
    }
    d_by_distance
}

/// Elements of panels of `columns` columns of `pairs` pairs.
fn panels(columns: usize, pairs: usize) -> usize {
    columns.next_multiple_of(PANEL) * pairs
}

/// Rows of pairs, `stride` apart.
fn by_rows(pairs: &[u32], stride: usize) -> LeftPairs<'_> {
    LeftPairs { pairs, row_stride: stride, pair_stride: 1 }
}

/// Pairs of rows that are the columns of the left side, `stride` apart.
fn by_columns(pairs: &[u32], stride: usize) -> LeftPairs<'_> {
    LeftPairs { pairs, row_stride: 1, pair_stride: stride }
}
