//! How long the texts are, and how many lose their ends at the planned lengths.

use embertune_kernels::Ops;
use rayon::prelude::*;
use serde::Serialize;

use super::finding::{Finding, Kind, Severity, Shown, Tally};
use super::texts::{BLOCK, Texts};
use crate::error::Result;
use crate::mine::words::words;
use crate::model::EmbeddingModel;
use crate::text::Role;

/// Last lengths of the buckets but for the open last one.
const BUCKETS: [usize; 8] = [8, 16, 32, 64, 128, 256, 512, usize::MAX];
/// From this share on, cut texts are a warning.
const MANY_CUT: f64 = 0.05;

/// What lengths are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// The model's tokens, its prompt and special tokens among them.
    Tokens,
    /// Words, where there is no model. A word is one token or more, so more texts are cut than have more words than the limit.
    Words,
}

/// The lengths of distinct texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// What they are counted in.
    pub unit: Unit,
    /// Number of distinct texts.
    pub n: usize,
    /// Half of the texts are at most so long.
    pub median: usize,
    /// Nine of ten texts are at most so long.
    pub p90: usize,
    /// The longest text; with a model the longest that it reads, if one is longer.
    pub longest: usize,
    /// Longer texts are cut in training, and in use by the model itself.
    pub limit: usize,
    /// Texts that are longer.
    pub n_cut: usize,
    /// From 1, 9, 17, 33, 65, 129, 257 and 513 on: the number of texts.
    pub histogram: [usize; 8],
}

/// A text of the data with its place.
pub struct Placed {
    /// Its number.
    pub text: u32,
    /// The row where it is first.
    pub row: u32,
}

/// The lengths of `texts` as a role, and the finding if some are cut. `limit`: the planned maximum, in tokens.
///
/// # Errors
/// Where the model can't tokenize a text.
pub fn lengths<O: Ops>(
    model: Option<&EmbeddingModel<O>>,
    all: &Texts,
    placed: &[Placed],
    role: Role,
    limit: usize,
    place: impl Fn(usize) -> String,
) -> Result<(Lengths, Option<Finding>)> {
    let (unit, limit) = match model {
        Some(model) => (Unit::Tokens, limit.min(model.max_seq_length())),
        None => (Unit::Words, limit),
    };
    let mut histogram = [0; BUCKETS.len()];
    let mut tally = Tally::default();
    let mut sorted: Vec<u32> = Vec::with_capacity(placed.len());
    for block in placed.chunks(BLOCK) {
        let texts = all.read(&block.iter().map(|placed| placed.text).collect::<Vec<_>>());
        let counts: Vec<usize> = match model {
            Some(model) => {
                let tokens = model.tokenize(&texts.iter().map(String::as_str).collect::<Vec<_>>(), role, None)?;
                // What the model itself cuts is longer than it says.
                tokens.into_iter().map(|tokens| tokens.ids.len() + usize::from(tokens.truncated)).collect()
            }
            None => texts.par_iter().map(|text| words(text).len()).collect(),
        };
        for ((n, text), placed) in counts.into_iter().zip(&texts).zip(block) {
            histogram[BUCKETS.iter().position(|&last| n <= last).unwrap_or_default()] += 1;
            if n > limit {
                tally.add(|| Shown::new([place(placed.row as usize)], [text.as_str()]));
            }
            sorted.push(n as u32);
        }
    }
    sorted.sort_unstable();
    let at = |share: f64| sorted.get((share * sorted.len() as f64) as usize).or(sorted.last());
    let at = |share: f64| at(share).copied().unwrap_or(0) as usize;
    let lengths = Lengths {
        unit,
        n: sorted.len(),
        median: at(0.5),
        p90: at(0.9),
        longest: sorted.last().copied().unwrap_or(0) as usize,
        limit,
        n_cut: tally.n,
        histogram,
    };
    let kind = if role == Role::Query { Kind::TruncatedQueries } else { Kind::TruncatedPassages };
    let severity = if tally.share(sorted.len()) >= MANY_CUT { Severity::Warning } else { Severity::Info };
    let detail = match unit {
        Unit::Tokens => format!("They have more than {limit} tokens."),
        Unit::Words => {
            format!("They have more than {limit} words, so even more tokens; with `--model` it is counted exactly.")
        }
    };
    let finding = tally.finding(kind, severity, sorted.len(), Some(detail));
    Ok((lengths, finding))
}
