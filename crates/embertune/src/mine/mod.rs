//! Hard negatives: candidates that the model ranks high for a query although they do not answer it.
//!
//! In: rows, maybe a pool of candidates, and what ranks them: a model, vectors, or words ([`ranked`]). Out: the rows with new
//! negatives. Which candidates are taken is decided in [`select`]; the rules with a name are in [`settings`].

use std::collections::HashSet;

use embertune_kernels::Ops;
use rayon::prelude::*;

use crate::data::{Pool, Row, TextId};
use crate::error::Result;
use crate::progress::Progress;
use crate::search::Hit;

pub mod bm25;
pub mod fusion;
mod known;
pub mod output;
pub mod overlap;
pub mod range;
pub mod ranked;
pub mod review;
pub mod select;
pub mod settings;
mod space;
pub mod teacher;
pub mod words;

use known::Query;
use overlap::Bags;
pub use range::parse_range;
pub use ranked::{MadeVectors, Ranked, Shared, VectorSource};
pub use review::{Review, Suspect};
use select::{Judge, Reason, fill_up, seed_of_row, sift};
pub use settings::{Limits, MineSettings, Preset, Ranking, Rule, Window};
pub use teacher::{Scored, TeacherSettings, score_rows};

/// What came out of mining.
#[derive(Clone, Debug)]
pub struct Mined {
    /// The rows in their order, with their new negatives.
    pub rows: Vec<Row>,
    /// Scores of each row's texts; empty unless [`MineSettings::scores`].
    pub scores: Vec<RowScores>,
    /// Rows that have more positives than before, from the review.
    pub rows_with_new_positives: HashSet<usize>,
    /// Candidates that were left out as maybe right answers, for each reason the number. Of each query, once.
    pub n_suspects: [(Reason, usize); 4],
    /// The best of them: at most as many per query as negatives were asked for.
    pub suspects: Vec<Suspect>,
    /// Number of distinct candidates.
    pub n_candidates: usize,
    /// Rows for which too few candidates were left, so that some of their negatives are random ones from the pool.
    pub n_rows_filled: usize,
    /// Negatives that are random ones from the pool.
    pub n_random_negatives: usize,
    /// Rows with fewer negatives than asked for.
    pub n_rows_short: usize,
}

/// The scores of a row's texts.
#[derive(Clone, Debug, PartialEq)]
pub struct RowScores {
    /// Of each positive.
    pub positives: Vec<f32>,
    /// Of each negative.
    pub negatives: Vec<f32>,
}

/// Gives each row new negatives from `pool`, or where that is `None` from the positives and negatives of all rows. Old negatives are
/// replaced. Equal candidates count once.
///
/// Several ranks that [share](VectorSource::among) the work call it with the same rows, pool and settings, and all get what one process
/// would.
///
/// A negative is never a positive of any row with the same query, nor the query itself, by [`TextId`]. Same input and seed,
/// same negatives.
///
/// # Errors
/// Where the settings can't give negatives, the vectors don't fit the texts, or the model fails.
pub fn mine<'a, O: Ops + 'a>(
    source: impl Into<Shared<'a, O>>,
    mut rows: Vec<Row>,
    pool: Option<Vec<String>>,
    review: &Review,
    settings: &MineSettings,
    progress: &dyn Progress,
) -> Result<Mined> {
    settings.check()?;
    let rows_with_new_positives = review.add_positives(&mut rows);
    let pool = match pool {
        Some(texts) => Pool::new(texts),
        None => {
            Pool::new(rows.iter().flat_map(|row| row.example.positives.iter().chain(&row.example.negatives)).cloned())
        }
    };
    if pool.n_duplicates() > 0 {
        progress.note(&format!("{} candidates are equal to another one and count once", pool.n_duplicates()));
    }
    let chosen = search_and_choose(source, &rows, &pool, review, settings, progress)?;
    let mined = Mined { rows_with_new_positives, ..chosen.into_mined(rows, &pool, settings) };
    say_what_is_missing(&mined, settings, progress);
    Ok(mined)
}

