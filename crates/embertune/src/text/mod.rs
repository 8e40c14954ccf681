//! Text to token ids, and token ids to ragged batches.

pub mod batch;
pub mod pairs;
pub mod prompts;
pub mod tokenizer;

pub use batch::Batch;
pub use pairs::{PairTokenizer, PairTokens};
pub use prompts::{Prompts, Role};
pub use tokenizer::{Tokenizer, Tokens};
