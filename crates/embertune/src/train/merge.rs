//! A tuned model between its base and itself: `base + alpha (tuned - base)`, against forgetting (`--merge_alpha`).
//!
//! Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT, arXiv:2109.01903), and LM-Cocktail for embedding models
//! (arXiv:2311.13534). Which alpha is right is measured: how well the model finds on the held-out rows, and how much it still orders the
//! candidates as its base does.

use std::fmt;
use std::str::FromStr;

use embertune_kernels::Ops;
use serde::{Deserialize, Serialize};

use crate::comm::Alone;
use crate::error::{Error, Result};
use crate::eval::similarity::{pearson, ranks};
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::train::evaluation::{Evaluated, HeldOut};
use crate::train::measure::{Measure, Scores};
use crate::train::settings::TrainSettings;

/// The alphas that `auto` tries, the tuned model last. Each costs an evaluation; more of them choose no better: see docs/LOG.md.
const TRIED: [f64; 4] = [0.0, 0.4, 0.8, 1.0];

/// How much of the training is kept (`--merge_alpha`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MergeAlpha {
    /// The tuned model, unless the held-out rows show that another alpha is better.
    Auto,
    /// This much, in `0..=1`.
    Fixed(f64),
}

impl MergeAlpha {
    /// What is compared where there are rows to evaluate on.
    fn tried(self) -> Vec<f64> {
        match self {
            MergeAlpha::Auto => TRIED.to_vec(),
            MergeAlpha::Fixed(alpha) => vec![alpha],
        }
    }

    /// Number of evaluations that it takes: base and tuned model have had theirs.
    pub fn n_evaluated(self) -> usize {
        self.tried().into_iter().filter(|alpha| ![0.0, 1.0].contains(alpha)).count()
    }
}

impl fmt::Display for MergeAlpha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MergeAlpha::Auto => f.write_str("auto"),
            MergeAlpha::Fixed(alpha) => alpha.fmt(f),
        }
    }
}

impl From<MergeAlpha> for String {
    fn from(alpha: MergeAlpha) -> String {
        alpha.to_string()
    }
}

impl TryFrom<String> for MergeAlpha {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for MergeAlpha {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse::<f64>() {
            _ if text == "auto" => Ok(MergeAlpha::Auto),
            Ok(alpha) if (0.0..=1.0).contains(&alpha) => Ok(MergeAlpha::Fixed(alpha)),
            _ => Err(Error::Setting {
                problem: format!("`--merge_alpha {text}` is not allowed: it has to be `auto` or in 0..=1"),
                hint: Some("0 is the base model, 1 the tuned one".into()),
            }),
        }
    }
}

/// What became of `--merge_alpha`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Merging {
    /// The alpha of the model that is saved.
    pub alpha: f64,
    /// What was measured: of every alpha with `auto`, of the given one where there is something to evaluate on.
    pub trials: Vec<Trial>,
}

/// One alpha.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// How much of the training is kept.
    pub alpha: f64,
    /// On the held-out rows.
    #[serde(flatten)]
    pub scores: Scores,
    /// Spearman's correlation between the similarities that the base has for pairs of candidates, and the model: 1 is the base's own order.
    pub agreement_with_base: f64,
    /// Standard error of the difference to the last alpha that was tried, query by query; `None` where the measure is the loss, which has no queries.
    pub standard_error: Option<f64>,
}

/// Base and tuned weights, to be mixed in the model itself.
enum Mixer {
    /// The adapters are scaled.
    Adapters,
    /// Of every tensor that was trained, with its place: base and tuned values.
    Weights(Vec<(usize, Vec<f32>, Vec<f32>)>),
}

impl Mixer {
    fn new<O: Ops>(
        model: &EmbeddingModel<O>,
        base: impl FnOnce(&EmbeddingModel<O>) -> Result<EmbeddingModel<O>>,
    ) -> Result<Self> {
        if model.has_adapters() {
            return Ok(Mixer::Adapters);
        }
        let values = |model: &EmbeddingModel<O>, i: usize| model.ops().download(&model.parameters().list[i].value);
        let list = &model.parameters().list;
        let trained: Vec<_> = (0..list.len()).filter(|&i| list[i].is_trained()).collect();
        let base: Vec<_> = {
            let base = base(model)?;
            trained.iter().map(|&i| values(&base, i)).collect()
        };
        Ok(Mixer::Weights(trained.into_iter().zip(base).map(|(i, base)| (i, base, values(model, i))).collect()))
    }

