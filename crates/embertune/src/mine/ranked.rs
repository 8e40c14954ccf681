//! The ranking of candidates that the rules work on, with the scores of positives: from a model, from vectors that were made
//! elsewhere, by words, or both.

use std::collections::HashMap;
use std::path::PathBuf;

use embertune_kernels::Ops;
use rayon::prelude::*;

use super::bm25::Bm25;
use super::fusion::fuse;
use super::settings::{MineSettings, Ranking};
use crate::data::{Pool, Row, TextId};
use crate::embed::Vectors;
use crate::embed::cache::{Embedding, VectorCache};
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::search::{Hit, top_k};
use crate::text::Role;

/// Where vectors come from.
pub enum VectorSource<'a, O: Ops> {
    /// A model makes them.
    Model(&'a EmbeddingModel<O>),
    /// A model makes those that it has not made before.
    Cached(&'a EmbeddingModel<O>, &'a VectorCache),
    /// They are there already.
    Made(MadeVectors),
    /// There are none: [`Ranking::Bm25`] needs none.
    Nowhere,
}

/// Vectors that were made elsewhere.
pub struct MadeVectors {
    /// One per row, `[n_rows, dim]`.
    pub queries: Vectors,
    /// The file of the queries, for messages.
    pub queries_path: PathBuf,
    /// One per candidate as the pool was read, equal texts included, `[n_candidates, dim]`.
    pub passages: Vectors,
    /// The file of the passages, for messages.
    pub passages_path: PathBuf,
}

/// What the search says about each row.
pub struct Ranked<'a> {
    /// Candidates of each row, best first.
    pub hits: Vec<Vec<Hit>>,
    /// Scores of each row's positives, in their order; empty where they are not needed.
    pub positives: Vec<Vec<f32>>,
    /// Score of any candidate (pool row) for a row.
    pub score: Box<dyn Fn(usize, u32) -> f32 + Sync + 'a>,
}

/// Ranks the `depth` best candidates of each row.
///
/// # Errors
/// Where there are no vectors but some are needed, they do not fit the rows or the pool, or embedding fails.
pub fn rank<'a, O: Ops>(
    source: VectorSource<'_, O>,
    rows: &'a [Row],
    pool: &'a Pool,
    depth: usize,
    settings: &MineSettings,
    progress: &dyn Progress,
) -> Result<Ranked<'a>> {
    let queries: Vec<_> = rows.iter().map(|row| row.example.query.as_str()).collect();
    if settings.ranking == Ranking::Bm25 {
        return Ok(by_words(rows, pool, &queries, depth, settings, progress));
    }
    let space = Space::new(source, rows, pool, settings, progress)?;
    let mut hits = top_k(&space.queries, &space.pool, depth, progress);
    if settings.ranking == Ranking::Hybrid {
        let by_words = Bm25::new(pool.texts()).top_k(&queries, depth, progress);
        let rows_of = |hits: &[Hit]| hits.iter().map(|hit| hit.row).collect::<Vec<_>>();
        hits = (hits.par_iter().zip(&by_words).enumerate())
            .map(|(i, (dense, words))| {
                let fused = fuse(&[rows_of(dense), rows_of(words)], depth);
                fused.into_iter().map(|row| Hit { row, score: space.score(i, row) }).collect()
            })
            .collect();
    }
    let positives = if settings.need_positive_scores() { space.of_positives(rows, pool)? } else { Vec::new() };
    Ok(Ranked { hits, positives, score: Box::new(move |i, row| space.score(i, row)) })
}

fn by_words<'a>(
    rows: &'a [Row],
    pool: &'a Pool,
    queries: &[&str],
    depth: usize,
    settings: &MineSettings,
    progress: &dyn Progress,
) -> Ranked<'a> {
    let index = Bm25::new(pool.texts());
    let hits = index.top_k(queries, depth, progress);
    let of_row = |row: &Row| row.example.positives.iter().map(|text| index.score(&row.example.query, text)).collect();
    let positives = if settings.need_positive_scores() { rows.par_iter().map(of_row).collect() } else { Vec::new() };
    let score = move |i: usize, row: u32| index.score(&rows[i].example.query, &pool.texts()[row as usize]);
    Ranked { hits, positives, score: Box::new(score) }
}

/// Queries, candidates, and positives that are no candidates, as vectors of one space.
struct Space {
    queries: Vectors,
    pool: Vectors,
    others: Vectors,
    other_of: HashMap<TextId, usize>,
}

