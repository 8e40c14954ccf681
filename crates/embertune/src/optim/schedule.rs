//! The learning rate of each step, as a pure function of the step: the schedules of transformers' `get_scheduler`.
//!
//! With warm-up the first step has learning rate 0, as there: the weights do not change, the moments of AdamW do.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The shape of the learning rate over the steps (`--lr_scheduler_type`). What it says of parameters are their defaults, those of
/// `get_scheduler`; [`SchedulerKwargs`] changes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerType {
    /// Up during warm-up, then straight down to 0 (Hugging Face's default).
    #[default]
    Linear,
    /// Half a cosine down to 0.
    Cosine,
    /// A cosine with hard restarts; one cycle by default, which is [`Cosine`](SchedulerType::Cosine).
    CosineWithRestarts,
    /// A polynomial of power 1 down to 1e-7.
    Polynomial,
    /// Always the same; warm-up is ignored, as in transformers.
    Constant,
    /// Up during warm-up, then always the same.
    ConstantWithWarmup,
    /// `sqrt(timescale / step)` after warm-up; the timescale is the warm-up, or 10000 without one.
    InverseSqrt,
    /// Up during warm-up, then the same, then down to 0 over the last `num_decay_steps`.
    WarmupStableDecay,
}

impl SchedulerType {
    /// All of them by name.
    pub const NAMES: [(&str, SchedulerType); 8] = [
        ("linear", SchedulerType::Linear),
        ("cosine", SchedulerType::Cosine),
        ("cosine_with_restarts", SchedulerType::CosineWithRestarts),
        ("polynomial", SchedulerType::Polynomial),
        ("constant", SchedulerType::Constant),
        ("constant_with_warmup", SchedulerType::ConstantWithWarmup),
        ("inverse_sqrt", SchedulerType::InverseSqrt),
        ("warmup_stable_decay", SchedulerType::WarmupStableDecay),
    ];
}

impl fmt::Display for SchedulerType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for SchedulerType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, kind)| *kind).ok_or_else(|| {
            // What else transformers has.
            let reason = match name {
                "reduce_lr_on_plateau" => "is not supported: a rate goes by the step alone, not by what was measured",
                "cosine_with_min_lr" | "cosine_warmup_with_min_lr" => {
                    "is not supported: warmup_stable_decay (`min_lr_ratio`) and polynomial (`lr_end`) end above 0"
                }
                _ => "is not known",
            };
            Error::Setting {
                problem: format!("`--lr_scheduler_type {name}` {reason}"),
                hint: Some(format!("one of {}", Self::NAMES.map(|(known, _)| known).join(", "))),
            }
        })
    }
}

/// Parameters of a schedule (`--lr_scheduler_kwargs`), by the names that transformers has for them. `None` is its default. Each belongs
/// to some schedules and is refused with the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerKwargs {
    /// Waves of a cosine, 0.5 by default: down, and not up again. Of `cosine_with_restarts` the number of cycles, 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_cycles: Option<f64>,
    /// The rate at the end of a polynomial, 1e-7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_end: Option<f64>,
    /// The power of a polynomial, 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// The timescale of `inverse_sqrt` in steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timescale: Option<f64>,
    /// Steps of the decay of `warmup_stable_decay`. A tenth of the run, rounded up; transformers has no default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decay_steps: Option<usize>,
    /// Steps at the peak; what warm-up and decay leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_stable_steps: Option<usize>,
    /// The rate that warm-up begins at and decay ends at, as a share of the peak: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_ratio: Option<f64>,
    /// How it rises: linear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_type: Option<Slope>,
    /// How it falls: cosine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_type: Option<Slope>,
}

/// The way from one rate to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slope {
    /// Straight.
    #[serde(rename = "linear")]
    Linear,
    /// Half a wave.
    #[serde(rename = "cosine")]
    Cosine,
    /// `1 - sqrt(progress)` downwards: fast, then slow.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

