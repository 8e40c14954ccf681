//! Where a model is: an existing folder, the local Hugging Face cache, or the Hugging Face hub.
//!
//! In: what the user wrote after `--model_name_or_path`. Out: a folder with the files that inference and training need.
//! The only place of the library that uses the network or reads the environment: `HF_HUB_CACHE`, `HF_HOME` and
//! `HF_HUB_OFFLINE` as documented for `huggingface_hub`, and `HF_ENDPOINT` for a mirror.

use std::env;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo};

use crate::progress::Progress;
use crate::{Error, Result};

/// The folder of a model: `name_or_path` itself where it is a folder, else the snapshot of that name in the Hugging Face
/// cache, else a download into that cache. A name without owner means `sentence-transformers/<name>`, as in
/// sentence-transformers.
///
/// # Errors
/// Not a folder and not a hub name; not cached while offline; the hub not reachable; a repository without weights.
pub fn resolve(name_or_path: &str, progress: &dyn Progress) -> Result<PathBuf> {
    if Path::new(name_or_path).is_dir() {
        return Ok(PathBuf::from(name_or_path));
    }
    if Path::new(name_or_path).exists() || !is_hub_name(name_or_path) {
        return Err(error(
            name_or_path,
            "no such folder, and not the name of a model on the hub".into(),
            "pass a folder that holds `config.json` and the weights, or a name like `BAAI/bge-small-en-v1.5`",
        ));
    }
    Hub::from_env().snapshot(name_or_path, progress)
}

/// A Hugging Face hub and the local cache of it.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The cache folder, with one folder `models--<owner>--<name>` per model.
    pub cache: PathBuf,
    /// Where to download from; `None`: never.
    pub endpoint: Option<String>,
}

impl Hub {
    /// The hub and cache that the environment names, like `huggingface_hub` finds them.
    pub fn from_env() -> Hub {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = variable("HF_HUB_CACHE")
            .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
            .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
            .or_else(|| env::home_dir().map(|home| home.join(".cache/huggingface/hub")))
            .unwrap_or_else(|| PathBuf::from(".cache/huggingface/hub"));
        let offline =
            env::var("HF_HUB_OFFLINE").is_ok_and(|v| matches!(v.to_lowercase().as_str(), "1" | "true" | "yes" | "on"));
        let endpoint = env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into());
        Hub { cache, endpoint: (!offline).then_some(endpoint) }
    }

    /// The folder of the model `name` in the cache; downloads what is missing.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn snapshot(&self, name: &str, progress: &dyn Progress) -> Result<PathBuf> {
        let name = &if name.contains('/') { name.to_string() } else { format!("sentence-transformers/{name}") };
        if let Some(folder) = self.cached(name) {
            return Ok(folder);
        }
        let Some(endpoint) = &self.endpoint else {
            return Err(error(
                name,
                format!("not in the cache {} and HF_HUB_OFFLINE is set", self.cache.display()),
                "unset HF_HUB_OFFLINE, or pass the path of a model folder",
            ));
        };
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(endpoint.clone())
            .with_retries(2)
            .with_progress(false)
            .build()
            .map_err(|e| unreachable_hub(name, endpoint, &e))?;
        self.download(&api, name, endpoint, progress)
    }

    /// The snapshot of `main`, where it is complete: the weights are what [`Hub::download`] brings last.
    fn cached(&self, name: &str) -> Option<PathBuf> {
        let repo = Cache::new(self.cache.clone()).repo(Repo::model(name.to_string()));
        let weights = WEIGHTS.iter().find_map(|name| repo.get(name))?;
        repo.get("config.json")?;
        weights.parent().map(Path::to_path_buf)
    }

    fn download(&self, api: &Api, name: &str, endpoint: &str, progress: &dyn Progress) -> Result<PathBuf> {
        let remote = api.model(name.to_string());
        let local = Cache::new(self.cache.clone()).repo(Repo::model(name.to_string()));
        let info = remote.info().map_err(|e| unreachable_hub(name, endpoint, &e))?;
        let files = needed(info.siblings.iter().map(|sibling| sibling.rfilename.as_str()));
        if files.last().is_none_or(|(rank, _)| *rank != Rank::Weights) {
            return Err(error(
                name,
                "the model has no `model.safetensors` and no `pytorch_model.bin` on the hub".into(),
                "convert it with transformers: `AutoModel.from_pretrained(name).save_pretrained(folder)`, and pass the folder",
            ));
        }
        progress.note(&format!("downloading {name} from {endpoint} to {}", self.cache.display()));
        for (_, file) in files {
            if local.get(file).is_none() {
                remote
                    .download_with_progress(file, Megabytes::new(progress))
                    .map_err(|e| unreachable_hub(name, endpoint, &e))?;
            }
        }
        self.cached(name).ok_or_else(|| {
            error(
                name,
                "the download did not leave a complete snapshot".into(),
                "run the command again, or pass a folder",
            )
        })
    }
}

