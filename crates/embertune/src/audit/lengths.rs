//! How long the texts are, and how many lose their ends at the planned lengths.

use embertune_kernels::Ops;
use rayon::prelude::*;
use serde::Serialize;

use super::finding::{Finding, Kind, Severity, Shown, Tally};
use super::texts::Texts;
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
    /// `train.jsonl:12`.
    pub row: usize,
}

/// The lengths of `texts` as a role, and the finding if some are cut. `limit`: the planned maximum, in tokens.
///
/// # Errors
/// Where the model can't tokenize a text.
pub fn lengths<O: Ops>(
    model: Option<&EmbeddingModel<O>>,
    all: &Texts<'_>,
    placed: &[Placed],
    role: Role,
    limit: usize,
    place: impl Fn(usize) -> String,
) -> Result<(Lengths, Option<Finding>)> {
    let texts: Vec<&str> = placed.iter().map(|placed| all.list[placed.text as usize]).collect();
    let (unit, limit, counts) = match model {
        Some(model) => {
            let tokens = model.tokenize(&texts, role, None)?;
            // What the model itself cuts is longer than it says.
            let count = |tokens: crate::text::Tokens| tokens.ids.len() + usize::from(tokens.truncated);
            (Unit::Tokens, limit.min(model.max_seq_length()), tokens.into_iter().map(count).collect::<Vec<_>>())
        }
        None => (Unit::Words, limit, texts.par_iter().map(|text| words(text).len()).collect()),
    };
    let mut histogram = [0; BUCKETS.len()];
    let mut tally = Tally::default();
    for ((&n, text), placed) in counts.iter().zip(&texts).zip(placed) {
        histogram[BUCKETS.iter().position(|&last| n <= last).unwrap_or_default()] += 1;
        if n > limit {
            tally.add(|| Shown::new([place(placed.row)], [*text]));
        }
    }
    let mut sorted = counts;
    sorted.sort_unstable();
    let at = |share: f64| sorted.get((share * sorted.len() as f64) as usize).or(sorted.last()).copied().unwrap_or(0);
    let lengths = Lengths {
        unit,
        n: sorted.len(),
        median: at(0.5),
        p90: at(0.9),
        longest: sorted.last().copied().unwrap_or(0),
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
