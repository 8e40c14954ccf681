//! Hard negatives: candidates that the model ranks high for a query although they do not answer it.
//!
//! In: rows, maybe a pool of candidates, and what ranks them: a model, vectors, or words ([`ranked`]). Out: the rows with new
//! negatives. Which candidates are taken is decided in [`select`]; the rules with a name are in [`settings`].

use std::borrow::Cow;

use embertune_kernels::Ops;
use rayon::prelude::*;

use crate::comm::all_or_none;
use crate::data::row_list::{self, RowList};
use crate::data::{Example, Row, RowsOf, StoredPool, TextId};
use crate::error::Result;
use crate::progress::Progress;
use crate::search::Hit;

pub mod bm25;
pub mod fusion;
pub mod known;
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

use known::Numbered;
use overlap::Bags;
pub use range::parse_range;
pub use ranked::{Block, MadeVectors, Ranked, Shared, VectorSource};
pub use review::{Review, Suspect};
use select::{Judge, Reason, fill_up, seed_of_row, sift};
pub use settings::{Limits, MineSettings, Preset, Ranking, Rule, Window};
pub use teacher::{Scored, TeacherSettings, score_rows};

/// What came out of mining.
pub struct Mined<'a> {
    rows: &'a dyn RowsOf<Row>,
    review: Option<&'a Review>,
    pool: StoredPool,
    /// What was chosen, by numbers.
    pub chosen: Chosen,
}

/// A row with its new negatives.
#[derive(Clone, Debug)]
pub struct MinedRow {
    /// The row.
    pub row: Row,
    /// Scores of its texts, with [`MineSettings::scores`].
    pub scores: Option<RowScores>,
    /// Whether it has more positives than before, from the review.
    pub has_new_positives: bool,
}

/// The scores of a row's texts.
#[derive(Clone, Debug, PartialEq)]
pub struct RowScores {
    /// Of each positive.
    pub positives: Vec<f32>,
    /// Of each negative.
    pub negatives: Vec<f32>,
}

/// Rows with the positives that a review adds.
struct Reviewed<'a>(&'a dyn RowsOf<Row>, Option<&'a Review>);

impl RowsOf<Example> for Reviewed<'_> {
    fn n_rows(&self) -> usize {
        self.0.n_rows()
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<Cow<'_, Example>>> + '_> {
        Box::new(self.0.rows().map(|row| {
            let mut example = match row? {
                Cow::Borrowed(row) => Cow::Borrowed(&row.example),
                Cow::Owned(row) => Cow::Owned(row.example),
            };
            if let Some(review) = self.1 {
                review.add_positives(example.to_mut());
            }
            Ok(example)
        }))
    }
}

/// Gives each row new negatives from `pool`, or where that is `None` from the positives and negatives of all rows. Old negatives are
/// replaced. Equal candidates count once. Without a `review` nobody wants to see suspects.
///
/// Several ranks that [share](VectorSource::among) the work call it with the same rows, pool and settings, and all get what one process
/// would.
///
/// A negative is never a positive of any row with the same query, nor the query itself, by [`TextId`]. Same input and seed,
/// same negatives.
///
/// # Errors
/// Where the settings can't give negatives, the vectors don't fit the texts, the model fails, or a temporary file can't be read or written.
pub fn mine<'a, 's, O: Ops + 's>(
    source: impl Into<Shared<'s, O>>,
    rows: &'a dyn RowsOf<Row>,
    pool: Option<StoredPool>,
    review: Option<&'a Review>,
    settings: &MineSettings,
    progress: &dyn Progress,
) -> Result<Mined<'a>> {
    settings.check()?;
    let source = source.into();
    let reviewed = Reviewed(rows, review);
    let pool = all_or_none(source.ranks, pool.map_or_else(|| passages_of(&reviewed), Ok))?;
    if pool.n_duplicates() > 0 {
        progress.note(&format!("{} candidates are equal to another one and count once", pool.n_duplicates()));
    }
    let chosen = search_and_choose(source, &reviewed, &pool, review, settings, progress)?;
    say_what_is_missing(&chosen, pool.len(), settings, progress);
    Ok(Mined { rows, review, pool, chosen })
}

/// The positives and negatives of rows as candidates.
///
/// # Errors
/// Where a temporary file can't be read or written.
pub fn passages_of(rows: &dyn RowsOf<Example>) -> Result<StoredPool> {
    let mut pool = StoredPool::default();
    for row in rows.rows() {
        let row = row?;
        row.positives.iter().chain(&row.negatives).try_for_each(|text| pool.add(text).map(drop))?;
    }
    Ok(pool)
}

