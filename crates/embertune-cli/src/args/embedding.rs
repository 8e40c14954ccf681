//! How texts are embedded: how many at once, and where their vectors are kept.

use std::path::PathBuf;

use clap::Args;
use embertune::comm::{Alone, Communicator};
use embertune::embed::cache::{Embedding, LIMIT_GB, VectorCache};

/// Embedding many texts.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Machine")]
pub struct EmbeddingArgs {
    /// Texts that go through the model at once; results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub batch_size: usize,

    #[command(flatten)]
    pub vectors: VectorCacheArgs,
}

/// Where vectors are kept.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Machine")]
pub struct VectorCacheArgs {
    /// Folder that keeps vectors: a text that this model, with its prompts and settings, has embedded before is not embedded again
    /// [default: none are kept]
    ///
    /// Vectors are kept as they are made, so that an interrupted command goes on where it was. Several models share a folder and never
    /// get each other's vectors, another checkpoint of a training included. Texts are not stored, only hashes of them.
    #[arg(long, value_name = "FOLDER")]
    pub vector_cache: Option<PathBuf>,

    /// The most that this folder may take, in GB; the models that were not used for the longest time go first
    #[arg(long, value_name = "GB", default_value_t = LIMIT_GB, requires = "vector_cache", value_parser = gigabytes)]
    pub vector_cache_gb: f64,
}

impl EmbeddingArgs {
    /// With the `cache` that they name, by this process alone.
    pub fn with<'a>(&self, cache: Option<&'a VectorCache>) -> Embedding<'a> {
        self.among(&Alone, cache)
    }

    /// The same, by `ranks` together.
    pub fn among<'a>(&self, ranks: &'a dyn Communicator, cache: Option<&'a VectorCache>) -> Embedding<'a> {
        Embedding { batch_size: self.batch_size, cache, ranks }
    }

    /// The folder, where one is named.
    pub fn cache(&self) -> Option<VectorCache> {
        let VectorCacheArgs { vector_cache, vector_cache_gb } = &self.vectors;
        vector_cache.clone().map(|folder| VectorCache::new(folder, *vector_cache_gb))
    }
}

fn gigabytes(text: &str) -> Result<f64, String> {
    let allowed = |gb: &f64| (0.0..1e9).contains(gb);
    text.parse().ok().filter(allowed).ok_or_else(|| "a number of gigabytes is needed, as in 0.5 or 20".into())
}
