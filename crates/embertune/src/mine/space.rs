//! Queries and candidates as vectors of one space: made by a model, or read from files a part at a time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use embertune_kernels::Ops;

use super::ranked::{MadeVectors, Shared, VectorSource};
use super::settings::MineSettings;
use crate::data::{Pool, Row, TextId};
use crate::embed::Vectors;
use crate::embed::cache::Embedding;
use crate::embed::stored::VectorFile;
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::search::Hit;
use crate::search::exact::{FirstPass, PART_ROWS, RunningTopK};
use crate::text::Role;

/// Queries, candidates, and positives that are no candidates, as vectors of one space.
pub(super) struct Space<'a> {
    queries: Vectors,
    pool: Candidates<'a>,
    others: Vectors,
    other_of: HashMap<TextId, usize>,
}

/// The vectors of a pool's texts.
enum Candidates<'a> {
    InMemory(Vectors),
    /// In a file, with the places of the texts in it, ascending: equal texts have vectors there that are not used.
    InFile(VectorFile, &'a [u32]),
}

impl Candidates<'_> {
    fn vector(&self, row: usize) -> Result<Cow<'_, [f32]>> {
        match self {
            Candidates::InMemory(vectors) => Ok(vectors.row(row).into()),
            Candidates::InFile(file, places) => {
                let place = places[row] as usize;
                Ok(file.read(place..place + 1)?.values.into())
            }
        }
    }
}

