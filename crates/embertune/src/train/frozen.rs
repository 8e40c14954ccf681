//! What frozen layers make of each text, computed once before the first step (`--cache_frozen_layers`).
//!
//! Nothing is dropped in these layers then, so that their output is a function of the text. It is computed for all texts of the set in
//! their order, so a run that is resumed has the same bits.

use embertune_kernels::Ops;

use crate::error::Result;
use crate::model::EmbeddingModel;
use crate::text::Batch;
use crate::train::chunks::cut;
use crate::train::dataset::TrainingSet;

/// The outputs of the lowest layers for all texts of a set.
#[derive(Debug)]
pub struct FrozenLayers {
    n_layers: usize,
    /// Of each text, `[n_tokens, hidden]`.
    outputs: Vec<Box<[f32]>>,
}

impl FrozenLayers {
    /// Computes the lowest `n_layers` layers of `model` for all texts of `set`.
    ///
    /// # Errors
    /// Where the temporary file of the tokens can't be read.
    pub fn new<O: Ops>(model: &EmbeddingModel<O>, n_layers: usize, set: &TrainingSet) -> Result<Self> {
        let lengths: Vec<_> = set.texts.lengths().collect();
        let mut outputs = Vec::with_capacity(lengths.len());
        for chunk in cut(&lengths) {
            let mut batch = Batch::default();
            let tokens = set.texts.read(chunk.texts.clone())?;
            tokens.iter().for_each(|tokens| batch.push(&tokens.ids, tokens.prompt_len, 0));
            let of_chunk = model.output_of_lowest(n_layers, &batch);
            let mut rest = of_chunk.as_slice();
            for length in &lengths[chunk.texts] {
                let (output, others) = rest.split_at(length * model.hidden_size());
                outputs.push(output.into());
                rest = others;
            }
        }
        Ok(FrozenLayers { n_layers, outputs })
    }

    /// What it takes for `set`.
    pub fn bytes<O: Ops>(model: &EmbeddingModel<O>, set: &TrainingSet) -> usize {
        n_tokens(set) * model.hidden_size() * size_of::<f32>()
    }

    /// The number of layers.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// The outputs for some texts of the set, one after the other, `[n_tokens, hidden]`.
    pub fn of(&self, texts: &[u32]) -> Vec<f32> {
        texts.iter().flat_map(|&text| &self.outputs[text as usize]).copied().collect()
    }
}

/// Tokens of all texts of a set.
pub fn n_tokens(set: &TrainingSet) -> usize {
    set.texts.lengths().sum()
}
