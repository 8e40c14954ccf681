//! Rows of training and evaluation data, and where they come from.

pub mod atomic;
pub mod beir;
pub mod columns;
pub mod convert;
mod csv;
pub mod example;
pub mod files;
pub mod identity;
mod json_array;
pub mod jsonl;
pub mod lines;
pub mod near;
pub mod object;
pub mod packed;
mod parquet;
#[cfg(feature = "parquet")]
mod parquet_writer;
pub mod pool;
pub mod row_list;
pub mod source;
pub mod split;
pub mod split_files;
pub mod spool;
pub mod stored;

pub use columns::Columns;
pub use example::{Example, Scores};
pub use identity::TextId;
pub use jsonl::{
    Row, TextForm, read_examples, read_examples_by, read_pool, read_pool_by, read_rows, read_rows_by,
    read_scored_examples, read_scored_examples_by, read_texts, read_texts_as, store_examples, store_pool, store_rows,
    store_scored_examples,
};
pub use pool::{Pool, StoredPool};
pub use stored::{RowsOf, Stored, StoredExamples, StoredTexts};
