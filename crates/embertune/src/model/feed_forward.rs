//! The feed-forward block of a layer: `y = norm(dropout(down(act(up(x)))) + x)`.

use embertune_kernels::Ops;
use embertune_kernels::ops::{self, Activation, FeedForwardGrads, LinearGrads, NormSaved};

use super::config::{Architecture, EncoderConfig};
use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::loader::Loader;
use super::params::{Gradients, ParamId};
use super::pass::Pass;
use crate::Result;

/// The feed-forward block of one layer.
pub struct FeedForward {
    up: Linear,
    activation: Activation,
    down: Linear,
    norm: LayerNorm,
    width: usize,
}

/// What the backward needs, besides the block's input.
pub struct FeedForwardSaved<B> {
    /// What is before the activation, `[n_tokens, intermediate]`: as it is with adapters, else in the form of [`Ops::feed_forward_backward`].
    wide: B,
    norm: NormSaved<B>,
}

impl FeedForward {
    /// Takes the weights of layer `layer` from the checkpoint. `site` is that of the block's dropout.
    pub fn load<O: Ops>(loader: &mut Loader<'_, O>, config: &EncoderConfig, layer: usize, site: u32) -> Result<Self> {
        let (width, wide) = (config.hidden_size, config.intermediate_size);
        let (up, down, norm) = match config.architecture {
            Architecture::Bert | Architecture::Mpnet | Architecture::Roberta => {
                ("intermediate.dense", "output.dense", "output.LayerNorm")
            }
            Architecture::DistilBert => ("ffn.lin1", "ffn.lin2", "output_layer_norm"),
        };
        let name = |part: &str| config.architecture.in_layer(layer, part);
        Ok(FeedForward {
            up: Linear::load(loader, &name(up), wide, width)?,
            activation: config.activation,
            down: Linear::load(loader, &name(down), width, wide)?,
            norm: LayerNorm::load(loader, &name(norm), width, config.layer_norm_eps, Some(site))?,
            width,
        })
    }

    /// `x`: `[n_tokens, hidden]`.
    pub fn forward<O: Ops>(&self, pass: Pass<'_, O>, x: &O::Buf) -> (O::Buf, FeedForwardSaved<O::Buf>) {
        let (out, wide) = match self.plain(pass) {
            Some((_, layers)) => pass.ops.feed_forward_forward(x, layers),
            None => {
                let wide = self.up.forward(pass, x);
                (self.down.forward(pass, &pass.ops.activation_forward(&wide, self.activation)), wide)
            }
        };
        let (y, norm) = self.norm.forward_with_residual(pass, &out, x);
        (y, FeedForwardSaved { wide, norm })
    }

    /// Both layers, with their weights and biases in this order, where neither has an adapter.
    fn plain<'a, O: Ops>(&self, pass: Pass<'a, O>) -> Option<([ParamId; 4], ops::FeedForward<'a, O>)> {
        let params = pass.params;
        let ([up, up_bias], [down, down_bias]) = (self.up.plain(params)?, self.down.plain(params)?);
        let layers = ops::FeedForward {
            up: params.weight(up),
            up_bias: params.value(up_bias),
            activation: self.activation,
            down: params.weight(down),
            down_bias: params.value(down_bias),
        };
        Some(([up, up_bias, down, down_bias], layers))
    }

    /// What the forward returned.
    pub fn output<O: Ops>(&self, pass: Pass<'_, O>, saved: &FeedForwardSaved<O::Buf>) -> O::Buf {
        self.norm.output(pass, &saved.norm)
    }

    /// `x` is the input of the forward. Returns `d_x`.
    pub fn backward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        x: &O::Buf,
        saved: &FeedForwardSaved<O::Buf>,
        d_y: &O::Buf,
        grads: &mut Gradients<O>,
    ) -> O::Buf {
        // y = norm(dropout(out) + x)
        let branches = self.norm.backward_with_residual(pass, d_y, &saved.norm, self.width, grads);
        let mut d_x = match self.plain(pass) {
            Some((ids, layers)) => {
                let [d_up, d_up_bias, d_down, d_down_bias] = grads.several(ids);
                let trained = |id, d_weight, d_bias| {
                    pass.params.is_trained(id).then_some(LinearGrads { d_weight, d_bias: Some(d_bias) })
                };
                let grads = FeedForwardGrads {
                    up: trained(ids[0], d_up, d_up_bias),
                    down: trained(ids[2], d_down, d_down_bias),
                };
                pass.ops.feed_forward_backward(branches.d_x(), x, &saved.wide, layers, grads)
            }
            None => {
                // out = active w^T + b, active = act(wide)
                let active = pass.ops.activation_forward(&saved.wide, self.activation);
                let d_active = self.down.backward(pass, branches.d_x(), &active, grads);
                drop(active);
                // wide = x w^T + b
                let d_wide = pass.ops.activation_backward(&d_active, &saved.wide, self.activation);
                self.up.backward(pass, &d_wide, x, grads)
            }
        };
        pass.ops.add_assign(&mut d_x, &branches.d_residual);
        d_x
    }
}
