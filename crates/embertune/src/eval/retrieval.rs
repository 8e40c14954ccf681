//! Evaluation by retrieval: each query searches the whole pool, and the ranks of its positives make the metrics.
//!
//! Texts of rows and pools are compared by [`TextId`], never by substring, and equal candidates are one document: else a positive
//! that stands in the pool twice would be found at a worse rank than it has. Equal scores are ranked in the order of the pool
//! (trec_eval: by id, descending; ranx: by insertion; sentence-transformers: by id, ascending).

use std::collections::HashMap;

use embertune_kernels::Ops;
use serde::Serialize;

use super::metrics::{Measure, Metric};
use super::results::{Counts, SetResults};
use super::test_set::TestSet;
use crate::data::{Example, Pool, TextId};
use crate::embed::cache::Embedding;
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::progress::{Progress, Silent};
use crate::search::{Hit, top_k_among};
use crate::text::Role;

/// How to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalSettings {
    /// Every metric is computed at each of these cutoffs. Default 1, 3, 5, 10, 100.
    pub cutoffs: Vec<usize>,
    /// Texts that go through the model at once. Default 256.
    pub batch_size: usize,
}

impl Default for EvalSettings {
    fn default() -> Self {
        EvalSettings { cutoffs: vec![1, 3, 5, 10, 100], batch_size: 256 }
    }
}

/// A query and the documents that were judged for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The query.
    pub text: String,
    /// Judged documents with their grades, each once; at least 1 is relevant, more is better.
    pub judged: Vec<(TextId, i32)>,
}

/// The queries of evaluation rows; every positive has grade 1. Rows with the same query are one query with the positives of all of
/// them: a known positive of a query never counts as a wrong answer to it.
pub fn queries_of(examples: &[Example], progress: &dyn Progress) -> Vec<Query> {
    let mut queries: Vec<Query> = Vec::new();
    let mut row_of: HashMap<TextId, usize> = HashMap::new();
    for example in examples {
        let row = *row_of.entry(TextId::of(&example.query)).or_insert(queries.len());
        if row == queries.len() {
            queries.push(Query { text: example.query.clone(), judged: Vec::new() });
        }
        for positive in &example.positives {
            let id = TextId::of(positive);
            if !queries[row].judged.iter().any(|(known, _)| *known == id) {
                queries[row].judged.push((id, 1));
            }
        }
    }
    let n_merged = examples.len() - queries.len();
    if n_merged > 0 {
        progress.note(&format!("{n_merged} rows repeat the query of an earlier row; their positives are joined"));
    }
    queries
}

/// The values of one metric at one cutoff.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The metric.
    pub metric: Metric,
    /// Only the first `cutoff` documents count.
    pub cutoff: usize,
    /// Mean over the queries.
    pub mean: f64,
    /// One value per query.
    pub per_query: Vec<f64>,
}

/// What came out of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Number of queries.
    pub n_queries: usize,
    /// Of what is unusual.
    pub counts: Counts,
    /// Every metric at every cutoff, by metric, then by cutoff.
    pub scores: Vec<Score>,
}

impl Evaluation {
    /// The mean of a metric at a cutoff, where it was computed.
    pub fn mean(&self, metric: Metric, cutoff: usize) -> Option<f64> {
        self.scores.iter().find(|s| s.metric == metric && s.cutoff == cutoff).map(|s| s.mean)
    }

    /// Every metric at every cutoff, from the rankings of a set.
    ///
    /// # Errors
    /// No cutoff, or a cutoff of 0.
    pub fn of(results: &SetResults, cutoffs: &[usize]) -> Result<Evaluation> {
        deepest(cutoffs)?;
        Ok(Evaluation::at(results, cutoffs))
    }

    fn at(results: &SetResults, cutoffs: &[usize]) -> Evaluation {
        let measures = Measure::all(cutoffs);
        let scores =
            measures.iter().zip(results.values_of(&measures)).map(|(&Measure { metric, cutoff }, per_query)| {
                let mean = per_query.iter().sum::<f64>() / per_query.len().max(1) as f64;
                Score { metric, cutoff, mean, per_query }
            });
        Evaluation { n_queries: results.queries.len(), counts: results.counts.clone(), scores: scores.collect() }
    }
}

