//! Nearest neighbours of queries among candidates.

pub mod exact;

pub use exact::{Hit, top_k};
