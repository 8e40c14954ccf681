//! One vector per text: the poolings of sentence-transformers.

use burn_cubecl::CubeRuntime;
use cubecl::prelude::*;
use embertune_kernels::ops::{Pooling, Ragged};

use crate::Gpu;
use crate::tensors::{Buffer, array, index_array, written};

/// `x`: `[n_tokens, width]`; returns `[n_texts, width]`.
pub(crate) fn pool_forward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    x: &Buffer<R>,
    texts: Ragged<'_>,
    skip: &[u32],
    pooling: Pooling,
    width: usize,
) -> Buffer<R> {
    check(x, texts, skip, width);
    let y = gpu.empty(texts.n_texts() * width);
    if texts.n_texts() > 0 {
        let (count, dim) = gpu.grid(texts.n_texts() * width);
        forward::launch::<R>(
            &gpu.client,
            count,
            dim,
            array(x),
            index_array(&gpu.geometry(texts).starts),
            index_array(&gpu.indices(skip.iter().copied())),
            written(&y),
            width,
            pooling,
        );
    }
    y
}

/// `d_y`: `[n_texts, width]`; returns `[n_tokens, width]`.
pub(crate) fn pool_backward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    d_y: &Buffer<R>,
    x: &Buffer<R>,
    texts: Ragged<'_>,
    skip: &[u32],
    pooling: Pooling,
    width: usize,
) -> Buffer<R> {
    check(x, texts, skip, width);
    assert_eq!(d_y.dims(), [texts.n_texts() * width], "d_y of {} texts of width {width}", texts.n_texts());
    let d_x = gpu.empty(texts.n_tokens() * width);
    if texts.n_texts() > 0 {
        let (count, dim) = gpu.grid(texts.n_texts() * width);
        backward::launch::<R>(
            &gpu.client,
            count,
            dim,
            array(d_y),
            array(x),
            index_array(&gpu.geometry(texts).starts),
            index_array(&gpu.indices(skip.iter().copied())),
            written(&d_x),
            width,
            pooling,
        );
    }
    d_x
}

fn check<R: CubeRuntime>(x: &Buffer<R>, texts: Ragged<'_>, skip: &[u32], width: usize) {
    assert_eq!(x.dims(), [texts.n_tokens() * width], "x of {} tokens of width {width}", texts.n_tokens());
    assert_eq!(skip.len(), texts.n_texts(), "one skip per text");
    for (text, &skip) in skip.iter().enumerate() {
        let len = texts.range(text).len();
        assert!((skip as usize) < len, "text {text} of {len} tokens leaves out {skip}");
    }
}

/// One thread for each dimension of each text.
#[cube(launch)]
fn forward(
    x: &Array<f32>,
    starts: &Array<u32>,
    skip: &Array<u32>,
    y: &mut Array<f32>,
    width: usize,
    #[comptime] pooling: Pooling,
) {
    if ABSOLUTE_POS < y.len() {
        let text = ABSOLUTE_POS / width;
        let column = ABSOLUTE_POS % width;
        let first = (starts[text] + skip[text]) as usize;
        let end = starts[text + 1] as usize;
        if comptime!(pooling == Pooling::Max) {
            y[ABSOLUTE_POS] = x[largest(x, first, end, column, width) * width + column];
        } else {
            let mut sum = 0.0f32;
            for token in first..end {
                sum += weight(token, first, end, skip[text], pooling) * x[token * width + column];
            }
            y[ABSOLUTE_POS] = sum;
        }
    }
}

/// One thread for each dimension of each text, which writes all tokens of the text, those that are left out, too.
#[cube(launch)]
fn backward(
    d_y: &Array<f32>,
    x: &Array<f32>,
    starts: &Array<u32>,
    skip: &Array<u32>,
    d_x: &mut Array<f32>,
    width: usize,
    #[comptime] pooling: Pooling,
) {
    if ABSOLUTE_POS < d_y.len() {
        let text = ABSOLUTE_POS / width;
        let column = ABSOLUTE_POS % width;
        let start = starts[text] as usize;
        let first = start + skip[text] as usize;
        let end = starts[text + 1] as usize;
        for token in start..first {
            d_x[token * width + column] = 0.0f32;
        }
        // y = sum of weight * x
        if comptime!(pooling == Pooling::Max) {
            let chosen = largest(x, first, end, column, width);
            for token in first..end {
                d_x[token * width + column] = select(token == chosen, d_y[ABSOLUTE_POS], 0.0f32);
            }
        } else {
            for token in first..end {
                d_x[token * width + column] = weight(token, first, end, skip[text], pooling) * d_y[ABSOLUTE_POS];
            }
        }
    }
}

/// The first token with the largest value of a dimension.
#[cube]
fn largest(x: &Array<f32>, first: usize, end: usize, column: usize, width: usize) -> usize {
    let mut best = first;
    let mut value = x[first * width + column];
    for token in first..end {
        let other = x[token * width + column];
        if other > value {
            value = other;
            best = token;
        }
    }
    best
}

/// The weight of a token of those from `first` to `end`.
#[cube]
fn weight(token: usize, first: usize, end: usize, skip: u32, #[comptime] pooling: Pooling) -> f32 {
    let n = f32::cast_from(end - first);
    if comptime!(pooling == Pooling::Cls) {
        select(token == first, 1.0f32, 0.0f32)
    } else if comptime!(pooling == Pooling::LastToken) {
        select(token + 1 == end, 1.0f32, 0.0f32)
    } else if comptime!(pooling == Pooling::Mean) {
        1.0f32 / n
    } else if comptime!(pooling == Pooling::MeanSqrtLen) {
        1.0f32 / n.sqrt()
    } else {
        // Positions from 1; tokens that are left out count.
        let skipped = f32::cast_from(skip);
        (f32::cast_from(token - first + 1) + skipped) / (n * skipped + 0.5f32 * n * (n + 1.0f32))
    }
}
