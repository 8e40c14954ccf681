//! How well cosines follow a similarity that people gave (STS), and how often a right text is nearer than a wrong one (triplets).
//!
//! Both agree with sentence-transformers' `EmbeddingSimilarityEvaluator` and `TripletEvaluator` with cosines.

use std::path::Path;

use embertune_kernels::Ops;
use serde::Serialize;
use serde_json::Value;

use crate::data::Columns;
use crate::data::object::Object;
use crate::data::source::for_each_object;
use crate::embed::Vectors;
use crate::embed::cache::Embedding;
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::text::Role;

/// Two texts and how similar they are, in any unit.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredPair {
    /// The one.
    pub left: String,
    /// The other.
    pub right: String,
    /// More is more similar.
    pub score: f64,
}

/// A text, one that should be near it, and one that should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triplet {
    /// The text.
    pub anchor: String,
    /// What should be nearer.
    pub positive: String,
    /// What should be farther.
    pub negative: String,
}

/// Correlations of cosines with scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correlations {
    /// Number of pairs.
    pub n_pairs: usize,
    /// Of the ranks; equal values share their mean rank. What STS benchmarks report.
    pub spearman: f64,
    /// Of the values.
    pub pearson: f64,
}

/// How often the positive is nearer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TripletAccuracy {
    /// Number of triplets.
    pub n_triplets: usize,
    /// Share of triplets whose positive has the greater cosine; equal cosines do not count.
    pub accuracy: f64,
}

/// Reads `{"sentence1": str, "sentence2": str, "score": number}` rows, in any form that rows are read in.
///
/// # Errors
/// A row of another form, no rows, scores that are all equal.
pub fn read_pairs(path: &Path) -> Result<Vec<ScoredPair>> {
    let pairs = read(path, |object, pairs| {
        let Some(score) = object.fields.get("score").and_then(Value::as_f64) else {
            return Err(object.error("field `score` is missing or no number".into(), "give each pair a number"));
        };
        pairs.push(ScoredPair { left: object.text("sentence1")?, right: object.text("sentence2")?, score });
        Ok(())
    })?;
    if pairs.iter().all(|pair| pair.score == pairs[0].score) {
        return Err(Error::Data {
            path: path.into(),
            problem: format!("all {} scores are equal: nothing can follow them", pairs.len()),
            hint: Some("scores differ where pairs do".into()),
        });
    }
    Ok(pairs)
}

/// Reads `{"anchor": str, "positive": str, "negative": str}` rows, or rows `{"query": str, "pos": [str], "neg": [str]}`, each of
/// which is every positive with every negative.
///
/// # Errors
/// A row of another form, no triplets at all.
pub fn read_triplets(path: &Path) -> Result<Vec<Triplet>> {
    read(path, |object, triplets| {
        if object.has("anchor") {
            let [anchor, positive, negative] = ["anchor", "positive", "negative"].map(|field| object.text(field));
            triplets.push(Triplet { anchor: anchor?, positive: positive?, negative: negative? });
            return Ok(());
        }
        let (query, positives, negatives) = (object.text("query")?, object.texts("pos")?, object.texts("neg")?);
        for positive in &positives.texts {
            triplets.extend(negatives.texts.iter().map(|negative| Triplet {
                anchor: query.clone(),
                positive: positive.clone(),
                negative: negative.clone(),
            }));
        }
        Ok(())
    })
}

/// Correlates the cosines of pairs with their scores. Both texts get the model's prompt for queries.
///
/// # Errors
/// Where [`Embedding::embed`] fails.
pub fn evaluate_pairs<'a, O: Ops>(
    model: &EmbeddingModel<O>,
    pairs: &[ScoredPair],
    embedding: impl Into<Embedding<'a>>,
    progress: &dyn Progress,
) -> Result<Correlations> {
    let texts: Vec<_> = pairs.iter().flat_map(|pair| [pair.left.as_str(), pair.right.as_str()]).collect();
    let vectors = embedding.into().embed(model, &texts, Role::Query, progress)?;
    let cosines: Vec<_> = (0..pairs.len()).map(|i| cosine(vectors.row(2 * i), vectors.row(2 * i + 1))).collect();
    let scores: Vec<_> = pairs.iter().map(|pair| pair.score).collect();
    Ok(Correlations {
        n_pairs: pairs.len(),
        spearman: pearson(&ranks(&cosines), &ranks(&scores)),
        pearson: pearson(&cosines, &scores),
    })
}

