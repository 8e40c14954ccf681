//! Scores of a cross-encoder for the passages of rows: what losses of distillation learn from, and a second opinion on negatives.
//!
//! In: rows and a [`CrossEncoder`]. Out: the rows with `pos_scores` and `neg_scores`, without the negatives that it takes for right
//! answers, where limits are given.

use embertune_kernels::Ops;
use embertune_kernels::ops::Chunks;
use serde_json::Value;

use super::RowScores;
use super::select::Verdict;
use super::settings::{Limits, check_limits};
use crate::data::Row;
use crate::embed::each_chunk;
use crate::error::{Error, Result};
use crate::model::CrossEncoder;
use crate::progress::Progress;
use crate::text::PairTokens;

/// So many pairs are tokenized and sorted by length together: the tokens of a file of any size fit.
const SLICE: usize = 16_384;

/// What to score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TeacherSettings {
    /// Which negatives stay, by their scores: the rules of mining, with the cross-encoder's scores. Default: all.
    pub limits: Limits,
    /// How many of them stay at most, the first ones. Default: all.
    pub n_negatives: Option<usize>,
    /// Pairs that go through the model at once. Default 64.
    pub batch_size: usize,
}

impl Default for TeacherSettings {
    fn default() -> Self {
        TeacherSettings { limits: Limits::default(), n_negatives: None, batch_size: 64 }
    }
}

impl TeacherSettings {
    /// Checks what can be checked without rows.
    ///
    /// # Errors
    /// Limits that exclude each other; a number of negatives or a batch of 0.
    pub fn check(&self) -> Result<()> {
        for (flag, value) in [("negative_number", self.n_negatives), ("batch_size", Some(self.batch_size))] {
            if value == Some(0) {
                return Err(Error::Setting { problem: format!("`--{flag} 0`: at least 1 is needed"), hint: None });
            }
        }
        check_limits(&self.limits)
    }
}

/// Rows with their scores.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The rows in their order.
    pub rows: Vec<Row>,
    /// Scores of each row's texts.
    pub scores: Vec<RowScores>,
    /// Negatives that broke a limit.
    pub n_dropped: usize,
    /// Negatives that score above the lowest positive of their row, of all that there were.
    pub n_above: usize,
    /// All negatives that there were.
    pub n_negatives: usize,
}

/// Scores all passages of `rows` for their queries, and drops negatives as the settings say.
///
/// # Errors
/// Those of [`TeacherSettings::check`]; a text that cannot be tokenized; a score that is no finite number.
pub fn score_rows<O: Ops>(
    teacher: &CrossEncoder<O>,
    mut rows: Vec<Row>,
    settings: &TeacherSettings,
    progress: &dyn Progress,
) -> Result<Scored> {
    settings.check()?;
    let passages = |row: &'_ Row| row.example.positives.len() + row.example.negatives.len();
    let pairs: Vec<_> = (rows.iter())
        .flat_map(|Row { example, .. }| {
            let passages = example.positives.iter().chain(&example.negatives);
            passages.map(|passage| (example.query.as_str(), passage.as_str()))
        })
        .collect();
    let all = score_pairs(teacher, &pairs, settings.batch_size, progress)?;
    let mut rest = all.as_slice();
    let mut scored = Scored { rows: Vec::new(), scores: Vec::new(), n_dropped: 0, n_above: 0, n_negatives: 0 };
    for row in &mut rows {
        let (of_row, after) = rest.split_at(passages(row));
        rest = after;
        let (positives, negatives) = of_row.split_at(row.example.positives.len());
        let lowest = positives.iter().copied().min_by(f32::total_cmp);
        let is_good = |score: &f32| settings.limits.verdict(*score, lowest) == Verdict::Good;
        let kept: Vec<_> = (0..negatives.len()).filter(|&i| is_good(&negatives[i])).collect();
        scored.n_negatives += negatives.len();
        scored.n_above += negatives.iter().filter(|score| lowest.is_some_and(|lowest| **score > lowest)).count();
        scored.n_dropped += negatives.len() - kept.len();
        let kept = &kept[..kept.len().min(settings.n_negatives.unwrap_or(usize::MAX))];
        scored
            .scores
            .push(RowScores { positives: positives.to_vec(), negatives: kept.iter().map(|&i| negatives[i]).collect() });
        keep_negatives(row, kept);
    }
    scored.rows = rows;
    Ok(scored)
}

/// Leaves the negatives at these places, and what other fields say about them (`neg_id` and the like).
fn keep_negatives(row: &mut Row, places: &[usize]) {
    let n_before = row.example.negatives.len();
    if places.len() == n_before {
        return;
    }
    for (_, field) in row.fields.iter_mut().filter(|(name, _)| name.starts_with("neg_")) {
        if let Value::Array(list) = field
            && list.len() == n_before
        {
            *list = places.iter().map(|&place| list[place].take()).collect();
        }
    }
    row.example.negatives = places.iter().map(|&place| std::mem::take(&mut row.example.negatives[place])).collect();
}

/// The scores of pairs of a query and a passage, in their order. Only the last bits depend on `batch_size`. Reports progress in
/// pairs, and notes how many of them are too long.
///
/// # Errors
/// A text that cannot be tokenized; a score that is no finite number.
pub fn score_pairs<O: Ops>(
    teacher: &CrossEncoder<O>,
    pairs: &[(&str, &str)],
    batch_size: usize,
    progress: &dyn Progress,
) -> Result<Vec<f32>> {
    progress.start("scoring pairs", pairs.len() as u64);
    let mut scores = vec![0.0; pairs.len()];
    let mut n_truncated = 0;
    for (slice, scores) in pairs.chunks(SLICE).zip(scores.chunks_mut(SLICE)) {
        let tokens = teacher.tokenize(slice)?;
        n_truncated += tokens.iter().filter(|tokens| tokens.truncated).count();
        let Chunks { tokens: most_tokens, at_once } = teacher.ops().chunks();
        let compute = |chunk: &Vec<usize>| Ok(teacher.score(chunk.iter().map(|&place| &tokens[place])));
        each_chunk(&chunks(&tokens, batch_size, most_tokens), at_once, compute, |chunk, made| {
            for (&place, score) in chunk.iter().zip(made) {
                if !score.is_finite() {
                    return Err(Error::Setting {
                        problem: format!("the cross-encoder gives `{}` the score {score}", slice[place].0),
                        hint: Some("its weights are damaged: download it again".into()),
                    });
                }
                scores[place] = score;
            }
            progress.advance(chunk.len() as u64);
            Ok(())
        })?;
    }
    progress.finish();
    if n_truncated > 0 {
        let percent = 100.0 * n_truncated as f64 / pairs.len() as f64;
        progress.note(&format!(
            "{n_truncated} of {} pairs ({percent:.1} %) are longer than {} tokens and are cut there",
            pairs.len(),
            teacher.max_len()
        ));
    }
    Ok(scores)
}

/// The places of all pairs, the longest first, in chunks of at most `batch_size` pairs and `most_tokens` tokens, but at least one.
fn chunks(tokens: &[PairTokens], batch_size: usize, most_tokens: usize) -> Vec<Vec<usize>> {
    let mut places: Vec<_> = (0..tokens.len()).collect();
    places.sort_by_key(|&place| std::cmp::Reverse(tokens[place].ids.len()));
    let mut chunks = Vec::new();
    while let Some(&first) = places.first() {
        let n = (most_tokens / tokens[first].ids.len()).min(batch_size).clamp(1, places.len());
        let rest = places.split_off(n);
        chunks.push(std::mem::replace(&mut places, rest));
    }
    chunks
}
