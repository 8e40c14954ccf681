//! Self-attention within each text, bucket by bucket: texts of similar lengths are padded to the longest of them, and their products are one
//! batched product. The formulas: `docs/math/attention_backward.md`.
//!
//! Padded positions hold zeros as query, key, value and gradient, and their scores are cut off; nothing of them is written back.

use std::sync::Arc;

use burn_cubecl::CubeRuntime;
use burn_tensor::Tensor;
use cubecl::prelude::*;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::{AttentionSaved, Heads, Ragged, RelativeBias};

use crate::Gpu;
use crate::dropout::{Draw, factor};
use crate::geometry::{Bucket, Geometry};
use crate::products::product;
use crate::tensors::{Backend, Buffer, Indices, array, contiguous, flat, index_array, written};

/// `[n_texts, heads, len, head_dim]`, or `[n_texts, heads, len, len]`.
type PerHead<R> = Tensor<Backend<R>, 4>;

/// Stands for the scores that are cut off: far below every score, yet finite, as compilers for GPUs may assume that all numbers are.
const CUT_OFF: f32 = -1e30;

/// What the forward reads and the backward reads again.
pub(crate) struct Inputs<'a, R: CubeRuntime> {
    gpu: &'a Gpu<R>,
    /// `[n_tokens, 3, heads, head_dim]`: query, key, value.
    qkv: &'a Buffer<R>,
    n_tokens: usize,
    geometry: Arc<Geometry<R>>,
    heads: Heads,
    bias: Option<Bias<'a, R>>,
    dropout: Option<Dropout>,
}

/// The bias by distance, on the device.
struct Bias<'a, R: CubeRuntime> {
    /// `[n_buckets, heads]`.
    table: &'a Buffer<R>,
    /// `[2 * max_len - 1]`.
    bucket_of: Indices<R>,
    max_len: usize,
}

impl<'a, R: CubeRuntime> Inputs<'a, R> {
    pub fn new(
        gpu: &'a Gpu<R>,
        qkv: &'a Buffer<R>,
        texts: Ragged<'_>,
        heads: Heads,
        bias: Option<RelativeBias<'a, Buffer<R>>>,
        dropout: Option<Dropout>,
    ) -> Self {
        let (n_tokens, width) = (texts.n_tokens(), heads.width());
        assert_eq!(qkv.dims(), [n_tokens * 3 * width], "qkv of {n_tokens} tokens of width 3 * {width}");
        let bias = bias.map(|RelativeBias { table, bucket_of, max_len }| {
            assert_eq!(bucket_of.len(), 2 * max_len - 1, "buckets of max_len {max_len}");
            for text in 0..texts.n_texts() {
                let len = texts.range(text).len();
                assert!(len <= max_len, "a text of {len} tokens, the bias covers {max_len}");
            }
            Bias { table, bucket_of: gpu.indices(bucket_of.iter().copied()), max_len }
        });
        Inputs { gpu, qkv, n_tokens, geometry: gpu.geometry(texts), heads, bias, dropout }
    }

    /// Third `part` of `qkv` of the texts of a bucket.
    fn part(&self, bucket: &Bucket<R>, part: usize) -> PerHead<R> {
        let width = self.heads.width();
        self.padded(self.qkv, bucket, 3 * width, part * width)
    }

    /// `heads.width()` columns of the flat `x` from column `offset`, padded, as products multiply them. Rows of `x` are `stride` long.
    fn padded(&self, x: &Buffer<R>, bucket: &Bucket<R>, stride: usize, offset: usize) -> PerHead<R> {
        let Heads { heads, head_dim } = self.heads;
        let n = bucket.n_texts * heads * bucket.len * head_dim;
        let y = self.gpu.empty(n);
        let (count, dim) = self.gpu.grid(n);
        pad_heads::launch::<R>(
            &self.gpu.client,
            count,
            dim,
            array(x),
            index_array(&self.geometry.starts),
            index_array(&bucket.texts),
            written(&y),
            heads,
            head_dim,
            bucket.len,
            stride,
            offset,
        );
        self.gpu.factor(y.reshape([bucket.n_texts, heads, bucket.len, head_dim]))
    }

