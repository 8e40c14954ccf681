//! One row of retrieval data.

/// A query with its positives and hard negatives: `{"query": str, "pos": [str], "neg": [str]}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The query, not empty.
    pub query: String,
    /// Texts that answer the query, at least one.
    pub positives: Vec<String>,
    /// Texts that do not, maybe none.
    pub negatives: Vec<String>,
    /// Line of the row in its file, from 1.
    pub line: usize,
}
