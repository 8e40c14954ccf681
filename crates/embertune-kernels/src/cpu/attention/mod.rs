//! Self-attention within each text: one task per text and head, query rows in blocks that stay in the cache.
//!
//! Nothing of the size `len * len` is kept: the backward computes the probabilities again from the log-sum-exp.

mod narrow;

use rayon::prelude::*;

use crate::cpu::dropout::masked;
use crate::cpu::isa::per_isa;
use crate::cpu::math::{exp_below_88, mul_add};
use crate::cpu::matmul::{self, Output, View};
use crate::cpu::rows::{dot, fold};
use crate::cpu::scatter::Scatter;
use crate::cpu::tiled::{self, Tiles};
use crate::cpu::{Buffer, Cpu};
use crate::dropout::Dropout;
use crate::ops::{AttentionSaved, Heads, Ragged, RelativeBias};

/// Scores that a pass takes at once. Rows of scores are padded to a multiple of it: what is left over of a row of 54 keys would take longer, element
/// by element, than all the rest.
const LANES: usize = 16;

/// Query rows in one block: 64 rows of scores of 512 keys are 128 KiB, beside which a head's keys and values fit into L2.
const QUERY_BLOCK: usize = 64;

/// What forward and backward share.
#[derive(Clone, Copy)]
struct Attention<'a> {
    cpu: &'a Cpu,
    qkv: &'a [f32],
    texts: Ragged<'a>,
    heads: Heads,
    bias: Option<RelativeBias<'a, Buffer>>,
    dropout: Option<Dropout>,
}

/// One head of one text.
struct Task {
    text: usize,
    head: usize,
    /// First token of the text.
    first: usize,
    len: usize,
}

impl<'a> Attention<'a> {
    fn new(
        cpu: &'a Cpu,
        qkv: &'a [f32],
        texts: Ragged<'a>,
        heads: Heads,
        bias: Option<RelativeBias<'a, Buffer>>,
        dropout: Option<Dropout>,
    ) -> Self {
        let (n, width) = (texts.n_tokens(), heads.width());
        assert_eq!(qkv.len(), n * 3 * width, "qkv of attention, {n} tokens, width {width}");
        if let Some(bias) = bias {
            let longest = (0..texts.n_texts()).map(|text| texts.range(text).len()).max().unwrap_or(0);
            assert!(longest <= bias.max_len, "a text of {longest} tokens, relative bias up to {}", bias.max_len);
        }
        Attention { cpu, qkv, texts, heads, bias, dropout }
    }

    /// Calls `work` for every head of every text, in parallel, with space of as many elements as `space_of` says for the longest text.
    fn for_each(&self, space_of: impl Fn(usize) -> usize, work: impl Fn(Task, &mut [f32]) + Sync) {
        let heads = self.heads.heads;
        let size = space_of((0..self.texts.n_texts()).map(|text| self.texts.range(text).len()).max().unwrap_or(0));
        (0..self.texts.n_texts() * heads).into_par_iter().for_each_init(
            || self.cpu.pool.take(size),
            |space, i| {
                let (text, head) = (i / heads, i % heads);
                let range = self.texts.range(text);
                work(Task { text, head, first: range.start, len: range.len() }, space);
            },
        );
    }

