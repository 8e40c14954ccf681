//! What to mine: which candidates may become negatives, how many, how they are ranked. A preset is a rule that has a name.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mine::select::Strategy;

/// What to mine. `default()` is [`Preset::Original`].
#[derive(Clone, Debug, PartialEq)]
pub struct MineSettings {
    /// Which candidates may become negatives.
    pub rule: Rule,
    /// Negatives per row.
    pub n_negatives: usize,
    /// What ranks the candidates of a query.
    pub ranking: Ranking,
    /// Whether [`Mined::scores`](crate::mine::Mined::scores) is wanted.
    pub scores: bool,
    /// Seed of all sampling. Default 42; the original and sentence-transformers have none.
    pub seed: u64,
    /// Texts that go through the model at once. Default 256.
    pub batch_size: usize,
}

impl Default for MineSettings {
    fn default() -> Self {
        Preset::Original.settings()
    }
}

/// What ranks the candidates of a query, and whose scores the limits are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranking {
    /// Dot products of vectors.
    Dense,
    /// BM25 over words; its scores. Candidates that share no word with the query are not ranked.
    Bm25,
    /// Both, by reciprocal rank fusion. Scores are the dot products.
    Hybrid,
}

/// Which candidates may become negatives.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The ranks that count.
    pub window: Window,
    /// The scores that count.
    pub limits: Limits,
    /// Whether near-duplicates of a positive are left out ([`crate::mine::overlap`]).
    pub exclude_near_duplicates: bool,
    /// Which of the candidates that are left.
    pub strategy: Strategy,
    /// Whether random candidates of the whole pool take the places for which hard ones are missing. They keep to the limits, too.
    pub fill_up: bool,
}

/// The ranks that count, 0-based, ends excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Window {
    /// Ranks of the search, counted before anything is taken out: the original's.
    Ranks(Range<usize>),
    /// Ranks among the candidates that survive all other rules: sentence-transformers' `range_min` and `range_max`.
    Survivors {
        /// How many of the best survivors are passed over.
        min: usize,
        /// Where the window ends. `None` is what sentence-transformers takes: `min` + the number of negatives + the
        /// largest number of positives, and ten times the number of negatives where a rule may reject some.
        max: Option<usize>,
    },
}

/// The scores that count. With each, a candidate at the limit itself may be a negative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Highest score.
    pub max_score: Option<f32>,
    /// Lowest score.
    pub min_score: Option<f32>,
    /// How far below the lowest score `p` of the query's positives: at most `p - margin`.
    pub absolute_margin: Option<f32>,
    /// The same as a share of `p`: at most `p - |p| * margin`.
    pub relative_margin: Option<f32>,
}

impl Limits {
    /// Whether the scores of positives matter.
    pub fn need_positives(&self) -> bool {
        self.absolute_margin.is_some() || self.relative_margin.is_some()
    }
}

/// Rules that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// `mine_hard_neg.py`, FlagEmbedding's `hn_mine.py`: 15 at random from ranks 10 to 210 of the search, filled up.
    Original,
    /// The best 7 that score at most 95 % of the lowest positive, near-duplicates of positives left out. As many as `train` takes by
    /// default. Source: NV-Retriever (arXiv 2407.15831), "TopK-PercPos".
    NvRetriever,
    /// The best 3: the defaults of sentence-transformers' `mine_hard_negatives`.
    SentenceTransformers,
}

impl Preset {
    /// All settings of the preset.
    pub fn settings(self) -> MineSettings {
        let (rule, n_negatives) = match self {
            Preset::Original => {
                let window = Window::Ranks(10..210);
                (Rule { window, strategy: Strategy::Random, fill_up: true, ..best_survivors(None) }, 15)
            }
            Preset::NvRetriever => {
                let limits = Limits { relative_margin: Some(0.05), ..Limits::default() };
                (Rule { limits, exclude_near_duplicates: true, ..best_survivors(Some(200)) }, 7)
            }
            Preset::SentenceTransformers => (best_survivors(None), 3),
        };
        let scores = self != Preset::Original;
        MineSettings { rule, n_negatives, ranking: Ranking::Dense, scores, seed: 42, batch_size: 256 }
    }
}

impl Preset {
    const ALL: [(&str, Preset); 3] = [
        ("original", Preset::Original),
        ("nv-retriever", Preset::NvRetriever),
        ("sentence-transformers", Preset::SentenceTransformers),
    ];
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, preset)| *preset)
            .ok_or_else(|| "expected original, nv-retriever or sentence-transformers".into())
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, preset)| preset == self).map_or("", |(name, _)| name))
    }
}

fn best_survivors(max: Option<usize>) -> Rule {
    Rule {
        window: Window::Survivors { min: 0, max },
        limits: Limits::default(),
        exclude_near_duplicates: false,
        strategy: Strategy::Top,
        fill_up: false,
    }
}

impl Rule {
    /// Whether the rule takes candidates for right answers that nobody marked.
    pub fn suspects(&self) -> bool {
        self.exclude_near_duplicates || self.limits.need_positives() || self.limits.max_score.is_some()
    }

    /// The ranks among the survivors.
    pub(super) fn survivors(&self, n_negatives: usize, max_positives: usize) -> Range<usize> {
        match self.window {
            Window::Ranks(_) => 0..usize::MAX,
            Window::Survivors { min, max: Some(max) } => min..max,
            Window::Survivors { min, max: None } => {
                let n = if self.suspects() { 10 * n_negatives } else { n_negatives };
                min..min + n + max_positives
            }
        }
    }

