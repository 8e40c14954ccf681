//! An embedding model: everything that a model folder holds, ready to embed and to train.

use std::path::Path;
use std::sync::Arc;

use embertune_kernels::Ops;
use embertune_kernels::ops::Pooling;

use super::checkpoint::{Checkpoint, Naming};
use super::config::{DropoutRates, EncoderConfig};
use super::encoder::{Encoder, EncoderSaved};
use super::folder::{Modules, Overrides, TextSettings};
use super::head::{Head, HeadSaved};
use super::loader::Loader;
use super::lora::{self, LoraConfig};
use super::params::{Completed, Gradients, Parameters};
use super::pass::{Pass, Wanted};
use super::save::{self, CopiedFiles};
use crate::progress::{Progress, Silent};
use crate::text::{Batch, Prompts, Role, Tokenizer, Tokens};
use crate::{Error, Result};

/// A model in memory.
pub struct EmbeddingModel<O: Ops> {
    ops: Arc<O>,
    parameters: Parameters<O>,
    pub(super) adapters: Option<Adapters>,
    encoder: Encoder,
    head: Head,
    tokenizer: Tokenizer,
    pub(super) config: EncoderConfig,
    pub(super) modules: Modules,
    pub(super) text: TextSettings,
    pub(super) naming: Naming,
    pub(super) copied: CopiedFiles,
}

/// The adapters of a model, whose tensors are among its parameters.
pub(super) struct Adapters {
    config: LoraConfig,
    /// Factor on what they add.
    pub(super) factor: f64,
}

/// What a forward pass keeps for its backward.
pub struct Saved<O: Ops> {
    dropout: DropoutRates,
    encoder: EncoderSaved<O::Buf>,
    /// Of the wanted tokens.
    last_hidden: O::Buf,
    head: HeadSaved<O::Buf>,
}

impl<O: Ops> EmbeddingModel<O> {
    /// Reads a model folder. Notes and warnings go to `progress`.
    ///
    /// # Errors
    /// If the folder is not a model that we can compute exactly.
    pub fn load(ops: O, folder: &Path, overrides: &Overrides, progress: &dyn Progress) -> Result<Self> {
        Self::load_on(Arc::new(ops), folder, overrides, progress)
    }

