//! A cross-encoder: reads a query and a passage as one text and says in one number how well they fit. It teaches; it is not trained here.
//!
//! A sequence classification model of transformers with one label, as sentence-transformers' `CrossEncoder` and FlagEmbedding's
//! rerankers are: `score = act(out(inner(dense(first token))))`. Only names and `inner` differ between families.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use embertune_kernels::Ops;
use embertune_kernels::ops::Activation;

use super::checkpoint::Checkpoint;
use super::config::{Architecture, DropoutRates, EncoderConfig};
use super::embedding_model::{check_vocabulary, single_tokens};
use super::encoder::Encoder;
use super::folder::{activation_of_class, own_length};
use super::json_file::JsonFile;
use super::linear::Linear;
use super::loader::Loader;
use super::params::Parameters;
use super::pass::{Pass, Wanted};
use crate::progress::Progress;
use crate::text::{Batch, PairTokenizer, PairTokens, Tokenizer};
use crate::{Error, Result};

/// What becomes of the number that the model gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreActivation {
    /// It is the score.
    Identity,
    /// Squeezed between 0 and 1.
    Sigmoid,
}

impl FromStr for ScoreActivation {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "identity" => Ok(ScoreActivation::Identity),
            "sigmoid" => Ok(ScoreActivation::Sigmoid),
            _ => Err("expected identity or sigmoid".into()),
        }
    }
}

impl fmt::Display for ScoreActivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScoreActivation::Identity => "identity",
            ScoreActivation::Sigmoid => "sigmoid",
        })
    }
}

/// A cross-encoder in memory.
pub struct CrossEncoder<O: Ops> {
    ops: O,
    parameters: Parameters<O>,
    encoder: Encoder,
    dense: Linear,
    /// Between the two linear layers.
    inner: Activation,
    out: Linear,
    activation: ScoreActivation,
    tokenizer: PairTokenizer,
    has_types: bool,
}

/// The head of a family.
struct HeadNames {
    dense: &'static str,
    inner: Activation,
    out: &'static str,
}

impl HeadNames {
    fn of(architecture: Architecture) -> Option<Self> {
        match architecture {
            Architecture::Bert => Some(HeadNames { dense: "pooler.dense", inner: Activation::Tanh, out: "classifier" }),
            Architecture::Roberta => {
                Some(HeadNames { dense: "classifier.dense", inner: Activation::Tanh, out: "classifier.out_proj" })
            }
            Architecture::DistilBert => {
                Some(HeadNames { dense: "pre_classifier", inner: Activation::Relu, out: "classifier" })
            }
            Architecture::Mpnet => None,
        }
    }
}

impl<O: Ops> CrossEncoder<O> {
    /// Reads a model folder. `max_len` is the longest pair in tokens, and `activation` what the score goes through; `None` takes what the
    /// folder says, as sentence-transformers does: sigmoid, where it says nothing. Notes go to `progress`.
    ///
    /// # Errors
    /// If the folder is not a cross-encoder with one label that we can compute exactly.
    pub fn load(
        ops: O,
        folder: &Path,
        max_len: Option<usize>,
        activation: Option<ScoreActivation>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let file = JsonFile::read(&folder.join("config.json"))?;
        check_task(&file)?;
        let activation = activation.map_or_else(|| own_activation(folder, &file), Ok)?;
        let config = EncoderConfig::read(folder)?;
        let Some(head) = HeadNames::of(config.architecture) else {
            let problem = "is a cross-encoder of the family `mpnet`; supported are `bert`, `roberta`, `xlm-roberta` and \
                           `distilbert`";
            return Err(file.error(problem.into(), None));
        };
        let has_types = config.architecture == Architecture::Bert;
        if has_types && config.token_types < Some(2) {
            let problem = "`type_vocab_size` is 1, but the two texts of a pair have token types 0 and 1";
            return Err(file.error(problem.into(), None));
        }
        let tokenizer = Tokenizer::load(folder)?;
        check_vocabulary(&tokenizer, &config, folder)?;
        let own = own_length(folder, &JsonFile::read_optional(&folder.join("sentence_bert_config.json"))?)?;
        let longest = config.longest_text();
        if let Some(asked) = max_len.filter(|&asked| asked > longest) {
            return Err(Error::Setting {
                problem: format!("pairs of {asked} tokens are asked for, but the model has positions for {longest}"),
                hint: None,
            });
        }
        let max_len = max_len.or(own).unwrap_or(usize::MAX).min(longest);

        let checkpoint = Checkpoint::open_with(folder, config.architecture, &["classifier.", "pre_classifier."])?;
        let mut loader = Loader { ops: &ops, checkpoint, parameters: Parameters::default() };
        let encoder = Encoder::load(&mut loader, &config)?;
        let hidden = config.hidden_size;
        let dense = Linear::load(&mut loader, head.dense, hidden, hidden)?;
        let out = Linear::load(&mut loader, head.out, 1, hidden)?;
        let Loader { checkpoint, parameters, .. } = loader;
        checkpoint.finish(progress)?;
        let tokenizer = PairTokenizer::new(tokenizer, max_len)?;
        Ok(CrossEncoder { ops, parameters, encoder, dense, inner: head.inner, out, activation, tokenizer, has_types })
    }

