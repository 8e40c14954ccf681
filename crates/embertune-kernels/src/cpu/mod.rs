//! The fast implementation of [`Ops`] on a CPU.
//!
//! Element-wise loops are written once and compiled for several instruction sets ([`Isa`]), one of which is chosen when a
//! [`Cpu`] is made. The matrix products of layers go by tiles of our own ([`tiled`]) with AVX-512, else through crate `gemm`, or, of linear layers
//! where asked for, multiply [`bf16`]. Work is spread over the rayon pool that a call is made in and split over outputs, never
//! over a sum, so results do not depend on the number of threads, bit for bit.

mod activation;
mod adafactor;
mod adamw;
mod attention;
mod bf16;
mod buffer;
mod columns;
mod dropout;
mod elementwise;
mod embedding;
mod feed_forward;
mod isa;
mod layer_norm;
mod linear;
mod math;
pub mod matmul;
mod normalize;
mod pooling;
mod rows;
pub mod scan;
mod scatter;
mod tiled;

pub use buffer::Buffer;
pub use isa::Isa;
pub use linear::Packed;

use std::ops::Range;

use crate::dropout::Dropout;
use crate::ops::{
    Activation, AdafactorStep, AdamWStep, AttentionSaved, BufferBytes, Chunks, FeedForward, FeedForwardGrads, Heads,
    LinearGrads, Lookup, Norm, NormSaved, Ops, Pooling, Ragged, RelativeBias, Weight,
};
use bf16::tile::MultiplyPairs;
use buffer::Pool;
use isa::Detected;

/// Operations on this machine's CPU, in `f32` unless made by [`Cpu::bf16`].
///
/// Its buffers come from a pool that lives as long as they do; a clone shares the pool.
#[derive(Clone)]
pub struct Cpu {
    isa: Detected,
    /// How linear layers and attention multiply in bf16, if they do.
    bf16: Option<MultiplyPairs>,
    pool: Pool,
}

impl Cpu {
    /// With the widest instruction set that the machine has.
    pub fn new() -> Self {
        Cpu { isa: Detected::widest(), bf16: None, pool: Pool::default() }
    }

    /// Linear layers and attention multiply bf16 and add in f32, everything else is f32; `None` where the CPU cannot multiply bf16.
    pub fn bf16() -> Option<Self> {
        MultiplyPairs::native().map(|how| Cpu { bf16: Some(how), ..Cpu::new() })
    }

    /// As [`bf16`](Cpu::bf16), on any CPU: the same numbers up to the order of the sums, slower than f32.
    pub fn bf16_emulated() -> Self {
        Cpu { bf16: Some(MultiplyPairs::emulated()), ..Cpu::new() }
    }

    /// Whether linear layers and attention multiply bf16.
    pub fn multiplies_bf16(&self) -> bool {
        self.bf16.is_some()
    }

    /// With this instruction set; `None` where the machine does not have it. Matrix products through `gemm` use the widest all the same.
    pub fn with_isa(isa: Isa) -> Option<Self> {
        Detected::new(isa).map(|isa| Cpu { isa, ..Cpu::new() })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa.isa()
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Cpu::new()
    }
}

impl Ops for Cpu {
    type Buf = Buffer;
    type Packed = Packed;

