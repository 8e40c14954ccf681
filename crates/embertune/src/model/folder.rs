//! What belongs to a model besides its encoder: pooling, dense layers, normalisation, prompts and the maximum length, as
//! the folder of a sentence-transformers model says it.
//!
//! Read are the spellings of all versions, written is the one that every version reads, `text-embeddings-inference` too.

use std::path::{Component, Path};

use embertune_kernels::ops::{Activation, Pooling};
use serde_json::{Map, Value, json};

use super::config::EncoderConfig;
use super::json_file::JsonFile;
use crate::text::Prompts;
use crate::{Error, Result};

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

/// The modules that `modules.json` lists.
#[derive(Clone, Debug, PartialEq)]
pub struct Modules {
    /// Folder of the encoder and the tokenizer within the model's folder, mostly empty.
    pub transformer: String,
    /// How the tokens of a text become one vector.
    pub pooling: Pooling,
    /// Whether pooling counts the tokens of the prompt.
    pub include_prompt: bool,
    /// Dense layers on the pooled vector.
    pub dense: Vec<DenseConfig>,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
}

/// What a `Dense` module says about itself in its `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseConfig {
    /// Folder of the module within the model's folder.
    pub folder: String,
    /// Inputs.
    pub in_features: usize,
    /// Outputs.
    pub out_features: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Activation.
    pub activation: Activation,
    /// The activation as the base model writes it.
    pub activation_name: String,
}

/// How texts are prepared for the encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct TextSettings {
    /// Longest text in tokens, special tokens included.
    pub max_seq_length: usize,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub lower_case: bool,
    /// Words in front of texts.
    pub prompts: Prompts,
    /// `config_sentence_transformers.json` as it was, an object.
    sentence_transformers: Map<String, Value>,
}

/// The files that `modules.json` points to.
const MODULES: &str = "modules.json";
/// Where pooling is written.
const POOLING: &str = "1_Pooling";
/// Keys of the passage prompt, in the order in which sentence-transformers looks for them.
const PASSAGE_KEYS: [&str; 3] = ["document", "passage", "corpus"];