/// Compares the cosines of triplets. Anchors get the model's prompt for queries, the others that for passages.
///
/// # Errors
/// Where [`Embedding::embed`] fails.
pub fn evaluate_triplets<'a, O: Ops>(
    model: &EmbeddingModel<O>,
    triplets: &[Triplet],
    embedding: impl Into<Embedding<'a>>,
    progress: &dyn Progress,
) -> Result<TripletAccuracy> {
    let embedding = embedding.into();
    let embed = |text: fn(&Triplet) -> &str, role: Role| -> Result<Vectors> {
        let texts: Vec<_> = triplets.iter().map(text).collect();
        embedding.embed(model, &texts, role, progress)
    };
    let anchors = embed(|triplet| &triplet.anchor, Role::Query)?;
    let positives = embed(|triplet| &triplet.positive, Role::Passage)?;
    let negatives = embed(|triplet| &triplet.negative, Role::Passage)?;
    let is_right = |i: &usize| {
        let anchor = anchors.row(*i);
        cosine(anchor, positives.row(*i)) > cosine(anchor, negatives.row(*i))
    };
    let n_right = (0..triplets.len()).filter(is_right).count();
    Ok(TripletAccuracy { n_triplets: triplets.len(), accuracy: n_right as f64 / triplets.len() as f64 })
}

/// Pearson's correlation; NaN where one of the lists is constant.
pub fn pearson(left: &[f64], right: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (left_mean, right_mean) = (mean(left), mean(right));
    let (mut product, mut left_square, mut right_square) = (0.0, 0.0, 0.0);
    for (l, r) in left.iter().zip(right) {
        let (l, r) = (l - left_mean, r - right_mean);
        product += l * r;
        left_square += l * l;
        right_square += r * r;
    }
    product / (left_square * right_square).sqrt()
}

/// Ranks from 1; equal values share the mean of their ranks.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<_> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        for &place in group {
            ranks[place] = start as f64 + (group.len() + 1) as f64 / 2.0;
        }
        start += group.len();
    }
    ranks
}

/// The cosine of two vectors; 0 where one of them is 0.
pub fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (dot(left, left) * dot(right, right)).sqrt();
    if norms > 0.0 { dot(left, right) / norms } else { 0.0 }
}

fn read<T>(path: &Path, mut take: impl FnMut(&Object<'_>, &mut Vec<T>) -> Result<()>) -> Result<Vec<T>> {
    let mut items = Vec::new();
    for_each_object(path, &Columns::default(), |object, _| take(&object, &mut items))?;
    if items.is_empty() {
        return Err(Error::Data {
            path: path.into(),
            problem: "there is nothing in the file to evaluate".into(),
            hint: Some("expected one pair or one row with positives and negatives per line".into()),
        });
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_triplets_are_read_from_tables_as_from_lines() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let lines = write(
            "p.jsonl",
            "{\"sentence1\": \"a, b\", \"sentence2\": \"c\", \"score\": 1}\n{\"sentence1\": \"d\", \"sentence2\": \"e\", \"score\": 0.5}\n",
        );
        let table = write("p.csv", "sentence1,sentence2,score\n\"a, b\",c,1\nd,e,0.5\n");
        assert_eq!(read_pairs(&lines).unwrap(), read_pairs(&table).unwrap());
        let table = write("t.tsv", "anchor\tpositive\tnegative\na\tb\tc\n");
        let row = write("t.jsonl", "{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": [\"c\"]}\n");
        assert_eq!(read_triplets(&table).unwrap(), read_triplets(&row).unwrap());
        let bad = write("bad.csv", "sentence1,sentence2,score\na,b,1\nc,d,high\n");
        let error = read_pairs(&bad).unwrap_err().to_string();
        assert!(error.contains("bad.csv:3: field `score`"), "{error}");
    }

    /// scipy.stats.spearmanr([3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]) = 0.1988537, pearsonr = 0.2096553.
    #[test]
    fn correlations_are_those_of_scipy() {
        let (a, b) = ([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0], [2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0, 8.0]);
        assert_eq!(ranks(&a), [4.0, 1.5, 5.0, 1.5, 6.0, 8.0, 3.0, 7.0]);
        assert!((pearson(&ranks(&a), &ranks(&b)) - 0.1988537).abs() < 1e-6, "{}", pearson(&ranks(&a), &ranks(&b)));
        assert!((pearson(&a, &b) - 0.2096553).abs() < 1e-6, "{}", pearson(&a, &b));
    }
}
