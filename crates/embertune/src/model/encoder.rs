//! Embeddings and layers: token ids to the last hidden state, and back.

use embertune_kernels::Ops;

use super::config::{Architecture, EncoderConfig};
use super::embeddings::{Embeddings, EmbeddingsSaved};
use super::layer::{Layer, LayerSaved};
use super::loader::Loader;
use super::mpnet::RelativePositions;
use super::params::{Depth, Gradients};
use super::pass::{Pass, Wanted};
use crate::Result;
use crate::text::Batch;

/// An encoder without any head.
pub struct Encoder {
    embeddings: Embeddings,
    relative: Option<RelativePositions>,
    layers: Vec<Layer>,
}

/// What the backward needs: nothing of what is below the lowest tensor that is trained.
pub struct EncoderSaved<B> {
    embeddings: Option<EmbeddingsSaved<B>>,
    /// Of the upper layers, those that need a backward.
    pub layers: Vec<LayerSaved<B>>,
}

impl Encoder {
    /// Takes all weights from the checkpoint.
    pub fn load<O: Ops>(loader: &mut Loader<'_, O>, config: &EncoderConfig) -> Result<Self> {
        let embeddings = Embeddings::load(loader, config)?;
        let relative = match config.architecture {
            Architecture::Bert | Architecture::Roberta | Architecture::DistilBert => None,
            Architecture::Mpnet => Some(RelativePositions::load(loader, config)?),
        };
        let layers = (0..config.layers).map(|layer| Layer::load(loader, config, layer)).collect::<Result<_>>()?;
        Ok(Encoder { embeddings, relative, layers })
    }

    /// The last hidden state of the wanted tokens, `[n_wanted, hidden]`. Keeps nothing of one layer when the next begins.
    pub fn encode<O: Ops>(&self, pass: Pass<'_, O>, batch: &Batch) -> O::Buf {
        let (first, _) = self.embeddings.forward(pass, batch);
        self.layers
            .iter()
            .enumerate()
            .fold(first, |x, (idx, layer)| layer.forward(self.pass_of(pass, idx), x, self.relative.as_ref()).0)
    }

    /// The last hidden state of the wanted tokens, `[n_wanted, hidden]`, and what the backward needs.
    pub fn forward<O: Ops>(&self, pass: Pass<'_, O>, batch: &Batch) -> (O::Buf, EncoderSaved<O::Buf>) {
        let lowest = pass.params.lowest_trained();
        let is_kept = |depth: Depth| lowest.is_some_and(|lowest| lowest <= depth);
        let (mut x, embeddings) = self.embeddings.forward(pass, batch);
        let embeddings = is_kept(Depth::Embeddings).then_some(embeddings);
        let mut layers = Vec::with_capacity(self.layers.len());
        for (idx, layer) in self.layers.iter().enumerate() {
            let (y, saved) = layer.forward(self.pass_of(pass, idx), x, self.relative.as_ref());
            if is_kept(Depth::Layer(idx)) {
                layers.push(saved);
            }
            x = y;
        }
        (x, EncoderSaved { embeddings, layers })
    }

    /// Adds the gradients of all weights that are trained. `d_y`: `[n_wanted, hidden]`.
    pub fn backward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        batch: &Batch,
        saved: &EncoderSaved<O::Buf>,
        d_y: O::Buf,
        grads: &mut Gradients<O>,
    ) {
        let upper = self.layers.iter().enumerate().rev().zip(saved.layers.iter().rev());
        let d_first = upper.fold(d_y, |d_y, ((idx, layer), saved)| {
            layer.backward(self.pass_of(pass, idx), saved, &d_y, self.relative.as_ref(), grads)
        });
        if let Some(saved) = &saved.embeddings {
            self.embeddings.backward(pass, batch, saved, &d_first, grads);
        }
    }

    /// What layer `idx` is given: all tokens are wanted of a layer that another one follows.
    fn pass_of<'a, O: Ops>(&self, pass: Pass<'a, O>, idx: usize) -> Pass<'a, O> {
        let is_last = idx + 1 == self.layers.len();
        Pass { wanted: if is_last { pass.wanted } else { Wanted::All }, ..pass }
    }
}