impl SchedulerKwargs {
    /// Checks that a schedule has these parameters, and their ranges.
    ///
    /// # Errors
    /// The first that it does not have, with those that it has.
    pub fn validate(&self, kind: SchedulerType) -> Result<()> {
        let known: &[&str] = match kind {
            SchedulerType::Linear | SchedulerType::Constant | SchedulerType::ConstantWithWarmup => &[],
            SchedulerType::Cosine | SchedulerType::CosineWithRestarts => &["num_cycles"],
            SchedulerType::Polynomial => &["lr_end", "power"],
            SchedulerType::InverseSqrt => &["timescale"],
            SchedulerType::WarmupStableDecay => {
                &["num_decay_steps", "num_stable_steps", "min_lr_ratio", "warmup_type", "decay_type", "num_cycles"]
            }
        };
        let positive = |x: Option<f64>| x.is_none_or(|x| x > 0.0 && x.is_finite());
        let not_negative = |x: Option<f64>| x.is_none_or(|x| x >= 0.0 && x.is_finite());
        let is_whole = |x: Option<f64>| x.is_none_or(|x| x >= 1.0 && x.fract() == 0.0);
        let whole_cycles = kind == SchedulerType::CosineWithRestarts;
        let given: [(&str, bool, bool, &str); 9] = [
            (
                "num_cycles",
                self.num_cycles.is_some(),
                if whole_cycles { is_whole(self.num_cycles) } else { positive(self.num_cycles) },
                if whole_cycles { "a whole number, at least 1" } else { "above 0" },
            ),
            ("lr_end", self.lr_end.is_some(), not_negative(self.lr_end), "at least 0"),
            ("power", self.power.is_some(), positive(self.power), "above 0"),
            ("timescale", self.timescale.is_some(), positive(self.timescale), "above 0"),
            ("num_decay_steps", self.num_decay_steps.is_some(), true, ""),
            ("num_stable_steps", self.num_stable_steps.is_some(), true, ""),
            (
                "min_lr_ratio",
                self.min_lr_ratio.is_some(),
                self.min_lr_ratio.is_none_or(|x| (0.0..=1.0).contains(&x)),
                "in 0..=1",
            ),
            ("warmup_type", self.warmup_type.is_some(), true, ""),
            ("decay_type", self.decay_type.is_some(), true, ""),
        ];
        for (name, _, is_allowed, allowed) in given.into_iter().filter(|(_, is_given, ..)| *is_given) {
            if !known.contains(&name) {
                return Err(Error::Setting {
                    problem: format!(
                        "`--lr_scheduler_kwargs`: `{name}` is no parameter of `--lr_scheduler_type {kind}`"
                    ),
                    hint: Some(match known {
                        [] => format!("`{kind}` has none"),
                        _ => format!("it has {}", known.join(", ")),
                    }),
                });
            }
            if !is_allowed {
                return Err(Error::Setting {
                    problem: format!("`--lr_scheduler_kwargs`: `{name}` is not allowed: it has to be {allowed}"),
                    hint: None,
                });
            }
        }
        Ok(())
    }
}

impl FromStr for SchedulerKwargs {
    type Err = Error;

    fn from_str(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| Error::Setting {
            problem: format!("`--lr_scheduler_kwargs {json}` is not a JSON object of parameters: {error}"),
            hint: Some("for example '{\"num_decay_steps\": 100}'".into()),
        })
    }
}

/// The end of a polynomial schedule, transformers' `lr_end`.
const POLYNOMIAL_END: f64 = 1e-7;
/// The timescale of `inverse_sqrt` without warm-up, as in transformers.
const DEFAULT_TIMESCALE: f64 = 10_000.0;
/// The part of the run that `warmup_stable_decay` decays over, where it is not said.
const DECAY_SHARE: f64 = 0.1;

/// A schedule over a known number of steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    kind: SchedulerType,
    kwargs: SchedulerKwargs,
    learning_rate: f64,
    warmup_steps: usize,
    total_steps: usize,
}

impl Schedule {
    /// A schedule with peak `learning_rate`.
    ///
    /// # Errors
    /// Parameters that are not those of the schedule; a polynomial that does not end below its peak; a run that is too short for its
    /// warm-up and decay.
    pub fn new(
        kind: SchedulerType,
        kwargs: &SchedulerKwargs,
        learning_rate: f64,
        warmup_steps: usize,
        total_steps: usize,
    ) -> Result<Self> {
        kwargs.validate(kind)?;
        let schedule = Schedule { kind, kwargs: kwargs.clone(), learning_rate, warmup_steps, total_steps };
        let end = schedule.polynomial_end();
        if kind == SchedulerType::Polynomial && learning_rate <= end {
            return Err(Error::Setting {
                problem: format!(
                    "`--learning_rate {learning_rate}` is not above {end}, where a polynomial schedule ends"
                ),
                hint: Some("choose a larger learning rate or another `--lr_scheduler_type`".into()),
            });
        }
        let decay_steps = schedule.decay_steps();
        if kind == SchedulerType::WarmupStableDecay && warmup_steps + decay_steps > total_steps {
            return Err(Error::Setting {
                problem: format!(
                    "`--lr_scheduler_type warmup_stable_decay`: {warmup_steps} steps of warm-up and {decay_steps} of decay are more \
                     than the {total_steps} of the run"
                ),
                hint: Some("shorten the warm-up, or `--lr_scheduler_kwargs '{\"num_decay_steps\": N}'`".into()),
            });
        }
        Ok(schedule)
    }

    /// The learning rate that step `step` (from 0) uses.
    pub fn learning_rate(&self, step: usize) -> f64 {
        self.learning_rate * self.factor(step)
    }

    fn polynomial_end(&self) -> f64 {
        self.kwargs.lr_end.unwrap_or(POLYNOMIAL_END)
    }