    /// Query (0), key (1) or value (2) of `n` tokens from `first` on.
    fn part(&self, part: usize, head: usize, first: usize, n: usize) -> View<'a> {
        let Heads { head_dim, .. } = self.heads;
        let stride = 3 * self.heads.width();
        let at = first * stride + part * self.heads.width() + head * head_dim;
        View::rows(&self.qkv[at.min(self.qkv.len())..], n, head_dim, stride)
    }

    /// Bias of each distance `key - query`, from `-(len - 1)` on, `[2 * len - 1]`, and zeros for the padding of a row; empty without a bias.
    fn bias_by_distance(&self, task: &Task) -> Vec<f32> {
        let Some(bias) = self.bias else { return Vec::new() };
        let buckets = buckets_by_distance(bias, task.len);
        let of_bucket = |&bucket: &u32| bias.table[bucket as usize * self.heads.heads + task.head];
        buckets.iter().map(of_bucket).chain([0.0; LANES]).collect()
    }

    /// Products of `n` queries from `query` on with every key of the text, in padded rows.
    fn scores(&self, task: &Task, query: usize, n: usize, scores: &mut [f32]) {
        let q = self.part(0, task.head, task.first + query, n);
        let k = self.part(1, task.head, task.first, task.len);
        product(self.cpu, scores, padded(task.len), Output::Set, q, k.transposed());
    }

    /// What the products of queries and keys are multiplied by.
    fn scale(&self) -> f32 {
        1.0 / (self.heads.head_dim as f32).sqrt()
    }

    /// `n` query rows, for the element-wise passes.
    fn block<'b>(&self, task: &Task, query: usize, n: usize, bias_by_distance: &'b [f32]) -> QueryRows<'b> {
        let mask = self.dropout.map(|dropout| {
            let mut states = [0; QUERY_BLOCK];
            for (row, state) in states[..n].iter_mut().enumerate() {
                let mask_row = task.head * task.len + query + row;
                *state = dropout.row_state(self.texts.keys[task.text], mask_row as u32);
            }
            (dropout, states)
        });
        QueryRows { len: task.len, query, bias_by_distance, scale: self.scale(), mask }
    }

    /// What the element-wise pass of the backward reads beside products, of `n` query rows.
    fn backward_rows<'b>(
        &self,
        task: &Task,
        query: usize,
        n: usize,
        d_context: &'b [f32],
        saved: &'b AttentionSaved<Buffer>,
    ) -> BackwardRows<'b> {
        let (token, width, head_dim) = (task.first + query, self.heads.width(), self.heads.head_dim);
        let (at, lse_at) = (token * width + task.head * head_dim, task.head * self.texts.n_tokens() + token);
        let rows_of = |x: &'b [f32]| View::rows(&x[at..], n, head_dim, width);
        BackwardRows {
            lse: &saved.lse[lse_at..lse_at + n],
            context: rows_of(&saved.context),
            d_context: rows_of(d_context),
        }
    }

    /// `d_table` of one text and head from the sums along the diagonals: `scores[i, j] += table[bucket(j - i), head]`.
    fn by_bucket(&self, bias: RelativeBias<'_, Buffer>, len: usize, d_by_distance: &[f32]) -> Vec<f32> {
        let mut d_buckets = vec![0.0; bias.table.len() / self.heads.heads];
        for (&bucket, &d) in buckets_by_distance(bias, len).iter().zip(d_by_distance) {
            d_buckets[bucket as usize] += d;
        }
        d_buckets
    }
}

/// `out (+)= a b` on this thread, rows of `out` `out_stride` apart.
fn product(cpu: &Cpu, out: &mut [f32], out_stride: usize, output: Output, a: View<'_>, b: View<'_>) {
    match Tiles::new(cpu.isa) {
        Some(tiles) => tiled::product(tiles, &cpu.pool, out, out_stride, output, a, b),
        None => matmul::product(out, out_stride, output, a, b),
    }
}

fn buckets_by_distance<'a>(bias: RelativeBias<'a, Buffer>, len: usize) -> &'a [u32] {
    &bias.bucket_of[bias.max_len - len..bias.max_len + len - 1]
}

/// Elements of a row of `len` scores.
fn padded(len: usize) -> usize {
    len.next_multiple_of(LANES)
}

/// Query rows of one task: what the passes over their scores need.
struct QueryRows<'a> {
    /// Number of keys.
    len: usize,
    /// The first query.
    query: usize,
    bias_by_distance: &'a [f32],
    /// What the products of queries and keys are multiplied by.
    scale: f32,
    /// The dropout and the state of each row's mask.
    mask: Option<(Dropout, [u32; QUERY_BLOCK])>,
}

impl QueryRows<'_> {
    /// Makes scores of a row of products of queries and keys: scaled, the bias added, minus infinity where it is padded.
    #[inline(always)]
    fn score<'s, const FMA: bool>(&self, row: usize, products: &'s mut [f32]) -> &'s mut [[f32; LANES]] {
        let (scores, _) = products.as_chunks_mut::<LANES>();
        if self.bias_by_distance.is_empty() {
            scores.as_flattened_mut().iter_mut().for_each(|score| *score *= self.scale);
        } else {
            let (bias, _) = self.bias_by_distance[self.first_distance(row)..].as_chunks::<LANES>();
            for (scores, bias) in scores.iter_mut().zip(bias) {
                for (score, &bias) in scores.iter_mut().zip(bias) {
                    *score = mul_add::<FMA>(*score, self.scale, bias);
                }
            }
        }
        scores.as_flattened_mut()[self.len..].fill(f32::NEG_INFINITY);
        scores
    }

    /// Where the distances of the query `row` of the block begin among those of the text.
    #[inline(always)]
    fn first_distance(&self, row: usize) -> usize {
        self.len - 1 - (self.query + row)
    }
}

