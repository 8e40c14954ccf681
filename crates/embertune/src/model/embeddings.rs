//! Token ids to the first hidden state: the sum of word, position and token type rows, then LayerNorm and dropout.

use std::borrow::Cow;

use embertune_kernels::Ops;
use embertune_kernels::ops::{Lookup, NormSaved};

use super::config::EncoderConfig;
use super::layer_norm::LayerNorm;
use super::loader::Loader;
use super::params::{Gradients, Kind, ParamId};
use super::pass::Pass;
use crate::Result;
use crate::text::Batch;

/// The dropout after the LayerNorm of the embeddings. Layers have the sites after it.
pub const SITE: u32 = 0;

/// The embedding tables.
pub struct Embeddings {
    words: ParamId,
    positions: ParamId,
    /// BERT and RoBERTa only. Every token has type 0, but for those of the second text of a pair.
    token_types: Option<ParamId>,
    norm: LayerNorm,
    padding_token: u32,
    padding_position: Option<u32>,
    width: usize,
}

/// What the backward needs.
pub struct EmbeddingsSaved<B> {
    norm: NormSaved<B>,
}

impl Embeddings {
    /// Takes the tables from the checkpoint.
    pub fn load<O: Ops>(loader: &mut Loader<'_, O>, config: &EncoderConfig) -> Result<Self> {
        let width = config.hidden_size;
        let mut table = |name: &str, rows: usize| {
            loader.tensor(&format!("embeddings.{name}_embeddings.weight"), &[rows, width], Kind::Table)
        };
        let words = table("word", config.vocab_size)?;
        let positions = table("position", config.positions)?;
        let token_types = config.token_types.map(|rows| table("token_type", rows)).transpose()?;
        let norm = LayerNorm::load(loader, "embeddings.LayerNorm", width, config.layer_norm_eps, None)?;
        let (padding_token, padding_position) = (config.padding_token, config.padding_position);
        Ok(Embeddings { words, positions, token_types, norm, padding_token, padding_position, width })
    }

    /// Returns `[n_tokens, hidden]`.
    pub fn forward<O: Ops>(&self, pass: Pass<'_, O>, batch: &Batch) -> (O::Buf, EmbeddingsSaved<O::Buf>) {
        let positions = self.position_ids(batch);
        let types = token_types(batch);
        let mut lookups = vec![
            Lookup { table: pass.params.value(self.words), rows: &batch.ids },
            Lookup { table: pass.params.value(self.positions), rows: &positions },
        ];
        lookups.extend(self.token_types.map(|id| Lookup { table: pass.params.value(id), rows: &types }));
        let sum = pass.ops.embedding_forward(&lookups, self.width);
        let (y, norm) = self.norm.forward(pass, &sum);
        (self.dropped(pass, y), EmbeddingsSaved { norm })
    }

    /// What the forward returned.
    pub fn output<O: Ops>(&self, pass: Pass<'_, O>, saved: &EmbeddingsSaved<O::Buf>) -> O::Buf {
        self.dropped(pass, self.norm.output(pass, &saved.norm))
    }

    fn dropped<O: Ops>(&self, pass: Pass<'_, O>, y: O::Buf) -> O::Buf {
        match pass.hidden_dropout(SITE) {
            Some(dropout) => pass.ops.dropout_forward(&y, pass.texts, dropout, self.width),
            None => y,
        }
    }

    /// Adds the gradients of the tables. `d_y`: `[n_tokens, hidden]`.
    pub fn backward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        batch: &Batch,
        saved: &EmbeddingsSaved<O::Buf>,
        d_y: &O::Buf,
        grads: &mut Gradients<O>,
    ) {
        let ops = pass.ops;
        // y = dropout(norm(sum))
        let dropped =
            pass.hidden_dropout(SITE).map(|dropout| ops.dropout_backward(d_y, pass.texts, dropout, self.width));
        let d_sum = self.norm.backward(pass, dropped.as_ref().unwrap_or(d_y), &saved.norm, grads);
        // sum = words[ids] + positions[position_ids] + token_types[types]
        let mut add = |table: ParamId, rows: &[u32], padding_row: Option<u32>| {
            if pass.params.is_trained(table) {
                ops.embedding_backward(&d_sum, rows, padding_row, self.width, &mut grads.list[table.0]);
            }
        };
        add(self.words, &batch.ids, Some(self.padding_token));
        add(self.positions, &self.position_ids(batch), self.padding_position);
        if let Some(token_types) = self.token_types {
            add(token_types, &self::token_types(batch), None);
        }
    }

    /// Position of each token in its text. With a padding position p, a token has p + the number of tokens up to it that are
    /// not padding, and a literal padding token in a text has position p itself.
    fn position_ids(&self, batch: &Batch) -> Vec<u32> {
        let texts = batch.ragged();
        let mut positions = Vec::with_capacity(batch.n_tokens());
        for text in 0..batch.n_texts() {
            let ids = &batch.ids[texts.range(text)];
            match self.padding_position {
                None => positions.extend(0..ids.len() as u32),
                Some(padding) => {
                    let mut last = padding;
                    positions.extend(ids.iter().map(|&id| {
                        let is_padding = id == self.padding_token;
                        last += u32::from(!is_padding);
                        if is_padding { padding } else { last }
                    }));
                }
            }
        }
        positions
    }
}

/// The token type of each token.
fn token_types(batch: &Batch) -> Cow<'_, [u32]> {
    if batch.types.is_empty() { vec![0; batch.n_tokens()].into() } else { batch.types.as_slice().into() }
}
