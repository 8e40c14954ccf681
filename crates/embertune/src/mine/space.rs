//! Queries and candidates as vectors of one space: made by a model, or read from files a part at a time.

use std::borrow::Cow;
use std::ops::Range;

use embertune_kernels::Ops;

use super::known::Numbered;
use super::ranked::{MadeVectors, Shared, VectorSource};
use super::settings::MineSettings;
use crate::data::{Example, RowsOf};
use crate::embed::Vectors;
use crate::embed::cache::Embedding;
use crate::embed::stored::VectorFile;
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::search::Hit;
use crate::search::exact::{FirstPass, PART_ROWS, RunningTopK};
use crate::text::Role;

/// Rows whose positives are scored at once.
const BLOCK_ROWS: usize = 1 << 14;

/// Queries, candidates, and positives that are no candidates, as vectors of one space.
pub(super) struct Space<'a> {
    queries: Source<'a>,
    pool: Source<'a>,
    /// Empty where their scores are not needed, or there are none.
    others: Vectors,
    n_candidates: usize,
}

/// Vectors of texts.
enum Source<'a> {
    InMemory(Vectors),
    /// In a file, maybe with the places of the texts in it, ascending: equal texts have vectors there that are not used.
    InFile(VectorFile, Option<&'a [u32]>),
}