/// In which order the files of a model are downloaded. The main weights come last, so a snapshot that has them is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Settings,
    Part,
    Weights,
}

/// The main weights of a model, the preferred ones first.
const WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// The files that we need of a repository, in the order of their download. Pickled weights only where no safetensors lie
/// beside them.
fn needed<'a>(files: impl Iterator<Item = &'a str>) -> Vec<(Rank, &'a str)> {
    let mut files: Vec<_> = files.filter_map(|file| Some((rank(file)?, file))).collect();
    let with_safetensors: Vec<_> = files
        .iter()
        .map(|(_, file)| in_folder(file))
        .filter(|(_, name)| WEIGHTS[..2].contains(name))
        .map(|(folder, _)| folder)
        .collect();
    files.retain(|(_, file)| {
        let (folder, name) = in_folder(file);
        !name.starts_with("pytorch_model") || !with_safetensors.contains(&folder)
    });
    files.sort();
    files
}

fn in_folder(file: &str) -> (&str, &str) {
    file.rsplit_once('/').unwrap_or(("", file))
}

/// The rank of a file that we can use; `None` for the others (ONNX, TensorFlow, images, ...).
fn rank(file: &str) -> Option<Rank> {
    let (folder, name) = in_folder(file);
    let in_module =
        folder.starts_with(|c: char| c.is_ascii_digit()) && folder.contains('_') && !folder.contains(['/', '.']);
    match name {
        _ if folder.is_empty() && WEIGHTS.contains(&name) => Some(Rank::Weights),
        "model.safetensors" | "pytorch_model.bin" if in_module => Some(Rank::Part),
        "config.json" if folder.is_empty() || in_module => Some(Rank::Settings),
        _ if !folder.is_empty() => None,
        "modules.json"
        | "config_sentence_transformers.json"
        | "tokenizer.json"
        | "tokenizer_config.json"
        | "special_tokens_map.json"
        | "added_tokens.json"
        | "vocab.txt"
        | "vocab.json"
        | "merges.txt"
        | "sentencepiece.bpe.model" => Some(Rank::Settings),
        _ if name.starts_with("sentence_") && name.ends_with("_config.json") => Some(Rank::Settings),
        _ if name.starts_with("model-") && name.ends_with(".safetensors") => Some(Rank::Part),
        _ if name.starts_with("pytorch_model-") && name.ends_with(".bin") => Some(Rank::Part),
        _ => None,
    }
}

/// `name` or `owner/name`, of the characters that the hub allows.
fn is_hub_name(text: &str) -> bool {
    let parts: Vec<_> = text.split('/').collect();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    parts.len() <= 2
        && parts.iter().all(|p| p.starts_with(|c: char| c.is_ascii_alphanumeric()) && p.chars().all(allowed))
}

fn error(name: &str, problem: String, hint: &str) -> Error {
    Error::Model { path: PathBuf::from(name), problem, hint: Some(hint.into()) }
}

fn unreachable_hub(name: &str, endpoint: &str, source: &ApiError) -> Error {
    error(
        name,
        format!("no such folder, not in the cache, and not to be had from {endpoint}: {source}"),
        "check the name and the network, or download the files of the model by hand and pass their folder",
    )
}

/// Reports bytes of a download in megabytes.
struct Megabytes<'a> {
    progress: &'a dyn Progress,
    bytes: usize,
    reported_mb: usize,
}

impl<'a> Megabytes<'a> {
    fn new(progress: &'a dyn Progress) -> Self {
        Megabytes { progress, bytes: 0, reported_mb: 0 }
    }
}

impl hf_hub::api::Progress for Megabytes<'_> {
    fn init(&mut self, size_bytes: usize, file: &str) {
        // Called again at each retry of the same file: counting starts anew.
        (self.bytes, self.reported_mb) = (0, 0);
        self.progress.start(&format!("downloading {file} (MB)"), (size_bytes / 1_000_000) as u64);
    }

    fn update(&mut self, bytes: usize) {
        self.bytes += bytes;
        let mb = self.bytes / 1_000_000;
        self.progress.advance((mb - self.reported_mb) as u64);
        self.reported_mb = mb;
    }

    fn finish(&mut self) {
        self.progress.finish();
    }
}

#[cfg(test)]
mod tests;
