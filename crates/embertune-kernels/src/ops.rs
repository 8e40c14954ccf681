//! The trait [`Ops`]: every operation that an encoder needs, as a forward/backward pair, over a device buffer type.
//!
//! A batch is *ragged*: the tokens of all texts lie one after the other, `[n_tokens, width]` row-major, and
//! [`Ragged`] says where each text begins. No padded position exists, so none is ever computed.
//!
//! There is no tape: a forward returns what its backward cannot cheaply recompute, and the caller keeps it.
//! Backwards *add* to parameter gradients (`d_weight`, `d_gamma`, ...) and *return* activation gradients.

use std::ops::Range;

use crate::dropout::Dropout;

/// Where the texts of a ragged batch begin and end, and the key of each text's random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    /// Offsets `[n_texts + 1]`: text `i` is the rows `cu_seqlens[i]..cu_seqlens[i + 1]`. Starts at 0, ends at `n_tokens`.
    pub cu_seqlens: &'a [u32],
    /// One key per text, `[n_texts]`. A dropout mask depends on this key and the position within the text alone,
    /// never on the batch that the text is in.
    pub keys: &'a [u64],
}

impl Ragged<'_> {
    /// Number of texts.
    pub fn n_texts(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Number of tokens of all texts.
    pub fn n_tokens(&self) -> usize {
        self.cu_seqlens[self.n_texts()] as usize
    }

    /// The rows of text `text`.
    pub fn range(&self, text: usize) -> Range<usize> {
        self.cu_seqlens[text] as usize..self.cu_seqlens[text + 1] as usize
    }
}

/// A weight matrix `[rows, cols]` as PyTorch's `nn.Linear` stores it: rows = outputs, cols = inputs.
pub struct Weight<'a, O: Ops + ?Sized> {
    /// The master copy, f32.
    pub master: &'a O::Buf,
    /// What [`Ops::pack`] made of the master copy since it last changed.
    pub packed: &'a O::Packed,
    /// Number of outputs.
    pub rows: usize,
    /// Number of inputs.
    pub cols: usize,
}

impl<O: Ops + ?Sized> Clone for Weight<'_, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O: Ops + ?Sized> Copy for Weight<'_, O> {}

/// Where the gradients of a linear layer are added.
pub struct LinearGrads<'a, B> {
    /// `[rows, cols]`.
    pub d_weight: &'a mut B,
    /// `[rows]`.
    pub d_bias: Option<&'a mut B>,
}

/// The two linear layers of a feed-forward block, and what is between them.
pub struct FeedForward<'a, O: Ops + ?Sized> {
    /// `[intermediate, hidden]`.
    pub up: Weight<'a, O>,
    /// `[intermediate]`.
    pub up_bias: &'a O::Buf,
    /// Between the layers.
    pub activation: Activation,
    /// `[hidden, intermediate]`.
    pub down: Weight<'a, O>,
    /// `[hidden]`.
    pub down_bias: &'a O::Buf,
}

impl<O: Ops + ?Sized> Clone for FeedForward<'_, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O: Ops + ?Sized> Copy for FeedForward<'_, O> {}

/// Where the gradients of a feed-forward block are added; `None` for a layer that is frozen.
pub struct FeedForwardGrads<'a, B> {
    /// Of the first layer.
    pub up: Option<LinearGrads<'a, B>>,
    /// Of the second layer.
    pub down: Option<LinearGrads<'a, B>>,
}

/// One embedding table and the row that each token takes from it.
pub struct Lookup<'a, B> {
    /// `[n_rows, width]`.
    pub table: &'a B,
    /// `[n_tokens]`.
    pub rows: &'a [u32],
}

/// The parameters of a LayerNorm over the last dimension.
pub struct Norm<'a, B> {
    /// `[width]`.
    pub gamma: &'a B,
    /// `[width]`.
    pub beta: &'a B,
    /// Added to the (biased) variance.
    pub eps: f32,
}

impl<B> Clone for Norm<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Norm<'_, B> {}

