//! One row of retrieval or similarity data.

use serde::{Deserialize, Serialize};

/// A query with its positives and hard negatives: `{"query": str, "pos": [str], "neg": [str]}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The query, not empty.
    pub query: String,
    /// Texts that answer the query, at least one.
    pub positives: Vec<String>,
    /// Texts that do not, maybe none.
    pub negatives: Vec<String>,
    /// Numbers about the texts, for losses that learn from them.
    pub scores: Scores,
    /// Line of the row in its file, from 1.
    pub line: usize,
}

/// Numbers that a row brings with its texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Scores {
    /// None, or none that were asked for.
    #[default]
    None,
    /// A teacher's scores of the passages, `{"pos_scores": [number], "neg_scores": [number]}`.
    Teacher {
        /// One for each positive.
        positives: Vec<f32>,
        /// One for each negative.
        negatives: Vec<f32>,
    },
    /// How alike the query and its only positive are, `{"score": number}`; the positive need not be a right answer then.
    Pair(f32),
}
