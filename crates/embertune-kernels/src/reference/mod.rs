//! [`Reference`]: the specification of every operation of [`Ops`], naive and exact.
//!
//! One file per operation, `x_forward` beside `x_backward`, each a plain function over slices; this file only wires them
//! to the trait. The fast implementations are compared with `Reference<f32>`; `Reference<f64>` is itself compared with
//! central differences. Nothing here may be clever, parallel or fused.

mod activation;
mod adafactor;
mod adamw;
mod attention;
mod columns;
mod dropout;
mod embedding;
mod layer_norm;
mod linear;
mod normalize;
mod pool;
mod real;

use std::marker::PhantomData;
use std::ops::Range;

use crate::dropout::Dropout;
use crate::ops::{
    Activation, AdafactorStep, AdamWStep, AttentionSaved, Heads, LinearGrads, Lookup, Norm, NormSaved, Ops, Pooling,
    Ragged, RelativeBias, Weight,
};
pub use real::Real;

/// [`Ops`] on plain vectors of `T` (`f32` or `f64`), one thread, any CPU. Slow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference<T>(PhantomData<T>);

impl<T> Reference<T> {
    /// There is nothing to set.
    pub const fn new() -> Self {
        Reference(PhantomData)
    }
}

impl<T: Real> Ops for Reference<T> {
    type Buf = Vec<T>;
    type Packed = ();

    fn upload(&self, values: &[f32]) -> Vec<T> {
        values.iter().map(|&v| T::from_f64(f64::from(v))).collect()
    }

    fn download(&self, buf: &Vec<T>) -> Vec<f32> {
        buf.iter().map(|&v| v.to_f64() as f32).collect()
    }

    fn zeros(&self, len: usize) -> Vec<T> {
        vec![T::from_f64(0.0); len]
    }

    fn set_zero(&self, buf: &mut Vec<T>) {
        buf.fill(T::from_f64(0.0));
    }

    fn len(&self, buf: &Vec<T>) -> usize {
        buf.len()
    }

    fn pack(&self, master: &Vec<T>, rows: usize, cols: usize) {
        assert_eq!(master.len(), rows * cols, "a weight of {rows} x {cols}");
    }

