//! What an evaluation during a run says in numbers, which of two evaluations is better, and when to give up hoping for more.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::cadence::{Steps, Strategy};
use crate::train::merge::MergeAlpha;
use crate::train::settings::TrainSettings;

/// One number of an evaluation (`--metric_for_best_model`). transformers' default is the loss; ours is nDCG@10, as in
/// sentence-transformers' InformationRetrievalEvaluator, since what is wanted of the model is that it finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measure {
    /// The loss on the held-out rows, without dropout.
    #[serde(rename = "loss")]
    Loss,
    /// Mean reciprocal rank among the first 10.
    #[serde(rename = "mrr@10")]
    Mrr10,
    /// Normalised discounted cumulative gain among the first 10.
    #[default]
    #[serde(rename = "ndcg@10")]
    Ndcg10,
    /// Share of queries whose first candidate is a positive.
    #[serde(rename = "hit@1")]
    Hit1,
}

impl Measure {
    /// All measures with their names.
    pub const ALL: [(&str, Measure); 4] =
        [("loss", Measure::Loss), ("mrr@10", Measure::Mrr10), ("ndcg@10", Measure::Ndcg10), ("hit@1", Measure::Hit1)];

    /// Whether more is better.
    pub fn greater_is_better(self) -> bool {
        self != Measure::Loss
    }

    /// By how much `value` is better than `other`; negative where it is worse.
    pub fn gain(self, value: f64, other: f64) -> f64 {
        if self.greater_is_better() { value - other } else { other - value }
    }
}

impl FromStr for Measure {
    type Err = String;

    /// Takes the prefix `eval_` of transformers and any case.
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let lower = name.to_lowercase();
        let plain = lower.strip_prefix("eval_").unwrap_or(&lower);
        let found = Self::ALL.iter().find(|(known, _)| *known == plain);
        found.map(|(_, measure)| *measure).ok_or_else(|| "expected loss, mrr@10, ndcg@10 or hit@1".into())
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, measure)| measure == self).map_or("", |(name, _)| name))
    }
}

/// The numbers of one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The loss on the held-out rows; `None` where they bring no negatives and get none from their batch.
    #[serde(rename = "eval_loss")]
    pub loss: Option<f64>,
    /// MRR@10.
    #[serde(rename = "eval_mrr@10")]
    pub mrr10: f64,
    /// nDCG@10.
    #[serde(rename = "eval_ndcg@10")]
    pub ndcg10: f64,
    /// Hit@1.
    #[serde(rename = "eval_hit@1")]
    pub hit1: f64,
}

impl Scores {
    /// One of them.
    pub fn of(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Loss => self.loss,
            Measure::Mrr10 => Some(self.mrr10),
            Measure::Ndcg10 => Some(self.ndcg10),
            Measure::Hit1 => Some(self.hit1),
        }
    }
}

/// An evaluation of the model after a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct At {
    /// Optimizer steps done; 0 is the base model.
    pub step: usize,
    /// What the model scored.
    pub scores: Scores,
}

/// The evaluations of a run so far, as far as the rest of the run depends on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The base model.
    pub baseline: Option<At>,
    /// The best one after a step, the first of equal ones. The base model is none of them.
    pub best: Option<At>,
    /// The latest.
    pub last: Option<At>,
    /// Evaluations in a row that were not better than the best by more than the threshold.
    pub n_without_gain: usize,
}

/// What one more evaluation means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The best so far.
    Best,
    /// Not the best.
    NotBest,
}

impl History {
    /// Takes in an evaluation. An improvement counts against early stopping only beyond `threshold`, as in transformers.
    pub fn add(&mut self, at: At, measure: Measure, threshold: f64) -> Verdict {
        self.last = Some(at);
        if at.step == 0 {
            self.baseline = Some(at);
            return Verdict::NotBest;
        }
        let value = |at: At| at.scores.of(measure);
        let gain = match (value(at), self.best.and_then(value)) {
            (Some(value), Some(best)) => measure.gain(value, best),
            (Some(_), None) => f64::INFINITY,
            // `check` of the held-out set refuses a measure that it does not have.
            (None, _) => f64::NEG_INFINITY,
        };
        self.n_without_gain = if gain > threshold { 0 } else { self.n_without_gain + 1 };
        if gain > 0.0 {
            self.best = Some(at);
            return Verdict::Best;
        }
        Verdict::NotBest
    }

    /// By how much the best evaluation is better than the base model.
    pub fn gain_over_baseline(&self, measure: Measure) -> Option<f64> {
        let value = |at: Option<At>| at.and_then(|at| at.scores.of(measure));
        Some(measure.gain(value(self.best)?, value(self.baseline)?))
    }
}

