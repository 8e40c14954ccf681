//! [`Gpu`]: the operations of an encoder ([`Ops`]) on Burn's tensors, on any device that CubeCL has a runtime for.
//!
//! Everything stays on the device: what is downloaded is what [`Ops::download`] and the norms return. Products are Burn's; the
//! element-wise passes around them are small CubeCL kernels, one launch each, where tensor operations would be many. One file per
//! operation, `x_forward` beside `x_backward`; this file only wires them to the trait. The specification is
//! [`embertune_kernels::reference`]. Without one of the features `cuda`, `rocm`, `vulkan` and `metal` the crate is empty.
#![cfg(feature = "tensors")]

mod activation;
mod adafactor;
mod adamw;
mod attention;
mod columns;
mod device;
mod dropout;
mod embedding;
mod failure;
mod geometry;
mod layer_norm;
mod linear;
mod normalize;
mod pool;
mod products;
mod search;
mod squared_norm;
mod tensors;

use std::ops::Range;

use burn_cubecl::CubeRuntime;
use embertune_kernels::Ops;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::{
    Activation, AdafactorStep, AdamWStep, AttentionSaved, BufferBytes, Chunks, Heads, LinearGrads, Lookup, Memory,
    Norm, NormSaved, Pooling, Ragged, RelativeBias, Weight,
};

pub use device::Gpu;
#[cfg(feature = "cuda")]
pub use device::{Cuda, cuda};
#[cfg(feature = "rocm")]
pub use device::{Rocm, rocm};
#[cfg(any(feature = "vulkan", feature = "metal"))]
pub use device::{Wgpu, wgpu};
pub use failure::{Unavailable, take_failure};
pub use products::Products;
pub use tensors::{Backend, Buffer};

impl<R: CubeRuntime> Ops for Gpu<R> {
    type Buf = Buffer<R>;
    /// The weight in bf16, where products multiply that.
    type Packed = Option<Buffer<R>>;

    fn upload(&self, values: &[f32]) -> Buffer<R> {
        self.floats(values)
    }

    fn download(&self, buf: &Buffer<R>) -> Vec<f32> {
        self.read(buf.clone())
    }

    fn zeros(&self, len: usize) -> Buffer<R> {
        self.filled(len, 0.0)
    }

    fn set_zero(&self, buf: &mut Buffer<R>) {
        *buf = self.zeros(self.len(buf));
    }

    fn len(&self, buf: &Buffer<R>) -> usize {
        buf.dims()[0]
    }

    fn buffer_bytes(&self) -> BufferBytes {
        self.buffers()
    }

    fn memory(&self) -> Memory {
        self.own_memory()
    }

    fn peak_bytes(&self, work: &mut dyn FnMut()) -> usize {
        self.peak(work)
    }

    fn chunks(&self) -> Chunks {
        // Four times the tokens of the trait's take a quarter of the launches.
        Chunks { tokens: 8192, at_once: 1 }
    }

    fn limit_buffers(&self, bytes: usize) {
        if self.buffers().held > bytes {
            self.release_unused();
        }
    }

    fn product_epsilon(&self) -> f32 {
        // bf16 has 8 significant bits.
        if self.multiplies_bf16() { 1.0 / 256.0 } else { f32::EPSILON }
    }

    fn pack(&self, master: &Buffer<R>, rows: usize, cols: usize) -> Option<Buffer<R>> {
        assert_eq!(self.len(master), rows * cols, "a weight of {rows} x {cols}");
        self.multiplies_bf16().then(|| self.factor(master.clone()))
    }

