//! Dropout masks on the device, the same bits as [`Dropout::keeps`]: the hash in halves of 32 bits, since not every GPU has integers of 64.

use burn_cubecl::CubeRuntime;
use cubecl::prelude::*;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::Ragged;

use crate::Gpu;
use crate::tensors::{Buffer, array, index_array, written};

/// `y = x * mask / (1 - p)`; `x`, `y`: `[n_tokens, width]`.
pub(crate) fn dropout_forward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    x: &Buffer<R>,
    texts: Ragged<'_>,
    dropout: Dropout,
    width: usize,
) -> Buffer<R> {
    dropped_and_added(gpu, x, None, texts, Some(dropout), width)
}

/// `d_x = d_y * mask / (1 - p)`: the forward is linear and diagonal, so it is its own backward.
pub(crate) fn dropout_backward<R: CubeRuntime>(
    gpu: &Gpu<R>,
    d_y: &Buffer<R>,
    texts: Ragged<'_>,
    dropout: Dropout,
    width: usize,
) -> Buffer<R> {
    // y = x * factor
    dropout_forward(gpu, d_y, texts, dropout, width)
}

/// `dropout(x) + residual` in one pass.
pub(crate) fn dropped_and_added<R: CubeRuntime>(
    gpu: &Gpu<R>,
    x: &Buffer<R>,
    residual: Option<&Buffer<R>>,
    texts: Ragged<'_>,
    dropout: Option<Dropout>,
    width: usize,
) -> Buffer<R> {
    let len = texts.n_tokens() * width;
    assert_eq!(x.dims(), [len], "x of {} tokens of width {width}", texts.n_tokens());
    if let Some(residual) = residual {
        assert_eq!(residual.dims(), [len], "residual of {} tokens of width {width}", texts.n_tokens());
    }
    if len == 0 || (dropout.is_none() && residual.is_none()) {
        return x.clone();
    }
    let geometry = gpu.geometry(texts);
    let y = gpu.empty(len);
    let (count, dim) = gpu.grid(len);
    let Draw { site, threshold, scale } = Draw::of(dropout);
    drop_and_add::launch::<R>(
        &gpu.client,
        count,
        dim,
        array(x),
        array(residual.unwrap_or(x)),
        written(&y),
        index_array(&geometry.text_of),
        index_array(&geometry.starts),
        index_array(&geometry.key_words),
        width,
        site,
        threshold,
        scale,
        dropout.is_some(),
        residual.is_some(),
    );
    y
}

/// What a kernel needs to know of a dropout.
pub(crate) struct Draw {
    pub site: u32,
    pub threshold: u32,
    pub scale: f32,
}

impl Draw {
    /// Without dropout the numbers are not read.
    pub fn of(dropout: Option<Dropout>) -> Self {
        dropout.map_or(Draw { site: 0, threshold: 0, scale: 1.0 }, |dropout| Draw {
            site: dropout.site,
            threshold: dropout.threshold(),
            scale: dropout.scale(),
        })
    }
}

#[cube(launch)]
fn drop_and_add(
    x: &Array<f32>,
    residual: &Array<f32>,
    y: &mut Array<f32>,
    text_of: &Array<u32>,
    starts: &Array<u32>,
    key_words: &Array<u32>,
    width: usize,
    site: u32,
    threshold: u32,
    scale: f32,
    #[comptime] drops: bool,
    #[comptime] adds: bool,
) {
    if ABSOLUTE_POS < y.len() {
        let mut value = x[ABSOLUTE_POS];
        if drops {
            let token = ABSOLUTE_POS / width;
            let column = (ABSOLUTE_POS % width) as u32;
            let text = text_of[token] as usize;
            let row = token as u32 - starts[text];
            value *= factor(key_words[2 * text], key_words[2 * text + 1], site, row, column, threshold, scale);
        }
        if adds {
            value += residual[ABSOLUTE_POS];
        }
        y[ABSOLUTE_POS] = value;
    }
}

/// `mask / (1 - p)` of one element: [`Dropout::row_state`] and [`Dropout::keeps`].
#[cube]
pub(crate) fn factor(key_low: u32, key_high: u32, site: u32, row: u32, column: u32, threshold: u32, scale: f32) -> f32 {
    let (low, high) = mix(row, site);
    let (low, high) = mix(low ^ key_low, high ^ key_high);
    let state = low ^ high;
    let x = state + column * 0x9E37_79B9u32;
    let x = (x ^ (x >> 16u32)) * 0x7FEB_352Du32;
    let x = (x ^ (x >> 15u32)) * 0x846C_A68Bu32;
    let x = x ^ (x >> 16u32);
    select(x >= threshold, scale, 0.0f32)
}

/// `splitmix64` of `high << 32 | low`, as its halves.
#[cube]
fn mix(low: u32, high: u32) -> (u32, u32) {
    // x + 0x9E37_79B9_7F4A_7C15
    let sum = low + 0x7F4A_7C15u32;
    let carry = u32::cast_from(sum < low);
    let high = high + 0x9E37_79B9u32 + carry;
    // (z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9
    let shifted = (sum >> 30u32) | (high << 2u32);
    let (low, high) = times(sum ^ shifted, high ^ (high >> 30u32), 0x1CE4_E5B9u32, 0xBF58_476Du32);
    // (z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB
    let shifted = (low >> 27u32) | (high << 5u32);
    let (low, high) = times(low ^ shifted, high ^ (high >> 27u32), 0x1331_11EBu32, 0x94D0_49BBu32);
    // z ^ (z >> 31)
    let shifted = (low >> 31u32) | (high << 1u32);
    (low ^ shifted, high ^ (high >> 31u32))
}

/// The lower 64 bits of a product, as halves.
#[cube]
fn times(low: u32, high: u32, by_low: u32, by_high: u32) -> (u32, u32) {
    let carried = u32::mul_hi(low, by_low);
    (low * by_low, carried + low * by_high + high * by_low)
}
