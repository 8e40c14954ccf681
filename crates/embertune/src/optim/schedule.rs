//! The learning rate of each step, as a pure function of the step: the schedules of transformers' `get_scheduler`.
//!
//! With warm-up the first step has learning rate 0, as there: the weights do not change, the moments of AdamW do.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The shape of the learning rate over the steps (`--lr_scheduler_type`), with the parameters that `get_scheduler` gives it.
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
}

impl SchedulerType {
    const NAMES: [(&str, SchedulerType); 7] = [
        ("linear", SchedulerType::Linear),
        ("cosine", SchedulerType::Cosine),
        ("cosine_with_restarts", SchedulerType::CosineWithRestarts),
        ("polynomial", SchedulerType::Polynomial),
        ("constant", SchedulerType::Constant),
        ("constant_with_warmup", SchedulerType::ConstantWithWarmup),
        ("inverse_sqrt", SchedulerType::InverseSqrt),
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
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind).ok_or_else(|| Error::Setting {
            problem: format!("`--lr_scheduler_type {name}` is not known"),
            hint: Some(format!("one of {}", Self::NAMES.map(|(known, _)| known).join(", "))),
        })
    }
}

/// The end of a polynomial schedule, transformers' `lr_end`.
const POLYNOMIAL_END: f64 = 1e-7;
/// The timescale of `inverse_sqrt` without warm-up, as in transformers.
const DEFAULT_TIMESCALE: f64 = 10_000.0;

/// A schedule over a known number of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: SchedulerType,
    learning_rate: f64,
    warmup_steps: usize,
    total_steps: usize,
}

impl Schedule {
    /// A schedule with peak `learning_rate`.
    ///
    /// # Errors
    /// A polynomial schedule ends at 1e-7, so its peak has to be above that.
    pub fn new(kind: SchedulerType, learning_rate: f64, warmup_steps: usize, total_steps: usize) -> Result<Self> {
        if kind == SchedulerType::Polynomial && learning_rate <= POLYNOMIAL_END {
            return Err(Error::Setting {
                problem: format!(
                    "`--learning_rate {learning_rate}` is not above {POLYNOMIAL_END}, where a polynomial schedule ends"
                ),
                hint: Some("choose a larger learning rate or another `--lr_scheduler_type`".into()),
            });
        }
        Ok(Schedule { kind, learning_rate, warmup_steps, total_steps })
    }

    /// The learning rate that step `step` (from 0) uses.
    pub fn learning_rate(&self, step: usize) -> f64 {
        self.learning_rate * self.factor(step)
    }

    fn factor(&self, step: usize) -> f64 {
        if self.kind == SchedulerType::Constant {
            return 1.0;
        }
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let since_warmup = (step - self.warmup_steps) as f64;
        let progress = since_warmup / self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.kind {
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
            SchedulerType::Linear => (1.0 - progress).max(0.0),
            SchedulerType::Cosine => (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
            SchedulerType::CosineWithRestarts if progress >= 1.0 => 0.0,
            SchedulerType::CosineWithRestarts => (0.5 * (1.0 + (PI * (progress % 1.0)).cos())).max(0.0),
            SchedulerType::Polynomial => {
                let end = POLYNOMIAL_END / self.learning_rate;
                (1.0 - end) * (1.0 - progress).max(0.0) + end
            }
            SchedulerType::InverseSqrt => {
                let timescale = if self.warmup_steps > 0 { self.warmup_steps as f64 } else { DEFAULT_TIMESCALE };
                (timescale / (timescale + since_warmup)).sqrt()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // transformers 5.23, `get_scheduler(name, AdamW([Parameter(zeros(1))], lr=1e-3), num_warmup_steps=w,
    // num_training_steps=10)`; `get_last_lr()[0]` before each `step()`, printed with 9 digits.
    const TRANSFORMERS: [(&str, usize, [f64; 10]); 9] = [
        ("linear", 0, [0.001, 0.0009, 0.0008, 0.0007, 0.0006, 0.0005, 0.0004, 0.0003, 0.0002, 0.0001]),
        (
            "linear",
            3,
            [
                0.0,
                0.000333333333,
                0.000666666667,
                0.001,
                0.000857142857,
                0.000714285714,
                0.000571428571,
                0.000428571429,
                0.000285714286,
                0.000142857143,
            ],
        ),
        (
            "cosine",
            0,
            [
                0.001,
                0.000975528258,
                0.000904508497,
                0.000793892626,
                0.000654508497,
                0.0005,
                0.000345491503,
                0.000206107374,
                9.54915028e-05,
                2.44717419e-05,
            ],
        ),
        (
            "cosine",
            3,
            [
                0.0,
                0.000333333333,
                0.000666666667,
                0.001,
                0.000950484434,
                0.000811744901,
                0.000611260467,
                0.000388739533,
                0.000188255099,
                4.9515566e-05,
            ],
        ),
        (
            "cosine_with_restarts",
            3,
            [
                0.0,
                0.000333333333,
                0.000666666667,
                0.001,
                0.000950484434,
                0.000811744901,
                0.000611260467,
                0.000388739533,
                0.000188255099,
                4.9515566e-05,
            ],
        ),
        (
            "polynomial",
            3,
            [
                0.0,
                0.000333333333,
                0.000666666667,
                0.001,
                0.000857157143,
                0.000714314286,
                0.000571471429,
                0.000428628571,
                0.000285785714,
                0.000142942857,
            ],
        ),
        (
            "constant_with_warmup",
            3,
            [0.0, 0.000333333333, 0.000666666667, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001],
        ),
        (
            "inverse_sqrt",
            0,
            [
                0.001,
                0.000999950004,
                0.000999900015,
                0.000999850034,
                0.00099980006,
                0.000999750094,
                0.000999700135,
                0.000999650184,
                0.00099960024,
                0.000999550304,
            ],
        ),
        (
            "inverse_sqrt",
            3,
            [
                0.0,
                0.000333333333,
                0.000666666667,
                0.001,
                0.000866025404,
                0.000774596669,
                0.000707106781,
                0.000654653671,
                0.000612372436,
                0.000577350269,
            ],
        ),
    ];

    /// The digits printed above, relative.
    const TOLERANCE: f64 = 1e-8;

    #[test]
    fn every_schedule_equals_transformers() {
        for (name, warmup, expected) in TRANSFORMERS {
            let schedule = Schedule::new(name.parse().unwrap(), 1e-3, warmup, 10).unwrap();
            for (step, want) in expected.iter().enumerate() {
                let got = schedule.learning_rate(step);
                assert!((got - want).abs() <= TOLERANCE * want, "{name}, warm-up {warmup}, step {step}: {got} {want}");
            }
        }
    }

    #[test]
    fn first_step_of_a_warm_up_has_learning_rate_zero() {
        for (name, kind) in SchedulerType::NAMES {
            let expected = if kind == SchedulerType::Constant { 1.0 } else { 0.0 };
            assert_eq!(Schedule::new(kind, 1.0, 2, 10).unwrap().learning_rate(0), expected, "{name}");
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