    /// As [`load`](Self::load), on the device of another model.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_beside(other: &Self, folder: &Path, overrides: &Overrides, progress: &dyn Progress) -> Result<Self> {
        Self::load_on(other.shared_ops(), folder, overrides, progress)
    }

    /// As [`load`](Self::load), on this device.
    pub(super) fn load_on(ops: Arc<O>, folder: &Path, overrides: &Overrides, progress: &dyn Progress) -> Result<Self> {
        let modules = Modules::read(folder, overrides)?;
        let transformer = folder.join(&modules.transformer);
        let config = EncoderConfig::read(&transformer)?;
        let text = TextSettings::read(folder, &modules, &config, overrides)?;
        let tokenizer = Tokenizer::load(&transformer)?;
        check_vocabulary(&tokenizer, &config, &transformer)?;

        let checkpoint = Checkpoint::open(&transformer, config.architecture)?;
        let mut loader = Loader { ops: &*ops, checkpoint, parameters: Parameters::default() };
        let encoder = Encoder::load(&mut loader, &config)?;
        let Loader { checkpoint, mut parameters, .. } = loader;
        let naming = checkpoint.finish(progress)?;
        let head = Head::load(&*ops, folder, config.hidden_size, &modules, &mut parameters)?;
        let copied = CopiedFiles::read(&transformer)?;
        Ok(EmbeddingModel {
            ops,
            parameters,
            adapters: None,
            encoder,
            head,
            tokenizer,
            config,
            modules,
            text,
            naming,
            copied,
        })
    }

    /// Writes the complete model folder, its adapters merged, or nothing: the files are written to a folder beside it, read again, compared
    /// with this model by the vectors that they give, and renamed at last.
    ///
    /// # Errors
    /// If `folder` exists, cannot be written, or does not give the same vectors when it is read again.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_with(folder, |_| Ok(()))
    }

    /// As [`save`](Self::save), with what `add` writes into the folder before it gets its name. `add` sees to it itself that its
    /// files reach the disk.
    ///
    /// # Errors
    /// Those of [`save`](Self::save) and of `add`.
    pub fn save_with(&self, folder: &Path, add: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        save::save(self, folder, add)
    }

    /// Takes the weights of a folder that this model was saved to. Of a model with adapters they are in `adapter` of it, where
    /// [`save_adapter`](Self::save_adapter) wrote them.
    ///
    /// # Errors
    /// If it cannot be read, or holds other tensors. The model is as it was, then.
    pub fn restore(&mut self, folder: &Path) -> Result<()> {
        if self.adapters.is_some() {
            return lora::restore(&*self.ops, &mut self.parameters, &folder.join(lora::FOLDER));
        }
        let saved = Self::load_on(self.shared_ops(), folder, &Overrides::default(), &Silent)?;
        let parts = |model: &Self| model.parameters.list.iter().map(|param| param.parts.clone()).collect::<Vec<_>>();
        if parts(&saved) != parts(self) {
            return Err(Error::Model {
                path: folder.to_owned(),
                problem: "its tensors are not those of the model in training".to_owned(),
                hint: None,
            });
        }
        for (param, saved) in self.parameters.list.iter_mut().zip(saved.parameters.list) {
            (param.value, param.packed) = (saved.value, saved.packed);
        }
        Ok(())
    }

    /// Gives linear layers of the encoder low-rank adapters; all other weights are frozen. `init(name, rows, inputs)` gives the first
    /// values of an `A`.
    ///
    /// # Errors
    /// Those of [`lora::attach`].
    pub fn attach_adapters(&mut self, config: LoraConfig, init: impl Fn(&str, usize, usize) -> Vec<f32>) -> Result<()> {
        assert!(self.adapters.is_none(), "a model gets adapters once");
        lora::attach(&*self.ops, &mut self.parameters, &config, init)?;
        self.adapters = Some(Adapters { config, factor: 1.0 });
        Ok(())
    }

    /// Whether it has adapters.
    pub fn has_adapters(&self) -> bool {
        self.adapters.is_some()
    }

    /// Multiplies what the adapters add by `factor`, always from what they were trained with: 0 is the base model, 1 the tuned one.
    pub fn scale_adapters(&mut self, factor: f64) {
        if let Some(adapters) = &mut self.adapters {
            adapters.factor = factor;
            lora::rescale(&mut self.parameters, &adapters.config, factor);
        }
    }

    /// Writes the adapters, where there are some, to `adapter` in `folder`, in the form of PEFT.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save_adapter(&self, folder: &Path) -> Result<()> {
        match &self.adapters {
            Some(Adapters { config, factor }) => {
                lora::save(&*self.ops, &self.parameters, config, *factor, &folder.join(lora::FOLDER))
            }
            None => Ok(()),
        }
    }

    /// A hash (xxh3-128) of all that makes the embeddings: weights, configuration, tokenizer, prompts.
    pub fn hash(&self) -> u128 {
        save::hash(self)
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        self.head.dim()
    }

    /// Longest text in tokens, special tokens included.
    pub fn max_seq_length(&self) -> usize {
        self.text.max_seq_length
    }

    /// The token ids of texts, with the role's prompt in front, at most `max_len` (default and upper bound:
    /// [`max_seq_length`](Self::max_seq_length)). `prompt_len` is the number of leading tokens that pooling is to leave
    /// out: 0 unless the model says `include_prompt: false`.
    ///
    /// # Errors
    /// If `max_len` leaves no room for text.
    pub fn tokenize(&self, texts: &[&str], role: Role, max_len: Option<usize>) -> Result<Vec<Tokens>> {
        self.tokenize_behind(self.prompts().of(role), texts, max_len)
    }

    /// As [`tokenize`](Self::tokenize), with this prompt instead of a role's.
    ///
    /// # Errors
    /// Those of [`tokenize`](Self::tokenize).
    pub fn tokenize_behind(&self, prompt: &str, texts: &[&str], max_len: Option<usize>) -> Result<Vec<Tokens>> {
        let max_len = max_len.unwrap_or(usize::MAX).min(self.max_seq_length());
        let mut tokens = if self.text.lower_case {
            let lowered: Vec<_> = texts.iter().map(|text| text.to_lowercase()).collect();
            let lowered: Vec<_> = lowered.iter().map(String::as_str).collect();
            self.tokenizer.encode(&lowered, &prompt.to_lowercase(), max_len)?
        } else {
            self.tokenizer.encode(texts, prompt, max_len)?
        };
        if self.modules.include_prompt {
            tokens.iter_mut().for_each(|tokens| tokens.prompt_len = 0);
        }
        Ok(tokens)
    }

    /// The prompts in use.
    pub fn prompts(&self) -> &Prompts {
        &self.text.prompts
    }

    /// The embeddings of a batch, `[n_texts, dim]`, without dropout. Keeps no activations.
    pub fn encode(&self, batch: &Batch) -> Vec<f32> {
        if batch.n_texts() == 0 {
            return Vec::new();
        }
        let offsets = single_tokens(batch);
        let pass = self.pass(batch, &offsets, DropoutRates::default());
        let hidden = self.encoder.encode(pass, batch);
        let (embeddings, _) = self.head.forward(pass.of_wanted(), &hidden, &batch.skip);
        self.ops.download(&embeddings)
    }

    /// The embeddings of a batch of at least one text, `[n_texts, dim]`, and what [`backward`](Self::backward) needs.
    pub fn forward(&self, batch: &Batch, dropout: DropoutRates) -> (Vec<f32>, Saved<O>) {
        let offsets = single_tokens(batch);
        let pass = self.pass(batch, &offsets, dropout);
        self.with_head(pass, batch, self.encoder.forward(pass, batch))
    }

    /// The output of the lowest `n_layers` layers, `[n_tokens, hidden]`, without dropout.
    pub fn output_of_lowest(&self, n_layers: usize, batch: &Batch) -> Vec<f32> {
        let offsets = single_tokens(batch);
        let pass = self.pass(batch, &offsets, DropoutRates::default());
        self.ops.download(&self.encoder.input_of(pass, batch, n_layers))
    }

    /// As [`forward`](Self::forward), where `lowest` is [`output_of_lowest`](Self::output_of_lowest) of `n_layers` layers: fewer than all,
    /// and frozen together with the embeddings.
    pub fn forward_above(
        &self,
        n_layers: usize,
        lowest: &[f32],
        batch: &Batch,
        dropout: DropoutRates,
    ) -> (Vec<f32>, Saved<O>) {
        let offsets = single_tokens(batch);
        let pass = self.pass(batch, &offsets, dropout);
        self.with_head(pass, batch, self.encoder.forward_above(pass, n_layers, self.ops.upload(lowest)))
    }

    fn with_head(
        &self,
        pass: Pass<'_, O>,
        batch: &Batch,
        (last_hidden, encoder): (O::Buf, EncoderSaved<O::Buf>),
    ) -> (Vec<f32>, Saved<O>) {
        let dropout = pass.dropout;
        let (embeddings, head) = self.head.forward(pass.of_wanted(), &last_hidden, &batch.skip);
        (self.ops.download(&embeddings), Saved { dropout, encoder, last_hidden, head })
    }

    /// Adds the gradients of all parameters that are trained. `d_embeddings`: `[n_texts, dim]`; `batch` and `saved` are those of the forward.
    pub fn backward(&self, batch: &Batch, saved: &Saved<O>, d_embeddings: &[f32], grads: &mut Gradients<O>) {
        self.backward_telling(batch, saved, d_embeddings, grads, &mut |_, _| {});
    }

    /// As [`backward`](Self::backward), which goes from the last layer to the first, and calls `completed` when it is through with one. At its
    /// end all gradients are complete.
    pub fn backward_telling(
        &self,
        batch: &Batch,
        saved: &Saved<O>,
        d_embeddings: &[f32],
        grads: &mut Gradients<O>,
        completed: &mut Completed<'_, O>,
    ) {
        let offsets = single_tokens(batch);
        let pass = self.pass(batch, &offsets, saved.dropout);
        // embeddings = head(last_hidden)
        let d_embeddings = self.ops.upload(d_embeddings);
        let d_hidden =
            self.head.backward(pass.of_wanted(), &saved.last_hidden, &batch.skip, &saved.head, d_embeddings, grads);
        // last_hidden = encoder(ids)
        self.encoder.backward(pass, batch, &saved.encoder, d_hidden, grads, completed);
    }

    /// The hidden states of a forward, each `[n_tokens, hidden]`: the embeddings after LayerNorm, then the output of each layer. Where the
    /// embedding is the first token, the last one is `[n_texts, hidden]`, these tokens alone. Of a model that is partly frozen, those from
    /// the first layer on that needs a backward.
    pub fn hidden_states(&self, batch: &Batch, saved: &Saved<O>) -> Vec<Vec<f32>> {
        let offsets = single_tokens(batch);
        let pass = self.pass(batch, &offsets, saved.dropout);
        let mut states = vec![self.ops.download(&saved.last_hidden)];
        self.encoder.for_each_from_the_top(pass, &saved.encoder, |_, _, _, x| states.push(self.ops.download(x)));
        states.reverse();
        states
    }

    /// Width of the hidden states.
    pub fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    /// Number of layers of the encoder.
    pub fn n_layers(&self) -> usize {
        self.config.layers
    }

    /// The tensors, those of adapters last.
    pub fn parameters(&self) -> &Parameters<O> {
        &self.parameters
    }

    /// The tensors, to be changed. [`Parameters::repack`] is to be called afterwards.
    pub fn parameters_mut(&mut self) -> &mut Parameters<O> {
        &mut self.parameters
    }

    /// The device.
    pub fn ops(&self) -> &O {
        &self.ops
    }

    /// A handle on the device that can be kept beside the model, while its parameters are changed say.
    pub fn shared_ops(&self) -> Arc<O> {
        Arc::clone(&self.ops)
    }

    /// The dropout that the model was trained with, as its `config.json` says.
    pub fn dropout(&self) -> DropoutRates {
        self.config.dropout
    }

    /// Whether embeddings have length 1.
    pub fn is_normalized(&self) -> bool {
        self.modules.normalize
    }

    /// `offsets` are [`single_tokens`].
    fn pass<'a>(&'a self, batch: &'a Batch, offsets: &'a [u32], dropout: DropoutRates) -> Pass<'a, O> {
        // Where pooling leaves out a prompt, the token behind it counts.
        let is_first = self.modules.pooling == Pooling::Cls && batch.skip.iter().all(|&skip| skip == 0);
        let wanted =
            if is_first && self.config.layers > 0 { Wanted::First { offsets, skip: &batch.skip } } else { Wanted::All };
        Pass { ops: &*self.ops, params: &self.parameters, texts: batch.ragged(), dropout, wanted }
    }
}

/// Sees that the model in `folder` has a row for every id that its tokenizer can give.
pub(super) fn check_vocabulary(tokenizer: &Tokenizer, config: &EncoderConfig, folder: &Path) -> Result<()> {
    if (tokenizer.largest_id() as usize) < config.vocab_size {
        return Ok(());
    }
    Err(Error::Model {
        path: folder.to_owned(),
        problem: format!(
            "the tokenizer has ids up to {}, but the model has only {} words",
            tokenizer.largest_id(),
            config.vocab_size
        ),
        hint: Some("the tokenizer's files are not those of this model".to_owned()),
    })
}

/// The offsets of as many texts of one token each.
pub(super) fn single_tokens(batch: &Batch) -> Vec<u32> {
    (0..=batch.n_texts() as u32).collect()
}