    fn embedding_forward(&self, lookups: &[Lookup<'_, Vec<T>>], width: usize) -> Vec<T> {
        embedding::embedding_forward(lookups, width)
    }

    fn embedding_backward(
        &self,
        d_y: &Vec<T>,
        rows: &[u32],
        padding_row: Option<u32>,
        width: usize,
        d_table: &mut Vec<T>,
    ) {
        embedding::embedding_backward(d_y, rows, padding_row, width, d_table);
    }

    fn linear_forward(&self, x: &Vec<T>, w: Weight<'_, Self>, bias: Option<&Vec<T>>) -> Vec<T> {
        linear::linear_forward(x, w, bias)
    }

    fn linear_backward(
        &self,
        d_y: &Vec<T>,
        x: &Vec<T>,
        w: Weight<'_, Self>,
        grads: Option<LinearGrads<'_, Vec<T>>>,
    ) -> Vec<T> {
        linear::linear_backward(d_y, x, w, grads)
    }

    fn activation_forward(&self, x: &Vec<T>, act: Activation) -> Vec<T> {
        activation::activation_forward(x, act)
    }

    fn activation_backward(&self, d_y: &Vec<T>, x: &Vec<T>, act: Activation) -> Vec<T> {
        activation::activation_backward(d_y, x, act)
    }

    fn dropout_forward(&self, x: &Vec<T>, texts: Ragged<'_>, dropout: Dropout, width: usize) -> Vec<T> {
        dropout::dropout_forward(x, texts, dropout, width)
    }

    fn dropout_backward(&self, d_y: &Vec<T>, texts: Ragged<'_>, dropout: Dropout, width: usize) -> Vec<T> {
        dropout::dropout_backward(d_y, texts, dropout, width)
    }

    fn layer_norm_forward(
        &self,
        x: &Vec<T>,
        residual: Option<&Vec<T>>,
        texts: Ragged<'_>,
        dropout: Option<Dropout>,
        norm: Norm<'_, Vec<T>>,
    ) -> (Vec<T>, NormSaved<Vec<T>>) {
        layer_norm::layer_norm_forward(x, residual, texts, dropout, norm)
    }

    fn layer_norm_output(&self, saved: &NormSaved<Vec<T>>, norm: Norm<'_, Vec<T>>) -> Vec<T> {
        layer_norm::layer_norm_output(saved, norm)
    }

    fn layer_norm_backward(
        &self,
        d_y: &Vec<T>,
        saved: &NormSaved<Vec<T>>,
        norm: Norm<'_, Vec<T>>,
        d_gamma: &mut Vec<T>,
        d_beta: &mut Vec<T>,
    ) -> Vec<T> {
        layer_norm::layer_norm_backward(d_y, saved, norm, d_gamma, d_beta)
    }

    fn attention_forward(
        &self,
        qkv: &Vec<T>,
        texts: Ragged<'_>,
        heads: Heads,
        bias: Option<RelativeBias<'_, Vec<T>>>,
        dropout: Option<Dropout>,
    ) -> AttentionSaved<Vec<T>> {
        attention::attention_forward(&attention::Inputs { qkv, texts, heads, bias, dropout })
    }

    fn attention_backward(
        &self,
        d_context: &Vec<T>,
        qkv: &Vec<T>,
        saved: &AttentionSaved<Vec<T>>,
        texts: Ragged<'_>,
        heads: Heads,
        bias: Option<RelativeBias<'_, Vec<T>>>,
        d_bias_table: Option<&mut Vec<T>>,
        dropout: Option<Dropout>,
    ) -> Vec<T> {
        let inputs = attention::Inputs { qkv, texts, heads, bias, dropout };
        attention::attention_backward(d_context, &inputs, saved, d_bias_table)
    }

    fn pool_forward(&self, x: &Vec<T>, texts: Ragged<'_>, skip: &[u32], pooling: Pooling, width: usize) -> Vec<T> {
        pool::pool_forward(x, texts, skip, pooling, width)
    }

    fn pool_backward(
        &self,
        d_y: &Vec<T>,
        x: &Vec<T>,
        texts: Ragged<'_>,
        skip: &[u32],
        pooling: Pooling,
        width: usize,
    ) -> Vec<T> {
        pool::pool_backward(d_y, x, texts, skip, pooling, width)
    }

    fn normalize_forward(&self, x: &Vec<T>, width: usize) -> Vec<T> {
        normalize::normalize_forward(x, width)
    }

    fn normalize_backward(&self, d_y: &Vec<T>, x: &Vec<T>, width: usize) -> Vec<T> {
        normalize::normalize_backward(d_y, x, width)
    }

    fn columns_forward(&self, x: &Vec<T>, width: usize, columns: Range<usize>) -> Vec<T> {
        columns::columns_forward(x, width, columns)
    }

    fn columns_backward(&self, d_y: &Vec<T>, width: usize, columns: Range<usize>, d_x: &mut Vec<T>) {
        columns::columns_backward(d_y, width, columns, d_x);
    }

    fn add_assign(&self, a: &mut Vec<T>, b: &Vec<T>) {
        assert_eq!(a.len(), b.len(), "lengths of the summands");
        for (a, &b) in a.iter_mut().zip(b) {
            *a = T::from_f64(a.to_f64() + b.to_f64());
        }
    }

    fn scale(&self, a: &mut Vec<T>, factor: f32) {
        for a in a {
            *a = T::from_f64(a.to_f64() * f64::from(factor));
        }
    }

    fn squared_norm(&self, a: &Vec<T>) -> f64 {
        a.iter().map(|&a| a.to_f64() * a.to_f64()).sum()
    }

    fn adamw_step(&self, w: &mut Vec<T>, g: &Vec<T>, m: &mut Vec<T>, v: &mut Vec<T>, step: AdamWStep) {
        adamw::adamw_step(w, g, m, v, step);
    }

    fn adafactor_step(&self, w: &mut Vec<T>, g: &Vec<T>, rows: &mut Vec<T>, columns: &mut Vec<T>, step: AdafactorStep) {
        adafactor::adafactor_step(w, g, rows, columns, step);
    }
}
