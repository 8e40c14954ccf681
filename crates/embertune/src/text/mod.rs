//! Text to token ids, and token ids to ragged batches.

pub mod batch;

pub use batch::Batch;