    fn decay_steps(&self) -> usize {
        self.kwargs.num_decay_steps.unwrap_or((self.total_steps as f64 * DECAY_SHARE).ceil() as usize)
    }

    fn factor(&self, step: usize) -> f64 {
        if self.kind == SchedulerType::Constant {
            return 1.0;
        }
        if step < self.warmup_steps {
            return self.rising(step as f64 / self.warmup_steps as f64);
        }
        let since_warmup = (step - self.warmup_steps) as f64;
        let progress = since_warmup / self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let cosine = |cycles: f64, progress: f64| 0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos());
        match self.kind {
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
            SchedulerType::Linear => (1.0 - progress).max(0.0),
            SchedulerType::Cosine => cosine(self.kwargs.num_cycles.unwrap_or(0.5), progress).max(0.0),
            SchedulerType::CosineWithRestarts if progress >= 1.0 => 0.0,
            SchedulerType::CosineWithRestarts => {
                let cycles = self.kwargs.num_cycles.unwrap_or(1.0);
                cosine(0.5, (cycles * progress) % 1.0).max(0.0)
            }
            SchedulerType::Polynomial => {
                let end = self.polynomial_end() / self.learning_rate;
                (1.0 - end) * (1.0 - progress).max(0.0).powf(self.kwargs.power.unwrap_or(1.0)) + end
            }
            SchedulerType::InverseSqrt => {
                let of_warmup = if self.warmup_steps > 0 { self.warmup_steps as f64 } else { DEFAULT_TIMESCALE };
                let timescale = self.kwargs.timescale.unwrap_or(of_warmup);
                (timescale / (timescale + since_warmup)).sqrt()
            }
            SchedulerType::WarmupStableDecay => {
                let decay_steps = self.decay_steps();
                let left = self.total_steps - self.warmup_steps - decay_steps;
                let since_stable = since_warmup - self.kwargs.num_stable_steps.unwrap_or(left) as f64;
                if since_stable < 0.0 {
                    return 1.0;
                }
                if since_stable >= decay_steps as f64 {
                    return self.least();
                }
                let progress = since_stable / decay_steps as f64;
                self.above_least(match self.kwargs.decay_type.unwrap_or(Slope::Cosine) {
                    Slope::Linear => 1.0 - progress,
                    Slope::Cosine => cosine(self.kwargs.num_cycles.unwrap_or(0.5), progress),
                    Slope::OneMinusSqrt => 1.0 - progress.sqrt(),
                })
            }
        }
    }

    /// Of a step of the warm-up.
    fn rising(&self, progress: f64) -> f64 {
        if self.kind != SchedulerType::WarmupStableDecay {
            return progress;
        }
        self.above_least(match self.kwargs.warmup_type.unwrap_or(Slope::Linear) {
            Slope::Linear => progress,
            Slope::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
            Slope::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
        })
    }

    fn least(&self) -> f64 {
        self.kwargs.min_lr_ratio.unwrap_or(0.0)
    }

    fn above_least(&self, factor: f64) -> f64 {
        (factor * (1.0 - self.least()) + self.least()).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_step_of_a_warm_up_has_learning_rate_zero() {
        for (name, kind) in SchedulerType::NAMES {
            let expected = if kind == SchedulerType::Constant { 1.0 } else { 0.0 };
            let schedule = Schedule::new(kind, &SchedulerKwargs::default(), 1.0, 2, 10).unwrap();
            assert_eq!(schedule.learning_rate(0), expected, "{name}");
        }
    }

    #[test]
    fn parameters_of_other_schedules_and_out_of_range_are_refused_by_name() {
        for (kind, kwargs, problem) in [
            (SchedulerType::Linear, r#"{"power": 2}"#, "`power` is no parameter of `--lr_scheduler_type linear`"),
            (SchedulerType::Cosine, r#"{"num_decay_steps": 2}"#, "`num_decay_steps` is no parameter"),
            (SchedulerType::CosineWithRestarts, r#"{"num_cycles": 1.5}"#, "a whole number"),
            (SchedulerType::Polynomial, r#"{"lr_end": 1}"#, "not above 1"),
            (SchedulerType::WarmupStableDecay, r#"{"min_lr_ratio": 2}"#, "in 0..=1"),
            (SchedulerType::WarmupStableDecay, r#"{"num_decay_steps": 9}"#, "more than the 10 of the run"),
        ] {
            let error = Schedule::new(kind, &kwargs.parse().unwrap(), 1e-3, 2, 10).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
        for json in [r#"{"cycles": 2}"#, "3", r#"{"decay_type": "sudden"}"#] {
            let error = json.parse::<SchedulerKwargs>().unwrap_err();
            assert!(error.to_string().contains(json) && error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, kind) in SchedulerType::NAMES {
            assert_eq!(name.parse::<SchedulerType>().unwrap(), kind);
            assert_eq!(kind.to_string(), name);
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        assert!("reduce_lr_on_plateau".parse::<SchedulerType>().is_err());
    }
}