    /// Makes `model` that of `alpha`. 0 and 1 are base and tuned model bit for bit.
    fn set<O: Ops>(&self, model: &mut EmbeddingModel<O>, alpha: f64) {
        let Mixer::Weights(weights) = self else { return model.scale_adapters(alpha) };
        let ops = model.shared_ops();
        for (i, base, tuned) in weights {
            let mix =
                |(&base, &tuned): (&f32, &f32)| ((1.0 - alpha) * f64::from(base) + alpha * f64::from(tuned)) as f32;
            let param = &mut model.parameters_mut().list[*i];
            param.value = ops.upload(&base.iter().zip(tuned).map(mix).collect::<Vec<_>>());
            param.repack(&ops);
        }
    }
}

/// What the shares are judged by.
pub struct Judge {
    /// Where each is evaluated.
    pub held_out: HeldOut,
    /// What was found there of the base, where it was evaluated.
    pub base: Option<Evaluated>,
    /// And of the tuned model.
    pub tuned: Option<Evaluated>,
}

impl Judge {
    /// What is found of `model`, which is that of `alpha`. Nothing is evaluated twice.
    fn evaluate<O: Ops>(
        &self,
        alpha: f64,
        model: &EmbeddingModel<O>,
        settings: &TrainSettings,
        progress: &dyn Progress,
    ) -> Result<Evaluated> {
        let known = match alpha {
            0.0 => &self.base,
            1.0 => &self.tuned,
            _ => &None,
        };
        known.clone().map_or_else(|| self.held_out.evaluate(model, settings, &Alone, progress), Ok)
    }
}

/// Makes `model`, which is tuned, what `alpha` says. `base` loads the model that it was at first; it is there only as long as its weights are
/// read. What is found is said to `progress`.
///
/// # Errors
/// A base that cannot be loaded; a model that gives values that are no finite numbers; [`Error::Stopped`] where `progress` wants it to end.
pub fn merge<O: Ops>(
    model: &mut EmbeddingModel<O>,
    alpha: MergeAlpha,
    base: impl FnOnce(&EmbeddingModel<O>) -> Result<EmbeddingModel<O>>,
    judge: Option<&Judge>,
    settings: &TrainSettings,
    progress: &dyn Progress,
) -> Result<Merging> {
    let mixer = Mixer::new(model, base)?;
    let Some(judge) = judge else {
        let MergeAlpha::Fixed(alpha) = alpha else { panic!("settings without evaluation were refused") };
        mixer.set(model, alpha);
        return Ok(Merging { alpha, trials: Vec::new() });
    };
    let measure = settings.measure();
    mixer.set(model, 0.0);
    let of_base = judge.evaluate(0.0, model, settings, progress)?;
    let mut per_query = Vec::new();
    let mut trials = Vec::new();
    for alpha in alpha.tried() {
        let (found, agreement_with_base) = if alpha == 0.0 {
            (of_base.clone(), 1.0)
        } else {
            mixer.set(model, alpha);
            let found = judge.evaluate(alpha, model, settings, progress)?;
            let agreement = spearman(&of_base.pair_similarities, &found.pair_similarities);
            (found, agreement)
        };
        trials.push(Trial { alpha, scores: found.scores, agreement_with_base, standard_error: None });
        per_query.push(found.per_query);
    }
    let alpha = match alpha {
        MergeAlpha::Auto => choose(&mut trials, &per_query, measure),
        MergeAlpha::Fixed(alpha) => alpha,
    };
    table(&trials, alpha, measure).iter().for_each(|line| progress.note(line));
    mixer.set(model, alpha);
    Ok(Merging { alpha, trials })
}

/// The best alpha, where it is better than the tuned model, the last one, by more than the standard error of their difference over the
/// queries; else the tuned model. By the loss, which has no queries, the best one. The training saw far more queries than are held out, so
/// that a difference of a few of these is no reason to take part of it back.
fn choose(trials: &mut [Trial], per_query: &[Option<Vec<f64>>], measure: Measure) -> f64 {
    let value = |trial: &Trial| trial.scores.of(measure).unwrap_or(f64::NAN);
    let mut best = 0;
    for i in 1..trials.len() {
        if measure.gain(value(&trials[i]), value(&trials[best])) > 0.0 {
            best = i;
        }
    }
    let tuned = trials.len() - 1;
    for (trial, values) in trials.iter_mut().zip(per_query) {
        if let (Some(values), Some(of_tuned)) = (values, &per_query[tuned]) {
            trial.standard_error = Some(standard_error(values, of_tuned));
        }
    }
    let ahead = measure.gain(value(&trials[best]), value(&trials[tuned]));
    let chosen = if ahead > trials[best].standard_error.unwrap_or(0.0) { best } else { tuned };
    trials[chosen].alpha
}