    /// What scores go through.
    pub fn activation(&self) -> ScoreActivation {
        self.activation
    }

    /// Longest pair in tokens, special tokens included.
    pub fn max_len(&self) -> usize {
        self.tokenizer.max_len()
    }

    /// What it computes with.
    pub fn ops(&self) -> &O {
        &self.ops
    }

    /// The tokens of pairs of a query and a passage.
    ///
    /// # Errors
    /// If the tokenizer fails on a pair.
    pub fn tokenize(&self, pairs: &[(&str, &str)]) -> Result<Vec<PairTokens>> {
        self.tokenizer.encode(pairs)
    }

    /// The scores of some pairs, in their order.
    pub fn score<'t>(&self, pairs: impl IntoIterator<Item = &'t PairTokens>) -> Vec<f32> {
        let mut batch = Batch::default();
        for PairTokens { ids, types, .. } in pairs {
            match self.has_types {
                true => batch.push_typed(ids, types),
                // RoBERTa's tokenizers of some folders have types; its models are never given them.
                false => batch.push(ids, 0, 0),
            }
        }
        if batch.n_texts() == 0 {
            return Vec::new();
        }
        let offsets = single_tokens(&batch);
        let wanted = Wanted::First { offsets: &offsets, skip: &batch.skip };
        let dropout = DropoutRates::default();
        let pass = Pass { ops: &self.ops, params: &self.parameters, texts: batch.ragged(), dropout, wanted };
        let first = self.encoder.encode(pass, &batch);
        let pass = pass.of_wanted();
        let inner = self.ops.activation_forward(&self.dense.forward(pass, &first), self.inner);
        let logits = self.out.forward(pass, &inner);
        self.ops.download(&match self.activation {
            ScoreActivation::Identity => logits,
            ScoreActivation::Sigmoid => self.ops.activation_forward(&logits, Activation::Sigmoid),
        })
    }
}

/// Sees that the folder holds a model that classifies pairs with a single label.
fn check_task(file: &JsonFile) -> Result<()> {
    let class = file.get("architectures").and_then(|list| list[0].as_str()).unwrap_or("missing");
    if !class.ends_with("ForSequenceClassification") {
        return Err(file.error(
            format!("is no cross-encoder: `architectures` is `{class}`, expected one that ends with `ForSequenceClassification`"),
            Some(
                "name one like `cross-encoder/ms-marco-MiniLM-L6-v2` or `BAAI/bge-reranker-base`; the scores of an embedding model \
                 are those that `embertune mine` writes",
            ),
        ));
    }
    // Without either key transformers takes two.
    let labels = file.get("id2label").and_then(|labels| Some(labels.as_object()?.len()));
    let n_labels = labels.map_or_else(|| Ok(file.size("num_labels")?.unwrap_or(2)), Ok::<_, Error>)?;
    if n_labels != 1 {
        return Err(file.error(format!("the model has {n_labels} labels; supported is one, the score of a pair"), None));
    }
    Ok(())
}

/// What the folder says of the score's activation, in the order in which sentence-transformers looks for it.
fn own_activation(folder: &Path, config: &JsonFile) -> Result<ScoreActivation> {
    let library = JsonFile::read_optional(&folder.join("config_sentence_transformers.json"))?;
    if let Some(prompt) = library.text("default_prompt_name")? {
        let problem = format!("`default_prompt_name` is `{prompt}`; prompts of cross-encoders are not supported");
        return Err(library.error(problem, None));
    }
    let nested =
        JsonFile { path: config.path.clone(), value: config.get("sentence_transformers").cloned().unwrap_or_default() };
    let places =
        [(&library, "activation_fn"), (&nested, "activation_fn"), (config, "sbert_ce_default_activation_function")];
    for (file, key) in places {
        let Some(name) = file.text(key)? else { continue };
        return match activation_of_class(file, key, name)? {
            Activation::Identity => Ok(ScoreActivation::Identity),
            Activation::Sigmoid => Ok(ScoreActivation::Sigmoid),
            _ => Err(file.error(format!("`{key}` is `{name}`; supported are Identity and Sigmoid of torch.nn"), None)),
        };
    }
    Ok(ScoreActivation::Sigmoid)
}