/// The part of [`mine`] that looks for negatives, for rows that have the positives of the review.
///
/// # Errors
/// Those of [`mine`].
pub fn search_and_choose<'s, O: Ops + 's>(
    source: impl Into<Shared<'s, O>>,
    rows: &dyn RowsOf<Example>,
    pool: &StoredPool,
    review: Option<&Review>,
    settings: &MineSettings,
    progress: &dyn Progress,
) -> Result<Chosen> {
    let source = source.into();
    let numbered = all_or_none(source.ranks, Numbered::of(rows, pool))?;
    let depth = settings.rule.depth(settings.n_negatives, numbered.max_positives());
    let ranked = ranked::rank(source, rows, &numbered, depth, settings, progress)?;
    choose(rows, numbered, ranked, review, settings)
}

/// What [`choose`] decided.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Of each row its positives, and as negatives rows of the pool; with scores where they are wanted.
    pub rows: RowList,
    /// Candidates that were left out as maybe right answers, for each reason the number. Of each query, once.
    pub n_suspects: [usize; Reason::ALL.len()],
    /// The best of them where there is a review: at most as many per query as negatives were asked for.
    pub suspects: Vec<Suspect>,
    /// Rows for which too few candidates were left, so that some of their negatives are random ones from the pool.
    pub n_rows_filled: usize,
    /// Negatives that are random ones from the pool.
    pub n_random_negatives: usize,
    /// Rows with fewer negatives than asked for.
    pub n_rows_short: usize,
}

/// What was chosen for a row.
struct OfRow {
    negatives: Vec<Hit>,
    n_filled: usize,
    n_suspects: [usize; Reason::ALL.len()],
    suspects: Vec<Suspect>,
}

/// The part of [`mine`] after the search, of some rows at a time.
///
/// # Errors
/// Where a text, or the vector of a candidate, can't be read.
pub fn choose(
    rows: &dyn RowsOf<Example>,
    numbered: Numbered<'_>,
    ranked: Ranked<'_>,
    review: Option<&Review>,
    settings: &MineSettings,
) -> Result<Chosen> {
    let Ranked { block, find, positives, score } = ranked;
    let numbered = if positives.is_empty() { numbered } else { numbered.with_scores(positives) };
    let near = settings.rule.exclude_near_duplicates;
    let mut bags = None;
    let mut so_far = if near { Bags::new(&numbered).map(|of_all| bags = Some(of_all)) } else { Ok(()) };
    let chooser = Chooser { numbered: &numbered, bags, score, review, settings };
    let mut chosen = Chosen::default();
    let mut examples = rows.rows();
    let n = rows.n_rows();
    for start in (0..n).step_by(block) {
        let rows = start..n.min(start + block);
        let queries = examples.by_ref().take(rows.len()).map(|row| Ok(row?.into_owned().query)).collect();
        let (block, hits) = find(so_far.and(queries).map(|queries| Block { rows, queries }))?;
        let of_row =
            |(nth, hits): (usize, &Vec<Hit>)| chooser.choose(block.rows.start + nth, &block.queries[nth], hits);
        let of_rows = hits.par_iter().enumerate().map(of_row).collect::<Result<Vec<_>>>();
        // Where this rank alone fails, the others hear of it at their next block.
        so_far = of_rows.map(|of_rows| {
            of_rows
                .into_iter()
                .zip(block.rows)
                .for_each(|(of_row, i)| chosen.add(numbered.rows().get(i), of_row, settings));
        });
    }
    so_far.map(|()| chosen)
}

/// What choosing needs of all rows.
struct Chooser<'a> {
    numbered: &'a Numbered<'a>,
    /// Where near-duplicates of positives are left out.
    bags: Option<Bags<'a>>,
    score: ranked::Score<'a>,
    review: Option<&'a Review>,
    settings: &'a MineSettings,
}

