//! How well the answers are found before any training: by words, and by the model. What both say of the labels.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use embertune_kernels::Ops;
use serde::Serialize;

use super::Numbered;
use super::finding::{Finding, Kind, Severity, Shown, Tally};
use super::texts::{ByText, Texts};
use crate::embed::{Vectors, embed};
use crate::error::Result;
use crate::eval::Metric;
use crate::mine::bm25::Bm25;
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::random::{Shuffle, key};
use crate::search::{Hit, top_k};
use crate::text::Role;

/// So many candidates are looked at for each query.
const DEPTH: usize = 100;
/// From these shares on, positives beyond [`DEPTH`] and negatives above the positive are a warning.
const MANY_BEYOND: f64 = 0.05;
const MANY_ABOVE: f64 = 0.10;
/// Separates this use of a seed from others.
const SAMPLE: u64 = 0x6175_6469;

/// What ranks the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ranker {
    /// Words: BM25.
    Bm25,
    /// The model's vectors.
    Model,
}

/// How well the positives of some queries are found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Baseline {
    /// By what.
    pub ranker: Ranker,
    /// The file that the queries are from.
    pub data: String,
    /// Number of queries, a sample where there are more.
    pub n_queries: usize,
    /// Number of distinct queries of the file.
    pub of_queries: usize,
    /// Number of distinct candidates.
    pub n_candidates: usize,
    /// Mean of 1 / rank of the first positive, 0 beyond 10.
    pub mrr_at_10: f64,
    /// Share of queries with a positive at the first place.
    pub hit_at_1: f64,
    /// nDCG among the first 10.
    pub ndcg_at_10: f64,
    /// Share of the positives among the first 100.
    pub recall_at_100: f64,
}

/// Some queries of a file with all that its rows say of them.
struct Sample<'a> {
    data: &'a Numbered<'a>,
    of_queries: usize,
    queries: Vec<Query>,
}

struct Query {
    text: u32,
    rows: Vec<usize>,
    positives: Vec<u32>,
}

impl<'a> Sample<'a> {
    /// At most `n` distinct queries, in the order of the file.
    fn of(data: &'a Numbered<'a>, n_texts: usize, n: usize, seed: u64) -> Sample<'a> {
        let mut place_of = ByText::new(n_texts);
        let mut of_queries = 0;
        for row in data.rows.iter() {
            of_queries += u32::from(place_of.first(row.query, of_queries) == of_queries);
        }
        let of_queries = of_queries as usize;
        let drawn: HashSet<_> = Shuffle::new(of_queries, key(&[SAMPLE, seed])).take(n).collect();
        let mut queries: BTreeMap<u32, Query> = BTreeMap::new();
        for (i, row) in data.rows.iter().enumerate() {
            let Some(place) = place_of.get(row.query).filter(|&place| drawn.contains(&(place as usize))) else {
                continue;
            };
            let query =
                queries.entry(place).or_insert(Query { text: row.query, rows: Vec::new(), positives: Vec::new() });
            query.rows.push(i);
            for &positive in row.positives {
                if !query.positives.contains(&positive) {
                    query.positives.push(positive);
                }
            }
        }
        Sample { data, of_queries, queries: queries.into_values().collect() }
    }

    fn texts(&self, texts: &Texts) -> Vec<String> {
        self.queries.iter().map(|query| texts.text(query.text)).collect()
    }

    fn measure(&self, ranker: Ranker, pool: &[u32], found: &[Vec<Hit>]) -> Baseline {
        let mean = |metric: Metric, cutoff: usize| {
            let of_query = self.queries.iter().zip(found).map(|(query, hits)| {
                let grade = |hit: &Hit| i32::from(query.positives.contains(&pool[hit.row as usize]));
                let ranked: Vec<_> = hits.iter().map(grade).collect();
                metric.at(cutoff, &ranked, &vec![1; query.positives.len()])
            });
            of_query.sum::<f64>() / self.queries.len().max(1) as f64
        };
        Baseline {
            ranker,
            data: self.data.name.to_string(),
            n_queries: self.queries.len(),
            of_queries: self.of_queries,
            n_candidates: pool.len(),
            mrr_at_10: mean(Metric::Mrr, 10),
            hit_at_1: mean(Metric::Hit, 1),
            ndcg_at_10: mean(Metric::Ndcg, 10),
            recall_at_100: mean(Metric::Recall, DEPTH),
        }
    }
}

/// Where positives are looked for.
pub struct Search<'a> {
    /// All texts.
    pub texts: &'a Texts,
    /// The candidates, each text once.
    pub pool: &'a [u32],
    /// At most so many queries of a file are searched with.
    pub n_queries: usize,
    /// Seed of the sample.
    pub seed: u64,
    /// Texts that go through the model at once.
    pub batch_size: usize,
}

