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
    fn names_are_read_as_they_are_written() {
        for (name, strategy) in Strategy::ALL {
            assert_eq!(name.parse::<Strategy>().unwrap(), strategy);
            assert_eq!(strategy.to_string(), name);
            assert_eq!(serde_json::to_value(strategy).unwrap(), name);
        }
        assert!("best".parse::<Strategy>().unwrap_err().contains("no, steps or epoch"));
    }
}
