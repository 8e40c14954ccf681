//! The attention block of a layer: `y = norm(dropout(out(attention(qkv(x)))) + x)`.

use embertune_kernels::Ops;
use embertune_kernels::ops::{AttentionSaved, Heads, NormSaved};

use super::config::{Architecture, EncoderConfig};
use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::loader::Loader;
use super::mpnet::RelativePositions;
use super::params::Gradients;
use super::pass::Pass;
use crate::Result;

/// The attention block of one layer.
pub struct AttentionBlock {
    /// Query, key and value as one product.
    qkv: Linear,
    out: Linear,
    norm: LayerNorm,
    heads: Heads,
    site: u32,
}

/// What the backward needs, besides the block's input.
pub struct AttentionBlockSaved<B> {
    qkv: B,
    attention: AttentionSaved<B>,
    /// The context of the wanted tokens, where these are not all.
    wanted_context: Option<B>,
    norm: NormSaved<B>,
}

impl AttentionBlock {
    /// Takes the weights of layer `layer` from the checkpoint. Dropout sites: `site` of the probabilities, `site + 1` of the
    /// block's output.
    pub fn load<O: Ops>(loader: &mut Loader<'_, O>, config: &EncoderConfig, layer: usize, site: u32) -> Result<Self> {
        let width = config.hidden_size;
        let ([query, key, value, out], norm, dropout_site) = match config.architecture {
            Architecture::Bert | Architecture::Roberta => (
                ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"],
                "attention.output.LayerNorm",
                Some(site + 1),
            ),
            Architecture::Mpnet => (
                ["attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"],
                "attention.LayerNorm",
                Some(site + 1),
            ),
            Architecture::DistilBert => {
                (["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"], "sa_layer_norm", None)
            }
        };
        let name = |part: &str| config.architecture.in_layer(layer, part);
        Ok(AttentionBlock {
            qkv: Linear::load_fused(loader, &[query, key, value].map(name), width, width)?,
            out: Linear::load(loader, &name(out), width, width)?,
            norm: LayerNorm::load(loader, &name(norm), width, config.layer_norm_eps, dropout_site)?,
            heads: config.heads,
            site,
        })
    }

    /// `x`: `[n_tokens, hidden]`. Returns the rows of the wanted tokens.
    pub fn forward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        x: &O::Buf,
        relative: Option<&RelativePositions>,
    ) -> (O::Buf, AttentionBlockSaved<O::Buf>) {
        let qkv = self.qkv.forward(pass, x);
        let bias = relative.map(|relative| relative.bias(pass.params));
        let dropout = pass.attention_dropout(self.site);
        let attention = pass.ops.attention_forward(&qkv, pass.texts, self.heads, bias, dropout);
        let wanted_context = pass.wanted_rows(&attention.context, self.heads.width());
        let wanted_x = pass.wanted_rows(x, self.heads.width());
        let out = self.out.forward(pass, wanted_context.as_ref().unwrap_or(&attention.context));
        let (y, norm) = self.norm.forward_with_residual(pass.of_wanted(), &out, wanted_x.as_ref().unwrap_or(x));
        (y, AttentionBlockSaved { qkv, attention, wanted_context, norm })
    }

    /// What the forward returned.
    pub fn output<O: Ops>(&self, pass: Pass<'_, O>, saved: &AttentionBlockSaved<O::Buf>) -> O::Buf {
        self.norm.output(pass, &saved.norm)
    }

    /// `x` is the input of the forward. Returns `d_x`.
    pub fn backward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        x: &O::Buf,
        saved: &AttentionBlockSaved<O::Buf>,
        d_y: &O::Buf,
        relative: Option<&RelativePositions>,
        grads: &mut Gradients<O>,
    ) -> O::Buf {
        // y = norm(dropout(out) + wanted_rows(x))
        let width = self.heads.width();
        let branches = self.norm.backward_with_residual(pass.of_wanted(), d_y, &saved.norm, width, grads);
        // out = wanted_rows(context) w^T + b
        let context = saved.wanted_context.as_ref().unwrap_or(&saved.attention.context);
        let d_context = self.out.backward(pass, branches.d_x(), context, grads);
        let d_context = pass.wanted_rows_backward(d_context, &saved.attention.context, width);
        // context = dropout(softmax(q k^T / sqrt(head_dim) + bias)) v
        let d_qkv = pass.ops.attention_backward(
            &d_context,
            &saved.qkv,
            &saved.attention,
            pass.texts,
            self.heads,
            relative.map(|relative| relative.bias(pass.params)),
            relative
                .map(RelativePositions::table)
                .filter(|&id| pass.params.is_trained(id))
                .map(|id| &mut grads.list[id.0]),
            pass.attention_dropout(self.site),
        );
        // qkv = x w^T + b
        let mut d_x = self.qkv.backward(pass, &d_qkv, x, grads);
        let d_residual = pass.wanted_rows_backward(branches.d_residual, x, width);
        pass.ops.add_assign(&mut d_x, &d_residual);
        d_x
    }
}