    /// How many candidates of each query the search has to find, where no query has more than `max_positives` positives.
    pub(super) fn depth(&self, n_negatives: usize, max_positives: usize) -> usize {
        match &self.window {
            Window::Ranks(range) => range.end,
            Window::Survivors { .. } => self.survivors(n_negatives, max_positives).end.saturating_add(max_positives),
        }
    }
}

impl MineSettings {
    /// Whether the scores of positives have to be known.
    pub(super) fn need_positive_scores(&self) -> bool {
        self.scores || self.rule.limits.need_positives()
    }

    /// # Errors
    /// Settings that can't give a negative, by the names of their flags.
    pub fn check(&self) -> Result<()> {
        let refuse = |problem: String, hint: &str| Err(Error::Setting { problem, hint: Some(hint.into()) });
        if self.n_negatives == 0 {
            return refuse(
                "`--negative_number 0`: at least 1 is needed".into(),
                "leave the flag out for the preset's number of negatives per query",
            );
        }
        if let Window::Survivors { min, max: Some(max) } = self.rule.window {
            if min >= max {
                return refuse(
                    format!("`--range_min {min}` is not less than `--range_max {max}`"),
                    "ranks from the first up to but not including the last are taken",
                );
            }
            if self.n_negatives > max - min && !self.rule.fill_up {
                return refuse(
                    format!(
                        "`--negative_number {}` is more than the {} ranks from `--range_min {min}` to `--range_max {max}`",
                        self.n_negatives,
                        max - min
                    ),
                    "ask for fewer negatives, or raise `--range_max`",
                );
            }
        }
        check_limits(&self.rule.limits)
    }
}

/// Checks limits by themselves.
///
/// # Errors
/// No number, or no score that keeps to all of them.
pub(super) fn check_limits(limits: &Limits) -> Result<()> {
    let refuse = |problem: String, hint: &str| Err(Error::Setting { problem, hint: Some(hint.into()) });
    let Limits { max_score, min_score, absolute_margin, relative_margin } = *limits;
    let named = [
        ("max_score", max_score),
        ("min_score", min_score),
        ("absolute_margin", absolute_margin),
        ("relative_margin", relative_margin),
    ];
    for (flag, value) in named {
        if let Some(value) = value
            && !value.is_finite()
        {
            return refuse(format!("`--{flag} {value}` is no finite number"), "leave the flag out for no limit");
        }
    }
    if let Some(margin) = relative_margin
        && margin > 1.0
    {
        return refuse(
            format!("`--relative_margin {margin}` is more than the whole score of the positive"),
            "it is a share: 0.05 takes what scores at most 95 % of it",
        );
    }
    if let (Some(min), Some(max)) = (min_score, max_score)
        && min > max
    {
        return refuse(
            format!("`--min_score {min}` is above `--max_score {max}`: no score is between them"),
            "put the lower one into `--min_score`",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_is_as_deep_as_sentence_transformers() {
        let mut rule = best_survivors(None);
        // `range_max` is 3 + 2, the search takes 2 more.
        assert_eq!((rule.survivors(3, 2), rule.depth(3, 2)), (0..5, 7));
        rule.limits.max_score = Some(0.8);
        rule.window = Window::Survivors { min: 4, max: None };
        assert_eq!((rule.survivors(3, 2), rule.depth(3, 2)), (4..36, 38));
        rule.window = Window::Survivors { min: 5, max: Some(50) };
        assert_eq!((rule.survivors(5, 29), rule.depth(5, 29)), (5..50, 79));
        rule.window = Window::Ranks(10..210);
        assert_eq!((rule.survivors(15, 29), rule.depth(15, 29)), (0..usize::MAX, 210));
    }

    #[test]
    fn settings_that_cannot_give_a_negative_are_refused_by_the_flag() {
        let refused = |change: &dyn Fn(&mut MineSettings)| {
            let mut settings = Preset::SentenceTransformers.settings();
            change(&mut settings);
            let error = settings.check().unwrap_err();
            assert!(error.hint().is_some());
            error.to_string()
        };
        let window = |min, max| move |s: &mut MineSettings| s.rule.window = Window::Survivors { min, max: Some(max) };
        assert!(refused(&|s| s.n_negatives = 0).contains("`--negative_number 0`"));
        assert!(refused(&window(5, 5)).contains("`--range_min 5` is not less"));
        assert!(refused(&window(0, 2)).contains("`--negative_number 3` is more than the 2 ranks"));
        assert!(refused(&|s| s.rule.limits.max_score = Some(f32::NAN)).contains("`--max_score NaN`"));
        assert!(refused(&|s| s.rule.limits.relative_margin = Some(5.0)).contains("`--relative_margin 5` is more"));
        let crossed = |s: &mut MineSettings| {
            s.rule.limits = Limits { max_score: Some(0.1), min_score: Some(0.2), ..Limits::default() };
        };
        assert!(refused(&crossed).contains("`--min_score 0.2` is above `--max_score 0.1`"));
        for preset in [Preset::Original, Preset::NvRetriever, Preset::SentenceTransformers] {
            preset.settings().check().unwrap();
        }
    }
}