/// What LayerNorm keeps for its backward.
pub struct NormSaved<B> {
    /// The normalised input `(x - mean) * rstd`, `[n_tokens, width]`.
    pub normed: B,
    /// `1 / sqrt(var + eps)`, `[n_tokens]`.
    pub rstd: B,
}

/// The heads of a self-attention. The width of the layer is `heads * head_dim`.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Heads {
    /// `heads * head_dim`.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// A bias that depends on the distance of key and query (MPNet): `scores[i, j] += table[bucket(j - i), head]`.
pub struct RelativeBias<'a, B> {
    /// `[n_buckets, heads]`.
    pub table: &'a B,
    /// Bucket of each distance `-(max_len - 1)..=max_len - 1`: distance `d` is at `d + max_len - 1`. `[2 * max_len - 1]`.
    pub bucket_of: &'a [u32],
    /// The longest text that `bucket_of` covers.
    pub max_len: usize,
}

impl<B> Clone for RelativeBias<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for RelativeBias<'_, B> {}

/// What attention keeps for its backward.
pub struct AttentionSaved<B> {
    /// The output of the attention, `[n_tokens, width]`.
    pub context: B,
    /// `ln sum_j exp(score[i, j])` of each head and query, `[heads, n_tokens]`.
    pub lse: B,
}

/// An element-wise activation, by the formula that `transformers` uses for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `0.5 x (1 + erf(x / sqrt 2))`: `gelu`.
    GeluErf,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + exp(-x))`: `silu`, `swish`.
    Silu,
    /// `tanh x`.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x`.
    Identity,
}

/// How the tokens of a text become one vector. Formulas as in sentence-transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first token.
    Cls,
    /// `sum h / max(n, 1e-9)`.
    Mean,
    /// The largest value of each dimension; its gradient goes to the first position that holds it.
    Max,
    /// `sum h / sqrt(n)`.
    MeanSqrtLen,
    /// `sum i h_i / sum i`, `i` from 1 for the first token of the text (excluded tokens count as positions).
    WeightedMean,
    /// The last token.
    LastToken,
}

/// One AdamW step (decoupled decay, as `torch.optim.AdamW`).
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment. In f64 because `1 - beta` is taken of it: in f32, `1 - 0.999` is off by 1.3e-5.
    pub beta1: f64,
    /// Decay of the second moment. `1 - beta2` is to be computed in f64, as torch does, then rounded.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// `w -= lr * weight_decay * w` before the Adam step.
    pub weight_decay: f32,
    /// `1 - beta1^t`, t from 1.
    pub bias_correction1: f32,
    /// `1 - beta2^t`.
    pub bias_correction2: f32,
    /// Factor on the gradient before anything else: clipping.
    pub grad_scale: f32,
}

/// One Adafactor step (Shazeer and Stern 2018, arXiv:1804.04235) without first moment, with a learning rate from outside: `transformers.Adafactor`
/// with `scale_parameter` and `relative_step` off.
#[derive(Clone, Copy, Debug)]
pub struct AdafactorStep {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the second moment in this step, `1 - t^-0.8`, t from 1. In f64 because `1 - beta2` is taken of it.
    pub beta2: f64,
    /// Added to the square of the gradient.
    pub eps: f32,
    /// Updates with a greater root of their mean square are scaled down to it.
    pub clip_threshold: f32,
    /// `w -= lr * weight_decay * w` before the step.
    pub weight_decay: f32,
    /// Factor on the gradient before anything else: clipping of the whole gradient.
    pub grad_scale: f32,
    /// Tensors of equal shape that the buffers hold, one after the other. Each is clipped by itself.
    pub parts: usize,
    /// Rows and columns of each, whose second moments are kept apart; `None` for a vector, which has a second moment for every element.
    pub matrix: Option<(usize, usize)>,
}

/// The memory of a device's buffers, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferBytes {
    /// Of the buffers in use.
    pub used: usize,
    /// Of all buffers, those kept for reuse included.
    pub held: usize,
}

/// Where a device's buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// In the memory of the process.
    OfProcess,
    /// In memory of the device's own.
    Own {
        /// All that it has, where the driver says.
        bytes: Option<u64>,
    },
}

