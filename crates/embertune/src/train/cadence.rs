//! When something is due in a run: never, every so many steps, or at the end of every epoch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `--save_strategy`, `--logging_strategy`, `--eval_strategy`, as transformers names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Never.
    No,
    /// Every so many steps, by a setting beside it.
    Steps,
    /// At the end of every epoch.
    Epoch,
}

impl Strategy {
    const ALL: [(&str, Strategy); 3] = [("no", Strategy::No), ("steps", Strategy::Steps), ("epoch", Strategy::Epoch)];
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, strategy)| *strategy).ok_or_else(|| "expected no, steps or epoch".into())
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, strategy)| strategy == self).map_or("", |(name, _)| name))
    }
}

/// `--save_steps`, `--logging_steps`, `--eval_steps`: so many steps, or, below 1, that share of all steps, as in transformers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Steps {
    /// So many; 0 for never.
    Number(usize),
    /// This share of all, between 0 and 1, rounded up to whole steps.
    Share(f64),
}

impl Steps {
    /// How many steps of a run of `n_steps` in all.
    pub fn of(self, n_steps: usize) -> usize {
        match self {
            Steps::Number(steps) => steps,
            Steps::Share(share) => (share * n_steps as f64).ceil() as usize,
        }
    }
}

impl FromStr for Steps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(steps) = text.parse() {
            return Ok(Steps::Number(steps));
        }
        let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
        match share.ok_or("expected a number of steps, or a share of all steps below 1")? {
            0.0 => Ok(Steps::Number(0)),
            share => Ok(Steps::Share(share)),
        }
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Steps::Number(steps) => steps.fmt(f),
            Steps::Share(share) => share.fmt(f),
        }
    }
}

/// A [`Strategy`] with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Steps from one time to the next; 0 for never.
    every: usize,
}

impl Cadence {
    /// At no time.
    pub const NEVER: Cadence = Cadence { every: 0 };

    /// `steps` is the setting beside the strategy, 0 for never.
    pub fn new(strategy: Strategy, steps: usize, steps_per_epoch: usize) -> Self {
        let every = match strategy {
            Strategy::No => 0,
            Strategy::Steps => steps,
            Strategy::Epoch => steps_per_epoch,
        };
        Cadence { every }
    }

    /// How often it is due in the first `n_steps` steps.
    pub fn times(self, n_steps: usize) -> usize {
        n_steps.checked_div(self.every).unwrap_or(0)
    }

    /// Whether it is due after step `step`, from 1.
    pub fn is_due(self, step: usize) -> bool {
        self.every > 0 && step.is_multiple_of(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_epochs_are_counted_and_no_is_never() {
        let due =
            |strategy, steps| (1..=12).filter(|&s| Cadence::new(strategy, steps, 4).is_due(s)).collect::<Vec<_>>();
        assert_eq!(due(Strategy::Steps, 5), [5, 10]);
        assert_eq!(due(Strategy::Epoch, 5), [4, 8, 12]);
        assert_eq!(due(Strategy::No, 5), [] as [usize; 0]);
        assert_eq!(due(Strategy::Steps, 0), [] as [usize; 0]);
        let times = |strategy, steps| Cadence::new(strategy, steps, 4).times(12);
        assert_eq!((times(Strategy::Steps, 5), times(Strategy::Epoch, 5), times(Strategy::Steps, 0)), (2, 3, 0));
    }

    #[test]
    fn a_number_below_one_is_a_share_of_all_steps() {
        let of = |text: &str, n_steps| text.parse::<Steps>().unwrap().of(n_steps);
        assert_eq!((of("5", 40), of("0.1", 40), of("0.1", 41), of("0.001", 41)), (5, 4, 5, 1));
        assert_eq!((of("0", 40), of("0.0", 40)), (0, 0));
        for text in ["5", "0.1"] {
            let steps: Steps = text.parse().unwrap();
            assert_eq!(steps.to_string(), text);
            assert_eq!(serde_json::from_value::<Steps>(serde_json::to_value(steps).unwrap()).unwrap(), steps);
        }
        for wrong in ["1.5", "-1", "-0.1", "nan", "often"] {
            assert!(wrong.parse::<Steps>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, strategy) in Strategy::ALL {
            assert_eq!(name.parse::<Strategy>().unwrap(), strategy);
            assert_eq!(strategy.to_string(), name);
            assert_eq!(serde_json::to_value(strategy).unwrap(), name);
        }
        assert!("best".parse::<Strategy>().unwrap_err().contains("no, steps or epoch"));
    }
}
