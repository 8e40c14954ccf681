//! Token ids to the first hidden state: the sum of word, position and token type rows, then LayerNorm and dropout.

use embertune_kernels::Ops;
use embertune_kernels::ops::{Lookup, NormSaved};

use super::config::{Architecture, EncoderConfig};
use super::layer_norm::LayerNorm;
use super::loader::Loader;
use super::mpnet;
use super::params::{Gradients, Kind, ParamId};
use super::pass::Pass;
use crate::Result;
use crate::text::Batch;

/// The dropout after the LayerNorm of the embeddings. Layers have the sites after it.
pub const SITE: u32 = 0;

/// The embedding tables.
pub struct Embeddings {
    architecture: Architecture,
    words: ParamId,
    positions: ParamId,
    /// BERT only. Every token has type 0.
    token_types: Option<ParamId>,
    norm: LayerNorm,
    padding_token: u32,
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
        // No dropout comes before this LayerNorm, so its site is never used.
        let norm = LayerNorm::load(loader, "embeddings.LayerNorm", width, config.layer_norm_eps, SITE)?;
        let (architecture, padding_token) = (config.architecture, config.padding_token);
        Ok(Embeddings { architecture, words, positions, token_types, norm, padding_token, width })
    }

    /// Returns `[n_tokens, hidden]`.
    pub fn forward<O: Ops>(&self, pass: Pass<'_, O>, batch: &Batch) -> (O::Buf, EmbeddingsSaved<O::Buf>) {
        let positions = self.position_ids(batch);
        let first_type = vec![0; batch.n_tokens()];
        let mut lookups = vec![
            Lookup { table: pass.params.value(self.words), rows: &batch.ids },
            Lookup { table: pass.params.value(self.positions), rows: &positions },
        ];
        lookups.extend(self.token_types.map(|id| Lookup { table: pass.params.value(id), rows: &first_type }));
        let sum = pass.ops.embedding_forward(&lookups, self.width);
        let (y, norm) = self.norm.forward(pass, &sum);
        let y = match pass.hidden_dropout(SITE) {
            Some(dropout) => pass.ops.dropout_forward(&y, pass.texts, dropout, self.width),
            None => y,
        };
        (y, EmbeddingsSaved { norm })
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
        // sum = words[ids] + positions[position_ids] + token_types[0]
        let mut add = |table: ParamId, rows: &[u32], padding_row: Option<u32>| {
            ops.embedding_backward(&d_sum, rows, padding_row, self.width, &mut grads.list[table.0]);
        };
        add(self.words, &batch.ids, Some(self.padding_token));
        let padding_position = match self.architecture {
            Architecture::Bert => None,
            Architecture::Mpnet => Some(mpnet::PADDING),
        };
        add(self.positions, &self.position_ids(batch), padding_position);
        if let Some(token_types) = self.token_types {
            add(token_types, &vec![0; batch.n_tokens()], None);
        }
    }

    fn position_ids(&self, batch: &Batch) -> Vec<u32> {
        match self.architecture {
            Architecture::Bert => {
                let texts = batch.ragged();
                (0..batch.n_texts()).flat_map(|text| 0..texts.range(text).len() as u32).collect()
            }
            Architecture::Mpnet => mpnet::position_ids(batch),
        }
    }
}
