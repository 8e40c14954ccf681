//! Texts to token ids, as the model's own tokenizer makes them: from `tokenizer.json` (WordPiece, byte-level BPE, Unigram), or
//! built from a WordPiece `vocab.txt`.
//!
//! Truncation and padding that a `tokenizer.json` carries are switched off: a published file may say "cut at 128, pad to
//! 128". We cut ourselves, and keep the closing separator.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper};

use crate::{Error, Result};

/// The token ids of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids with the opening and closing special tokens. Never empty.
    pub ids: Vec<u32>,
    /// Number of leading tokens that belong to the prompt, the opening special token among them; 0 without a prompt.
    /// Always less than the number of ids.
    pub prompt_len: u32,
    /// Whether the text was longer than the limit and lost its end.
    pub truncated: bool,
}

/// What turns texts into token ids.
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    /// Number of special tokens before a text.
    opening: usize,
    /// Number of special tokens after a text.
    closing: usize,
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder: `tokenizer.json`, or `vocab.txt` with `tokenizer_config.json` and
    /// `special_tokens_map.json`.
    ///
    /// # Errors
    /// If there is neither file, or they cannot be read.
    pub fn load(folder: &Path) -> Result<Self> {
        let settings = Settings::read(folder)?;
        let json = folder.join("tokenizer.json");
        let vocab = folder.join("vocab.txt");
        if json.exists() {
            let inner = tokenizers::Tokenizer::from_file(&json).map_err(|e| unusable(&json, e))?;
            Self::new(inner, &settings).map_err(|e| unusable(&json, e))
        } else if vocab.exists() {
            Self::new(from_vocabulary(&vocab, &settings)?, &settings).map_err(|e| unusable(&vocab, e))
        } else {
            let others = ["sentencepiece.bpe.model", "vocab.json"];
            let hint = if others.iter().any(|name| folder.join(name).exists()) {
                "write `tokenizer.json` once in Python: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
            } else {
                "copy the tokenizer's files of the base model into the folder"
            };
            Err(Error::Model {
                path: folder.to_owned(),
                problem: "there is no `tokenizer.json` and no `vocab.txt`".to_owned(),
                hint: Some(hint.to_owned()),
            })
        }
    }

    fn new(mut inner: tokenizers::Tokenizer, settings: &Settings) -> tokenizers::Result<Self> {
        inner.with_truncation(None)?;
        inner.with_padding(None);
        if let Some(NormalizerWrapper::BertNormalizer(normalizer)) = inner.get_normalizer() {
            let normalizer = settings.apply_to(normalizer);
            inner.with_normalizer(Some(normalizer))?;
        }
        if let (Some(PreTokenizerWrapper::ByteLevel(bytes)), true) = (inner.get_pre_tokenizer(), settings.is_roberta) {
            let bytes =
                bytes.add_prefix_space(settings.tokenizer_config["add_prefix_space"].as_bool().unwrap_or(false));
            inner.with_pre_tokenizer(Some(bytes));
        }
        let probe = inner.encode("a", true)?;
        let special = probe.get_special_tokens_mask();
        let opening = special.iter().take_while(|&&s| s == 1).count();
        let closing = special.iter().rev().take_while(|&&s| s == 1).count();
        Ok(Tokenizer { inner, opening, closing })
    }

    /// The largest id that the tokenizer can give.
    pub fn largest_id(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// The ids of each of `texts` with `prompt` in front, at most `max_len` of them, special tokens included. A text that
    /// is too long loses its last tokens but keeps the closing separator. An empty text is its special tokens.
    /// Runs in the current rayon pool.
    ///
    /// Words like `[SEP]` in a text become the special tokens that they name, as in `transformers`.
    ///
    /// # Errors
    /// If `max_len` leaves no room for a single token of text, or the tokenizer fails on a text.
    pub fn encode(&self, texts: &[&str], prompt: &str, max_len: usize) -> Result<Vec<Tokens>> {
        let least = self.opening + self.closing + 1;
        if max_len < least {
            return Err(Error::Setting {
                problem: format!("a maximum length of {max_len} tokens leaves no room for text; the least is {least}"),
                hint: None,
            });
        }
        let prompt_len = if prompt.is_empty() { 0 } else { self.ids(prompt)?.len() - self.closing };
        texts
            .par_iter()
            .map(|text| {
                let mut ids = if prompt.is_empty() { self.ids(text)? } else { self.ids(&format!("{prompt}{text}"))? };
                let truncated = ids.len() > max_len;
                if truncated {
                    ids.drain(max_len - self.closing..ids.len() - self.closing);
                }
                if ids.is_empty() {
                    return Err(Self::failure(text, "it has no token, not even a special one"));
                }
                let prompt_len = prompt_len.min(ids.len() - 1) as u32;
                Ok(Tokens { ids, prompt_len, truncated })
            })
            .collect()
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        // `encode_fast` leaves out the offsets, which nobody reads.
        let encoding = self.inner.encode_fast(text, true).map_err(|e| Self::failure(text, e))?;
        Ok(encoding.get_ids().to_vec())
    }

    pub(super) fn failure(text: &str, reason: impl std::fmt::Display) -> Error {
        let start: String = text.chars().take(60).collect();
        Error::Setting { problem: format!("cannot tokenize the text `{start}`: {reason}"), hint: None }
    }
}

