//! One layer of the encoder: attention, then feed-forward.

use embertune_kernels::Ops;

use super::attention::{AttentionBlock, AttentionBlockSaved};
use super::config::EncoderConfig;
use super::embeddings;
use super::feed_forward::{FeedForward, FeedForwardSaved};
use super::loader::Loader;
use super::mpnet::RelativePositions;
use super::params::Gradients;
use super::pass::Pass;
use crate::Result;

/// Dropout sites of a layer: attention probabilities, attention output, feed-forward output.
const SITES_PER_LAYER: u32 = 3;

/// One layer.
pub struct Layer {
    attention: AttentionBlock,
    feed_forward: FeedForward,
}

/// What the backward needs, besides the layer's input. What is between the blocks is computed again from what the LayerNorms keep.
pub struct LayerSaved<B> {
    attention: AttentionBlockSaved<B>,
    feed_forward: FeedForwardSaved<B>,
}

impl Layer {
    /// Takes the weights of layer `layer` from the checkpoint.
    pub fn load<O: Ops>(loader: &mut Loader<'_, O>, config: &EncoderConfig, layer: usize) -> Result<Self> {
        let site = embeddings::SITE + 1 + SITES_PER_LAYER * layer as u32;
        Ok(Layer {
            attention: AttentionBlock::load(loader, config, layer, site)?,
            feed_forward: FeedForward::load(loader, config, layer, site + 2)?,
        })
    }

    /// `x`: `[n_tokens, hidden]`. Returns the rows of the wanted tokens.
    pub fn forward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        x: &O::Buf,
        relative: Option<&RelativePositions>,
    ) -> (O::Buf, LayerSaved<O::Buf>) {
        let (middle, attention) = self.attention.forward(pass, x, relative);
        let (y, feed_forward) = self.feed_forward.forward(pass.of_wanted(), &middle);
        (y, LayerSaved { attention, feed_forward })
    }

    /// What the forward returned.
    pub fn output<O: Ops>(&self, pass: Pass<'_, O>, saved: &LayerSaved<O::Buf>) -> O::Buf {
        self.feed_forward.output(pass, &saved.feed_forward)
    }

    /// `x` is the input of the forward. Returns `d_x`.
    pub fn backward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        x: &O::Buf,
        saved: &LayerSaved<O::Buf>,
        d_y: &O::Buf,
        relative: Option<&RelativePositions>,
        grads: &mut Gradients<O>,
    ) -> O::Buf {
        // y = feed_forward(middle)
        let middle = self.attention.output(pass, &saved.attention);
        let d_middle = self.feed_forward.backward(pass.of_wanted(), &middle, &saved.feed_forward, d_y, grads);
        drop(middle);
        // middle = attention(x)
        self.attention.backward(pass, x, &saved.attention, &d_middle, relative, grads)
    }
}