/// Each pooling: its name in new folders, its key in old ones.
const POOLINGS: [(Pooling, &str, &str); 6] = [
    (Pooling::Cls, "cls", "pooling_mode_cls_token"),
    (Pooling::Mean, "mean", "pooling_mode_mean_tokens"),
    (Pooling::Max, "max", "pooling_mode_max_tokens"),
    (Pooling::MeanSqrtLen, "mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
    (Pooling::WeightedMean, "weightedmean", "pooling_mode_weightedmean_tokens"),
    (Pooling::LastToken, "lasttoken", "pooling_mode_lasttoken"),
];

/// The pooling with this name in a model folder: `cls`, `mean`, `max`, `mean_sqrt_len_tokens`, `weightedmean`, `lasttoken`.
///
/// # Errors
/// Where there is none.
pub fn pooling_named(name: &str) -> Result<Pooling> {
    POOLINGS.iter().find(|(_, known, _)| *known == name).map(|(pooling, ..)| *pooling).ok_or_else(|| Error::Setting {
        problem: format!("pooling `{name}` is not known"),
        hint: Some(format!("one of {}", POOLINGS.map(|(_, known, _)| known).join(", "))),
    })
}

impl Modules {
    /// Reads `modules.json` and the configurations that it points to.
    ///
    /// # Errors
    /// If there is none and no override says how to pool; if a module is unknown or in a place where we do not compute it.
    pub fn read(folder: &Path, overrides: &Overrides) -> Result<Self> {
        let path = folder.join(MODULES);
        let mut modules = if path.exists() {
            Self::from_list(folder, &JsonFile::read(&path)?)?
        } else if !folder.join("config.json").exists() {
            return Err(Error::Model {
                path: folder.to_owned(),
                problem: "no folder of a model: it has neither `modules.json` nor `config.json`".to_owned(),
                hint: Some("name the folder that holds the model's `config.json` and its weights".to_owned()),
            });
        } else {
            let pooling = overrides.pooling.ok_or_else(|| no_pooling(folder))?;
            let transformer = String::new();
            Modules { transformer, pooling, include_prompt: true, dense: Vec::new(), normalize: false }
        };
        modules.pooling = overrides.pooling.unwrap_or(modules.pooling);
        modules.normalize = overrides.normalize.unwrap_or(modules.normalize);
        Ok(modules)
    }

    fn from_list(folder: &Path, file: &JsonFile) -> Result<Self> {
        let Some(list) = file.value.as_array() else {
            return Err(file.error("should be a list of modules".to_owned(), None));
        };
        let mut modules = Vec::new();
        for module in list {
            let (Some(kind), Some(path)) = (module["type"].as_str(), module["path"].as_str()) else {
                return Err(file.error(format!("the module {module} has no `type` or no `path`"), None));
            };
            if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(file.error(format!("the path `{path}` leads out of the model's folder"), None));
            }
            // The last word is the same in old and new names: `sentence_transformers.models.Pooling` and
            // `sentence_transformers.sentence_transformer.modules.pooling.Pooling`.
            modules.push((kind.rsplit('.').next().unwrap_or(kind), path));
        }
        let [("Transformer", transformer), ("Pooling", pooling), rest @ ..] = modules.as_slice() else {
            return Err(unsupported(file, &modules));
        };
        let (pooling, include_prompt) = read_pooling(&JsonFile::read(&folder.join(pooling).join("config.json"))?)?;
        let (dense, normalize) = match rest {
            [dense @ .., ("Normalize", _)] => (dense, true),
            dense => (dense, false),
        };
        if dense.iter().any(|(kind, _)| *kind != "Dense") {
            return Err(unsupported(file, &modules));
        }
        let dense = dense.iter().map(|(_, path)| read_dense(folder, path)).collect::<Result<_>>()?;
        Ok(Modules { transformer: (*transformer).to_owned(), pooling, include_prompt, dense, normalize })
    }

    /// The JSON files that describe the modules, by path within the folder. `hidden` is the width of a token's vector.
    pub fn files(&self, hidden: usize) -> Vec<(String, Value)> {
        let mut list = vec![(self.transformer.clone(), "Transformer"), (POOLING.to_owned(), "Pooling")];
        list.extend(self.dense.iter().map(|dense| (dense.folder.clone(), "Dense")));
        if self.normalize {
            list.push((format!("{}_Normalize", list.len()), "Normalize"));
        }
        let describe = |(idx, (path, kind)): (usize, (String, &str))| {
            let kind = format!("sentence_transformers.models.{kind}");
            json!({"idx": idx, "name": idx.to_string(), "path": path, "type": kind})
        };
        let list: Vec<_> = list.into_iter().enumerate().map(describe).collect();
        let mut pooling = Map::from_iter([("word_embedding_dimension".to_owned(), json!(hidden))]);
        pooling.extend(POOLINGS.map(|(pooling, _, key)| (key.to_owned(), json!(pooling == self.pooling))));
        pooling.insert("include_prompt".to_owned(), json!(self.include_prompt));

        let mut files = vec![(MODULES.to_owned(), json!(list)), (format!("{POOLING}/config.json"), json!(pooling))];
        files.extend(self.dense.iter().map(|dense| {
            let config = json!({
                "in_features": dense.in_features,
                "out_features": dense.out_features,
                "bias": dense.bias,
                "activation_function": dense.activation_name,
            });
            (format!("{}/config.json", dense.folder), config)
        }));
        files
    }
}

fn no_pooling(folder: &Path) -> Error {
    Error::Model {
        path: folder.to_owned(),
        problem: format!("there is no `{MODULES}`, so it does not say how its token vectors become one vector"),
        hint: Some(
            "pass `--pooling`: `cls` for bge models; `mean` for gte, e5, stella-base, all-MiniLM and all-mpnet models, \
             and for a model that was never trained to embed"
                .to_owned(),
        ),
    }
}