    fn upload(&self, values: &[f32]) -> Buffer {
        let mut buffer = self.pool.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    fn download(&self, buf: &Buffer) -> Vec<f32> {
        buf.to_vec()
    }

    fn with_values(&self, buf: &Buffer, read: &mut dyn FnMut(&[f32])) {
        read(buf);
    }

    fn zeros(&self, len: usize) -> Buffer {
        self.pool.zeros(len)
    }

    fn set_zero(&self, buf: &mut Buffer) {
        elementwise::set_zero(buf);
    }

    fn len(&self, buf: &Buffer) -> usize {
        buf.len()
    }

    fn buffer_bytes(&self) -> BufferBytes {
        self.pool.bytes()
    }

    fn chunks(&self) -> Chunks {
        // What a layer of a small model reads and writes stays in the last cache. Threads that have a chunk each need not wait for one another
        // after every operation; more than 16 would take more memory than they save time.
        Chunks { tokens: 1024, at_once: rayon::current_num_threads().min(16) }
    }

    fn limit_buffers(&self, bytes: usize) {
        self.pool.limit(bytes);
    }

    fn product_epsilon(&self) -> f32 {
        // bf16 has 8 significant bits.
        if self.multiplies_bf16() { 1.0 / 256.0 } else { f32::EPSILON }
    }

    fn pack(&self, master: &Buffer, rows: usize, cols: usize) -> Packed {
        linear::pack(self, master, rows, cols)
    }

    fn embedding_forward(&self, lookups: &[Lookup<'_, Buffer>], width: usize) -> Buffer {
        embedding::embedding_forward(self, lookups, width)
    }

    fn embedding_backward(
        &self,
        d_y: &Buffer,
        rows: &[u32],
        padding_row: Option<u32>,
        width: usize,
        d_table: &mut Buffer,
    ) {
        embedding::embedding_backward(self, d_y, rows, padding_row, width, d_table);
    }

    fn linear_forward(&self, x: &Buffer, w: Weight<'_, Self>, bias: Option<&Buffer>) -> Buffer {
        linear::linear_forward(self, x, w, bias)
    }

    fn linear_backward(
        &self,
        d_y: &Buffer,
        x: &Buffer,
        w: Weight<'_, Self>,
        grads: Option<LinearGrads<'_, Buffer>>,
    ) -> Buffer {
        linear::linear_backward(self, d_y, x, w, grads)
    }

    fn activation_forward(&self, x: &Buffer, act: Activation) -> Buffer {
        activation::activation_forward(self, x, act)
    }

    fn activation_backward(&self, d_y: &Buffer, x: &Buffer, act: Activation) -> Buffer {
        activation::activation_backward(self, d_y, x, act)
    }

    fn feed_forward_forward(&self, x: &Buffer, layers: FeedForward<'_, Self>) -> (Buffer, Buffer) {
        feed_forward::feed_forward_forward(self, x, layers)
    }

    fn feed_forward_backward(
        &self,
        d_y: &Buffer,
        x: &Buffer,
        wide: &Buffer,
        layers: FeedForward<'_, Self>,
        grads: FeedForwardGrads<'_, Buffer>,
    ) -> Buffer {
        feed_forward::feed_forward_backward(self, d_y, x, wide, layers, grads)
    }

    fn dropout_forward(&self, x: &Buffer, texts: Ragged<'_>, dropout: Dropout, width: usize) -> Buffer {
        dropout::dropout_forward(self, x, texts, dropout, width)
    }

    fn dropout_backward(&self, d_y: &Buffer, texts: Ragged<'_>, dropout: Dropout, width: usize) -> Buffer {
        dropout::dropout_backward(self, d_y, texts, dropout, width)
    }

    fn layer_norm_forward(
        &self,
        x: &Buffer,
        residual: Option<&Buffer>,
        texts: Ragged<'_>,
        dropout: Option<Dropout>,
        norm: Norm<'_, Buffer>,
    ) -> (Buffer, NormSaved<Buffer>) {
        layer_norm::layer_norm_forward(self, x, residual, texts, dropout, norm)
    }

    fn layer_norm_output(&self, saved: &NormSaved<Buffer>, norm: Norm<'_, Buffer>) -> Buffer {
        layer_norm::layer_norm_output(self, saved, norm)
    }

    fn layer_norm_backward(
        &self,
        d_y: &Buffer,
        saved: &NormSaved<Buffer>,
        norm: Norm<'_, Buffer>,
        d_gamma: &mut Buffer,
        d_beta: &mut Buffer,
    ) -> Buffer {
        layer_norm::layer_norm_backward(self, d_y, saved, norm, d_gamma, d_beta)
    }

    fn attention_forward(
        &self,
        qkv: &Buffer,
        texts: Ragged<'_>,
        heads: Heads,
        bias: Option<RelativeBias<'_, Buffer>>,
        dropout: Option<Dropout>,
    ) -> AttentionSaved<Buffer> {
        attention::attention_forward(self, qkv, texts, heads, bias, dropout)
    }

    fn attention_backward(
        &self,
        d_context: &Buffer,
        qkv: &Buffer,
        saved: &AttentionSaved<Buffer>,
        texts: Ragged<'_>,
        heads: Heads,
        bias: Option<RelativeBias<'_, Buffer>>,
        d_bias_table: Option<&mut Buffer>,
        dropout: Option<Dropout>,
    ) -> Buffer {
        attention::attention_backward(self, d_context, qkv, saved, texts, heads, bias, d_bias_table, dropout)
    }

    fn pool_forward(&self, x: &Buffer, texts: Ragged<'_>, skip: &[u32], pooling: Pooling, width: usize) -> Buffer {
        pooling::pool_forward(self, x, texts, skip, pooling, width)
    }

    fn pool_backward(
        &self,
        d_y: &Buffer,
        x: &Buffer,
        texts: Ragged<'_>,
        skip: &[u32],
        pooling: Pooling,
        width: usize,
    ) -> Buffer {
        pooling::pool_backward(self, d_y, x, texts, skip, pooling, width)
    }

    fn normalize_forward(&self, x: &Buffer, width: usize) -> Buffer {
        normalize::normalize_forward(self, x, width)
    }

    fn normalize_backward(&self, d_y: &Buffer, x: &Buffer, width: usize) -> Buffer {
        normalize::normalize_backward(self, d_y, x, width)
    }

    fn columns_forward(&self, x: &Buffer, width: usize, columns: Range<usize>) -> Buffer {
        columns::columns_forward(self, x, width, columns)
    }

    fn columns_backward(&self, d_y: &Buffer, width: usize, columns: Range<usize>, d_x: &mut Buffer) {
        columns::columns_backward(self, d_y, width, columns, d_x);
    }

    fn add_assign(&self, a: &mut Buffer, b: &Buffer) {
        elementwise::add_assign_all(self, a, b);
    }

    fn scale(&self, a: &mut Buffer, factor: f32) {
        elementwise::scale_all(self, a, factor);
    }

    fn squared_norm(&self, a: &Buffer) -> f64 {
        elementwise::squared_norm(self, a)
    }

    fn adamw_step(&self, w: &mut Buffer, g: &Buffer, m: &mut Buffer, v: &mut Buffer, step: AdamWStep) {
        adamw::adamw_step(self, w, g, m, v, step);
    }

    fn adafactor_step(&self, w: &mut Buffer, g: &Buffer, rows: &mut Buffer, columns: &mut Buffer, step: AdafactorStep) {
        adafactor::adafactor_step(self, w, g, rows, columns, step);
    }
}
