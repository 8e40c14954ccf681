//! Which rows are trained on in which step, as a pure function of (seed, epoch).

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::{Shuffle, key};

/// The order of the rows (`--train_sampling_strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingStrategy {
    /// Another random order in every epoch.
    #[default]
    Random,
    /// The order of the file in every epoch.
    Sequential,
}

impl fmt::Display for SamplingStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SamplingStrategy::Random => "random",
            SamplingStrategy::Sequential => "sequential",
        })
    }
}

impl FromStr for SamplingStrategy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "random" => Ok(SamplingStrategy::Random),
            "sequential" => Ok(SamplingStrategy::Sequential),
            _ => Err(Error::Setting {
                problem: format!("`--train_sampling_strategy {name}` is not known"),
                hint: Some("one of random, sequential".into()),
            }),
        }
    }
}

/// Separates this use of a seed from others.
const ORDER: u64 = 1;

/// The rows of one epoch in their order, a permutation of `0..n_rows`.
pub fn epoch_order(n_rows: usize, strategy: SamplingStrategy, seed: u64, epoch: usize) -> Vec<usize> {
    match strategy {
        SamplingStrategy::Random => Shuffle::new(n_rows, key(&[ORDER, seed, epoch as u64])).collect(),
        SamplingStrategy::Sequential => (0..n_rows).collect(),
    }
}

/// How the order of an epoch is cut into batches, and batches into optimizer steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batches {
    /// Rows of an epoch that are used: all of them, but for a last batch that is dropped.
    pub n_rows: usize,
    /// Rows of a batch; the last one of an epoch may be smaller.
    pub batch_size: usize,
    /// Batches of a step; the last step of an epoch may have fewer.
    pub accumulation: usize,
}

/// What happens to the rows that are left over at the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastBatch {
    /// They are a smaller batch.
    Keep,
    /// They are left out of this epoch.
    Drop,
}

impl Batches {
    /// Cuts `n_rows` rows.
    pub fn new(n_rows: usize, batch_size: usize, accumulation: usize, last: LastBatch) -> Self {
        let n_rows = match last {
            LastBatch::Keep => n_rows,
            LastBatch::Drop => n_rows - n_rows % batch_size,
        };
        Batches { n_rows, batch_size, accumulation }
    }

    /// Number of batches of an epoch.
    pub fn per_epoch(&self) -> usize {
        self.n_rows.div_ceil(self.batch_size)
    }

    /// Number of optimizer steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.per_epoch().div_ceil(self.accumulation)
    }

    /// The places in the epoch's order that the batches of step `step` of an epoch take.
    pub fn of_step(&self, step: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let Batches { n_rows, batch_size, accumulation } = *self;
        let batches = step * accumulation..((step + 1) * accumulation).min(self.per_epoch());
        batches.map(move |batch| batch * batch_size..((batch + 1) * batch_size).min(n_rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_a_function_of_seed_and_epoch() {
        let order = |seed, epoch| epoch_order(50, SamplingStrategy::Random, seed, epoch);
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        let mut sorted = order(7, 3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn sequential_is_the_order_of_the_file_in_every_epoch() {
        for epoch in 0..2 {
            assert_eq!(epoch_order(4, SamplingStrategy::Sequential, 9, epoch), [0, 1, 2, 3]);
        }
    }

    #[test]
    fn steps_of_an_epoch_cover_every_row_once() {
        for (n_rows, batch_size, accumulation) in [(10, 3, 2), (9, 3, 2), (1, 8, 4), (8, 1, 3)] {
            let batches = Batches::new(n_rows, batch_size, accumulation, LastBatch::Keep);
            let rows: Vec<_> = (0..batches.steps_per_epoch()).flat_map(|s| batches.of_step(s)).flatten().collect();
            assert_eq!(rows, (0..n_rows).collect::<Vec<_>>());
            assert!((0..batches.steps_per_epoch()).all(|s| (1..=accumulation).contains(&batches.of_step(s).count())));
        }
    }

    #[test]
    fn a_dropped_last_batch_leaves_whole_batches() {
        let batches = Batches::new(10, 3, 2, LastBatch::Drop);
        assert_eq!((batches.per_epoch(), batches.steps_per_epoch()), (3, 2));
        assert!((0..2).flat_map(|s| batches.of_step(s)).all(|rows| rows.len() == 3));
        assert_eq!(Batches::new(2, 3, 1, LastBatch::Drop).steps_per_epoch(), 0);
    }
}