    /// Writes `scale * x` without the padding to where [`padded`](Inputs::padded) reads.
    fn write_back(
        &self,
        x: PerHead<R>,
        bucket: &Bucket<R>,
        scale: f32,
        (y, stride, offset): (&Buffer<R>, usize, usize),
    ) {
        let Heads { heads, head_dim } = self.heads;
        let (count, dim) = self.gpu.grid(bucket.n_texts * heads * bucket.len * head_dim);
        unpad_heads::launch::<R>(
            &self.gpu.client,
            count,
            dim,
            array(&x),
            index_array(&self.geometry.starts),
            index_array(&bucket.texts),
            written(y),
            heads,
            head_dim,
            bucket.len,
            stride,
            offset,
            scale,
        );
    }

    /// The bias for kernels: where there is none, anything stands for it.
    fn bias_arrays(&self) -> (ArrayArg<R>, ArrayArg<R>, usize) {
        match &self.bias {
            Some(Bias { table, bucket_of, max_len }) => (array(*table), index_array(bucket_of), *max_len),
            None => (array(self.qkv), index_array(&self.geometry.starts), 0),
        }
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.heads.head_dim as f64).sqrt()) as f32
    }
}

/// `scores = q k^T / sqrt(head_dim) + bias; probs = softmax(scores); context = dropout(probs) v`.
/// `context`: `[n_tokens, heads, head_dim]`, `lse`: `[heads, n_tokens]`.
pub(crate) fn attention_forward<R: CubeRuntime>(inputs: &Inputs<'_, R>) -> AttentionSaved<Buffer<R>> {
    let Inputs { gpu, n_tokens, geometry, .. } = inputs;
    let Heads { heads, .. } = inputs.heads;
    let width = inputs.heads.width();
    let (context, lse) = (gpu.empty(n_tokens * width), gpu.empty(heads * n_tokens));
    for bucket in &geometry.buckets {
        let [query, key, value] = [0, 1, 2].map(|part| inputs.part(bucket, part));
        let scores = contiguous(product(query, key.transpose()));
        let n = scores.dims().iter().product();
        let (count, dim) = gpu.grid(n);
        let (table, bucket_of, max_len) = inputs.bias_arrays();
        biased_scores::launch::<R>(
            &gpu.client,
            count,
            dim,
            written(&scores),
            index_array(&geometry.starts),
            index_array(&bucket.texts),
            table,
            bucket_of,
            heads,
            bucket.len,
            max_len,
            inputs.scale(),
            inputs.bias.is_some(),
        );
        // The largest score is taken out so that no exponential overflows.
        let max = scores.clone().max_dim(3);
        let exps = contiguous(scores.sub(max.clone()).exp());
        let sum = exps.clone().sum_dim(3);
        let Draw { site, threshold, scale } = Draw::of(inputs.dropout);
        let (count, dim) = gpu.grid(n);
        dropped_probs::launch::<R>(
            &gpu.client,
            count,
            dim,
            written(&exps),
            array(&max),
            array(&sum),
            written(&lse),
            index_array(&geometry.starts),
            index_array(&bucket.texts),
            index_array(&geometry.key_words),
            heads,
            bucket.len,
            *n_tokens,
            site,
            threshold,
            scale,
            inputs.dropout.is_some(),
        );
        let of_bucket = product(gpu.factor(exps), value);
        gpu.note_buffers();
        inputs.write_back(of_bucket, bucket, 1.0, (&context, width, 0));
    }
    AttentionSaved { context, lse }
}

