//! What is watched while a run goes on: signs that it learns nothing or something else than was meant. Each is said once, in words, with
//! what to do. A loss or gradient that is no number is an error, and [`Trainer`](super::trainer::Trainer)'s business.
//!
//! Nearly all of it is read off what a step knows anyway. Whether the weights change at all is looked at once; some texts are embedded
//! without dropout now and then, where those of a batch are near to each other.

use serde::{Deserialize, Serialize};

use crate::loss::BatchStats;
use crate::train::settings::TrainSettings;
use crate::train::trainer::StepReport;

/// Mean cosine of texts without dropout above which they are the same to the model.
const COLLAPSED: f64 = 0.999;

/// Mean cosine of the texts of a batch, dropout included, above which it is worth a look without: dropout keeps texts apart that are the
/// same to the model (0.993 of all-MiniLM-L6-v2 that gives one vector for all, and below 0.5 where it is well).
const SUSPECTED: f64 = 0.5;

/// Signs that are said once, also where the run is resumed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Guards {
    idle: bool,
    zero_loss: bool,
    zero_gradient: bool,
    collapsed: bool,
    weights_seen: bool,
    /// The step before which nothing is embedded again to see whether the model has collapsed.
    #[serde(default)]
    next_look: usize,
    /// Whether any step has had a gradient.
    #[serde(default)]
    had_gradient: bool,
}

impl Guards {
    /// What is to be said of a step. `without_dropout` is the mean cosine of some texts after it, and is asked for rarely.
    pub fn look_at(
        &mut self,
        report: &StepReport,
        settings: &TrainSettings,
        without_dropout: impl FnOnce() -> f64,
    ) -> Vec<String> {
        let StepReport { step, stats, .. } = report;
        let BatchStats { n_idle, n_queries, .. } = *stats;
        self.had_gradient |= report.grad_norm > 0.0;
        let mut said = Vec::new();
        let mut once = |is_said: &mut bool, is_so: bool, text: &dyn Fn() -> String| {
            if is_so && !*is_said {
                *is_said = true;
                said.push(format!("step {step}: {}", text()));
            }
        };
        // The data itself leaves a batch without negatives, because its rows share their positives, say.
        once(&mut self.idle, n_idle > 0, &|| {
            format!(
                "{n_idle} of {n_queries} queries have no negative in their batch and learn nothing from it; this is said once, and \
                 counted in run.json"
            )
        });
        once(&mut self.zero_loss, report.loss == 0.0 && n_idle < n_queries, &|| {
            let hint = match settings.loss.name.compares_over_batch() {
                true => "mine harder negatives with `embertune mine`, or choose a larger batch or `--temperature`",
                false => "choose a larger `--margin`, or mine harder negatives with `embertune mine`",
            };
            format!("the loss is exactly 0: every query is told apart from its negatives already; {hint}")
        });
        once(&mut self.zero_gradient, report.grad_norm == 0.0 && report.loss != 0.0, &|| {
            "the gradient is exactly 0, so the step changes no weight: look for queries and passages that are all the same".into()
        });
        let mut mean_cosine = 0.0;
        if !self.collapsed && stats.mean_cosine > SUSPECTED && *step >= self.next_look {
            mean_cosine = without_dropout();
            // Of a model whose vectors are always near to each other the looks become rarer, since each costs a forward.
            self.next_look = step + 1 + step / 10;
        }
        once(&mut self.collapsed, mean_cosine > COLLAPSED, &|| {
            format!(
                "all texts have nearly the same vector (mean cosine {mean_cosine:.5} without dropout): the model has collapsed. Choose a \
                 smaller `--learning_rate`, more `--warmup_ratio`, or the `--pooling` that the model was made with"
            )
        });
        said
    }

    /// What is to be said where a whole run left all weights as they were.
    pub fn unchanged(&self) -> &'static str {
        match self.had_gradient {
            true => {
                "no weight of the model has changed: is `--learning_rate` too small, or the warm-up as long as the run?"
            }
            false => "no weight of the model has changed: the gradient was exactly 0 in every step",
        }
    }

    /// Whether the step with this learning rate is the one to watch the weights in: the first that should change them.
    pub fn watches_weights(&mut self, learning_rate: f64) -> bool {
        let is_first = learning_rate > 0.0 && !self.weights_seen;
        self.weights_seen |= is_first;
        is_first
    }
}