fn unsupported(file: &JsonFile, modules: &[(&str, &str)]) -> Error {
    let kinds: Vec<_> = modules.iter().map(|(kind, _)| *kind).collect();
    let problem = format!(
        "the modules are {}; supported are Transformer, Pooling, any number of Dense, and Normalize at the end",
        kinds.join(", ")
    );
    file.error(problem, None)
}

fn read_pooling(file: &JsonFile) -> Result<(Pooling, bool)> {
    let include_prompt = file.flag("include_prompt")?.unwrap_or(true);
    let mut on = Vec::new();
    match file.get("pooling_mode") {
        Some(mode) => {
            let modes = mode.as_array().map_or(std::slice::from_ref(mode), Vec::as_slice);
            for mode in modes {
                let found = POOLINGS.iter().find(|(_, name, _)| mode == name);
                on.push(found.ok_or_else(|| file.error(format!("`pooling_mode` {mode} is unknown"), None))?);
            }
        }
        None => {
            for pooling in &POOLINGS {
                if file.flag(pooling.2)?.unwrap_or(false) {
                    on.push(pooling);
                }
            }
        }
    }
    match on.as_slice() {
        [(pooling, ..)] => Ok((*pooling, include_prompt)),
        [] => Err(file.error("no pooling mode is switched on".to_owned(), None)),
        several => {
            let names: Vec<_> = several.iter().map(|(_, name, _)| *name).collect();
            let problem = format!("the poolings {} are to be joined; supported is one", names.join(" and "));
            Err(file.error(problem, None))
        }
    }
}

fn read_dense(folder: &Path, path: &str) -> Result<DenseConfig> {
    let file = JsonFile::read(&folder.join(path).join("config.json"))?;
    // Without the key sentence-transformers uses tanh.
    let name = file.text("activation_function")?.unwrap_or("torch.nn.modules.activation.Tanh");
    let activation = activation_of_class(&file, "activation_function", name)?;
    Ok(DenseConfig {
        folder: path.to_owned(),
        in_features: file.required_size("in_features")?,
        out_features: file.required_size("out_features")?,
        bias: file.flag("bias")?.unwrap_or(true),
        activation,
        activation_name: name.to_owned(),
    })
}

/// The activation of a class of torch.nn, `name`, which `file` has under `key`.
pub(super) fn activation_of_class(file: &JsonFile, key: &str, name: &str) -> Result<Activation> {
    Ok(match name.rsplit('.').next().unwrap_or(name) {
        "Identity" => Activation::Identity,
        "Tanh" => Activation::Tanh,
        "Sigmoid" => Activation::Sigmoid,
        "ReLU" => Activation::Relu,
        "SiLU" => Activation::Silu,
        "GELU" => Activation::GeluErf,
        _ => {
            let supported = "Identity, Tanh, Sigmoid, ReLU, SiLU and GELU";
            return Err(file.error(format!("`{key}` is `{name}`; supported are {supported} of torch.nn"), None));
        }
    })
}

impl TextSettings {
    /// Reads how `folder` wants its texts prepared.
    ///
    /// # Errors
    /// If a file is broken, or a length is asked for that the model has no positions for.
    pub fn read(folder: &Path, modules: &Modules, config: &EncoderConfig, overrides: &Overrides) -> Result<Self> {
        let transformer = folder.join(&modules.transformer);
        let sentence_bert = JsonFile::read_optional(&transformer.join("sentence_bert_config.json"))?;
        let max_seq_length = match overrides.max_seq_length {
            Some(asked) if asked > config.longest_text() => {
                return Err(Error::Setting {
                    problem: format!(
                        "a maximum length of {asked} tokens is asked for, but the model has positions for {}",
                        config.longest_text()
                    ),
                    hint: None,
                });
            }
            Some(asked) => asked,
            None => own_length(&transformer, &sentence_bert)?.unwrap_or(usize::MAX).min(config.longest_text()),
        };

        let file = JsonFile::read_optional(&folder.join("config_sentence_transformers.json"))?;
        if let Some(dim) = file.get("truncate_dim") {
            let problem = format!("`truncate_dim` is {dim}; cutting embeddings is not supported");
            return Err(file.error(problem, Some("remove the key to use the whole vectors")));
        }
        let prompts = read_prompts(&file, overrides)?;
        let sentence_transformers = file.value.as_object().cloned().unwrap_or_default();
        let lower_case = sentence_bert.flag("do_lower_case")?.unwrap_or(false);
        Ok(TextSettings { max_seq_length, lower_case, prompts, sentence_transformers })
    }