pub(super) fn attention_forward(
    cpu: &Cpu,
    qkv: &[f32],
    texts: Ragged<'_>,
    heads: Heads,
    bias: Option<RelativeBias<'_, Buffer>>,
    dropout: Option<Dropout>,
) -> AttentionSaved<Buffer> {
    let attention = Attention::new(cpu, qkv, texts, heads, bias, dropout);
    let (n_tokens, width) = (texts.n_tokens(), heads.width());
    let mut context = cpu.pool.take(n_tokens * width);
    let mut lse = cpu.pool.take(heads.heads * n_tokens);
    let (context_rows, lse_rows) = (Scatter::new(&mut context), Scatter::new(&mut lse));
    if let Some(how) = cpu.bf16 {
        let space_of = |len| narrow::forward_sizes(heads, len).iter().sum();
        attention.for_each(space_of, |task, space| {
            narrow::forward(how, &attention, &task, &context_rows, &lse_rows, space);
        });
    } else {
        let space_of = |len| forward_sizes(heads, len).iter().sum();
        attention.for_each(space_of, |task, space| {
            forward_of_task(&attention, &task, &context_rows, &lse_rows, space);
        });
    }
    AttentionSaved { context, lse }
}

/// What the forward of one head of a text of `len` tokens needs: scores and output of a block.
fn forward_sizes(Heads { head_dim, .. }: Heads, len: usize) -> [usize; 2] {
    let block = QUERY_BLOCK.min(len);
    [block * padded(len), block * head_dim].map(whole_lines)
}

/// Writes the context and the log-sum-exp of one head of one text.
fn forward_of_task(
    attention: &Attention<'_>,
    task: &Task,
    context: &Scatter<'_>,
    lse: &Scatter<'_>,
    space: &mut [f32],
) {
    let (cpu, &Task { head, first, len, .. }) = (attention.cpu, task);
    let (n_tokens, width, head_dim) = (attention.texts.n_tokens(), attention.heads.width(), attention.heads.head_dim);
    let bias_by_distance = attention.bias_by_distance(task);
    let [scores, out] = parts(space, forward_sizes(attention.heads, len));
    let stride = padded(len);
    let mut row_lse = [0.0; QUERY_BLOCK];
    for query in (0..len).step_by(QUERY_BLOCK) {
        let n = QUERY_BLOCK.min(len - query);
        let scores = &mut scores[..n * stride];
        attention.scores(task, query, n, scores);
        softmax_rows(cpu.isa, scores, &mut row_lse[..n], &attention.block(task, query, n, &bias_by_distance));
        let v = attention.part(2, head, first, len);
        product(cpu, out, head_dim, Output::Set, View::rows(scores, n, len, stride), v);
        for (row, out) in out.chunks_exact(head_dim).take(n).enumerate() {
            // SAFETY: these columns of this token belong to this task: one task per text and head.
            unsafe { context.write((first + query + row) * width + head * head_dim, out) };
        }
        // SAFETY: as above, one task per text and head.
        unsafe { lse.write(head * n_tokens + first + query, &row_lse[..n]) };
    }
}

per_isa! {
    /// Products of queries and keys become dropped-out probabilities, zero where rows are padded; `lse` their log-sum-exp.
    fn softmax_rows<const FMA: bool>(products: &mut [f32], lse: &mut [f32], rows: &QueryRows<'_>) {
        for (row, (products, lse)) in products.chunks_exact_mut(padded(rows.len)).zip(lse).enumerate() {
            let scores = rows.score::<FMA>(row, products);
            let mut largest = [f32::NEG_INFINITY; LANES];
            for scores in scores.iter() {
                for (largest, &score) in largest.iter_mut().zip(scores) {
                    *largest = larger(*largest, score);
                }
            }
            let max = fold(largest, larger);
            let mut sums = [0.0; LANES];
            for scores in scores.iter_mut() {
                for (sum, score) in sums.iter_mut().zip(scores) {
                    *score = exp_below_88::<FMA>(*score - max);
                    *sum += *score;
                }
            }
            let sum = fold(sums, |a, b| a + b);
            *lse = max + sum.ln();
            match &rows.mask {
                Some((dropout, states)) => {
                    let (state, threshold, scale) = (states[row], dropout.threshold(), dropout.scale() / sum);
                    for (first_key, scores) in (0..).step_by(LANES).zip(scores) {
                        for (key, e) in (first_key..).zip(scores) {
                            *e = masked(*e, state, key, threshold, scale);
                        }
                    }
                }
                None => {
                    let scale = 1.0 / sum;
                    scores.as_flattened_mut().iter_mut().for_each(|e| *e *= scale);
                }
            }
        }
    }
}