/// Checks the settings of evaluation among each other.
///
/// # Errors
/// Flags that contradict each other, or that need an evaluation where there is none.
pub fn check_settings(settings: &TrainSettings) -> Result<()> {
    let refuse = |problem: String, hint: &str| Err(Error::Setting { problem, hint: Some(hint.into()) });
    if let Some(share) = settings.eval_split
        && !(share > 0.0 && share < 1.0)
    {
        return refuse(format!("`--eval_split {share}` is not allowed: it has to be above 0 and below 1"), "try 0.1");
    }
    if settings.eval_data.is_some() && settings.eval_split.is_some() {
        return refuse(
            "`--eval_data` and `--eval_split` both say what to evaluate on".into(),
            "name a file, or take a share of the training data",
        );
    }
    let measure = settings.measure();
    if let Some(greater) = settings.greater_is_better
        && greater != measure.greater_is_better()
    {
        let word = if measure.greater_is_better() { "higher" } else { "lower" };
        return refuse(
            format!(
                "`--greater_is_better {greater}` contradicts `--metric_for_best_model {measure}`: {word} is better"
            ),
            "leave `--greater_is_better` out",
        );
    }
    let threshold = settings.early_stopping_threshold;
    if !(threshold >= 0.0 && threshold.is_finite()) {
        return refuse(
            format!("`--early_stopping_threshold {threshold}` is not allowed: it has to be at least 0"),
            "0 takes every improvement",
        );
    }
    if settings.early_stopping_patience == Some(0) {
        return refuse(
            "`--early_stopping_patience 0` is not allowed: it has to be at least 1".into(),
            "1 stops at the first evaluation that is not better",
        );
    }
    if settings.eval_steps == Some(Steps::Number(0)) {
        return refuse("`--eval_steps 0` is not allowed: it has to be at least 1".into(), "or `--eval_strategy no`");
    }
    if settings.evaluates() {
        return Ok(());
    }
    let wants_evaluation = [
        ("eval_strategy", settings.eval_strategy.is_some_and(|strategy| strategy != Strategy::No)),
        ("eval_steps", settings.eval_steps.is_some() && settings.eval_strategy.is_none()),
        (
            "candidate_pool",
            settings.candidate_pool.is_some() && settings.eval_strategy.is_none() && settings.remine_every.is_none(),
        ),
        ("load_best_model_at_end", settings.load_best_model_at_end),
        ("metric_for_best_model", settings.metric_for_best_model.is_some()),
        ("early_stopping_patience", settings.early_stopping_patience.is_some()),
        ("merge_alpha auto", settings.merge_alpha == Some(MergeAlpha::Auto)),
    ];
    match wants_evaluation.iter().find(|(_, is_set)| *is_set) {
        Some((flag, _)) => refuse(
            format!("`--{flag}` needs an evaluation, and there is none"),
            "pass `--eval_data FILE` or `--eval_split 0.1`, and not `--eval_strategy no`",
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: usize, ndcg10: f64) -> At {
        At { step, scores: Scores { loss: Some(1.0 - ndcg10), mrr10: 0.0, ndcg10, hit1: 0.0 } }
    }

    #[test]
    fn best_is_the_first_of_equal_ones_and_never_the_base_model() {
        for measure in [Measure::Ndcg10, Measure::Loss] {
            let mut history = History::default();
            let verdicts = [(0, 0.9), (1, 0.5), (2, 0.75), (3, 0.75), (4, 0.6)]
                .map(|(step, value)| history.add(at(step, value), measure, 0.0) == Verdict::Best);
            assert_eq!(verdicts, [false, true, true, false, false], "{measure}");
            assert_eq!(history.best.unwrap().step, 2);
            assert_eq!(history.n_without_gain, 2);
            assert!(history.gain_over_baseline(measure).unwrap() < 0.0);
        }
    }

    #[test]
    fn small_gains_are_the_best_but_do_not_count_against_early_stopping() {
        let mut history = History::default();
        history.add(at(1, 0.5), Measure::Ndcg10, 0.1);
        assert_eq!(history.add(at(2, 0.55), Measure::Ndcg10, 0.1), Verdict::Best);
        assert_eq!(history.n_without_gain, 1);
        history.add(at(3, 0.75), Measure::Ndcg10, 0.1);
        assert_eq!(history.n_without_gain, 0);
    }

    #[test]
    fn names_are_read_as_they_are_written_and_as_transformers_writes_them() {
        for (name, measure) in Measure::ALL {
            assert_eq!(name.parse::<Measure>().unwrap(), measure);
            assert_eq!(format!("eval_{name}").to_uppercase().parse::<Measure>().unwrap(), measure);
            assert_eq!(measure.to_string(), name);
            assert_eq!(serde_json::to_value(measure).unwrap(), name);
        }
        assert!("accuracy".parse::<Measure>().unwrap_err().contains("ndcg@10"));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_by_name() {
        let d = TrainSettings::default;
        let split = TrainSettings { eval_split: Some(0.1), ..d() };
        check_settings(&split).unwrap();
        for (settings, problem) in [
            (TrainSettings { eval_split: Some(1.0), ..d() }, "--eval_split 1"),
            (TrainSettings { eval_data: Some("e.jsonl".into()), ..split.clone() }, "both say"),
            (TrainSettings { load_best_model_at_end: true, ..d() }, "`--load_best_model_at_end` needs an evaluation"),
            (TrainSettings { early_stopping_patience: Some(2), ..d() }, "`--early_stopping_patience` needs"),
            (TrainSettings { merge_alpha: Some(MergeAlpha::Auto), ..d() }, "`--merge_alpha auto` needs an evaluation"),
            (TrainSettings { early_stopping_patience: Some(0), ..split.clone() }, "--early_stopping_patience 0"),
            (TrainSettings { early_stopping_threshold: -1.0, ..split.clone() }, "--early_stopping_threshold -1"),
            (TrainSettings { greater_is_better: Some(false), ..split.clone() }, "contradicts"),
            (TrainSettings { eval_steps: Some(Steps::Number(0)), ..split.clone() }, "--eval_steps 0"),
        ] {
            let error = check_settings(&settings).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
            assert!(error.hint().is_some());
        }
    }
}
