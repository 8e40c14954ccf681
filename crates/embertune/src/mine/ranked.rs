//! The ranking of candidates that the rules work on, with the scores of positives: from a model, from vectors that were made
//! elsewhere, by words, or both.

use std::ops::Range;
use std::path::PathBuf;

use embertune_kernels::Ops;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use super::bm25::Bm25;
use super::fusion::fuse;
use super::settings::{MineSettings, Ranking};
use super::space::Space;
use crate::comm::{Alone, Communicator, all_or_none, expect_same};
use crate::data::{Pool, Row, TextId};
use crate::embed::Vectors;
use crate::embed::cache::VectorCache;
use crate::embed::stored::VectorFile;
use crate::error::Result;
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::search::exact::FirstPass;
use crate::search::{Hit, gather_hits};

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

impl<'a, O: Ops> VectorSource<'a, O> {
    /// The same for several ranks, which make the vectors and search them together.
    pub fn among(self, ranks: &'a dyn Communicator) -> Shared<'a, O> {
        Shared { source: self, ranks, first_pass: FirstPass::fastest() }
    }
}

/// Where vectors come from, and who makes and searches them; from a source alone, this process does, on the CPU.
pub struct Shared<'a, O: Ops> {
    /// On each rank the same.
    pub source: VectorSource<'a, O>,
    /// All of them get all that one process would.
    pub ranks: &'a dyn Communicator,
    /// How they are searched. The candidates are the same.
    pub first_pass: FirstPass<'a>,
}

impl<'a, O: Ops> From<VectorSource<'a, O>> for Shared<'a, O> {
    fn from(source: VectorSource<'a, O>) -> Self {
        source.among(&Alone)
    }
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
/// Where there are no vectors but some are needed, they do not fit the rows or the pool, or embedding fails, on any rank; ranks that have
/// other rows or another pool than rank 0.
pub fn rank<'a, O: Ops>(
    shared: Shared<'_, O>,
    rows: &'a [Row],
    pool: &'a Pool,
    depth: usize,
    settings: &MineSettings,
    progress: &dyn Progress,
) -> Result<Ranked<'a>> {
    let Shared { source, ranks, first_pass } = shared;
    check_alike(rows, pool, ranks)?;
    let own = ranks.share(rows.len(), ranks.rank());
    let queries: Vec<_> = rows[own.clone()].iter().map(|row| row.example.query.as_str()).collect();
    let by_words = || {
        let index = Bm25::new(pool.texts());
        let hits = index.top_k(&queries, depth, progress);
        (index, hits)
    };
    if settings.ranking == Ranking::Bm25 {
        let (index, hits) = by_words();
        let hits = gather_hits(hits, rows.len(), depth, ranks)?;
        return Ok(ranked_by_words(index, hits, rows, pool, settings));
    }
    let space = all_or_none(ranks, Space::new(source.among(ranks), rows, pool, settings, progress))?;
    let mut hits = space.top_k(first_pass, own.clone(), depth, progress);
    if settings.ranking == Ranking::Hybrid {
        hits = hits.and_then(|hits| fused(&space, own, &hits, &by_words().1, depth));
    }
    let hits = gather_hits(all_or_none(ranks, hits)?, rows.len(), depth, ranks)?;
    let positives = if settings.need_positive_scores() { space.of_positives(rows, pool)? } else { Vec::new() };
    Ok(Ranked { hits, positives, score: Box::new(move |i, row| space.score(i, row)) })
}

/// Checks that all ranks have the same queries and candidates.
fn check_alike(rows: &[Row], pool: &Pool, ranks: &dyn Communicator) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let of_rows = rows.iter().flat_map(|row| std::iter::once(&row.example.query).chain(&row.example.positives));
    let mut ids = Vec::new();
    for text in of_rows.chain(pool.texts()) {
        ids.extend(TextId::of(text).0.to_le_bytes());
    }
    expect_same(ranks, "list of rows or candidates", &format!("{:x}", xxh3_128(&ids)))
}

/// The lists `by_vectors` and `by_words` of the rows `own`, each two as one.
fn fused(
    space: &Space<'_>,
    own: Range<usize>,
    by_vectors: &[Vec<Hit>],
    by_words: &[Vec<Hit>],
    depth: usize,
) -> Result<Vec<Vec<Hit>>> {
    let rows_of = |hits: &[Hit]| hits.iter().map(|hit| hit.row).collect::<Vec<_>>();
    (by_vectors.par_iter().zip(by_words).zip(own))
        .map(|((dense, words), i)| {
            let fused = fuse(&[rows_of(dense), rows_of(words)], depth);
            let scored = fused.into_iter().map(|row| Ok(Hit { row, score: space.score(i, row)? }));
            scored.collect::<Result<_>>()
        })
        .collect()
}

fn ranked_by_words<'a>(
    index: Bm25,
    hits: Vec<Vec<Hit>>,
    rows: &'a [Row],
    pool: &'a Pool,
    settings: &MineSettings,
) -> Ranked<'a> {
    let of_row = |row: &Row| row.example.positives.iter().map(|text| index.score(&row.example.query, text)).collect();
    let positives = if settings.need_positive_scores() { rows.par_iter().map(of_row).collect() } else { Vec::new() };
    let score = move |i: usize, row: u32| Ok(index.score(&rows[i].example.query, &pool.texts()[row as usize]));
    Ranked { hits, positives, score: Box::new(score) }
}