impl Chooser<'_> {
    /// Chooses among the `hits` of row `i`.
    fn choose(&self, i: usize, query: &str, hits: &[Hit]) -> Result<OfRow> {
        let Chooser { numbered, settings, .. } = *self;
        let rule = &settings.rule;
        let id = TextId::of(query);
        let of_query = numbered.number(id);
        // The query is no answer to itself.
        let mut positives = numbered.positives(i);
        positives.retain(|&number| Some(number) != of_query);
        let mut forbidden: Vec<_> = positives.iter().copied().chain(of_query).collect();
        forbidden.sort_unstable();
        let cleared = self.review.iter().flat_map(|review| review.negatives(id));
        let judge = Judge {
            forbidden: &forbidden,
            cleared: &cleared.filter_map(|id| numbered.number(id)).collect(),
            lookalikes: self.bags.as_ref().map(|bags| bags.like(positives)).transpose()?,
            limits: rule.limits,
            lowest_positive: numbered.lowest_positive(i),
        };
        let n = settings.n_negatives;
        let sifted = sift(hits, rule, rule.survivors(n, numbered.max_positives()), &judge)?;
        let n_before = numbered.n_before(i);
        let seed = seed_of_row(settings.seed, id, n_before as u64);
        let picks = rule.strategy.pick(sifted.survivors.len(), n, seed);
        let mut negatives: Vec<_> = picks.into_iter().map(|pick| sifted.survivors[pick]).collect();
        let n_picked = negatives.len();
        if n_picked < n && rule.fill_up {
            let score = |row| (self.score)(i, query, row);
            negatives.extend(fill_up(n - n_picked, numbered.pool().len(), &negatives, &judge, score, seed)?);
        }
        let n_filled = negatives.len() - n_picked;
        let mut of_row = OfRow { negatives, n_filled, n_suspects: Default::default(), suspects: Vec::new() };
        if n_before == 0 {
            of_row.n_suspects =
                Reason::ALL.map(|reason| sifted.suspects.iter().filter(|(_, of)| *of == reason).count());
            for (hit, reason) in sifted.suspects.into_iter().take(if self.review.is_some() { n } else { 0 }) {
                let (query, passage) = (query.to_string(), numbered.text(hit.row)?);
                let (score, positive_score) = (hit.score, judge.lowest_positive);
                of_row.suspects.push(Suspect { query, passage, score, positive_score, reason });
            }
        }
        Ok(of_row)
    }
}

impl Chosen {
    fn add(&mut self, row: row_list::Row<'_>, chosen: OfRow, settings: &MineSettings) {
        let OfRow { negatives, n_filled, n_suspects, suspects } = chosen;
        let (rows, scores): (Vec<_>, Vec<_>) = negatives.iter().map(|hit| (hit.row, hit.score)).unzip();
        let mut row = row_list::Row { negatives: &rows, negative_scores: &scores, ..row };
        if !settings.scores {
            (row.positive_scores, row.negative_scores) = (&[], &[]);
        }
        self.rows.push(row);
        self.n_suspects.iter_mut().zip(n_suspects).for_each(|(sum, n)| *sum += n);
        self.suspects.extend(suspects);
        self.n_rows_filled += usize::from(n_filled > 0);
        self.n_random_negatives += n_filled;
        self.n_rows_short += usize::from(negatives.len() < settings.n_negatives);
    }

    /// Number of all negatives.
    pub fn n_negatives(&self) -> usize {
        self.rows.iter().map(|row| row.negatives.len()).sum()
    }
}

impl Mined<'_> {
    /// The rows in their order.
    pub fn rows(&self) -> impl Iterator<Item = Result<MinedRow>> {
        self.rows.rows().enumerate().map(|(i, row)| {
            let mut row = row?.into_owned();
            let has_new_positives = self.review.is_some_and(|review| review.add_positives(&mut row.example));
            let chosen = self.chosen.rows.get(i);
            row.example.negatives = self.pool.read(chosen.negatives.iter().copied())?;
            let scores = (!chosen.positive_scores.is_empty()).then(|| RowScores {
                positives: chosen.positive_scores.to_vec(),
                negatives: chosen.negative_scores.to_vec(),
            });
            Ok(MinedRow { row, scores, has_new_positives })
        })
    }

    /// Number of distinct candidates.
    pub fn n_candidates(&self) -> usize {
        self.pool.len()
    }
}

/// Says what was left out, and for how many rows there was too little.
pub fn say_what_is_missing(chosen: &Chosen, n_candidates: usize, settings: &MineSettings, progress: &dyn Progress) {
    let Chosen { rows, n_rows_filled, n_random_negatives, n_rows_short, n_suspects, .. } = chosen;
    let n_suspected: usize = n_suspects.iter().sum();
    if n_suspected > 0 {
        let each = Reason::ALL.iter().zip(n_suspects).filter(|(_, n)| **n > 0);
        let each = each.map(|(reason, n)| format!("{} {n}", reason.name())).collect::<Vec<_>>().join(", ");
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
        let n_none = rows.iter().filter(|row| row.negatives.is_empty()).count();
        let why = match settings.rule.fill_up {
            true => format!("the pool has only {n_candidates} distinct texts, positives among them"),
            false => {
                let more = match settings.rule.window {
                    Window::Survivors { max: Some(max), .. } if max < n_candidates => {
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
