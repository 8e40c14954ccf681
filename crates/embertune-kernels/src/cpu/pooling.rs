//! One vector per text from the vectors of its tokens; formulas in [`Pooling`].

use rayon::prelude::*;

use crate::cpu::elementwise::axpy;
use crate::cpu::{Buffer, Cpu};
use crate::ops::{Pooling, Ragged};

pub(super) fn pool_forward(
    cpu: &Cpu,
    x: &[f32],
    texts: Ragged<'_>,
    skip: &[u32],
    pooling: Pooling,
    width: usize,
) -> Buffer {
    assert_eq!(x.len(), texts.n_tokens() * width, "x of pooling, {} rows of {width}", texts.n_tokens());
    let mut y = cpu.pool.zeros(texts.n_texts() * width);
    y.par_chunks_exact_mut(width.max(1)).enumerate().for_each(|(text, y)| {
        let rows = Rows::of(x, texts, skip, text, width);
        if pooling == Pooling::Max {
            y.copy_from_slice(rows.row(rows.first));
            for position in rows.first + 1..rows.len {
                for (y, &x) in y.iter_mut().zip(rows.row(position)) {
                    if x > *y {
                        *y = x;
                    }
                }
            }
            return;
        }
        for (position, weight) in rows.weights(pooling) {
            axpy(cpu.isa, y, weight, rows.row(position));
        }
    });
    y
}

pub(super) fn pool_backward(
    cpu: &Cpu,
    d_y: &[f32],
    x: &[f32],
    texts: Ragged<'_>,
    skip: &[u32],
    pooling: Pooling,
    width: usize,
) -> Buffer {
    assert_eq!(d_y.len(), texts.n_texts() * width, "d_y of pooling, {} rows of {width}", texts.n_texts());
    let mut d_x = cpu.pool.zeros(x.len());
    let mut blocks = Vec::with_capacity(texts.n_texts());
    let mut rest = &mut d_x[..];
    for text in 0..texts.n_texts() {
        let (block, after) = rest.split_at_mut(texts.range(text).len() * width);
        blocks.push(block);
        rest = after;
    }
    blocks.into_par_iter().zip(d_y.par_chunks_exact(width.max(1))).enumerate().for_each(|(text, (d_x, d_y))| {
        let rows = Rows::of(x, texts, skip, text, width);
        if pooling == Pooling::Max {
            for (column, &d_y) in d_y.iter().enumerate() {
                let mut best = rows.first;
                for position in rows.first + 1..rows.len {
                    if rows.row(position)[column] > rows.row(best)[column] {
                        best = position;
                    }
                }
                d_x[best * width + column] = d_y;
            }
            return;
        }
        for (position, weight) in rows.weights(pooling) {
            // y += weight * x[position]
            axpy(cpu.isa, &mut d_x[position * width..(position + 1) * width], weight, d_y);
        }
    });
    d_x
}

/// The tokens of one text and which of them are pooled.
struct Rows<'a> {
    x: &'a [f32],
    width: usize,
    /// The first position that is pooled.
    first: usize,
    /// Length of the text.
    len: usize,
}

impl<'a> Rows<'a> {
    fn of(x: &'a [f32], texts: Ragged<'_>, skip: &[u32], text: usize, width: usize) -> Self {
        let range = texts.range(text);
        let (first, len) = (skip[text] as usize, range.len());
        assert!(first < len, "all {len} tokens of text {text} are left out of pooling");
        Rows { x: &x[range.start * width..range.end * width], width, first, len }
    }

    fn row(&self, position: usize) -> &'a [f32] {
        &self.x[position * self.width..(position + 1) * self.width]
    }

    /// Positions and their factors, of every pooling that is a weighted sum.
    fn weights(&self, pooling: Pooling) -> impl Iterator<Item = (usize, f32)> + use<> {
        let (first, len) = (self.first, self.len);
        let n = (len - first) as f32;
        let positions = match pooling {
            Pooling::Cls => first..first + 1,
            Pooling::LastToken => len - 1..len,
            _ => first..len,
        };
        positions.map(move |position| {
            let weight = match pooling {
                Pooling::Mean => 1.0 / n.max(1e-9),
                Pooling::MeanSqrtLen => 1.0 / n.sqrt(),
                Pooling::WeightedMean => {
                    let sum = (first + 1..=len).sum::<usize>();
                    (position + 1) as f32 / sum as f32
                }
                Pooling::Cls | Pooling::LastToken | Pooling::Max => 1.0,
            };
            (position, weight)
        })
    }
}
