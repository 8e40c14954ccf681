//! `config.json`: the shape of an encoder. What is read here decides every number the model computes, so whatever we
//! would compute differently from `transformers` is refused.

use std::path::Path;

use embertune_kernels::ops::{Activation, Heads};

use super::json_file::JsonFile;
use super::mpnet;
use crate::Result;

/// A family of encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `"model_type": "bert"`: BERT, MiniLM, BGE, GTE, E5 (not the multilingual ones) and their kin.
    Bert,
    /// `"model_type": "mpnet"`: all-mpnet-base-v2 and its kin.
    Mpnet,
    /// `"model_type": "roberta"` or `"xlm-roberta"`, which differ only in their tokenizers: all-roberta-large-v1; bge-m3,
    /// multilingual-e5 and their kin. BERT with positions that skip padding.
    #[doc(alias = "XlmRoberta")]
    Roberta,
    /// `"model_type": "distilbert"`: BERT without token types, without dropout after the attention, and with names of its own.
    DistilBert,
}

/// Probabilities of dropout while training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DropoutRates {
    /// After the embeddings, the attention (not in DistilBERT) and the feed-forward part (`hidden_dropout_prob`, `dropout`).
    pub hidden: f32,
    /// On the attention's probabilities (`attention_probs_dropout_prob`, `attention_dropout`).
    pub attention: f32,
    /// On the inputs of low-rank adapters; 0 in every model's configuration.
    pub adapter: f32,
}

/// The shape of an encoder. A key that is missing in `config.json` has the default that `transformers` gives it; sizes of
/// matrices have none.
#[derive(Clone, Debug)]
pub struct EncoderConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of the attention.
    pub heads: Heads,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Row of the position table that stands for padding: the first token of a text has the next one, and tokens that are
    /// padding are not counted. `None`: positions begin at 0 and count every token.
    pub padding_position: Option<u32>,
    /// Rows of the token type table; MPNet and DistilBERT have none.
    pub token_types: Option<usize>,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_eps: f32,
    /// Activation of the feed-forward part.
    pub activation: Activation,
    /// Dropout while training.
    pub dropout: DropoutRates,
    /// The token whose row of the word table gets no gradient.
    pub padding_token: u32,
}

impl EncoderConfig {
    /// Reads `config.json` in `folder`.
    ///
    /// # Errors
    /// If it is missing or broken, or describes a model that we do not compute.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = JsonFile::read(&folder.join("config.json"))?;
        let architecture = architecture(&file)?;
        refuse_variants(&file)?;

        let keys = if architecture == Architecture::DistilBert { &DISTILBERT_KEYS } else { &BERT_KEYS };

        let hidden_size = file.required_size(keys.hidden_size)?;
        let heads = file.required_size(keys.heads)?;
        if hidden_size % heads != 0 {
            let problem = format!("`{}` {hidden_size} is not a multiple of `{}` {heads}", keys.hidden_size, keys.heads);
            return Err(file.error(problem, None));
        }
        let vocab_size = file.required_size("vocab_size")?;
        let (padding_token, padding_position) = match architecture {
            Architecture::Bert | Architecture::DistilBert => (padding_token(&file, 0, vocab_size)?, None),
            Architecture::Roberta => {
                let token = padding_token(&file, 1, vocab_size)?;
                (token, Some(token))
            }
            Architecture::Mpnet => {
                mpnet::check_config(&file)?;
                (mpnet::PADDING, Some(mpnet::PADDING))
            }
        };
        let token_types = match architecture {
            Architecture::Bert | Architecture::Roberta => Some(file.size("type_vocab_size")?.unwrap_or(2)),
            Architecture::Mpnet | Architecture::DistilBert => None,
        };
        Ok(EncoderConfig {
            architecture,
            vocab_size,
            hidden_size,
            layers: file.required_size(keys.layers)?,
            heads: Heads { heads, head_dim: hidden_size / heads },
            intermediate_size: file.required_size(keys.intermediate_size)?,
            positions: positions(&file, padding_position)?,
            padding_position,
            token_types,
            layer_norm_eps: match architecture {
                // `transformers` has the number in its code.
                Architecture::DistilBert => DEFAULT_EPS as f32,
                _ => layer_norm_eps(&file)?,
            },
            activation: activation(&file, keys.activation)?,
            dropout: DropoutRates {
                hidden: probability(&file, keys.hidden_dropout)?,
                attention: probability(&file, keys.attention_dropout)?,
                adapter: 0.0,
            },
            padding_token,
        })
    }

    /// Number of tokens in the longest text that the model has positions for.
    pub fn longest_text(&self) -> usize {
        self.positions - first_position(self.padding_position)
    }
}

/// What `config.json` calls the same settings.
struct Keys {
    hidden_size: &'static str,
    layers: &'static str,
    heads: &'static str,
    intermediate_size: &'static str,
    activation: &'static str,
    hidden_dropout: &'static str,
    attention_dropout: &'static str,
}