fn unusable(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Model {
        path: path.to_owned(),
        problem: format!("cannot be used as a tokenizer: {reason}"),
        hint: Some("copy the tokenizer's files of the base model into the folder again".to_owned()),
    }
}

/// What `tokenizer_config.json`, `special_tokens_map.json` and `config.json` say about a tokenizer.
struct Settings {
    tokenizer_config: Value,
    special_tokens_map: Value,
    is_mpnet: bool,
    /// Whether a space before the first word depends on `tokenizer_config.json` alone, as `transformers` has it.
    is_roberta: bool,
}

impl Settings {
    fn read(folder: &Path) -> Result<Self> {
        let tokenizer_config = json_or_null(folder.join("tokenizer_config.json"))?;
        let class = tokenizer_config["tokenizer_class"].as_str().unwrap_or_default().to_owned();
        let is_mpnet = match class.as_str() {
            "" => json_or_null(folder.join("config.json"))?["model_type"] == "mpnet",
            class => class.starts_with("MPNet"),
        };
        let special_tokens_map = json_or_null(folder.join("special_tokens_map.json"))?;
        let is_roberta = class.starts_with("Roberta");
        Ok(Settings { tokenizer_config, special_tokens_map, is_mpnet, is_roberta })
    }

    /// `normalizer` with what `tokenizer_config.json` says otherwise, which counts more for `transformers` too.
    fn apply_to(&self, normalizer: &BertNormalizer) -> BertNormalizer {
        let config = &self.tokenizer_config;
        let strip_accents = match config.get("strip_accents") {
            Some(value) => value.as_bool(),
            None => normalizer.strip_accents,
        };
        BertNormalizer::new(
            normalizer.clean_text,
            config["tokenize_chinese_chars"].as_bool().unwrap_or(normalizer.handle_chinese_chars),
            strip_accents,
            config["do_lower_case"].as_bool().unwrap_or(normalizer.lowercase),
        )
    }

    /// The text of a special token, `cls_token` say: a plain string or an object with `content`.
    fn special(&self, key: &str) -> String {
        let named = [&self.tokenizer_config[key], &self.special_tokens_map[key]]
            .into_iter()
            .find_map(|value| value.as_str().or_else(|| value["content"].as_str()));
        let default = match (key, self.is_mpnet) {
            ("cls_token", false) => "[CLS]",
            ("sep_token", false) => "[SEP]",
            ("pad_token", false) => "[PAD]",
            ("mask_token", false) => "[MASK]",
            ("cls_token", true) => "<s>",
            ("sep_token", true) => "</s>",
            ("pad_token", true) => "<pad>",
            ("mask_token", true) => "<mask>",
            _ => "[UNK]",
        };
        named.unwrap_or(default).to_owned()
    }
}

fn json_or_null(path: PathBuf) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    serde_json::from_str(&text).map_err(|e| unusable(&path, e))
}

/// The tokenizer that `transformers` builds for BERT and MPNet from a vocabulary alone.
fn from_vocabulary(path: &Path, settings: &Settings) -> Result<tokenizers::Tokenizer> {
    let file = path.to_str().ok_or_else(|| unusable(path, "its path is not valid UTF-8"))?;
    let unknown = settings.special("unk_token");
    let model = WordPiece::from_file(file).unk_token(unknown.clone()).build().map_err(|e| unusable(path, e))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);

    let id = |tokenizer: &tokenizers::Tokenizer, token: &str| {
        tokenizer.token_to_id(token).ok_or_else(|| unusable(path, format!("the special token `{token}` is not in it")))
    };
    let (cls, sep) = (settings.special("cls_token"), settings.special("sep_token"));
    let (cls_id, sep_id) = (id(&tokenizer, &cls)?, id(&tokenizer, &sep)?);
    id(&tokenizer, &unknown)?;
    tokenizer.with_post_processor(Some(BertProcessing::new((sep.clone(), sep_id), (cls.clone(), cls_id))));
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_normalizer(Some(BertNormalizer::default())).map_err(|e| unusable(path, e))?;

    let mut special: Vec<_> = [unknown, cls, sep, settings.special("pad_token")]
        .into_iter()
        .map(|token| AddedToken::from(token, true))
        .collect();
    // MPNet's mask token takes the space before it, and `<unk>` is a word of its own beside the `[UNK]` that is used.
    special.push(AddedToken::from(settings.special("mask_token"), true).lstrip(settings.is_mpnet));
    if settings.is_mpnet {
        special.push(AddedToken::from("<unk>", true).normalized(true));
    }
    let known = special.into_iter().filter(|token| tokenizer.token_to_id(&token.content).is_some());
    let known: Vec<_> = known.collect();
    tokenizer.add_special_tokens(known).map_err(|e| unusable(path, e))?;
    Ok(tokenizer)
}