/// Returns `d_qkv`: `[n_tokens, 3, heads, head_dim]`; adds to `d_bias_table`: `[n_buckets, heads]`.
pub(crate) fn attention_backward<R: CubeRuntime>(
    d_context: &Buffer<R>,
    inputs: &Inputs<'_, R>,
    saved: &AttentionSaved<Buffer<R>>,
    d_bias_table: Option<&mut Buffer<R>>,
) -> Buffer<R> {
    let Inputs { gpu, n_tokens, geometry, .. } = inputs;
    let Heads { heads, head_dim } = inputs.heads;
    let width = inputs.heads.width();
    assert_eq!(d_context.dims(), saved.context.dims(), "lengths of d_context and context");
    let d_qkv = gpu.empty(n_tokens * 3 * width);
    if *n_tokens == 0 {
        return d_qkv;
    }
    // sum over j of probs[j] d_probs[j], which equals the product of the output and its gradient.
    let along = saved.context.clone().mul(d_context.clone()).reshape([n_tokens * heads, head_dim]).sum_dim(1);
    let along = flat(along);
    for bucket in &geometry.buckets {
        let [query, key, value] = [0, 1, 2].map(|part| inputs.part(bucket, part));
        let d_out = inputs.padded(d_context, bucket, width, 0);
        let scores = contiguous(product(query.clone(), key.clone().transpose()));
        let d_probs = contiguous(product(d_out.clone(), value.transpose()));
        let (count, dim) = gpu.grid(scores.dims().iter().product());
        let (table, bucket_of, max_len) = inputs.bias_arrays();
        let Draw { site, threshold, scale } = Draw::of(inputs.dropout);
        score_gradient::launch::<R>(
            &gpu.client,
            count,
            dim,
            written(&scores),
            written(&d_probs),
            array(&saved.lse),
            array(&along),
            index_array(&geometry.starts),
            index_array(&bucket.texts),
            index_array(&geometry.key_words),
            table,
            bucket_of,
            heads,
            bucket.len,
            max_len,
            *n_tokens,
            inputs.scale(),
            site,
            threshold,
            scale,
            inputs.bias.is_some(),
            inputs.dropout.is_some(),
        );
        // The kernel has written over both.
        let (dropped_probs, d_scores) = (scores, d_probs);
        // context = dropped_probs v
        let d_value = product(gpu.factor(dropped_probs).transpose(), d_out);
        // scores = scale q k^T + bias
        let factor = gpu.factor(d_scores.clone());
        let d_query = product(factor.clone(), key);
        let d_key = product(factor.transpose(), query);
        gpu.note_buffers();
        let place = |part: usize| (&d_qkv, 3 * width, part * width);
        inputs.write_back(d_query, bucket, inputs.scale(), place(0));
        inputs.write_back(d_key, bucket, inputs.scale(), place(1));
        inputs.write_back(d_value, bucket, 1.0, place(2));
        if let (Some(bias), Some(d_table)) = (&inputs.bias, d_bias_table.as_deref()) {
            add_bias_gradient(inputs, bias, bucket, &d_scores, d_table);
        }
    }
    d_qkv
}

/// `d_table[bucket_of(j - i), head] += sum of d_scores[.., head, i, j]`: first by distance, then by bucket of distances.
fn add_bias_gradient<R: CubeRuntime>(
    inputs: &Inputs<'_, R>,
    bias: &Bias<'_, R>,
    bucket: &Bucket<R>,
    d_scores: &PerHead<R>,
    d_table: &Buffer<R>,
) {
    let gpu = inputs.gpu;
    let Heads { heads, .. } = inputs.heads;
    let n = (2 * bucket.len - 1) * heads;
    let by_distance = gpu.empty(n);
    let (count, dim) = gpu.grid(n);
    sum_by_distance::launch::<R>(
        &gpu.client,
        count,
        dim,
        array(d_scores),
        written(&by_distance),
        bucket.n_texts,
        heads,
        bucket.len,
    );
    let (count, dim) = gpu.grid(d_table.dims()[0]);
    add_by_bucket::launch::<R>(
        &gpu.client,
        count,
        dim,
        array(&by_distance),
        index_array(&bias.bucket_of),
        written(d_table),
        heads,
        bucket.len,
        bias.max_len,
    );
}

/// The text, the head and the position within the text of a row of `[n_texts, heads, len]`.
#[cube]
fn place(row: usize, texts: &Array<u32>, heads: usize, len: usize) -> (usize, usize, usize) {
    (texts[row / len / heads] as usize, row / len % heads, row % len)
}

