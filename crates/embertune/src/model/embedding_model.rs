//! An embedding model: everything that a model folder holds, ready to embed and to train.

use std::path::Path;

use embertune_kernels::Ops;
use embertune_kernels::ops::Pooling;

use super::params::{Gradients, Parameters};
use crate::progress::Progress;
use crate::text::{Batch, Prompts, Role, Tokens};
use crate::{Error, Result};

/// Probabilities of dropout while training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DropoutRates {
    /// After the embeddings, the attention and the feed-forward part (`hidden_dropout_prob`).
    pub hidden: f32,
    /// On the attention's probabilities (`attention_probs_dropout_prob`).
    pub attention: f32,
}

/// What the user wants otherwise than the model's folder says. Default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// How the tokens of a text become one vector.
    pub pooling: Option<Pooling>,
    /// Whether vectors are scaled to length 1.
    pub normalize: Option<bool>,
    /// Text in front of every query.
    pub query_prompt: Option<String>,
    /// Text in front of every passage.
    pub passage_prompt: Option<String>,
    /// Longest text in tokens, special tokens included.
    pub max_seq_length: Option<usize>,
}

/// A model in memory.
pub struct EmbeddingModel<O: Ops> {
    ops: O,
    parameters: Parameters<O>,
    prompts: Prompts,
}

/// What a forward pass keeps for its backward.
pub struct Saved<O: Ops> {
    dropout: DropoutRates,
    hidden: O::Buf,
}

impl<O: Ops> EmbeddingModel<O> {
    /// Reads a model folder. Notes and warnings go to `progress`.
    ///
    /// # Errors
    /// If the folder is not a model that we can compute exactly.
    pub fn load(ops: O, folder: &Path, overrides: &Overrides, progress: &dyn Progress) -> Result<Self> {
        let _ = (ops, overrides, progress);
        Err(unfinished(folder))
    }

    /// Writes the complete model folder, or nothing.
    ///
    /// # Errors
    /// If `folder` exists, cannot be written, or does not give the same vectors when it is read again.
    pub fn save(&self, folder: &Path) -> Result<()> {
        Err(unfinished(folder))
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        0
    }

    /// Longest text in tokens, special tokens included.
    pub fn max_seq_length(&self) -> usize {
        0
    }

    /// The token ids of texts, with the role's prompt in front, at most `max_len` (default and upper bound:
    /// [`max_seq_length`](Self::max_seq_length)). `prompt_len` is the number of leading tokens that pooling is to leave
    /// out: 0 unless the model says `include_prompt: false`.
    ///
    /// # Errors
    /// If `max_len` leaves no room for text.
    pub fn tokenize(&self, texts: &[&str], role: Role, max_len: Option<usize>) -> Result<Vec<Tokens>> {
        let _ = (texts, role, max_len);
        Err(unfinished(Path::new("")))
    }

    /// The prompts in use.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// The embeddings of a batch, `[n_texts, dim]`, without dropout.
    pub fn encode(&self, batch: &Batch) -> Vec<f32> {
        self.forward(batch, DropoutRates::default()).0
    }

    /// The embeddings of a batch, `[n_texts, dim]`, and what [`backward`](Self::backward) needs.
    pub fn forward(&self, batch: &Batch, dropout: DropoutRates) -> (Vec<f32>, Saved<O>) {
        (vec![0.0; batch.n_texts() * self.dim()], Saved { dropout, hidden: self.ops.zeros(0) })
    }

    /// Adds the gradients of all parameters. `d_embeddings`: `[n_texts, dim]`; `batch` and `saved` of the forward.
    pub fn backward(&self, batch: &Batch, saved: &Saved<O>, d_embeddings: &[f32], grads: &mut Gradients<O>) {
        let _ = (batch, saved.dropout, &saved.hidden, d_embeddings, grads);
    }

    /// The trainable tensors.
    pub fn parameters(&self) -> &Parameters<O> {
        &self.parameters
    }

    /// The trainable tensors, to be changed. [`Parameters::repack`] is to be called afterwards.
    pub fn parameters_mut(&mut self) -> &mut Parameters<O> {
        &mut self.parameters
    }

    /// The device.
    pub fn ops(&self) -> &O {
        &self.ops
    }

    /// The dropout that the model was trained with, as its `config.json` says.
    pub fn dropout(&self) -> DropoutRates {
        DropoutRates::default()
    }

    /// Whether embeddings have length 1.
    pub fn is_normalized(&self) -> bool {
        false
    }
}

fn unfinished(path: &Path) -> Error {
    Error::Model { path: path.to_owned(), problem: "models cannot be loaded yet".to_owned(), hint: None }
}
