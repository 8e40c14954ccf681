//! The feed-forward block of a layer: `y = norm(dropout(down(act(up(x)))) + x)`.

use embertune_kernels::Ops;
use embertune_kernels::ops::{Activation, NormSaved};

use super::config::{Architecture, EncoderConfig};
use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::loader::Loader;
use super::params::Gradients;
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
    /// Before the activation, `[n_tokens, intermediate]`.
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
        let wide = self.up.forward(pass, x);
        let out = self.down.forward_activated(pass, &wide, self.activation);
        let (y, norm) = self.norm.forward_with_residual(pass, &out, x);
        (y, FeedForwardSaved { wide, norm })
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
        // out = act(wide) w^T + b
        let d_wide = self.down.backward_activated(pass, branches.d_x(), &saved.wide, self.activation, grads);
        // wide = x w^T + b
        let mut d_x = self.up.backward(pass, &d_wide, x, grads);
        pass.ops.add_assign(&mut d_x, &branches.d_residual);
        d_x
    }
}