impl Search<'_> {
    /// The baselines of each of `sets`, training rows first, and what the model finds odd about the training rows.
    ///
    /// # Errors
    /// Where the model fails on a text.
    pub fn run<'s, O: Ops>(
        &self,
        model: Option<&EmbeddingModel<O>>,
        sets: &[&'s Numbered<'s>],
        progress: &dyn Progress,
    ) -> Result<(Vec<Baseline>, Vec<Finding>)> {
        let sample = |set: &&'s Numbered<'s>| Sample::of(set, self.texts.len(), self.n_queries, self.seed);
        let samples: Vec<_> = sets.iter().map(sample).collect();
        let (mut baselines, mut findings) = (Vec::new(), Vec::new());
        let queries: Vec<_> = samples.iter().flat_map(|sample| sample.texts(self.texts)).collect();
        let read = |part: Range<usize>| Ok(self.texts.read(&self.pool[part]));
        let bm25 = Bm25::new(self.pool.len(), Box::new(read), queries.iter().map(Ok), progress)?;
        let found = bm25.top_k(&queries, DEPTH, progress)?;
        let mut rest = found.as_slice();
        for sample in &samples {
            let (found, others) = rest.split_at(sample.queries.len());
            baselines.push(sample.measure(Ranker::Bm25, self.pool, found));
            rest = others;
        }
        if let Some(model) = model {
            let candidates = self.texts.read(self.pool);
            let candidates: Vec<_> = candidates.iter().map(String::as_str).collect();
            let vectors = embed(model, &candidates, Role::Passage, None, self.batch_size, progress)?;
            for (nth, sample) in samples.iter().enumerate() {
                let texts = sample.texts(self.texts);
                let texts: Vec<_> = texts.iter().map(String::as_str).collect();
                let queries = embed(model, &texts, Role::Query, None, self.batch_size, progress)?;
                let found = top_k(&queries, &vectors, DEPTH, progress);
                baselines.push(sample.measure(Ranker::Model, self.pool, &found));
                if nth == 0 {
                    findings.extend(self.beyond(sample, &found));
                    findings.extend(self.above(model, sample, &queries, &vectors, progress)?);
                }
            }
        }
        Ok((baselines, findings))
    }

    /// Positives of the pool that were not found.
    fn beyond(&self, sample: &Sample<'_>, found: &[Vec<Hit>]) -> Option<Finding> {
        let in_pool: HashSet<u32> = self.pool.iter().copied().collect();
        let (mut tally, mut n) = (Tally::default(), 0);
        for (query, hits) in sample.queries.iter().zip(found) {
            let found: HashSet<u32> = hits.iter().map(|hit| self.pool[hit.row as usize]).collect();
            for &positive in query.positives.iter().filter(|positive| in_pool.contains(positive)) {
                n += 1;
                if !found.contains(&positive) {
                    let row = query.rows.iter().find(|&&row| sample.data.rows.get(row).positives.contains(&positive));
                    tally.add(|| {
                        let texts = [query.text, positive].map(|number| self.texts.text(number));
                        Shown::new(row.map(|&row| sample.data.place(row)), texts)
                    });
                }
            }
        }
        let severity = if tally.share(n) >= MANY_BEYOND { Severity::Warning } else { Severity::Info };
        tally.finding(Kind::BeyondRank100, severity, n, None)
    }

    /// Negatives that score higher than a positive of their row.
    fn above<O: Ops>(
        &self,
        model: &EmbeddingModel<O>,
        sample: &Sample<'_>,
        queries: &Vectors,
        pool: &Vectors,
        progress: &dyn Progress,
    ) -> Result<Option<Finding>> {
        let rows = || {
            let of_query =
                |(at, query): (usize, &'_ Query)| query.rows.iter().map(move |&row| (at, row)).collect::<Vec<_>>();
            let with_negatives = |(_, row): &(usize, usize)| !sample.data.rows.get(*row).negatives.is_empty();
            sample.queries.iter().enumerate().flat_map(of_query).filter(with_negatives)
        };
        let row_of: HashMap<u32, usize> = self.pool.iter().enumerate().map(|(row, &number)| (number, row)).collect();
        // Passages of these rows need not be candidates.
        let mut others: Vec<u32> = rows().flat_map(|(_, row)| sample.data.rows.get(row).passages()).collect();
        others.retain(|number| !row_of.contains_key(number));
        others.sort_unstable();
        others.dedup();
        let texts = self.texts.read(&others);
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let other_vectors = match texts.is_empty() {
            true => Vectors { dim: pool.dim, ..Vectors::default() },
            false => embed(model, &texts, Role::Passage, None, self.batch_size, progress)?,
        };
        let score = |query: usize, number: u32| -> f32 {
            let passage = match (row_of.get(&number), others.binary_search(&number)) {
                (Some(&row), _) => pool.row(row),
                (None, Ok(at) | Err(at)) => other_vectors.row(at),
            };
            queries.row(query).iter().zip(passage).map(|(a, b)| a * b).sum()
        };
        let (mut tally, mut n) = (Tally::default(), 0);
        for (query, row) in rows() {
            let numbers = sample.data.rows.get(row);
            let of_positives = numbers.positives.iter().map(|&positive| score(query, positive));
            let lowest = of_positives.fold(f32::INFINITY, f32::min);
            for &negative in numbers.negatives {
                n += 1;
                if score(query, negative) > lowest {
                    tally.add(|| {
                        let texts = [numbers.query, negative].map(|number| self.texts.text(number));
                        Shown::new([sample.data.place(row)], texts)
                    });
                }
            }
        }
        let severity = if tally.share(n) >= MANY_ABOVE { Severity::Warning } else { Severity::Info };
        Ok(tally.finding(Kind::NegativesAbovePositive, severity, n, None))
    }
}