impl<'a> Space<'a> {
    /// # Errors
    /// Where there are no vectors, they do not fit the rows or the pool, or embedding fails.
    pub(super) fn new<O: Ops>(
        shared: Shared<'_, O>,
        rows: &[Row],
        pool: &'a Pool,
        settings: &MineSettings,
        progress: &dyn Progress,
    ) -> Result<Space<'a>> {
        let embedding = |cache| Embedding { batch_size: settings.batch_size, cache, ranks: shared.ranks };
        match shared.source {
            VectorSource::Model(model) => Space::embedded(model, embedding(None), rows, pool, settings, progress),
            VectorSource::Cached(model, cache) => {
                Space::embedded(model, embedding(Some(cache)), rows, pool, settings, progress)
            }
            VectorSource::Made(made) => Space::made(made, rows, pool),
            VectorSource::Nowhere => Err(Error::Setting {
                problem: "`--model_name_or_path` is missing: only `--ranking bm25` needs no vectors".into(),
                hint: Some("name a model, or give `--query_vectors` and `--passage_vectors`".into()),
            }),
        }
    }

    fn embedded<O: Ops>(
        model: &EmbeddingModel<O>,
        embedding: Embedding<'_>,
        rows: &[Row],
        pool: &Pool,
        settings: &MineSettings,
        progress: &dyn Progress,
    ) -> Result<Space<'a>> {
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
        let queries: Vec<_> = rows.iter().map(|row| row.example.query.as_str()).collect();
        let queries = embedding.embed(model, &queries, Role::Query, progress)?;
        let mut pool_vectors = embedding.embed(model, &passages, Role::Passage, progress)?;
        let others = pool_vectors.values.split_off(pool.len() * pool_vectors.dim);
        let others = Vectors::new(others, pool_vectors.dim);
        Ok(Space { queries, pool: Candidates::InMemory(pool_vectors), others, other_of })
    }

    fn made(made: MadeVectors, rows: &[Row], pool: &'a Pool) -> Result<Space<'a>> {
        let MadeVectors { queries, queries_path, passages } = made;
        let fits = |path: &Path, seen: usize, needed: usize, what: &str| match seen == needed {
            true => Ok(()),
            false => Err(Error::Data {
                path: path.into(),
                problem: format!("{seen} vectors, but {needed} {what}"),
                hint: Some("vector i belongs to text i: make the vectors from this very file".into()),
            }),
        };
        fits(&queries_path, queries.n_rows(), rows.len(), "rows in `--input_file`")?;
        let n_read = pool.len() + pool.n_duplicates();
        fits(passages.path(), passages.n_rows(), n_read, "candidates in `--candidate_pool`")?;
        if queries.dim != passages.dim() {
            let dim = passages.dim();
            return Err(Error::Data {
                path: passages.path().into(),
                problem: format!("vectors of {dim} values, but those of the queries have {}", queries.dim),
                hint: Some("make both with the same model".into()),
            });
        }
        let others = Vectors { dim: passages.dim(), ..Vectors::default() };
        let pool = Candidates::InFile(passages, pool.read_as());
        Ok(Space { queries, pool, others, other_of: HashMap::new() })
    }

    /// The `k` best candidates of each of `rows`.
    ///
    /// # Errors
    /// Where the vectors can't be read.
    pub(super) fn top_k(
        &self,
        first_pass: FirstPass<'_>,
        rows: Range<usize>,
        k: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Hit>>> {
        let part;
        let queries = if rows.len() == self.queries.n_rows() {
            &self.queries
        } else {
            part = self.queries.part(rows);
            &part
        };
        let mut best = RunningTopK::new(first_pass, queries, k);
        let say_how_much = |n_parts: usize| progress.start("searching", (queries.n_rows() * n_parts) as u64);
        self.for_each_part(say_how_much, |part| best.add(part, progress))?;
        progress.finish();
        Ok(best.into_hits())
    }

    /// Takes the vectors of the pool's texts in their order, after it has told `start` how many parts there are.
    fn for_each_part(&self, start: impl FnOnce(usize), mut take: impl FnMut(&[f32])) -> Result<()> {
        let dim = self.queries.dim;
        match &self.pool {
            Candidates::InMemory(vectors) => {
                let parts = vectors.values.chunks(PART_ROWS * dim);
                start(parts.len());
                parts.for_each(take);
            }
            Candidates::InFile(file, places) => {
                let starts = (0..file.n_rows()).step_by(PART_ROWS);
                start(starts.len());
                let mut places = *places;
                for start in starts {
                    let end = file.n_rows().min(start + PART_ROWS);
                    let (of_part, rest) = places.split_at(places.partition_point(|&place| (place as usize) < end));
                    take(&distinct(file.read(start..end)?, start, of_part).values);
                    places = rest;
                }
            }
        }
        Ok(())
    }

    /// The score of candidate `row` for row `i`.
    ///
    /// # Errors
    /// Where its vector can't be read.
    pub(super) fn score(&self, i: usize, row: u32) -> Result<f32> {
        Ok(dot(self.queries.row(i), &self.pool.vector(row as usize)?))
    }

    /// The scores of the positives of each row.
    ///
    /// # Errors
    /// Where one has no vector, or it can't be read.
    pub(super) fn of_positives(&self, rows: &[Row], pool: &Pool) -> Result<Vec<Vec<f32>>> {
        let score = |i: usize, row: &Row, text: &String| {
            let id = TextId::of(text);
            match (pool.row(id), self.other_of.get(&id)) {
                (Some(row), _) => self.score(i, row),
                (None, Some(&other)) => Ok(dot(self.queries.row(i), self.others.row(other))),
                (None, None) => Err(Error::Setting {
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
                }),
            }
        };
        let of_row = |(i, row): (usize, &Row)| row.example.positives.iter().map(|text| score(i, row, text)).collect();
        rows.iter().enumerate().map(of_row).collect()
    }
}

/// Those of `part`, vectors from `start` on, that are at `places`. In place: a part may be large.
fn distinct(mut part: Vectors, start: usize, places: &[u32]) -> Vectors {
    let dim = part.dim;
    for (row, &place) in places.iter().enumerate() {
        let from = (place as usize - start) * dim;
        part.values.copy_within(from..from + dim, row * dim);
    }
    part.values.truncate(places.len() * dim);
    part
}

/// In f64: one rounding less beside the scores of the search than a sum in f32 of another order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>() as f32
}