/// How many tokens go through a model at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// At most this many in a chunk, unless a single text is longer.
    pub tokens: usize,
    /// So many chunks are computed at the same time, each by a thread of its own.
    pub at_once: usize,
}

/// The operations of an encoder on one device. Every `x_forward` has its `x_backward`.
///
/// `Buf` is a buffer of numbers on the device, `Packed` a weight matrix in the form that the device multiplies best.
/// Sizes are in the arguments or follow from the lengths of the buffers; a wrong size is a bug of the caller and panics.
///
/// Results do not depend on the number of threads, bit for bit, nor on the other texts in a batch, up to the rounding of f32 sums:
/// a product may be cut otherwise where it has fewer rows.
pub trait Ops: Send + Sync {
    /// A buffer on the device.
    type Buf: Send + Sync;
    /// A weight matrix prepared for products. May be empty.
    type Packed: Send + Sync;

    /// Copies `values` to the device.
    fn upload(&self, values: &[f32]) -> Self::Buf;
    /// Copies a buffer to the host.
    fn download(&self, buf: &Self::Buf) -> Vec<f32>;
    /// Gives the values to `read`, without a copy where they are on the host.
    fn with_values(&self, buf: &Self::Buf, read: &mut dyn FnMut(&[f32])) {
        read(&self.download(buf));
    }
    /// A buffer of `len` zeros.
    fn zeros(&self, len: usize) -> Self::Buf;
    /// Sets every element to zero.
    fn set_zero(&self, buf: &mut Self::Buf);
    /// Number of elements.
    fn len(&self, buf: &Self::Buf) -> usize;
    /// What all buffers take; zeros where the device does not count them.
    fn buffer_bytes(&self) -> BufferBytes {
        BufferBytes::default()
    }
    /// Where buffers are.
    fn memory(&self) -> Memory {
        Memory::OfProcess
    }
    /// The most that all buffers take at once while `work` is done, as far as the device counts them.
    fn peak_bytes(&self, work: &mut dyn FnMut()) -> usize {
        work();
        // Freed buffers are kept, so what is held now is what was needed.
        self.buffer_bytes().held
    }
    /// The chunks that texts are embedded in, where no backward follows.
    fn chunks(&self) -> Chunks {
        Chunks { tokens: 2048, at_once: 1 }
    }
    /// Keeps no freed buffers for reuse while all buffers take more than `bytes`. Without effect where freed buffers are not kept.
    fn limit_buffers(&self, _bytes: usize) {}
    /// Relative rounding of what linear layers multiply.
    fn product_epsilon(&self) -> f32 {
        f32::EPSILON
    }
    /// Prepares a weight matrix `[rows, cols]` for [`linear_forward`](Ops::linear_forward) and its backward. To be called again after the master changed.
    fn pack(&self, master: &Self::Buf, rows: usize, cols: usize) -> Self::Packed;