/// Of the mean difference of pairs.
fn standard_error(left: &[f64], right: &[f64]) -> f64 {
    let n = left.len() as f64;
    let differences = || left.iter().zip(right).map(|(left, right)| left - right);
    let mean = differences().sum::<f64>() / n;
    let squares = differences().map(|difference| (difference - mean).powi(2)).sum::<f64>();
    (squares / (n * (n - 1.0).max(1.0))).sqrt()
}

/// 1 where both are constant: two models of one vector order nothing.
fn spearman(left: &[f64], right: &[f64]) -> f64 {
    let correlation = pearson(&ranks(left), &ranks(right));
    if correlation.is_nan() { 1.0 } else { correlation }
}

fn table(trials: &[Trial], chosen: f64, measure: Measure) -> Vec<String> {
    let names = Measure::ALL.map(|(name, _)| format!("{name:>8}")).concat();
    let mut lines = vec![format!("merge: alpha{names}  like base")];
    for trial in trials {
        let number = |value: Option<f64>| value.map_or("       -".into(), |value| format!("{value:>8.4}"));
        let values = Measure::ALL.map(|(_, measure)| number(trial.scores.of(measure))).concat();
        let mark = if trial.alpha == chosen { "  <- saved" } else { "" };
        lines.push(format!("merge: {:>5}{values}{:>11.4}{mark}", trial.alpha, trial.agreement_with_base));
    }
    if trials.len() > 1 {
        lines.push(format!(
            "merge: the tuned model, unless another alpha is better by {measure} by more than the standard error of the difference"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trials(values: &[f64]) -> Vec<Trial> {
        let scores = |ndcg10: f64| Scores { loss: Some(1.0 - ndcg10), mrr10: 0.0, ndcg10, hit1: 0.0 };
        let trial = |(i, &value): (usize, &f64)| Trial {
            alpha: i as f64 / 4.0,
            scores: scores(value),
            agreement_with_base: 1.0,
            standard_error: None,
        };
        values.iter().enumerate().map(trial).collect()
    }

    #[test]
    fn the_tuned_model_is_chosen_unless_another_is_better_by_more_than_chance() {
        let per_query = |lists: [[f64; 4]; 3]| lists.map(|values| Some(values.to_vec()));
        // The second is ahead of the third by 0.05, which one query alone makes: the standard error is as much.
        let lists = per_query([[0.0, 0.0, 0.5, 0.5], [0.4, 1.0, 1.0, 1.0], [0.2, 1.0, 1.0, 1.0]]);
        let mut noisy = trials(&[0.25, 0.85, 0.8]);
        assert_eq!(choose(&mut noisy, &lists, Measure::Ndcg10), 0.5);
        assert!((noisy[1].standard_error.unwrap() - 0.05).abs() < 1e-12 && noisy[2].standard_error == Some(0.0));
        // Every query is ahead by as much: there is no noise.
        let lists = per_query([[0.0; 4], [0.85; 4], [0.8; 4]]);
        assert_eq!(choose(&mut trials(&[0.0, 0.85, 0.8]), &lists, Measure::Ndcg10), 0.25);
        let lists = per_query([[0.9; 4], [0.85; 4], [0.8; 4]]);
        assert_eq!(choose(&mut trials(&[0.9, 0.85, 0.8]), &lists, Measure::Ndcg10), 0.0);
        // A loss has no queries: the best.
        assert_eq!(choose(&mut trials(&[0.0, 0.8, 0.79]), &[None, None, None], Measure::Loss), 0.25);
    }

    #[test]
    fn base_and_tuned_model_are_not_evaluated_for_the_mixing() {
        let n = |alpha: MergeAlpha| alpha.n_evaluated();
        let fixed = [0.0, 0.5, 1.0].map(MergeAlpha::Fixed);
        assert_eq!((n(MergeAlpha::Auto), fixed.map(n)), (TRIED.len() - 2, [0, 1, 0]));
    }

    #[test]
    fn an_alpha_is_auto_or_a_share_and_survives_being_written() {
        for (text, alpha) in
            [("auto", MergeAlpha::Auto), ("0.5", MergeAlpha::Fixed(0.5)), ("1", MergeAlpha::Fixed(1.0))]
        {
            assert_eq!(text.parse::<MergeAlpha>().unwrap(), alpha);
            let json = serde_json::to_string(&alpha).unwrap();
            assert_eq!(serde_json::from_str::<MergeAlpha>(&json).unwrap(), alpha);
        }
        for text in ["1.5", "-0.1", "best", "NaN"] {
            let error = text.parse::<MergeAlpha>().unwrap_err();
            assert!(error.to_string().contains(text) && error.hint().is_some(), "{error}");
        }
    }
}
