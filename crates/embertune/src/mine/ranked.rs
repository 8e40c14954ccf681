//! The ranking of candidates that the rules work on, with the scores of positives: from a model, from vectors that were made
//! elsewhere, by words, or both.

use std::path::PathBuf;

use embertune_kernels::Ops;
use rayon::prelude::*;

use super::bm25::Bm25;
use super::fusion::fuse;
use super::settings::{MineSettings, Ranking};
use super::space::Space;
use crate::data::{Pool, Row};
use crate::embed::Vectors;
use crate::embed::cache::VectorCache;
use crate::embed::stored::VectorFile;
use crate::error::Result;
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::search::Hit;

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
    /// One per candidate as the pool was read, equal texts included, `[n_candidates, dim]`. Read a part at a time.
    pub passages: VectorFile,
}

/// The score of a candidate (pool row) for a row; an error where its vector can't be read.
pub type Score<'a> = Box<dyn Fn(usize, u32) -> Result<f32> + Sync + 'a>;

/// What the search says about each row.
pub struct Ranked<'a> {
    /// Candidates of each row, best first.
    pub hits: Vec<Vec<Hit>>,
    /// Scores of each row's positives, in their order; empty where they are not needed.
    pub positives: Vec<Vec<f32>>,
    /// Score of any candidate (pool row) for a row.
    pub score: Score<'a>,
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
    let mut hits = space.top_k(depth, progress)?;
    if settings.ranking == Ranking::Hybrid {
        let by_words = Bm25::new(pool.texts()).top_k(&queries, depth, progress);
        let rows_of = |hits: &[Hit]| hits.iter().map(|hit| hit.row).collect::<Vec<_>>();
        hits = (hits.par_iter().zip(&by_words).enumerate())
            .map(|(i, (dense, words))| {
                let fused = fuse(&[rows_of(dense), rows_of(words)], depth);
                let scored = fused.into_iter().map(|row| Ok(Hit { row, score: space.score(i, row)? }));
                scored.collect::<Result<_>>()
            })
            .collect::<Result<_>>()?;
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
    let score = move |i: usize, row: u32| Ok(index.score(&rows[i].example.query, &pool.texts()[row as usize]));
    Ranked { hits, positives, score: Box::new(score) }
}
