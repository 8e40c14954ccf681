//! The ranking of candidates that the rules work on, with the scores of positives: from a model, from vectors that were made
//! elsewhere, by words, or both.

use std::ops::Range;
use std::sync::Arc;

use embertune_kernels::Ops;
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3Default;

use super::bm25::Bm25;
use super::fusion::fuse;
use super::known::Numbered;
use super::settings::{MineSettings, Ranking};
use super::space::Space;
use crate::comm::{Alone, Communicator, all_or_none, expect_same};
use crate::data::{Example, RowsOf, StoredPool, TextId};
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

/// Vectors that were made elsewhere, read a part at a time.
pub struct MadeVectors {
    /// One per row, `[n_rows, dim]`.
    pub queries: VectorFile,
    /// One per candidate as the pool was read, equal texts included, `[n_candidates, dim]`.
    pub passages: VectorFile,
}

/// Hits of the rows that are searched at once: what is in memory of all lists.
const BLOCK_HITS: usize = 1 << 24;

/// Some rows that follow each other, and their queries.
pub struct Block {
    /// The rows.
    pub rows: Range<usize>,
    /// The query of each.
    pub queries: Vec<String>,
}

/// Finds the candidates of each row of a block, best first. All ranks come to the same, or to the error of one of them.
pub type Find<'a> = Box<dyn Fn(Result<Block>) -> Result<(Block, Vec<Vec<Hit>>)> + 'a>;

/// The score of a candidate (pool row) for a row with its query; an error where the vector or the text can't be read.
pub type Score<'a> = Box<dyn Fn(usize, &str, u32) -> Result<f32> + Sync + 'a>;

/// What the search says about each row.
pub struct Ranked<'a> {
    /// Rows that are searched at once.
    pub block: usize,
    /// Candidates.
    pub find: Find<'a>,
    /// Scores of the positives of all rows, in their order; empty where they are not needed.
    pub positives: Vec<f32>,
    /// Score of any candidate.
    pub score: Score<'a>,
}

/// Ranks the `depth` best candidates of each row.
///
/// # Errors
/// Where there are no vectors but some are needed, they do not fit the rows or the pool, or embedding fails, on any rank; ranks that have
/// other rows or another pool than rank 0.
pub fn rank<'a, O: Ops>(
    shared: Shared<'a, O>,
    rows: &dyn RowsOf<Example>,
    numbered: &Numbered<'a>,
    depth: usize,
    settings: &MineSettings,
    progress: &'a dyn Progress,
) -> Result<Ranked<'a>> {
    let Shared { source, ranks, first_pass } = shared;
    let pool = numbered.pool();
    all_or_none(ranks, hash_of_all(rows, pool, ranks))
        .and_then(|hash| expect_same(ranks, "list of rows or candidates", &hash))?;
    let depth = depth.min(pool.len());
    let block = (BLOCK_HITS / depth.max(1)).max(1);
    // The share of this rank.
    let own = move |block: &Block| ranks.share(block.rows.len(), ranks.rank());
    let gathered = move |block: Result<Block>, hits: &dyn Fn(&Block) -> Result<Vec<Vec<Hit>>>| {
        let found = block.and_then(|block| hits(&block).map(|hits| (block, hits)));
        let (block, hits) = all_or_none(ranks, found)?;
        let hits = gather_hits(hits, block.rows.len(), depth, ranks)?;
        Ok((block, hits))
    };
    let positives = |scores: &dyn Fn() -> Result<Vec<f32>>| match settings.need_positive_scores() {
        true => all_or_none(ranks, scores()),
        false => Ok(Vec::new()),
    };
    let by_words = || -> Result<Bm25<'a>> {
        let read = move |part: Range<usize>| pool.read(part.start as u32..part.end as u32);
        let queries = rows.rows().map(|row| Ok(row?.into_owned().query));
        all_or_none(ranks, Bm25::new(pool.len(), Box::new(read), queries, progress))
    };
    if settings.ranking == Ranking::Bm25 {
        let index = Arc::new(by_words()?);
        let positives = positives(&|| scores_by_words(&index, rows))?;
        let in_search = index.clone();
        let find: Find<'a> = Box::new(move |block| {
            gathered(block, &|block| in_search.top_k(&block.queries[own(block)], depth, progress))
        });
        let score = move |_: usize, query: &str, row: u32| Ok(index.score(query, &pool.text(row)?));
        return Ok(Ranked { block, find, positives, score: Box::new(score) });
    }
    let space = all_or_none(ranks, Space::new(source.among(ranks), rows, numbered, settings, progress))?;
    let positives = positives(&|| space.of_positives(numbered))?;
    let words = if settings.ranking == Ranking::Hybrid { Some(by_words()?) } else { None };
    let space = Arc::new(space);
    let in_search = space.clone();
    let find: Find<'a> = Box::new(move |block| {
        gathered(block, &|block| {
            let own = own(block);
            let rows = block.rows.start + own.start..block.rows.start + own.end;
            let queries = in_search.queries(rows)?;
            let hits = in_search.top_k(first_pass, &queries, depth, progress)?;
            match &words {
                Some(words) => {
                    fused(&in_search, &queries, &hits, &words.top_k(&block.queries[own], depth, progress)?, depth)
                }
                None => Ok(hits),
            }
        })
    });
    Ok(Ranked { block, find, positives, score: Box::new(move |i, _, row| space.score(i, row)) })
}

/// What ranks have to have in common: a hash of all queries, positives and candidates. Empty where this process is alone.
fn hash_of_all(rows: &dyn RowsOf<Example>, pool: &StoredPool, ranks: &dyn Communicator) -> Result<String> {
    if ranks.size() == 1 {
        return Ok(String::new());
    }
    let mut hash = Xxh3Default::new();
    let mut add = |text: &str| hash.update(&TextId::of(text).0.to_le_bytes());
    for row in rows.rows() {
        let row = row?;
        add(&row.query);
        row.positives.iter().for_each(|text| add(text));
    }
    for row in 0..pool.len() as u32 {
        add(&pool.text(row)?);
    }
    Ok(format!("{:x}", hash.digest128()))
}

/// The lists `by_vectors` and `by_words` of the rows with these `queries`, each two as one.
fn fused(
    space: &Space<'_>,
    queries: &Vectors,
    by_vectors: &[Vec<Hit>],
    by_words: &[Vec<Hit>],
    depth: usize,
) -> Result<Vec<Vec<Hit>>> {
    let rows_of = |hits: &[Hit]| hits.iter().map(|hit| hit.row).collect::<Vec<_>>();
    (by_vectors.par_iter().zip(by_words).enumerate())
        .map(|(i, (dense, words))| {
            let fused = fuse(&[rows_of(dense), rows_of(words)], depth);
            let scored = fused.into_iter().map(|row| Ok(Hit { row, score: space.dot(queries.row(i), row)? }));
            scored.collect::<Result<_>>()
        })
        .collect()
}

fn scores_by_words(index: &Bm25<'_>, rows: &dyn RowsOf<Example>) -> Result<Vec<f32>> {
    let mut scores = Vec::new();
    for row in rows.rows() {
        let row = row?;
        scores.extend(row.positives.iter().map(|text| index.score(&row.query, text)));
    }
    Ok(scores)
}
