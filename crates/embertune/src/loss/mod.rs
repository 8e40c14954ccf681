//! Losses: embeddings in, value and gradients of the embeddings out. A loss knows nothing of the encoder, of text or of files.

pub mod info_nce;

pub use info_nce::{InfoNce, InfoNceOutput, InfoNceStats, Negatives, info_nce};
