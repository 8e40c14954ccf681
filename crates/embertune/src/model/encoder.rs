//! Embeddings and layers: token ids to the last hidden state, and back.

use embertune_kernels::Ops;

use super::config::{Architecture, EncoderConfig};
use super::embeddings::{Embeddings, EmbeddingsSaved};
use super::layer::{Layer, LayerSaved};
use super::loader::Loader;
use super::mpnet::RelativePositions;
use super::params::{Completed, Depth, Gradients};
use super::pass::Pass;
use crate::Result;
use crate::text::Batch;

/// An encoder without any head.
pub struct Encoder {
    embeddings: Embeddings,
    relative: Option<RelativePositions>,
    layers: Vec<Layer>,
}

/// What the backward needs: nothing of what is below the lowest tensor that is trained. The inputs of the layers are computed again
/// from what the LayerNorms before them keep.
pub struct EncoderSaved<B> {
    embeddings: Option<EmbeddingsSaved<B>>,
    /// The input of the lowest of `layers`, where it cannot be computed from `embeddings`.
    input: Option<B>,
    /// Of the upper layers, those that need a backward.
    layers: Vec<LayerSaved<B>>,
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
            .fold(first, |x, (idx, layer)| layer.forward(self.pass_of(pass, idx), &x, self.relative.as_ref()).0)
    }

    /// The input of layer `idx`, `[n_tokens, hidden]`.
    pub fn input_of<O: Ops>(&self, pass: Pass<'_, O>, batch: &Batch, idx: usize) -> O::Buf {
        let (first, _) = self.embeddings.forward(pass, batch);
        let below = self.layers[..idx].iter();
        below.fold(first, |x, layer| layer.forward(pass.reading_all(), &x, self.relative.as_ref()).0)
    }

    /// The last hidden state of the wanted tokens, `[n_wanted, hidden]`, and what the backward needs.
    pub fn forward<O: Ops>(&self, pass: Pass<'_, O>, batch: &Batch) -> (O::Buf, EncoderSaved<O::Buf>) {
        let (x, embeddings) = self.embeddings.forward(pass, batch);
        let is_trained = pass.params.lowest_trained() == Some(Depth::Embeddings);
        self.forward_from(pass, 0, x, is_trained.then_some(embeddings))
    }

    /// As [`forward`](Self::forward), from `x` on, the input of layer `first`, below which nothing is trained.
    pub fn forward_above<O: Ops>(&self, pass: Pass<'_, O>, first: usize, x: O::Buf) -> (O::Buf, EncoderSaved<O::Buf>) {
        self.forward_from(pass, first, x, None)
    }

    fn forward_from<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        first: usize,
        mut x: O::Buf,
        embeddings: Option<EmbeddingsSaved<O::Buf>>,
    ) -> (O::Buf, EncoderSaved<O::Buf>) {
        let lowest = pass.params.lowest_trained();
        let is_kept = |depth: Depth| lowest.is_some_and(|lowest| lowest <= depth);
        let mut input = None;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (idx, layer) in self.layers.iter().enumerate().skip(first) {
            let (y, saved) = layer.forward(self.pass_of(pass, idx), &x, self.relative.as_ref());
            if is_kept(Depth::Layer(idx)) {
                if layers.is_empty() && embeddings.is_none() {
                    input = Some(x);
                }
                layers.push(saved);
            }
            x = y;
        }
        (x, EncoderSaved { embeddings, input, layers })
    }

    /// Calls `visit(number, layer, what it kept, its input)` for every layer that needs a backward, from the uppermost down.
    pub fn for_each_from_the_top<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        saved: &EncoderSaved<O::Buf>,
        mut visit: impl FnMut(usize, &Layer, &LayerSaved<O::Buf>, &O::Buf),
    ) {
        let lowest = self.layers.len() - saved.layers.len();
        for (idx, layer) in self.layers.iter().enumerate().skip(lowest).rev() {
            let again = match (&saved.input, &saved.embeddings) {
                (Some(_), _) if idx == lowest => None,
                (None, Some(embeddings)) if idx == lowest => Some(self.embeddings.output(pass, embeddings)),
                _ => Some(self.layers[idx - 1].output(pass.reading_all(), &saved.layers[idx - 1 - lowest])),
            };
            let x = again.as_ref().or(saved.input.as_ref()).expect("a forward that keeps a layer keeps its input");
            visit(idx, layer, &saved.layers[idx - lowest], x);
        }
    }

    /// Adds the gradients of all weights that are trained, and calls `completed` after each layer. `d_y`: `[n_wanted, hidden]`.
    pub fn backward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        batch: &Batch,
        saved: &EncoderSaved<O::Buf>,
        d_y: O::Buf,
        grads: &mut Gradients<O>,
        completed: &mut Completed<'_, O>,
    ) {
        let mut d_x = d_y;
        self.for_each_from_the_top(pass, saved, |idx, layer, saved, x| {
            d_x = layer.backward(self.pass_of(pass, idx), x, saved, &d_x, self.relative.as_ref(), grads);
            completed(Depth::Layer(idx), grads);
        });
        if let Some(saved) = &saved.embeddings {
            self.embeddings.backward(pass, batch, saved, &d_x, grads);
        }
    }

    /// What layer `idx` is given: all tokens are wanted of a layer that another one follows.
    fn pass_of<'a, O: Ops>(&self, pass: Pass<'a, O>, idx: usize) -> Pass<'a, O> {
        let is_last = idx + 1 == self.layers.len();
        if is_last { pass } else { pass.reading_all() }
    }
}
