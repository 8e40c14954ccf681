//! Nearest neighbours of queries among candidates.

pub mod among;
mod best;
mod bytes;
pub mod exact;
mod groups;
mod products;

pub use among::{gather_hits, top_k_among};
pub use exact::{Hit, top_k};
