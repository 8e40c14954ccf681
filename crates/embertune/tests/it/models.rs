//! What tests of models share: loading without noise, batches, comparisons.

use std::path::Path;

use embertune::model::{EmbeddingModel, Overrides};
use embertune::progress::Silent;
use embertune::text::{Batch, Role, Tokens};
use embertune_kernels::Ops;
use embertune_kernels::ops::Pooling;

/// Each pooling and its name in golden files.
pub const POOLINGS: [(Pooling, &str); 6] = [
    (Pooling::Cls, "cls"),
    (Pooling::Max, "max"),
    (Pooling::Mean, "mean"),
    (Pooling::MeanSqrtLen, "mean_sqrt_len_tokens"),
    (Pooling::WeightedMean, "weightedmean"),
    (Pooling::LastToken, "lasttoken"),
];

/// Loads a model that has to be fine.
pub fn load<O: Ops>(ops: O, folder: &Path, overrides: &Overrides) -> EmbeddingModel<O> {
    match EmbeddingModel::load(ops, folder, overrides, &Silent) {
        Ok(model) => model,
        Err(error) => panic!("{error}"),
    }
}

/// Overrides of pooling and normalisation.
pub fn pooled(pooling: Pooling, normalize: bool) -> Overrides {
    Overrides { pooling: Some(pooling), normalize: Some(normalize), ..Overrides::default() }
}

/// Token ids as queries.
pub fn tokenize<O: Ops>(model: &EmbeddingModel<O>, texts: &[&str], max_len: Option<usize>) -> Vec<Tokens> {
    model.tokenize(texts, Role::Query, max_len).expect("texts that can be tokenized")
}

/// One batch of all texts. The dropout key of text `i` is `i`.
pub fn batch(tokens: &[Tokens]) -> Batch {
    let mut batch = Batch::default();
    for (key, tokens) in tokens.iter().enumerate() {
        batch.push(&tokens.ids, tokens.prompt_len, key as u64);
    }
    batch
}

/// The texts in a JSON list.
pub fn texts(value: &serde_json::Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

/// The ids in a JSON list of lists.
pub fn ids(value: &serde_json::Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).expect("lists of ids")
}

/// Largest absolute value.
pub fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// Largest difference of two lists of the same length.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |worst, (a, b)| {
        assert!(a.is_finite() && b.is_finite(), "{a} and {b}");
        (a - b).abs().max(worst)
    })
}