/// The larger one, the first where one is no number.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn attention_backward(
    cpu: &Cpu,
    d_context: &[f32],
    qkv: &[f32],
    saved: &AttentionSaved<Buffer>,
    texts: Ragged<'_>,
    heads: Heads,
    bias: Option<RelativeBias<'_, Buffer>>,
    d_bias_table: Option<&mut Buffer>,
    dropout: Option<Dropout>,
) -> Buffer {
    let attention = Attention::new(cpu, qkv, texts, heads, bias, dropout);
    let (n_tokens, width) = (texts.n_tokens(), heads.width());
    assert_eq!(d_context.len(), n_tokens * width, "d_context of attention, {n_tokens} tokens, width {width}");
    let mut d_qkv = cpu.pool.take(qkv.len());
    let d_qkv_rows = Scatter::new(&mut d_qkv);
    // The gradient of the bias of each text, added in the order of the texts below.
    let table_len = bias.map_or(0, |bias| bias.table.len());
    let mut d_bias = cpu.pool.take(texts.n_texts() * table_len);
    let d_bias_rows = Scatter::new(&mut d_bias);

    let write_bias = |task: &Task, d_by_distance: &[f32]| {
        if let Some(bias) = bias {
            let d_buckets = attention.by_bucket(bias, task.len, d_by_distance);
            // SAFETY: one task per text and head.
            unsafe { d_bias_rows.write((task.text * heads.heads + task.head) * d_buckets.len(), &d_buckets) };
        }
    };
    if let Some(how) = cpu.bf16 {
        let space_of = |len| narrow::backward_sizes(heads, len).iter().sum();
        attention.for_each(space_of, |task, space| {
            let d_by_distance = narrow::backward(how, &attention, &task, d_context, saved, &d_qkv_rows, space);
            write_bias(&task, &d_by_distance);
        });
    } else {
        let space_of = |len| backward_sizes(heads, len).iter().sum();
        attention.for_each(space_of, |task, space| {
            let d_by_distance = backward_of_task(&attention, &task, d_context, saved, &d_qkv_rows, space);
            write_bias(&task, &d_by_distance);
        });
    }

    if let Some(d_table) = d_bias_table {
        assert_eq!(d_table.len(), table_len, "d_bias_table of attention");
        for of_text in d_bias.chunks_exact(table_len.max(1)) {
            for (head, of_head) in of_text.chunks_exact(table_len / heads.heads).enumerate() {
                for (bucket, d) in of_head.iter().enumerate() {
                    d_table[bucket * heads.heads + head] += d;
                }
            }
        }
    }
    d_qkv
}

/// What a backward of one head of a text of `len` tokens needs: probabilities, gradient of the scores, of the queries, keys and values.
fn backward_sizes(Heads { head_dim, .. }: Heads, len: usize) -> [usize; 5] {
    let block = QUERY_BLOCK.min(len);
    [block * padded(len), block * padded(len), block * head_dim, len * head_dim, len * head_dim].map(whole_lines)
}

