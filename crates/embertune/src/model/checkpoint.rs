//! The weights of an encoder by their PyTorch names, whatever convention the checkpoint follows.
//!
//! Checkpoints differ in a prefix (`bert.`), in old names (`LayerNorm.gamma`), in heads of the pre-training task and in
//! buffers that are no weights. Inside, a tensor has one name, that of `BertModel`, `MPNetModel`, ... today; what it was
//! called in the file is kept, to write it back under the same name. Nothing is guessed: a tensor that is missing, left
//! over or of another shape is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::config::Architecture;
use super::tensor_files::{TensorFiles, Untouched};
use crate::progress::Progress;
use crate::{Error, Result};

/// First words of tensors that belong to a task's head on top of the encoder.
const HEADS: [&str; 8] = [
    "cls.",
    "lm_head.",
    "classifier.",
    "pre_classifier.",
    "qa_outputs.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
];
/// Buffers that old versions of `transformers` saved with the weights: nothing to compute with.
const BUFFERS: [&str; 2] = ["embeddings.position_ids", "embeddings.token_type_ids"];
/// The pooler of the pre-training task: not used for embeddings, but part of the model.
const POOLER: &str = "pooler.";

impl Architecture {
    /// What the names of an encoder's tensors begin with where it was saved with a head on top.
    fn prefix(self) -> &'static str {
        match self {
            Architecture::Bert => "bert.",
            Architecture::Mpnet => "mpnet.",
            Architecture::Roberta => "roberta.",
            Architecture::DistilBert => "distilbert.",
        }
    }

    /// Name of a part of a layer.
    pub(super) fn in_layer(self, layer: usize, part: &str) -> String {
        let layers = if self == Architecture::DistilBert { "transformer" } else { "encoder" };
        format!("{layers}.layer.{layer}.{part}")
    }
}

/// The weights of an encoder on disk.
pub struct Checkpoint {
    files: TensorFiles,
    /// Name in the file of each tensor of the encoder, by its name inside.
    stored_names: BTreeMap<String, String>,
    heads: Vec<String>,
    used: BTreeSet<String>,
}

/// How to write the weights back: what the checkpoint called each tensor, and the tensors that only travel along.
pub struct Naming {
    stored_names: BTreeMap<String, String>,
    /// Tensors that only travel along: the pooler and the buffers.
    pub passengers: Vec<Untouched>,
}

impl Naming {
    /// Name in the file of a tensor of the encoder.
    pub fn stored_name(&self, name: &str) -> String {
        self.stored_names.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }
}

impl Checkpoint {
    /// Looks through the weights in `folder` for those of an encoder.
    ///
    /// # Errors
    /// See [`TensorFiles::open`]; also if two tensors have the same meaning.
    pub fn open(folder: &Path, architecture: Architecture) -> Result<Self> {
        Self::open_with(folder, architecture, &[])
    }

    /// As [`open`](Self::open), for an encoder together with the heads whose tensors begin with one of `wanted`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with(folder: &Path, architecture: Architecture, wanted: &[&str]) -> Result<Self> {
        let begins = |stored: &str, names: &[&str]| names.iter().any(|name| stored.starts_with(name));
        let files = TensorFiles::open(folder)?;
        let mut stored_names = BTreeMap::new();
        let mut heads = Vec::new();
        for stored in files.names() {
            if begins(stored, &HEADS) && !begins(stored, wanted) {
                heads.push(stored.to_owned());
                continue;
            }
            let name = stored.strip_prefix(architecture.prefix()).unwrap_or(stored);
            let name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
            if let Some(other) = stored_names.insert(name, stored.to_owned()) {
                let problem = format!("the tensors `{other}` and `{stored}` are the same part of the model");
                return Err(Error::Model { path: folder.to_owned(), problem, hint: None });
            }
        }
        Ok(Checkpoint { files, stored_names, heads, used: BTreeSet::new() })
    }

    /// The values of a tensor of the encoder.
    ///
    /// # Errors
    /// If it is missing or has another shape.
    pub fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let stored = self.stored_names.get(name).map_or(name, String::as_str);
        match self.files.shape(stored) {
            Some(there) if there != shape => {
                let problem =
                    format!("the tensor `{stored}` has the shape {there:?}, `config.json` makes it {shape:?}");
                return Err(self.mismatch(problem));
            }
            None => return Err(self.mismatch(format!("the tensor `{name}` is missing"))),
            Some(_) => {}
        }
        let values = self.files.read(stored)?;
        self.used.insert(name.to_owned());
        Ok(values)
    }

    /// To be called when everything is read: sees that nothing is left over, and says which heads are left out.
    ///
    /// # Errors
    /// If the checkpoint holds a tensor that nobody asked for.
    pub fn finish(self, progress: &dyn Progress) -> Result<Naming> {
        let is_passenger = |name: &str| name.starts_with(POOLER) || BUFFERS.contains(&name);
        let unused: Vec<_> = self.stored_names.iter().filter(|(name, _)| !self.used.contains(*name)).collect();
        let (passengers, left_over): (Vec<_>, Vec<_>) = unused.into_iter().partition(|(name, _)| is_passenger(name));
        if let [(_, first), rest @ ..] = left_over.as_slice() {
            let others = if rest.is_empty() { String::new() } else { format!(" and {} others", rest.len()) };
            return Err(self.mismatch(format!("the tensor `{first}`{others} should not be there by `config.json`")));
        }
        if !self.heads.is_empty() {
            progress.note(&format!(
                "{}: left out the heads of another task, `{}` and so on ({} tensors)",
                self.files.folder().display(),
                self.heads[0],
                self.heads.len()
            ));
        }
        let passengers =
            passengers.into_iter().map(|(_, stored)| self.files.read_untouched(stored)).collect::<Result<_>>()?;
        Ok(Naming { stored_names: self.stored_names, passengers })
    }

    fn mismatch(&self, problem: String) -> Error {
        let hint = Some("`config.json` and the weights are not from the same model".to_owned());
        Error::Model { path: self.files.folder().to_owned(), problem, hint }
    }
}