/// What is added to the score of query `i` and key `j`.
#[cube]
fn bias(
    table: &Array<f32>,
    bucket_of: &Array<u32>,
    heads: usize,
    max_len: usize,
    head: usize,
    i: usize,
    j: usize,
    #[comptime] is_biased: bool,
) -> f32 {
    if is_biased { table[bucket_of[j + max_len - 1 - i] as usize * heads + head] } else { 0.0f32.runtime() }
}

/// What a probability is multiplied by: `row` and `column` of the mask of its text.
#[cube]
fn mask(
    key_words: &Array<u32>,
    text: usize,
    site: u32,
    row: usize,
    column: usize,
    threshold: u32,
    scale: f32,
    #[comptime] drops: bool,
) -> f32 {
    if drops {
        factor(key_words[2 * text], key_words[2 * text + 1], site, row as u32, column as u32, threshold, scale)
    } else {
        1.0f32.runtime()
    }
}

/// `y[text, head, i, c]`: of the flat `x`, zeros where the text has no token `i`.
#[cube(launch)]
fn pad_heads(
    x: &Array<f32>,
    starts: &Array<u32>,
    texts: &Array<u32>,
    y: &mut Array<f32>,
    heads: usize,
    head_dim: usize,
    len: usize,
    stride: usize,
    offset: usize,
) {
    if ABSOLUTE_POS < y.len() {
        let (text, head, i) = place(ABSOLUTE_POS / head_dim, texts, heads, len);
        let c = ABSOLUTE_POS % head_dim;
        let token = starts[text] as usize + i;
        let mut value = 0.0f32;
        if token < starts[text + 1] as usize {
            value = x[token * stride + offset + head * head_dim + c];
        }
        y[ABSOLUTE_POS] = value;
    }
}

/// The inverse of [`pad_heads`], with a factor.
#[cube(launch)]
fn unpad_heads(
    x: &Array<f32>,
    starts: &Array<u32>,
    texts: &Array<u32>,
    y: &mut Array<f32>,
    heads: usize,
    head_dim: usize,
    len: usize,
    stride: usize,
    offset: usize,
    scale: f32,
) {
    if ABSOLUTE_POS < x.len() {
        let (text, head, i) = place(ABSOLUTE_POS / head_dim, texts, heads, len);
        let c = ABSOLUTE_POS % head_dim;
        let token = starts[text] as usize + i;
        if token < starts[text + 1] as usize {
            y[token * stride + offset + head * head_dim + c] = scale * x[ABSOLUTE_POS];
        }
    }
}

/// From `q k^T` to scores, in place.
#[cube(launch)]
fn biased_scores(
    scores: &mut Array<f32>,
    starts: &Array<u32>,
    texts: &Array<u32>,
    table: &Array<f32>,
    bucket_of: &Array<u32>,
    heads: usize,
    len: usize,
    max_len: usize,
    scale: f32,
    #[comptime] is_biased: bool,
) {
    if ABSOLUTE_POS < scores.len() {
        let (text, head, i) = place(ABSOLUTE_POS / len, texts, heads, len);
        let j = ABSOLUTE_POS % len;
        let text_len = (starts[text + 1] - starts[text]) as usize;
        let mut score = CUT_OFF.runtime();
        if i < text_len && j < text_len {
            score = scale * scores[ABSOLUTE_POS] + bias(table, bucket_of, heads, max_len, head, i, j, is_biased);
        }
        scores[ABSOLUTE_POS] = score;
    }
}