/// Writes the gradients of query, key and value of one head of one text. Returns the gradient of the bias by distance.
fn backward_of_task(
    attention: &Attention<'_>,
    task: &Task,
    d_context: &[f32],
    saved: &AttentionSaved<Buffer>,
    d_qkv: &Scatter<'_>,
    space: &mut [f32],
) -> Vec<f32> {
    let (cpu, &Task { head, first, len, .. }) = (attention.cpu, task);
    let (width, head_dim) = (attention.heads.width(), attention.heads.head_dim);
    let bias_by_distance = attention.bias_by_distance(task);
    let mut d_by_distance = vec![0.0; bias_by_distance.len()];
    let [probabilities, d_scores, d_q, d_k, d_v] = parts(space, backward_sizes(attention.heads, len));
    let stride = padded(len);
    d_k.fill(0.0);
    d_v.fill(0.0);
    let write = |part: usize, token: usize, row: &[f32]| {
        let at = token * 3 * width + part * width + head * head_dim;
        // SAFETY: one task per text and head, so no other writes these columns of this token.
        unsafe { d_qkv.write(at, row) }
    };
    for query in (0..len).step_by(QUERY_BLOCK) {
        let n = QUERY_BLOCK.min(len - query);
        let token = first + query;
        let (p, d_s) = (&mut probabilities[..n * stride], &mut d_scores[..n * stride]);
        attention.scores(task, query, n, p);
        let rows = attention.backward_rows(task, query, n, d_context, saved);
        // context = dropped v, where dropped = dropout(p)
        let v = attention.part(2, head, first, len);
        product(cpu, d_s, stride, Output::Set, rows.d_context, v.transposed());
        let block = attention.block(task, query, n, &bias_by_distance);
        softmax_backward_rows(cpu.isa, p, d_s, &mut d_by_distance, &rows, &block);
        product(cpu, d_v, head_dim, Output::Add, View::rows(p, n, len, stride).transposed(), rows.d_context);
        // scores = q k^T / sqrt(head_dim), whose factor is in d_s
        let d_s = View::rows(d_s, n, len, stride);
        product(cpu, d_q, head_dim, Output::Set, d_s, attention.part(1, head, first, len));
        let q = attention.part(0, head, token, n);
        product(cpu, d_k, head_dim, Output::Add, d_s.transposed(), q);
        for (row, d_q) in d_q.chunks_exact(head_dim).take(n).enumerate() {
            write(0, token + row, d_q);
        }
    }
    for (row, (d_k, d_v)) in d_k.chunks_exact(head_dim).zip(d_v.chunks_exact(head_dim)).take(len).enumerate() {
        write(1, first + row, d_k);
        write(2, first + row, d_v);
    }
    d_by_distance
}

/// So that parts begin at cache lines.
fn whole_lines(size: usize) -> usize {
    size.next_multiple_of(16)
}

/// The first elements of one buffer as parts.
fn parts<const N: usize>(space: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    let mut rest = space;
    sizes.map(|size| {
        let (part, behind) = std::mem::take(&mut rest).split_at_mut(size);
        rest = behind;
        part
    })
}

/// What the softmax of a block of queries needs for its backward.
struct BackwardRows<'a> {
    lse: &'a [f32],
    context: View<'a>,
    d_context: View<'a>,
}

per_isa! {
    /// In: products of queries and keys in `p`, the gradient of the dropped-out probabilities in `d_s`.
    /// Out: the dropped-out probabilities in `p`, the gradient of the products in `d_s`, both zero where rows are padded; that of the scores added
    /// along the diagonals in `d_by_distance`.
    fn softmax_backward_rows<const FMA: bool>(
        p: &mut [f32],
        d_s: &mut [f32],
        d_by_distance: &mut [f32],
        inputs: &BackwardRows<'_>,
        rows: &QueryRows<'_>,
    ) {
        let (len, stride) = (rows.len, padded(rows.len));
        for (row, (p, d_s)) in p.chunks_exact_mut(stride).zip(d_s.chunks_exact_mut(stride)).enumerate() {
            let p = rows.score::<FMA>(row, p);
            d_s[len..].fill(0.0);
            let (d_s, _) = d_s.as_chunks_mut::<LANES>();
            // sum_j p_ij d_p_ij = context_i . d_context_i
            let columns = 0..inputs.context.n_cols();
            let mean = dot::<FMA>(inputs.context.row(row, columns.clone()), inputs.d_context.row(row, columns));
            let lse = inputs.lse[row];
            // dropped = mask / (1 - p) * probability; d_score = probability * (d_probability - mean)
            match &rows.mask {
                Some((dropout, states)) => {
                    let (state, threshold, one) = (states[row], dropout.threshold(), dropout.scale());
                    for (first_key, (p, d_s)) in (0..).step_by(LANES).zip(p.iter_mut().zip(d_s.iter_mut())) {
                        for (key, (p, d_s)) in (first_key..).zip(p.iter_mut().zip(d_s)) {
                            let probability = exp_below_88::<FMA>(*p - lse);
                            let kept = masked(1.0, state, key, threshold, one);
                            *p = probability * kept;
                            *d_s = rows.scale * probability * mul_add::<FMA>(*d_s, kept, -mean);
                        }
                    }
                }
                None => {
                    for (p, d_s) in p.as_flattened_mut().iter_mut().zip(d_s.as_flattened_mut()) {
                        let probability = exp_below_88::<FMA>(*p - lse);
                        *p = probability;
                        *d_s = rows.scale * probability * (*d_s - mean);
                    }
                }
            }
            if !d_by_distance.is_empty() {
                let (start, of_score) = (rows.first_distance(row), 1.0 / rows.scale);
                for (d, &d_s) in d_by_distance[start..start + len].iter_mut().zip(d_s.as_flattened()) {
                    *d += of_score * d_s;
                }
            }
        }
    }
}