    /// `y[t] = sum over lookups of table[rows[t]]`. Returns `[n_tokens, width]`.
    fn embedding_forward(&self, lookups: &[Lookup<'_, Self::Buf>], width: usize) -> Self::Buf;
    /// `d_table[rows[t]] += d_y[t]`, for one lookup. Tokens of `padding_row` add nothing (PyTorch's `padding_idx`).
    fn embedding_backward(
        &self,
        d_y: &Self::Buf,
        rows: &[u32],
        padding_row: Option<u32>,
        width: usize,
        d_table: &mut Self::Buf,
    );

    /// `y = x w^T + bias`. `x`: `[n, cols]`, `y`: `[n, rows]`.
    fn linear_forward(&self, x: &Self::Buf, w: Weight<'_, Self>, bias: Option<&Self::Buf>) -> Self::Buf;
    /// `d_x = d_y w`; `d_weight += d_y^T x`; `d_bias += sum of the rows of d_y`. Without `grads` the layer is frozen.
    fn linear_backward(
        &self,
        d_y: &Self::Buf,
        x: &Self::Buf,
        w: Weight<'_, Self>,
        grads: Option<LinearGrads<'_, Self::Buf>>,
    ) -> Self::Buf;

    /// `y = act(x)`, element by element.
    fn activation_forward(&self, x: &Self::Buf, act: Activation) -> Self::Buf;
    /// `d_x = d_y act'(x)`.
    fn activation_backward(&self, d_y: &Self::Buf, x: &Self::Buf, act: Activation) -> Self::Buf;

    /// `wide = x up^T + up_bias; y = act(wide) down^T + down_bias`. `x`: `[n, up.cols]`. Returns `y`, `[n, down.rows]`, and what the backward
    /// reads of `wide`, in a form that only the backward knows.
    fn feed_forward_forward(&self, x: &Self::Buf, layers: FeedForward<'_, Self>) -> (Self::Buf, Self::Buf) {
        let wide = self.linear_forward(x, layers.up, Some(layers.up_bias));
        let active = self.activation_forward(&wide, layers.activation);
        (self.linear_forward(&active, layers.down, Some(layers.down_bias)), wide)
    }
    /// Returns `d_x`, and adds to the gradients of the layers that are not frozen. `x` and `wide` are of the forward.
    fn feed_forward_backward(
        &self,
        d_y: &Self::Buf,
        x: &Self::Buf,
        wide: &Self::Buf,
        layers: FeedForward<'_, Self>,
        grads: FeedForwardGrads<'_, Self::Buf>,
    ) -> Self::Buf {
        // y = active down^T + bias, active = act(wide); only the gradient of the weight reads active.
        let active = grads.down.as_ref().map(|_| self.activation_forward(wide, layers.activation));
        let d_active = self.linear_backward(d_y, active.as_ref().unwrap_or(wide), layers.down, grads.down);
        let d_wide = self.activation_backward(&d_active, wide, layers.activation);
        self.linear_backward(&d_wide, x, layers.up, grads.up)
    }

    /// `y = x * mask / (1 - p)`, `x`: `[n_tokens, width]`; the mask is [`Dropout::keeps`] of (text key, site, token within the text, column).
    fn dropout_forward(&self, x: &Self::Buf, texts: Ragged<'_>, dropout: Dropout, width: usize) -> Self::Buf;
    /// `d_x = d_y * mask / (1 - p)`, with the mask of the forward.
    fn dropout_backward(&self, d_y: &Self::Buf, texts: Ragged<'_>, dropout: Dropout, width: usize) -> Self::Buf;

    /// `s = dropout(x) + residual; y = (s - mean(s)) / sqrt(var(s) + eps) * gamma + beta` for each row of `width = len(gamma)`.
    fn layer_norm_forward(
        &self,
        x: &Self::Buf,
        residual: Option<&Self::Buf>,
        texts: Ragged<'_>,
        dropout: Option<Dropout>,
        norm: Norm<'_, Self::Buf>,
    ) -> (Self::Buf, NormSaved<Self::Buf>);
    /// The `y` of the forward again, computed from what it keeps.
    fn layer_norm_output(&self, saved: &NormSaved<Self::Buf>, norm: Norm<'_, Self::Buf>) -> Self::Buf;
    /// Returns `d_s`: the gradient of the residual as it is, and of `x` after [`dropout_backward`](Ops::dropout_backward). Adds to `d_gamma` and `d_beta`.
    fn layer_norm_backward(
        &self,
        d_y: &Self::Buf,
        saved: &NormSaved<Self::Buf>,
        norm: Norm<'_, Self::Buf>,
        d_gamma: &mut Self::Buf,
        d_beta: &mut Self::Buf,
    ) -> Self::Buf;

    /// Self-attention within each text. `qkv`: `[n_tokens, 3 * width]`, a row is query, key, value, each `[heads, head_dim]`.
    /// `scores = q k^T / sqrt(head_dim) + bias`, `context = dropout(softmax(scores)) v`.
    /// The mask of a probability is [`Dropout::keeps`] of (text key, site, `head * len + query`, key), `len` the text's length.
    fn attention_forward(
        &self,
        qkv: &Self::Buf,
        texts: Ragged<'_>,
        heads: Heads,
        bias: Option<RelativeBias<'_, Self::Buf>>,
        dropout: Option<Dropout>,
    ) -> AttentionSaved<Self::Buf>;
    /// Returns `d_qkv`. Adds to `d_bias_table` where there is a bias.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        d_context: &Self::Buf,
        qkv: &Self::Buf,
        saved: &AttentionSaved<Self::Buf>,
        texts: Ragged<'_>,
        heads: Heads,
        bias: Option<RelativeBias<'_, Self::Buf>>,
        d_bias_table: Option<&mut Self::Buf>,
        dropout: Option<Dropout>,
    ) -> Self::Buf;

    /// One vector per text, `[n_texts, width]`. The first `skip[i]` tokens of text `i` are left out (a prompt that is not to be pooled); at least one token is left.
    fn pool_forward(&self, x: &Self::Buf, texts: Ragged<'_>, skip: &[u32], pooling: Pooling, width: usize)
    -> Self::Buf;
    /// Returns `d_x`, `[n_tokens, width]`. `x` is the input of the forward.
    fn pool_backward(
        &self,
        d_y: &Self::Buf,
        x: &Self::Buf,
        texts: Ragged<'_>,
        skip: &[u32],
        pooling: Pooling,
        width: usize,
    ) -> Self::Buf;

    /// `y = x / max(|x|, 1e-12)` for each row of `width`.
    fn normalize_forward(&self, x: &Self::Buf, width: usize) -> Self::Buf;
    /// `d_x = (d_y - y (y . d_y)) / |x|`. `x` is the input of the forward.
    fn normalize_backward(&self, d_y: &Self::Buf, x: &Self::Buf, width: usize) -> Self::Buf;

    /// `y = x[:, columns]`. `x`: `[n, width]`; returns `[n, columns.len()]`.
    fn columns_forward(&self, x: &Self::Buf, width: usize, columns: Range<usize>) -> Self::Buf;
    /// `d_x[:, columns] += d_y`. It adds, since several ranges of columns are taken of one `x`.
    fn columns_backward(&self, d_y: &Self::Buf, width: usize, columns: Range<usize>, d_x: &mut Self::Buf);

    /// `a += b`.
    fn add_assign(&self, a: &mut Self::Buf, b: &Self::Buf);
    /// `a *= factor`.
    fn scale(&self, a: &mut Self::Buf, factor: f32);
    /// Sum of the squares, accumulated in f64 (torch's own f32 norm is off by 7e-5 on tensors of millions of values).
    fn squared_norm(&self, a: &Self::Buf) -> f64;
    /// [`squared_norm`](Ops::squared_norm) of each buffer. A device that has to be waited for is waited for once.
    fn squared_norms(&self, bufs: &[&Self::Buf]) -> Vec<f64> {
        bufs.iter().map(|buf| self.squared_norm(buf)).collect()
    }
    /// One optimizer step on one tensor: `g = grad_scale * g; w -= lr wd w; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    /// w -= lr / bc1 * m / (sqrt(v / bc2) + eps)`.
    fn adamw_step(&self, w: &mut Self::Buf, g: &Self::Buf, m: &mut Self::Buf, v: &mut Self::Buf, step: AdamWStep);
    /// One optimizer step on the tensors in one buffer, each for itself: `g = grad_scale * g; s = g^2 + eps; r = b2 r + (1 - b2) mean of the rows
    /// of s; c = b2 c + (1 - b2) mean of the columns of s; u = g / sqrt(r / mean(r)) / sqrt(c); u /= max(1, rms(u) / clip_threshold); w -= lr wd w;
    /// w -= lr u`. `rows`: `[parts, rows]`, `columns`: `[parts, columns]`. Of vectors `rows` has every element, `c` is none and `u = g / sqrt(r)`.
    fn adafactor_step(
        &self,
        w: &mut Self::Buf,
        g: &Self::Buf,
        rows: &mut Self::Buf,
        columns: &mut Self::Buf,
        step: AdafactorStep,
    );
}
