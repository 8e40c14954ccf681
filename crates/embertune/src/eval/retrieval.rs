//! Evaluation by retrieval: each query searches the whole pool, and the ranks of its positives make the metrics.
//!
//! Texts are compared by [`TextId`], never by substring. Candidates with equal texts are one document: else a positive that stands
//! in the pool twice would be found at a worse rank than it has. Equal scores are ranked in the order of the pool (trec_eval: by id,
//! descending; ranx: by insertion; sentence-transformers: by id, ascending).

use std::collections::HashMap;

use embertune_kernels::Ops;
use serde::Serialize;

use super::metrics::Metric;
use crate::data::{Example, Pool, TextId};
use crate::embed::embed;
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::search::top_k;
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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Number of queries.
    pub n_queries: usize,
    /// Number of distinct candidates.
    pub n_candidates: usize,
    /// Candidates that were left out because an equal one was there already.
    pub n_duplicate_candidates: usize,
    /// Relevant documents, over all queries.
    pub n_positives: usize,
    /// Relevant documents that are not in the pool, over all queries. They can't be found, but still count as relevant.
    pub n_positives_missing: usize,
    /// Queries none of whose relevant documents is in the pool: every metric of theirs is 0.
    pub n_queries_without_positive: usize,
    /// Queries that are longer than the model reads.
    pub n_queries_truncated: usize,
    /// Candidates that are longer than the model reads.
    pub n_candidates_truncated: usize,
    /// Every metric at every cutoff, by metric, then by cutoff.
    pub scores: Vec<Score>,
}

impl Evaluation {
    /// The mean of a metric at a cutoff, where it was computed.
    pub fn mean(&self, metric: Metric, cutoff: usize) -> Option<f64> {
        self.scores.iter().find(|s| s.metric == metric && s.cutoff == cutoff).map(|s| s.mean)
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
    if settings.cutoffs.is_empty() || settings.cutoffs.contains(&0) {
        return Err(Error::Setting {
            problem: format!("cutoffs {:?}: at least one is needed, and none may be 0", settings.cutoffs),
            hint: Some("try `--cutoffs 1,3,5,10,100`".into()),
        });
    }
    if queries.is_empty() || pool.is_empty() {
        let problem = format!("nothing to evaluate: {} queries, {} candidates", queries.len(), pool.len());
        return Err(Error::Setting { problem, hint: None });
    }
    let pool = Pool::new(pool);
    let deepest = settings.cutoffs.iter().copied().max().unwrap_or(1);
    let texts: Vec<_> = queries.iter().map(|query| query.text.as_str()).collect();
    let query_vectors = embed(model, &texts, Role::Query, None, settings.batch_size, progress)?;
    let texts: Vec<_> = pool.texts().iter().map(String::as_str).collect();
    let pool_vectors = embed(model, &texts, Role::Passage, None, settings.batch_size, progress)?;
    let rankings: Vec<Vec<u32>> = top_k(&query_vectors, &pool_vectors, deepest, progress)
        .into_iter()
        .map(|hits| hits.into_iter().map(|hit| hit.row).collect())
        .collect();
    let mut evaluation = score(queries, &pool, &rankings, &settings.cutoffs);
    evaluation.n_queries_truncated = query_vectors.n_truncated;
    evaluation.n_candidates_truncated = pool_vectors.n_truncated;
    say_what_is_unusual(&evaluation, progress);
    Ok(evaluation)
}

/// The part of [`evaluate`] after the search: `rankings[i]` holds pool rows, best first.
pub fn score(queries: &[Query], pool: &Pool, rankings: &[Vec<u32>], cutoffs: &[usize]) -> Evaluation {
    let graded: Vec<Graded> =
        queries.iter().zip(rankings).map(|(query, ranking)| Graded::new(query, pool, ranking)).collect();
    let scores = Metric::ALL.iter().flat_map(|&metric| cutoffs.iter().map(move |&cutoff| (metric, cutoff)));
    let scores = scores.map(|(metric, cutoff)| {
        let per_query: Vec<_> = graded.iter().map(|g| metric.at(cutoff, &g.ranked, &g.judged)).collect();
        let mean = per_query.iter().sum::<f64>() / per_query.len().max(1) as f64;
        Score { metric, cutoff, mean, per_query }
    });
    Evaluation {
        n_queries: queries.len(),
        n_candidates: pool.len(),
        n_duplicate_candidates: pool.n_duplicates(),
        n_positives: graded.iter().map(|g| g.n_relevant).sum(),
        n_positives_missing: graded.iter().map(|g| g.n_missing).sum(),
        n_queries_without_positive: graded.iter().filter(|g| g.n_missing == g.n_relevant).count(),
        n_queries_truncated: 0,
        n_candidates_truncated: 0,
        scores: scores.collect(),
    }
}

/// The ranking of a query as grades.
struct Graded {
    ranked: Vec<i32>,
    judged: Vec<i32>,
    n_relevant: usize,
    n_missing: usize,
}

impl Graded {
    fn new(query: &Query, pool: &Pool, ranking: &[u32]) -> Graded {
        let grade_of: HashMap<TextId, i32> = query.judged.iter().copied().collect();
        let relevant = || query.judged.iter().filter(|(_, grade)| *grade >= 1);
        Graded {
            ranked: ranking.iter().map(|&row| *grade_of.get(&pool.ids()[row as usize]).unwrap_or(&0)).collect(),
            judged: query.judged.iter().map(|(_, grade)| *grade).collect(),
            n_relevant: relevant().count(),
            n_missing: relevant().filter(|(id, _)| pool.row(*id).is_none()).count(),
        }
    }
}

fn say_what_is_unusual(evaluation: &Evaluation, progress: &dyn Progress) {
    let Evaluation { n_duplicate_candidates, n_positives, n_positives_missing, .. } = evaluation;
    if *n_duplicate_candidates > 0 {
        progress.note(&format!("{n_duplicate_candidates} candidates are equal to another one and count once"));
    }
    if *n_positives_missing > 0 {
        progress.warn(&format!(
            "{n_positives_missing} of {n_positives} positives are not in the pool and can't be found; \
             {} of {} queries have none in it",
            evaluation.n_queries_without_positive, evaluation.n_queries
        ));
    }
}