impl Source<'_> {
    fn vector(&self, row: usize) -> Result<Cow<'_, [f32]>> {
        match self {
            Source::InMemory(vectors) => Ok(vectors.row(row).into()),
            Source::InFile(file, places) => {
                let place = places.map_or(row, |places| places[row] as usize);
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
        rows: &dyn RowsOf<Example>,
        numbered: &Numbered<'a>,
        settings: &MineSettings,
        progress: &dyn Progress,
    ) -> Result<Space<'a>> {
        let embedding = |cache| Embedding { batch_size: settings.batch_size, cache, ranks: shared.ranks };
        match shared.source {
            VectorSource::Model(model) => Space::embedded(model, embedding(None), rows, numbered, settings, progress),
            VectorSource::Cached(model, cache) => {
                Space::embedded(model, embedding(Some(cache)), rows, numbered, settings, progress)
            }
            VectorSource::Made(made) => Space::made(made, numbered),
            VectorSource::Nowhere => Err(Error::Setting {
                problem: "`--model_name_or_path` is missing: only `--ranking bm25` needs no vectors".into(),
                hint: Some("name a model, or give `--query_vectors` and `--passage_vectors`".into()),
            }),
        }
    }

    /// Of vectors in memory, and while they are made their texts.
    fn embedded<O: Ops>(
        model: &EmbeddingModel<O>,
        embedding: Embedding<'_>,
        rows: &dyn RowsOf<Example>,
        numbered: &Numbered<'a>,
        settings: &MineSettings,
        progress: &dyn Progress,
    ) -> Result<Space<'a>> {
        let embed = |texts: Vec<String>, role| {
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            embedding.embed(model, &texts, role, progress)
        };
        let queries = rows.rows().map(|row| Ok(row?.into_owned().query)).collect::<Result<_>>()?;
        let queries = embed(queries, Role::Query)?;
        let (pool, others) = (numbered.pool(), numbered.others());
        let mut passages = pool.read(0..pool.len() as u32)?;
        if settings.need_positive_scores() {
            passages.extend(others.read(0..others.len() as u32)?);
        }
        let mut pool_vectors = embed(passages, Role::Passage)?;
        let others = pool_vectors.values.split_off(pool.len() * pool_vectors.dim);
        let others = Vectors::new(others, pool_vectors.dim);
        let (queries, n_candidates) = (Source::InMemory(queries), pool.len());
        Ok(Space { queries, pool: Source::InMemory(pool_vectors), others, n_candidates })
    }

    fn made(made: MadeVectors, numbered: &Numbered<'a>) -> Result<Space<'a>> {
        let MadeVectors { queries, passages } = made;
        let pool = numbered.pool();
        let fits = |file: &VectorFile, needed: usize, what: &str| match file.n_rows() == needed {
            true => Ok(()),
            false => Err(Error::Data {
                path: file.path().into(),
                problem: format!("{} vectors, but {needed} {what}", file.n_rows()),
                hint: Some("vector i belongs to text i: make the vectors from this very file".into()),
            }),
        };
        fits(&queries, numbered.rows().len(), "rows in `--input_file`")?;
        fits(&passages, pool.len() + pool.n_duplicates(), "candidates in `--candidate_pool`")?;
        if queries.dim() != passages.dim() {
            let dim = passages.dim();
            return Err(Error::Data {
                path: passages.path().into(),
                problem: format!("vectors of {dim} values, but those of the queries have {}", queries.dim()),
                hint: Some("make both with the same model".into()),
            });
        }
        let others = Vectors { dim: passages.dim(), ..Vectors::default() };
        let passages = Source::InFile(passages, Some(pool.read_as()));
        Ok(Space { queries: Source::InFile(queries, None), pool: passages, others, n_candidates: pool.len() })
    }

    /// The vectors of the queries of some rows.
    ///
    /// # Errors
    /// Where they can't be read.
    pub(super) fn queries(&self, rows: Range<usize>) -> Result<Cow<'_, Vectors>> {
        Ok(match &self.queries {
            Source::InMemory(vectors) if rows.len() == vectors.n_rows() => Cow::Borrowed(vectors),
            Source::InMemory(vectors) => Cow::Owned(vectors.part(rows)),
            Source::InFile(file, _) => Cow::Owned(file.read(rows)?),
        })
    }

    /// The `k` best candidates of each of some `queries`.
    ///
    /// # Errors
    /// Where the vectors can't be read.
    pub(super) fn top_k(
        &self,
        first_pass: FirstPass<'_>,
        queries: &Vectors,
        k: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Hit>>> {
        let mut best = RunningTopK::new(first_pass, queries, k);
        let say_how_much = |n_parts: usize| progress.start("searching", (queries.n_rows() * n_parts) as u64);
        self.for_each_part(say_how_much, |part| best.add(part, progress))?;
        progress.finish();
        Ok(best.into_hits())
    }

    /// Takes the vectors of the pool's texts in their order, after it has told `start` how many parts there are.
    fn for_each_part(&self, start: impl FnOnce(usize), mut take: impl FnMut(&[f32])) -> Result<()> {
        match &self.pool {
            Source::InMemory(vectors) => {
                let parts = vectors.values.chunks(PART_ROWS * vectors.dim);
                start(parts.len());
                parts.for_each(take);
            }
            Source::InFile(file, places) => {
                let starts = (0..file.n_rows()).step_by(PART_ROWS);
                start(starts.len());
                let mut places = places.unwrap_or_default();
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
    /// Where a vector can't be read.
    pub(super) fn score(&self, i: usize, row: u32) -> Result<f32> {
        self.dot(&self.queries.vector(i)?, row)
    }

    /// The score of candidate `row` for the vector of a query.
    ///
    /// # Errors
    /// Where its vector can't be read.
    pub(super) fn dot(&self, query: &[f32], row: u32) -> Result<f32> {
        Ok(dot(query, &self.pool.vector(row as usize)?))
    }

    /// The scores of the positives of all rows, in their order.
    ///
    /// # Errors
    /// Where one has no vector, or it can't be read.
    pub(super) fn of_positives(&self, numbered: &Numbered<'_>) -> Result<Vec<f32>> {
        let (rows, mut scores) = (numbered.rows(), Vec::new());
        for start in (0..rows.len()).step_by(BLOCK_ROWS) {
            let block = start..rows.len().min(start + BLOCK_ROWS);
            let queries = self.queries(block.clone())?;
            for (nth, i) in block.enumerate() {
                let row = rows.get(i);
                for &positive in row.positives {
                    scores.push(match (positive as usize).checked_sub(self.n_candidates) {
                        None => self.dot(queries.row(nth), positive)?,
                        Some(other) if other < self.others.n_rows() => dot(queries.row(nth), self.others.row(other)),
                        Some(_) => return Err(without_vector(&numbered.text(positive)?, row.line)),
                    });
                }
            }
        }
        Ok(scores)
    }
}

fn without_vector(positive: &str, line: usize) -> Error {
    let start: String = positive.chars().take(60).collect();
    Error::Setting {
        problem: format!(
            "the positive `{start}` of row {line} is not in `--candidate_pool`, so it has no vector and no score"
        ),
        hint: Some(
            "add all positives to the pool before its vectors are made, or use a rule without margins and \
             `--output_scores False`"
                .into(),
        ),
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