    fn embedding_forward(&self, lookups: &[Lookup<'_, Buffer<R>>], width: usize) -> Buffer<R> {
        embedding::embedding_forward(self, lookups, width)
    }

    fn embedding_backward(
        &self,
        d_y: &Buffer<R>,
        rows: &[u32],
        padding_row: Option<u32>,
        width: usize,
        d_table: &mut Buffer<R>,
    ) {
        embedding::embedding_backward(self, d_y, rows, padding_row, width, d_table);
    }

    fn linear_forward(&self, x: &Buffer<R>, w: Weight<'_, Self>, bias: Option<&Buffer<R>>) -> Buffer<R> {
        linear::linear_forward(self, x, w, bias)
    }

    fn linear_backward(
        &self,
        d_y: &Buffer<R>,
        x: &Buffer<R>,
        w: Weight<'_, Self>,
        grads: Option<LinearGrads<'_, Buffer<R>>>,
    ) -> Buffer<R> {
        linear::linear_backward(self, d_y, x, w, grads)
    }

    fn activation_forward(&self, x: &Buffer<R>, act: Activation) -> Buffer<R> {
        activation::activation_forward(self, x, act)
    }

    fn activation_backward(&self, d_y: &Buffer<R>, x: &Buffer<R>, act: Activation) -> Buffer<R> {
        activation::activation_backward(self, d_y, x, act)
    }

    fn dropout_forward(&self, x: &Buffer<R>, texts: Ragged<'_>, dropout: Dropout, width: usize) -> Buffer<R> {
        dropout::dropout_forward(self, x, texts, dropout, width)
    }

    fn dropout_backward(&self, d_y: &Buffer<R>, texts: Ragged<'_>, dropout: Dropout, width: usize) -> Buffer<R> {
        dropout::dropout_backward(self, d_y, texts, dropout, width)
    }

    fn layer_norm_forward(
        &self,
        x: &Buffer<R>,
        residual: Option<&Buffer<R>>,
        texts: Ragged<'_>,
        dropout: Option<Dropout>,
        norm: Norm<'_, Buffer<R>>,
    ) -> (Buffer<R>, NormSaved<Buffer<R>>) {
        layer_norm::layer_norm_forward(self, x, residual, texts, dropout, norm)
    }

    fn layer_norm_output(&self, saved: &NormSaved<Buffer<R>>, norm: Norm<'_, Buffer<R>>) -> Buffer<R> {
        layer_norm::layer_norm_output(saved, norm)
    }

    fn layer_norm_backward(
        &self,
        d_y: &Buffer<R>,
        saved: &NormSaved<Buffer<R>>,
        norm: Norm<'_, Buffer<R>>,
        d_gamma: &mut Buffer<R>,
        d_beta: &mut Buffer<R>,
    ) -> Buffer<R> {
        layer_norm::layer_norm_backward(self, d_y, saved, norm, d_gamma, d_beta)
    }

    fn attention_forward(
        &self,
        qkv: &Buffer<R>,
        texts: Ragged<'_>,
        heads: Heads,
        bias: Option<RelativeBias<'_, Buffer<R>>>,
        dropout: Option<Dropout>,
    ) -> AttentionSaved<Buffer<R>> {
        attention::attention_forward(&attention::Inputs::new(self, qkv, texts, heads, bias, dropout))
    }

    fn attention_backward(
        &self,
        d_context: &Buffer<R>,
        qkv: &Buffer<R>,
        saved: &AttentionSaved<Buffer<R>>,
        texts: Ragged<'_>,
        heads: Heads,
        bias: Option<RelativeBias<'_, Buffer<R>>>,
        d_bias_table: Option<&mut Buffer<R>>,
        dropout: Option<Dropout>,
    ) -> Buffer<R> {
        let inputs = attention::Inputs::new(self, qkv, texts, heads, bias, dropout);
        attention::attention_backward(d_context, &inputs, saved, d_bias_table)
    }

    fn pool_forward(
        &self,
        x: &Buffer<R>,
        texts: Ragged<'_>,
        skip: &[u32],
        pooling: Pooling,
        width: usize,
    ) -> Buffer<R> {
        pool::pool_forward(self, x, texts, skip, pooling, width)
    }

    fn pool_backward(
        &self,
        d_y: &Buffer<R>,
        x: &Buffer<R>,
        texts: Ragged<'_>,
        skip: &[u32],
        pooling: Pooling,
        width: usize,
    ) -> Buffer<R> {
        pool::pool_backward(self, d_y, x, texts, skip, pooling, width)
    }

    fn normalize_forward(&self, x: &Buffer<R>, width: usize) -> Buffer<R> {
        normalize::normalize_forward(self, x, width)
    }

    fn normalize_backward(&self, d_y: &Buffer<R>, x: &Buffer<R>, width: usize) -> Buffer<R> {
        normalize::normalize_backward(self, d_y, x, width)
    }

    fn columns_forward(&self, x: &Buffer<R>, width: usize, columns: Range<usize>) -> Buffer<R> {
        columns::columns_forward(self, x, width, columns)
    }

    fn columns_backward(&self, d_y: &Buffer<R>, width: usize, columns: Range<usize>, d_x: &mut Buffer<R>) {
        columns::columns_backward(self, d_y, width, columns, d_x);
    }

    fn add_assign(&self, a: &mut Buffer<R>, b: &Buffer<R>) {
        assert_eq!(self.len(a), self.len(b), "lengths of the summands");
        if self.len(a) > 0 {
            a.inplace(|a| a.add(b.clone()));
        }
    }

    fn scale(&self, a: &mut Buffer<R>, factor: f32) {
        if self.len(a) > 0 {
            a.inplace(|a| a.mul_scalar(factor));
        }
    }

    fn squared_norm(&self, a: &Buffer<R>) -> f64 {
        self.squared_norms(&[a])[0]
    }

    fn squared_norms(&self, bufs: &[&Buffer<R>]) -> Vec<f64> {
        squared_norm::squared_norms(self, bufs)
    }

    fn adamw_step(&self, w: &mut Buffer<R>, g: &Buffer<R>, m: &mut Buffer<R>, v: &mut Buffer<R>, step: AdamWStep) {
        adamw::adamw_step(self, w, g, m, v, step);
    }

    fn adafactor_step(
        &self,
        w: &mut Buffer<R>,
        g: &Buffer<R>,
        rows: &mut Buffer<R>,
        columns: &mut Buffer<R>,
        step: AdafactorStep,
    ) {
        adafactor::adafactor_step(self, w, g, rows, columns, step);
    }
}