impl Space {
    fn new<O: Ops>(
        source: VectorSource<'_, O>,
        rows: &[Row],
        pool: &Pool,
        settings: &MineSettings,
        progress: &dyn Progress,
    ) -> Result<Space> {
        match source {
            VectorSource::Model(model) => Space::embedded(model, None, rows, pool, settings, progress),
            VectorSource::Cached(model, cache) => Space::embedded(model, Some(cache), rows, pool, settings, progress),
            VectorSource::Made(made) => Space::made(made, rows, pool),
            VectorSource::Nowhere => Err(Error::Setting {
                problem: "`--model_name_or_path` is missing: only `--ranking bm25` needs no vectors".into(),
                hint: Some("name a model, or give `--query_vectors` and `--passage_vectors`".into()),
            }),
        }
    }

    fn embedded<O: Ops>(
        model: &EmbeddingModel<O>,
        cache: Option<&VectorCache>,
        rows: &[Row],
        pool: &Pool,
        settings: &MineSettings,
        progress: &dyn Progress,
    ) -> Result<Space> {
        let mut passages: Vec<_> = pool.texts().iter().map(String::as_str).collect();
        let mut other_of = HashMap::new();
        if settings.need_positive_scores() {
            for text in rows.iter().flat_map(|row| &row.example.positives) {
                let id = TextId::of(text);
                if pool.row(id).is_none() && !other_of.contains_key(&id) {
                    other_of.insert(id, passages.len() - pool.len());
                    passages.push(text);
                }
            }
        }
        let embedding = Embedding { batch_size: settings.batch_size, cache };
        let queries: Vec<_> = rows.iter().map(|row| row.example.query.as_str()).collect();
        let queries = embedding.embed(model, &queries, Role::Query, progress)?;
        let mut pool_vectors = embedding.embed(model, &passages, Role::Passage, progress)?;
        let others = pool_vectors.values.split_off(pool.len() * pool_vectors.dim);
        let others = Vectors::new(others, pool_vectors.dim);
        Ok(Space { queries, pool: pool_vectors, others, other_of })
    }

    fn made(made: MadeVectors, rows: &[Row], pool: &Pool) -> Result<Space> {
        let MadeVectors { queries, queries_path, passages, passages_path } = made;
        let fits = |path: PathBuf, seen: usize, needed: usize, what: &str| match seen == needed {
            true => Ok(()),
            false => Err(Error::Data {
                path,
                problem: format!("{seen} vectors, but {needed} {what}"),
                hint: Some("vector i belongs to text i: make the vectors from this very file".into()),
            }),
        };
        fits(queries_path, queries.n_rows(), rows.len(), "rows in `--input_file`")?;
        fits(
            passages_path.clone(),
            passages.n_rows(),
            pool.len() + pool.n_duplicates(),
            "candidates in `--candidate_pool`",
        )?;
        if queries.dim != passages.dim {
            return Err(Error::Data {
                path: passages_path,
                problem: format!("vectors of {} values, but those of the queries have {}", passages.dim, queries.dim),
                hint: Some("make both with the same model".into()),
            });
        }
        let others = Vectors { dim: passages.dim, ..Vectors::default() };
        let pool = distinct(passages, pool);
        Ok(Space { queries, pool, others, other_of: HashMap::new() })
    }

    fn score(&self, i: usize, row: u32) -> f32 {
        dot(self.queries.row(i), self.pool.row(row as usize))
    }

    fn of_positives(&self, rows: &[Row], pool: &Pool) -> Result<Vec<Vec<f32>>> {
        let score = |i: usize, row: &Row, text: &String| {
            let id = TextId::of(text);
            let vector = match (pool.row(id), self.other_of.get(&id)) {
                (Some(row), _) => self.pool.row(row as usize),
                (None, Some(&other)) => self.others.row(other),
                (None, None) => {
                    return Err(Error::Setting {
                        problem: format!(
                            "the positive `{}` of row {} is not in `--candidate_pool`, so it has no vector and no score",
                            text.chars().take(60).collect::<String>(),
                            row.example.line
                        ),
                        hint: Some(
                            "add all positives to the pool before its vectors are made, or use a rule without margins \
                             and `--output_scores False`"
                                .into(),
                        ),
                    });
                }
            };
            Ok(dot(self.queries.row(i), vector))
        };
        let of_row = |(i, row): (usize, &Row)| row.example.positives.iter().map(|text| score(i, row, text)).collect();
        rows.iter().enumerate().map(of_row).collect()
    }
}

/// The vectors of the distinct texts, those that [`Pool`] keeps: the first of equal ones. In place: a pool may be large.
fn distinct(mut passages: Vectors, pool: &Pool) -> Vectors {
    let dim = passages.dim;
    for (row, &read) in pool.read_as().iter().enumerate() {
        passages.values.copy_within(read as usize * dim..(read as usize + 1) * dim, row * dim);
    }
    passages.values.truncate(pool.len() * dim);
    passages
}

/// In f64: one rounding less beside the scores of the search than a sum in f32 of another order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>() as f32
}
