//! The encoder: token ids to embeddings and back to gradients, over any device ([`embertune_kernels::Ops`]).

pub mod params;

pub use params::{Gradients, Param, ParamId, Parameters};
