//! The encoder: token ids to embeddings and back to gradients, over any device ([`embertune_kernels::Ops`]).
//!
//! Reading order: [`embedding_model`] is the whole; [`encoder`], [`layer`], [`attention`], [`feed_forward`], [`embeddings`] and
//! [`head`] compute; [`cross_encoder`] is the other kind of model, that reads a pair of texts at once; [`lora`] adds to linear layers; [`folder`], [`config`], [`checkpoint`] and [`save`] read and write model folders; [`hub`] finds them by name.

pub mod attention;
pub mod checkpoint;
pub mod config;
pub mod cross_encoder;
pub mod embedding_model;
pub mod embeddings;
pub mod encoder;
pub mod feed_forward;
pub mod folder;
pub mod head;
pub mod hub;
pub mod json_file;
pub mod layer;
pub mod layer_norm;
pub mod linear;
pub mod loader;
pub mod lora;
pub mod mpnet;
pub mod params;
pub mod pass;
pub mod save;
pub mod tensor_files;

pub use config::{DropoutRates, EncoderConfig};
pub use cross_encoder::{CrossEncoder, ScoreActivation};
pub use embedding_model::{EmbeddingModel, Saved};
pub use folder::{Overrides, pooling_named};
pub use hub::resolve;
pub use lora::LoraConfig;
pub use params::{Completed, Depth, Gradients, Param, ParamId, Parameters};