    /// The JSON files that say all this, by path within the folder.
    pub fn files(&self, modules: &Modules) -> Vec<(String, Value)> {
        let mut content = self.sentence_transformers.clone();
        let mut prompts = content.get("prompts").and_then(Value::as_object).cloned().unwrap_or_default();
        prompts.insert("query".to_owned(), json!(self.prompts.query));
        // Under the key that it had, and always as `document`: sentence-transformers 6 looks for nothing else in
        // `encode_document`, because it thinks of an empty `document` where there is none.
        let own_key = PASSAGE_KEYS.into_iter().find(|key| prompts.contains_key(*key));
        for key in [own_key, Some("document")].into_iter().flatten() {
            prompts.insert(key.to_owned(), json!(self.prompts.passage));
        }
        content.insert("prompts".to_owned(), json!(prompts));
        content.entry("default_prompt_name").or_insert(Value::Null);
        content.entry("similarity_fn_name").or_insert(json!("cosine"));

        let lengths = json!({"max_seq_length": self.max_seq_length, "do_lower_case": self.lower_case});
        let lengths_path = Path::new(&modules.transformer).join("sentence_bert_config.json");
        vec![
            ("config_sentence_transformers.json".to_owned(), json!(content)),
            (lengths_path.to_string_lossy().into_owned(), lengths),
        ]
    }
}

/// The maximum length that the files of the encoder name. Newer versions of sentence-transformers save it with the tokenizer.
pub(super) fn own_length(transformer: &Path, sentence_bert: &JsonFile) -> Result<Option<usize>> {
    if let Some(length) = sentence_bert.size("max_seq_length")? {
        return Ok(Some(length));
    }
    let tokenizer = JsonFile::read_optional(&transformer.join("tokenizer_config.json"))?;
    // "No limit" is written as 1e30.
    let length = tokenizer.number("model_max_length")?.filter(|&length| (1.0..1e9).contains(&length));
    Ok(length.map(|length| length as usize))
}

fn read_prompts(file: &JsonFile, overrides: &Overrides) -> Result<Prompts> {
    let prompts = file.get("prompts");
    let prompt = |key: &str| prompts.and_then(|prompts| prompts.get(key)).and_then(Value::as_str);
    let default = file.text("default_prompt_name")?;
    let default_text = match default {
        None => "",
        Some(name) => prompt(name)
            .ok_or_else(|| file.error(format!("`default_prompt_name` is `{name}`, which is not in `prompts`"), None))?,
    };
    // A default that is meant for the other role is none.
    let is_query_default = default == Some("query");
    let is_passage_default = default.is_some_and(|name| PASSAGE_KEYS.contains(&name));
    let own_query = prompt("query").unwrap_or(if is_passage_default { "" } else { default_text });
    let own_passage =
        PASSAGE_KEYS.into_iter().find_map(prompt).unwrap_or(if is_query_default { "" } else { default_text });
    Ok(Prompts {
        query: overrides.query_prompt.clone().unwrap_or_else(|| own_query.to_owned()),
        passage: overrides.passage_prompt.clone().unwrap_or_else(|| own_passage.to_owned()),
    })
}