const BERT_KEYS: Keys = Keys {
    hidden_size: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    intermediate_size: "intermediate_size",
    activation: "hidden_act",
    hidden_dropout: "hidden_dropout_prob",
    attention_dropout: "attention_probs_dropout_prob",
};

const DISTILBERT_KEYS: Keys = Keys {
    hidden_size: "dim",
    layers: "n_layers",
    heads: "n_heads",
    intermediate_size: "hidden_dim",
    activation: "activation",
    hidden_dropout: "dropout",
    attention_dropout: "attention_dropout",
};

/// LayerNorm's epsilon where nothing is said.
const DEFAULT_EPS: f64 = 1e-12;

fn architecture(file: &JsonFile) -> Result<Architecture> {
    match file.text("model_type")? {
        Some("bert") => Ok(Architecture::Bert),
        Some("mpnet") => Ok(Architecture::Mpnet),
        Some("roberta" | "xlm-roberta") => Ok(Architecture::Roberta),
        Some("distilbert") => Ok(Architecture::DistilBert),
        other => {
            let supported = "`bert`, `mpnet`, `roberta`, `xlm-roberta` and `distilbert`";
            let problem = format!("`model_type` is `{}`; supported are {supported}", other.unwrap_or("missing"));
            let hint = "choose a model of one of these families, such as `BAAI/bge-small-en-v1.5` or `BAAI/bge-m3`";
            Err(file.error(problem, Some(hint)))
        }
    }
}

/// Settings under which `transformers` computes something else.
fn refuse_variants(file: &JsonFile) -> Result<()> {
    let position_type = file.text("position_embedding_type")?.unwrap_or("absolute");
    if position_type != "absolute" {
        let problem = format!("`position_embedding_type` is `{position_type}`; supported is `absolute`");
        return Err(file.error(problem, None));
    }
    let feed_forward_type = file.text("feed_forward_type")?.unwrap_or("original");
    if feed_forward_type != "original" {
        let problem = format!("`feed_forward_type` is `{feed_forward_type}`; supported is `original`");
        return Err(file.error(problem, None));
    }
    for key in ["is_decoder", "is_encoder_decoder", "add_cross_attention"] {
        if file.flag(key)?.unwrap_or(false) {
            return Err(file.error(format!("`{key}` is true; supported are encoders only"), None));
        }
    }
    if let Some(code) = file.get("auto_map") {
        return Err(file.error(
            format!("`auto_map` is {code}: the model is computed by Python code of its own, which is not known here"),
            Some("remove the key if the weights are those of a plain model of this `model_type`"),
        ));
    }
    Ok(())
}

fn padding_token(file: &JsonFile, default: u32, vocab_size: usize) -> Result<u32> {
    let token = file.number("pad_token_id")?.unwrap_or(f64::from(default));
    if token.fract() != 0.0 || !(0.0..vocab_size as f64).contains(&token) {
        let problem = format!("`pad_token_id` is {token}, it should be a token of 0 to {}", vocab_size - 1);
        return Err(file.error(problem, None));
    }
    Ok(token as u32)
}

fn positions(file: &JsonFile, padding_position: Option<u32>) -> Result<usize> {
    let positions = file.size("max_position_embeddings")?.unwrap_or(512);
    let first = first_position(padding_position);
    if positions <= first {
        let problem = format!("`max_position_embeddings` is {positions}; the model needs at least {}", first + 1);
        return Err(file.error(problem, None));
    }
    Ok(positions)
}

/// Position of the first token of a text.
fn first_position(padding_position: Option<u32>) -> usize {
    padding_position.map_or(0, |padding| padding as usize + 1)
}

fn layer_norm_eps(file: &JsonFile) -> Result<f32> {
    let eps = file.number("layer_norm_eps")?.unwrap_or(DEFAULT_EPS);
    if !(eps > 0.0 && eps < 1.0) {
        return Err(file.error(format!("`layer_norm_eps` is {eps}, it should be between 0 and 1"), None));
    }
    Ok(eps as f32)
}

fn probability(file: &JsonFile, key: &str) -> Result<f32> {
    let p = file.number(key)?.unwrap_or(0.1);
    if !(0.0..1.0).contains(&p) {
        return Err(file.error(format!("`{key}` is {p}, it should be at least 0 and less than 1"), None));
    }
    Ok(p as f32)
}

fn activation(file: &JsonFile, key: &str) -> Result<Activation> {
    let name = file.text(key)?.unwrap_or("gelu");
    Ok(match name {
        "gelu" | "gelu_python" => Activation::GeluErf,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        "linear" => Activation::Identity,
        _ => {
            let supported = "`gelu`, `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`, `relu`, `silu`, `swish`, `tanh`, \
                `sigmoid` and `linear`";
            return Err(file.error(format!("`{key}` is `{name}`; supported are {supported}"), None));
        }
    })
}
