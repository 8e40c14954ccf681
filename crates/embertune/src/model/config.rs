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
}

/// Probabilities of dropout while training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DropoutRates {
    /// After the embeddings, the attention and the feed-forward part (`hidden_dropout_prob`).
    pub hidden: f32,
    /// On the attention's probabilities (`attention_probs_dropout_prob`).
    pub attention: f32,
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
    /// Rows of the token type table; MPNet has none.
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

        let hidden_size = file.required_size("hidden_size")?;
        let heads = file.required_size("num_attention_heads")?;
        if hidden_size % heads != 0 {
            let problem = format!("`hidden_size` {hidden_size} is not a multiple of `num_attention_heads` {heads}");
            return Err(file.error(problem, None));
        }
        let positions = file.size("max_position_embeddings")?.unwrap_or(512);
        let (token_types, padding_token) = match architecture {
            Architecture::Bert => {
                let token_types = file.size("type_vocab_size")?.unwrap_or(2);
                let padding_token = file.number("pad_token_id")?.unwrap_or(0.0);
                (Some(token_types), padding_token as u32)
            }
            Architecture::Mpnet => {
                mpnet::check_config(&file, positions)?;
                (None, mpnet::PADDING)
            }
        };
        Ok(EncoderConfig {
            architecture,
            vocab_size: file.required_size("vocab_size")?,
            hidden_size,
            layers: file.required_size("num_hidden_layers")?,
            heads: Heads { heads, head_dim: hidden_size / heads },
            intermediate_size: file.required_size("intermediate_size")?,
            positions,
            token_types,
            layer_norm_eps: layer_norm_eps(&file)?,
            activation: activation(&file)?,
            dropout: DropoutRates {
                hidden: probability(&file, "hidden_dropout_prob")?,
                attention: probability(&file, "attention_probs_dropout_prob")?,
            },
            padding_token,
        })
    }

    /// Number of tokens in the longest text that the model has positions for.
    pub fn longest_text(&self) -> usize {
        match self.architecture {
            Architecture::Bert => self.positions,
            Architecture::Mpnet => self.positions - mpnet::FIRST_POSITION as usize,
        }
    }
}

fn architecture(file: &JsonFile) -> Result<Architecture> {
    match file.text("model_type")? {
        Some("bert") => Ok(Architecture::Bert),
        Some("mpnet") => Ok(Architecture::Mpnet),
        other => Err(file.error(
            format!("`model_type` is `{}`; supported are `bert` and `mpnet`", other.unwrap_or("missing")),
            Some("choose a model of the BERT or MPNet family, such as `sentence-transformers/all-MiniLM-L6-v2` or `BAAI/bge-small-en-v1.5`"),
        )),
    }
}

/// Settings under which `transformers` computes something else.
fn refuse_variants(file: &JsonFile) -> Result<()> {
    let position_type = file.text("position_embedding_type")?.unwrap_or("absolute");
    if position_type != "absolute" {
        let problem = format!("`position_embedding_type` is `{position_type}`; supported is `absolute`");
        return Err(file.error(problem, None));
    }
    for key in ["is_decoder", "add_cross_attention"] {
        if file.flag(key)?.unwrap_or(false) {
            return Err(file.error(format!("`{key}` is true; supported are encoders only"), None));
        }
    }
    Ok(())
}

fn layer_norm_eps(file: &JsonFile) -> Result<f32> {
    let eps = file.number("layer_norm_eps")?.unwrap_or(1e-12);
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

fn activation(file: &JsonFile) -> Result<Activation> {
    let name = file.text("hidden_act")?.unwrap_or("gelu");
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
            return Err(file.error(format!("`hidden_act` is `{name}`; supported are {supported}"), None));
        }
    })
}