/// What is to be said where a step left all weights as they were; of a step without a gradient [`Guards::look_at`] says why.
pub fn unchanged(report: &StepReport) -> Option<String> {
    let StepReport { step, learning_rate, grad_norm, .. } = report;
    (*grad_norm > 0.0).then(|| {
        format!(
            "step {step}: no weight has changed at learning rate {learning_rate:e}: it is too small for numbers of 32 bits; choose a \
             larger `--learning_rate`"
        )
    })
}

/// The mean cosine of vectors with each other, `[n, dim]`; 0 for fewer than 4 vectors, which may well be alike. Vectors of length 0 are
/// orthogonal to all.
pub fn mean_cosine(vectors: &[f32], dim: usize) -> f64 {
    let n = vectors.len() / dim;
    if n < 4 {
        return 0.0;
    }
    let mut sum = vec![0.0; dim];
    let mut n_unit = 0.0;
    for vector in vectors.chunks_exact(dim) {
        let norm = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if norm > 0.0 {
            n_unit += 1.0;
            sum.iter_mut().zip(vector).for_each(|(sum, &x)| *sum += f64::from(x) / norm);
        }
    }
    // |sum of unit vectors|^2 = n + sum over pairs of their cosines
    let squared: f64 = sum.iter().map(|x| x * x).sum();
    let n = n as f64;
    (squared - n_unit) / (n * (n - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(loss: f64, stats: BatchStats) -> StepReport {
        StepReport {
            step: 3,
            epoch: 0.5,
            loss,
            set_losses: Vec::new(),
            learning_rate: 1e-5,
            grad_norm: 1.0,
            temperature: 0.02,
            stats,
            n_tokens: 100,
        }
    }

    #[test]
    fn each_sign_is_said_once_with_its_step() {
        let settings = TrainSettings::default();
        let good = BatchStats { n_queries: 4, n_contrasted: 4, mean_cosine: 0.4, ..BatchStats::default() };
        for (bad, word) in [
            (report(1.0, BatchStats { n_idle: 1, ..good }), "1 of 4 queries have no negative"),
            (report(0.0, good), "loss is exactly 0"),
            (StepReport { grad_norm: 0.0, ..report(1.0, good) }, "gradient is exactly 0"),
            (report(1.0, BatchStats { mean_cosine: 0.8, ..good }), "collapsed"),
        ] {
            let mut guards = Guards::default();
            assert!(guards.look_at(&report(1.0, good), &settings, || panic!("a look")).is_empty());
            let said = guards.look_at(&bad, &settings, || 0.9995);
            assert!(said.len() == 1 && said[0].starts_with("step 3: ") && said[0].contains(word), "{said:?}");
            assert!(guards.look_at(&bad, &settings, || 0.9995).is_empty(), "{word}");
        }
    }

    #[test]
    fn narrow_vectors_are_no_collapse_and_are_looked_at_ever_more_rarely() {
        let (mut guards, mut n_looks) = (Guards::default(), 0);
        let stats = BatchStats { n_queries: 4, n_contrasted: 4, mean_cosine: 0.99, ..BatchStats::default() };
        for step in 1..=1000 {
            let look = || {
                n_looks += 1;
                0.99
            };
            let report = StepReport { step, ..report(1.0, stats) };
            assert!(guards.look_at(&report, &TrainSettings::default(), look).is_empty());
        }
        assert!((40..80).contains(&n_looks), "{n_looks}");
    }

    #[test]
    fn weights_are_watched_in_the_first_step_that_should_change_them() {
        let mut guards = Guards::default();
        let watched: Vec<_> = [0.0, 1e-5, 2e-5].into_iter().map(|rate| guards.watches_weights(rate)).collect();
        assert_eq!(watched, [false, true, false]);
    }

    #[test]
    fn the_mean_cosine_is_that_over_all_pairs_whatever_the_lengths() {
        let vectors = [1.0, 0.0, 0.0, 3.0, 1.0, 1.0, -2.0, 0.0];
        let cosine = |a: &[f32], b: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| f64::from(a[0] * b[0] + a[1] * b[1]);
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        let rows: Vec<_> = vectors.chunks(2).collect();
        let pairs = (0..4).flat_map(|i| (0..i).map(move |k| (i, k)));
        let mean = pairs.map(|(i, k)| cosine(rows[i], rows[k])).sum::<f64>() / 6.0;
        assert!((mean_cosine(&vectors, 2) - mean).abs() < 1e-12);
        assert!((mean_cosine(&[0.5, 0.1].repeat(9), 2) - 1.0).abs() < 1e-12);
        assert_eq!(mean_cosine(&[1.0, 1.0, 1.0, 1.0], 2), 0.0);
        assert_eq!(mean_cosine(&[0.0; 10], 2), 0.0);
    }
}