/// The part of [`mine`] that looks for negatives, for rows and a pool that stay as they are.
///
/// # Errors
/// Those of [`mine`].
pub fn search_and_choose<'a, O: Ops + 'a>(
    source: impl Into<Shared<'a, O>>,
    rows: &[Row],
    pool: &Pool,
    review: &Review,
    settings: &MineSettings,
    progress: &dyn Progress,
) -> Result<Chosen> {
    let (queries, _) = known::queries(rows);
    let depth = settings.rule.depth(settings.n_negatives, max_positives(&queries));
    let ranked = ranked::rank(source.into(), rows, pool, depth, settings, progress)?;
    choose(rows, pool, &ranked, review, settings)
}

fn max_positives(queries: &[Query<'_>]) -> usize {
    queries.iter().map(|query| query.n_pairs).max().unwrap_or(0)
}

/// What [`choose`] decided.
pub struct Chosen {
    of_rows: Vec<OfRow>,
    positives: Vec<Vec<f32>>,
    n_suspects: [(Reason, usize); 4],
    suspects: Vec<Suspect>,
}

struct OfRow {
    negatives: Vec<Hit>,
    n_filled: usize,
}

/// The part of [`mine`] after the search.
///
/// # Errors
/// Where the vector of a candidate can't be read.
pub fn choose(
    rows: &[Row],
    pool: &Pool,
    ranked: &Ranked<'_>,
    review: &Review,
    settings: &MineSettings,
) -> Result<Chosen> {
    let (queries, query_of_row) = known::queries(rows);
    let max_positives = max_positives(&queries);
    let bags = Bags::new(pool);
    let none = HashSet::new();
    let lowest = |query: &Query<'_>| {
        let scores = query.rows.iter().filter_map(|&row| ranked.positives.get(row)).flatten().copied();
        scores.min_by(f32::total_cmp)
    };
    let mut n_before = vec![0; queries.len()];
    let occurrence: Vec<u64> = (query_of_row.iter())
        .map(|&query| {
            n_before[query] += 1;
            n_before[query] - 1
        })
        .collect();
    let of_row = |i: usize| {
        let query = &queries[query_of_row[i]];
        let id = TextId::of(&rows[i].example.query);
        let lookalikes = settings.rule.exclude_near_duplicates.then(|| bags.like(query.positives.iter().copied()));
        let judge = Judge {
            pool,
            forbidden: &query.forbidden,
            cleared: review.negatives(id).unwrap_or(&none),
            lookalikes,
            limits: settings.rule.limits,
            lowest_positive: lowest(query),
        };
        let n = settings.n_negatives;
        let survivors = settings.rule.survivors(n, max_positives);
        let sifted = sift(&ranked.hits[i], &settings.rule, survivors, &judge);
        let seed = seed_of_row(settings.seed, id, occurrence[i]);
        let picks = settings.rule.strategy.pick(sifted.survivors.len(), n, seed);
        let mut negatives: Vec<_> = picks.into_iter().map(|pick| sifted.survivors[pick]).collect();
        let n_picked = negatives.len();
        if n_picked < n && settings.rule.fill_up {
            negatives.extend(fill_up(n - n_picked, &negatives, &judge, |row| (ranked.score)(i, row), seed)?);
        }
        let suspects = if occurrence[i] == 0 { sifted.suspects } else { Vec::new() };
        let n_filled = negatives.len() - n_picked;
        Ok((OfRow { negatives, n_filled }, suspects, judge.lowest_positive))
    };
    let chosen: Vec<_> = (0..rows.len()).into_par_iter().map(of_row).collect::<Result<_>>()?;
    let mut n_suspects = Reason::ALL.map(|reason| (reason, 0));
    let mut suspects = Vec::new();
    let mut of_rows = Vec::new();
    for (i, (of_row, suspects_of_row, positive_score)) in chosen.into_iter().enumerate() {
        for (nth, (hit, reason)) in suspects_of_row.into_iter().enumerate() {
            n_suspects.iter_mut().filter(|(known, _)| *known == reason).for_each(|(_, n)| *n += 1);
            if nth < settings.n_negatives {
                let (query, passage) = (rows[i].example.query.clone(), pool.texts()[hit.row as usize].clone());
                suspects.push(Suspect { query, passage, score: hit.score, positive_score, reason });
            }
        }
        of_rows.push(of_row);
    }
    let positives = if settings.scores { ranked.positives.clone() } else { Vec::new() };
    Ok(Chosen { of_rows, positives, n_suspects, suspects })
}