/// Searches `pool` with every query and computes all metrics. What is unusual about the pool (equal candidates, positives
/// that are not in it) is counted, and said through `progress`.
///
/// # Errors
/// Where there are no queries or no candidates, no cutoff or a cutoff of 0, or [`embed`] fails.
pub fn evaluate<O: Ops>(
    model: &EmbeddingModel<O>,
    queries: &[Query],
    pool: Vec<String>,
    settings: &EvalSettings,
    progress: &dyn Progress,
) -> Result<Evaluation> {
    let depth = deepest(&settings.cutoffs)?;
    let set = TestSet::of_rows("test set", queries, &Pool::new(pool));
    let rankings = retrieve(model, &set, depth, settings.batch_size, progress)?;
    Evaluation::of(&SetResults::new(&set, rankings, progress), &settings.cutoffs)
}

/// The part of [`evaluate`] after the search: `rankings[i]` holds pool rows, best first. No cutoff may be 0.
pub fn score(queries: &[Query], pool: &Pool, rankings: &[Vec<u32>], cutoffs: &[usize]) -> Evaluation {
    let set = TestSet::of_rows("test set", queries, pool);
    let named = |&row: &u32| (set.documents[row as usize].id.clone(), 0.0);
    let of_query = rankings.iter().map(|ranking| ranking.iter().map(named).collect()).collect();
    Evaluation::at(&SetResults::new(&set, Rankings { of_query, ..Rankings::default() }, &Silent), cutoffs)
}

/// The greatest cutoff: so deep a search has to go.
///
/// # Errors
/// No cutoff, or a cutoff of 0.
pub fn deepest(cutoffs: &[usize]) -> Result<usize> {
    match cutoffs.iter().max() {
        Some(&deepest) if !cutoffs.contains(&0) => Ok(deepest),
        _ => Err(Error::Setting {
            problem: format!("cutoffs {cutoffs:?}: at least one is needed, and none may be 0"),
            hint: Some("try `--cutoffs 1,3,5,10,100`".into()),
        }),
    }
}

/// What was found for each query of a test set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rankings {
    /// For each query, `(document, score)`, best first.
    pub of_query: Vec<Vec<(String, f32)>>,
    /// Documents beyond this rank were not looked for.
    pub depth: usize,
    /// Queries that are longer than the model reads.
    pub n_queries_truncated: usize,
    /// Documents that are longer than the model reads.
    pub n_documents_truncated: usize,
}

/// Searches the documents of a set with each of its queries, for the best `depth` of them. Ranks that do it together all get what one
/// process would.
///
/// # Errors
/// Where there are no queries or no documents, or embedding fails.
pub fn retrieve<'a, O: Ops>(
    model: &EmbeddingModel<O>,
    set: &TestSet,
    depth: usize,
    embedding: impl Into<Embedding<'a>>,
    progress: &dyn Progress,
) -> Result<Rankings> {
    let embedding = embedding.into();
    if set.queries.is_empty() || set.documents.is_empty() {
        let (n_queries, n_documents) = (set.queries.len(), set.documents.len());
        let problem = format!("nothing to evaluate: {n_queries} queries, {n_documents} candidates");
        return Err(Error::Setting { problem, hint: None });
    }
    let texts: Vec<_> = set.queries.iter().map(|query| query.text.as_str()).collect();
    let query_vectors = embedding.embed(model, &texts, Role::Query, progress)?;
    let texts: Vec<_> = set.documents.iter().map(|document| document.text.as_str()).collect();
    let document_vectors = embedding.embed(model, &texts, Role::Passage, progress)?;
    let found = top_k_among(&query_vectors, &document_vectors, depth, embedding.ranks, progress)?;
    let named = |hit: Hit| (set.documents[hit.row as usize].id.clone(), hit.score);
    Ok(Rankings {
        of_query: found.into_iter().map(|hits| hits.into_iter().map(named).collect()).collect(),
        depth,
        n_queries_truncated: query_vectors.n_truncated,
        n_documents_truncated: document_vectors.n_truncated,
    })
}