/// From exponentials to `dropout(probs)`, in place; also writes `lse`.
#[cube(launch)]
fn dropped_probs(
    exps: &mut Array<f32>,
    max: &Array<f32>,
    sum: &Array<f32>,
    lse: &mut Array<f32>,
    starts: &Array<u32>,
    texts: &Array<u32>,
    key_words: &Array<u32>,
    heads: usize,
    len: usize,
    n_tokens: usize,
    site: u32,
    threshold: u32,
    drop_scale: f32,
    #[comptime] drops: bool,
) {
    if ABSOLUTE_POS < exps.len() {
        let row = ABSOLUTE_POS / len;
        let (text, head, i) = place(row, texts, heads, len);
        let j = ABSOLUTE_POS % len;
        let start = starts[text] as usize;
        let text_len = starts[text + 1] as usize - start;
        if j == 0 && i < text_len {
            lse[head * n_tokens + start + i] = max[row] + sum[row].ln();
        }
        let of_text = head * text_len + i;
        exps[ABSOLUTE_POS] =
            exps[ABSOLUTE_POS] / sum[row] * mask(key_words, text, site, of_text, j, threshold, drop_scale, drops);
    }
}

/// From `q k^T` to `dropout(probs)`, and from the gradient of the latter to that of the scores; both in place.
#[cube(launch)]
fn score_gradient(
    scores: &mut Array<f32>,
    d_probs: &mut Array<f32>,
    lse: &Array<f32>,
    along: &Array<f32>,
    starts: &Array<u32>,
    texts: &Array<u32>,
    key_words: &Array<u32>,
    table: &Array<f32>,
    bucket_of: &Array<u32>,
    heads: usize,
    len: usize,
    max_len: usize,
    n_tokens: usize,
    scale: f32,
    site: u32,
    threshold: u32,
    drop_scale: f32,
    #[comptime] is_biased: bool,
    #[comptime] drops: bool,
) {
    if ABSOLUTE_POS < scores.len() {
        let (text, head, i) = place(ABSOLUTE_POS / len, texts, heads, len);
        let j = ABSOLUTE_POS % len;
        let start = starts[text] as usize;
        let text_len = starts[text + 1] as usize - start;
        let mut dropped_prob = 0.0f32;
        let mut d_score = 0.0f32;
        if i < text_len && j < text_len {
            let score = scale * scores[ABSOLUTE_POS] + bias(table, bucket_of, heads, max_len, head, i, j, is_biased);
            let prob = (score - lse[head * n_tokens + start + i]).exp();
            let of_text = head * text_len + i;
            let mask = mask(key_words, text, site, of_text, j, threshold, drop_scale, drops);
            dropped_prob = prob * mask;
            // probs = softmax(scores)
            d_score = prob * (mask * d_probs[ABSOLUTE_POS] - along[(start + i) * heads + head]);
        }
        scores[ABSOLUTE_POS] = dropped_prob;
        d_probs[ABSOLUTE_POS] = d_score;
    }
}

/// `sums[distance, head]`, distances from `-(len - 1)`. One thread for each, which adds in order.
#[cube(launch)]
fn sum_by_distance(d_scores: &Array<f32>, sums: &mut Array<f32>, n_texts: usize, heads: usize, len: usize) {
    if ABSOLUTE_POS < sums.len() {
        let head = ABSOLUTE_POS % heads;
        let shifted = ABSOLUTE_POS / heads;
        let mut sum = 0.0f32;
        for text in 0..n_texts {
            for i in 0..len {
                // j = i + distance
                if i + shifted + 1 >= len && i + shifted + 1 < 2 * len {
                    let j = i + shifted + 1 - len;
                    sum += d_scores[((text * heads + head) * len + i) * len + j];
                }
            }
        }
        sums[ABSOLUTE_POS] = sum;
    }
}

/// One thread for each element of the table.
#[cube(launch)]
fn add_by_bucket(
    sums: &Array<f32>,
    bucket_of: &Array<u32>,
    d_table: &mut Array<f32>,
    heads: usize,
    len: usize,
    max_len: usize,
) {
    if ABSOLUTE_POS < d_table.len() {
        let head = ABSOLUTE_POS % heads;
        let bucket = ABSOLUTE_POS / heads;
        let mut sum = d_table[ABSOLUTE_POS];
        for shifted in 0..2 * len - 1 {
            if bucket_of[shifted + max_len - len] as usize == bucket {
                sum += sums[shifted * heads + head];
            }
        }
        d_table[ABSOLUTE_POS] = sum;
    }
}
