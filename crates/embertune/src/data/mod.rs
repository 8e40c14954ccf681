//! Rows of training and evaluation data, and where they come from.

pub mod atomic;
pub mod beir;
pub mod example;
pub mod identity;
pub mod jsonl;
pub mod lines;
pub mod near;
pub mod object;
pub mod pool;

pub use example::{Example, Scores};
pub use identity::TextId;
pub use jsonl::{Row, TextForm, read_examples, read_pool, read_rows, read_scored_examples, read_texts, read_texts_as};
pub use pool::Pool;
