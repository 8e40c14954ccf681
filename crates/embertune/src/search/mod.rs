//! Nearest neighbours of queries among candidates.

mod best;
mod bytes;
pub mod exact;
mod products;

pub use exact::{Hit, top_k};
