//! The encoder: token ids to embeddings and back to gradients, over any device ([`embertune_kernels::Ops`]).

pub mod embedding_model;
pub mod params;

pub use embedding_model::{DropoutRates, EmbeddingModel, Overrides, Saved};
pub use params::{Gradients, Param, ParamId, Parameters};
