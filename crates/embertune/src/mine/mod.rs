//! Hard negatives: candidates that the model ranks high for a query although they do not answer it.
//!
//! In: rows, maybe a pool of candidates, a model. Out: the rows with new negatives. Which candidates are taken is decided in
//! [`select`].

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use embertune_kernels::Ops;
use serde_json::Value;

use crate::data::atomic::write_file;
use crate::data::{Pool, Row, TextId};
use crate::embed::embed;
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::search::top_k;
use crate::text::Role;

pub mod range;
pub mod select;

pub use range::parse_range;
use select::{candidates, seed_of_row, select};

/// What to mine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MineSettings {
    /// Ranks to sample from, 0-based, the end excluded. Default 10..210, as the original's.
    pub range: Range<usize>,
    /// Negatives per row. Default 15, as the original's.
    pub n_negatives: usize,
    /// Seed of the sampling. Default 42; the original has none.
    pub seed: u64,
    /// Texts that go through the model at once. Default 256.
    pub batch_size: usize,
}

impl Default for MineSettings {
    fn default() -> Self {
        MineSettings { range: 10..210, n_negatives: 15, seed: 42, batch_size: 256 }
    }
}

/// What came out of mining.
#[derive(Clone, Debug)]
pub struct Mined {
    /// The rows in their order, with their new negatives.
    pub rows: Vec<Row>,
    /// Number of distinct candidates.
    pub n_candidates: usize,
    /// Rows whose range held too few candidates, so that some of their negatives are random ones from the pool.
    pub n_rows_filled: usize,
    /// Negatives that are random ones from the pool.
    pub n_random_negatives: usize,
    /// Rows with fewer negatives than asked for, because the pool has no more.
    pub n_rows_short: usize,
}

/// Gives each row new negatives from `pool`, or where that is `None` from the positives and negatives of all rows. Old negatives are
/// replaced. Equal candidates count once.
///
/// A negative is never a positive of any row with the same query, nor the query itself, by [`TextId`]. Same input and seed,
/// same negatives.
///
/// # Errors
/// Where no negatives are asked for, or [`embed`] fails.
pub fn mine<O: Ops>(
    model: &EmbeddingModel<O>,
    rows: Vec<Row>,
    pool: Option<Vec<String>>,
    settings: &MineSettings,
    progress: &dyn Progress,
) -> Result<Mined> {
    if settings.n_negatives == 0 {
        return Err(Error::Setting {
            problem: "`--negative_number 0`: at least 1 is needed".into(),
            hint: Some("leave the flag out for 15 negatives per query".into()),
        });
    }
    let pool = match pool {
        Some(texts) => Pool::new(texts),
        None => {
            Pool::new(rows.iter().flat_map(|row| row.example.positives.iter().chain(&row.example.negatives)).cloned())
        }
    };
    if pool.n_duplicates() > 0 {
        progress.note(&format!("{} candidates are equal to another one and count once", pool.n_duplicates()));
    }
    let queries: Vec<_> = rows.iter().map(|row| row.example.query.as_str()).collect();
    let passages: Vec<_> = pool.texts().iter().map(String::as_str).collect();
    let queries = embed(model, &queries, Role::Query, None, settings.batch_size, progress)?;
    let passages = embed(model, &passages, Role::Passage, None, settings.batch_size, progress)?;
    let rankings: Vec<Vec<u32>> = top_k(&queries, &passages, settings.range.end, progress)
        .into_iter()
        .map(|hits| hits.into_iter().map(|hit| hit.row).collect())
        .collect();
    Ok(choose(rows, &pool, &rankings, settings, progress))
}

/// The part of [`mine`] after the search: `rankings[i]` holds the pool rows that are nearest to the query of row `i`, best first.
pub fn choose(
    mut rows: Vec<Row>,
    pool: &Pool,
    rankings: &[Vec<u32>],
    settings: &MineSettings,
    progress: &dyn Progress,
) -> Mined {
    let mut forbidden: HashMap<TextId, HashSet<TextId>> = HashMap::new();
    for Row { example, .. } in &rows {
        let query = TextId::of(&example.query);
        let texts = forbidden.entry(query).or_insert_with(|| HashSet::from([query]));
        texts.extend(example.positives.iter().map(|text| TextId::of(text)));
    }
    let n = settings.n_negatives;
    let mut mined =
        Mined { rows: Vec::new(), n_candidates: pool.len(), n_rows_filled: 0, n_random_negatives: 0, n_rows_short: 0 };
    let mut occurrences: HashMap<TextId, u64> = HashMap::new();
    for (row, ranking) in rows.iter_mut().zip(rankings) {
        let query = TextId::of(&row.example.query);
        let occurrence = occurrences.entry(query).or_default();
        let seed = seed_of_row(settings.seed, query, *occurrence);
        *occurrence += 1;
        let forbidden = &forbidden[&query];
        let selection = select(&candidates(ranking, &settings.range, pool, forbidden), n, pool, forbidden, seed);
        row.example.negatives = selection.rows.iter().map(|&row| pool.texts()[row as usize].clone()).collect();
        mined.n_rows_filled += usize::from(selection.n_filled > 0);
        mined.n_random_negatives += selection.n_filled;
        mined.n_rows_short += usize::from(selection.rows.len() < n);
    }
    mined.rows = rows;
    say_what_is_missing(&mined, settings, progress);
    mined
}

fn say_what_is_missing(mined: &Mined, settings: &MineSettings, progress: &dyn Progress) {
    let Mined { rows, n_candidates, n_rows_filled, n_random_negatives, n_rows_short } = mined;
    let Range { start, end } = settings.range;
    if *n_rows_filled > 0 {
        progress.warn(&format!(
            "{n_rows_filled} of {} rows have too few candidates in range {start}-{end}: {n_random_negatives} of their negatives \
             are random ones from the pool, not hard ones",
            rows.len()
        ));
    }
    if *n_rows_short > 0 {
        progress.warn(&format!(
            "{n_rows_short} of {} rows have fewer than {} negatives: the pool has only {n_candidates} distinct texts, \
             positives among them",
            rows.len(),
            settings.n_negatives
        ));
    }
}

/// Writes rows as JSON lines `{"query", "pos", "neg", ...}`, with the other fields of each row as they were, whole or not at all.
/// `neg_scores` and `neg_id` are left out, which is said: they belong to the old negatives.
///
/// # Errors
/// Where the file can't be written.
pub fn write_rows(path: &Path, rows: &[Row], progress: &dyn Progress) -> Result<()> {
    const OF_OLD_NEGATIVES: [&str; 2] = ["neg_scores", "neg_id"];
    for field in OF_OLD_NEGATIVES {
        let n = rows.iter().filter(|row| row.fields.contains_key(field)).count();
        if n > 0 {
            progress.warn(&format!(
                "field `{field}` is left out of {n} rows: it belongs to the negatives that were replaced"
            ));
        }
    }
    write_file(path, |out| {
        for Row { example, fields } in rows {
            let mut fields = fields.clone();
            fields.retain(|field, _| !OF_OLD_NEGATIVES.contains(&field.as_str()));
            fields.insert("query".into(), Value::from(example.query.as_str()));
            fields.insert("pos".into(), Value::from(example.positives.as_slice()));
            fields.insert("neg".into(), Value::from(example.negatives.as_slice()));
            serde_json::to_writer(&mut *out, &fields)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}