impl Chosen {
    /// The negatives of a row, as rows of the pool.
    pub fn negatives(&self, row: usize) -> &[Hit] {
        &self.of_rows[row].negatives
    }

    /// Puts the negatives into the rows.
    pub fn into_mined(self, mut rows: Vec<Row>, pool: &Pool, settings: &MineSettings) -> Mined {
        let Chosen { of_rows, positives, n_suspects, suspects } = self;
        for (row, chosen) in rows.iter_mut().zip(&of_rows) {
            row.example.negatives = chosen.negatives.iter().map(|hit| pool.texts()[hit.row as usize].clone()).collect();
        }
        let negatives = of_rows.iter().map(|row| row.negatives.iter().map(|hit| hit.score).collect());
        let scores = positives.into_iter().zip(negatives);
        Mined {
            rows,
            scores: scores.map(|(positives, negatives)| RowScores { positives, negatives }).collect(),
            rows_with_new_positives: HashSet::new(),
            n_suspects,
            suspects,
            n_candidates: pool.len(),
            n_rows_filled: of_rows.iter().filter(|row| row.n_filled > 0).count(),
            n_random_negatives: of_rows.iter().map(|row| row.n_filled).sum(),
            n_rows_short: of_rows.iter().filter(|row| row.negatives.len() < settings.n_negatives).count(),
        }
    }
}

/// Says what was left out, and for how many rows there was too little.
pub fn say_what_is_missing(mined: &Mined, settings: &MineSettings, progress: &dyn Progress) {
    let Mined { rows, n_candidates, n_rows_filled, n_random_negatives, n_rows_short, n_suspects, .. } = mined;
    let n_suspected: usize = n_suspects.iter().map(|(_, n)| n).sum();
    if n_suspected > 0 {
        let each = n_suspects.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| format!("{} {n}", reason.name()));
        let each = each.collect::<Vec<_>>().join(", ");
        progress.note(&format!("left out as maybe right answers: {n_suspected} candidates ({each})"));
    }
    if *n_rows_filled > 0 {
        let place = match &settings.rule.window {
            Window::Ranks(range) => format!("in range {}-{}", range.start, range.end),
            Window::Survivors { .. } => "left by the rules".into(),
        };
        progress.warn(&format!(
            "{n_rows_filled} of {} rows have too few candidates {place}: {n_random_negatives} of their negatives \
             are random ones from the pool, not hard ones",
            rows.len()
        ));
    }
    if *n_rows_short > 0 {
        let n = settings.n_negatives;
        let n_none = rows.iter().filter(|row| row.example.negatives.is_empty()).count();
        let why = match settings.rule.fill_up {
            true => format!("the pool has only {n_candidates} distinct texts, positives among them"),
            false => {
                let more = match settings.rule.window {
                    Window::Survivors { max: Some(max), .. } if max < *n_candidates => {
                        "; `--range_max` says how far down is looked"
                    }
                    _ => "",
                };
                format!("too few candidates are left by the rules ({n_none} rows have none){more}")
            }
        };
        progress.warn(&format!("{n_rows_short} of {} rows have fewer than {n} negatives: {why}", rows.len()));
    }
}
