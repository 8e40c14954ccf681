//! Which rows are trained on in which step, as a pure function of (seed, epoch).

use std::cmp::Reverse;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::{Shuffle, key};
use crate::train::dataset::{DataFile, TrainingSet};
use crate::train::group::{Draw, choose};
use crate::train::settings::TrainSettings;
use crate::train::spread::{n_sharing, spread};

/// The order of the rows (`--train_sampling_strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingStrategy {
    /// Another random order in every epoch.
    #[default]
    Random,
    /// The order of the file in every epoch.
    Sequential,
    /// Another random order in every epoch, in which rows of about the same length are near each other.
    GroupByLength,
}

impl SamplingStrategy {
    const ALL: [(&str, SamplingStrategy); 3] = [
        ("random", SamplingStrategy::Random),
        ("sequential", SamplingStrategy::Sequential),
        ("group_by_length", SamplingStrategy::GroupByLength),
    ];
}

impl fmt::Display for SamplingStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, strategy)| strategy == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for SamplingStrategy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, strategy)| *strategy).ok_or_else(|| Error::Setting {
            problem: format!(
                "`--train_sampling_strategy {name}` is not known: one of random, sequential, group_by_length"
            ),
            hint: None,
        })
    }
}

/// Whether the rows of a batch may share texts (`--batch_sampler`, as sentence-transformers names it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSampler {
    /// The order as it comes is cut into batches.
    #[default]
    BatchSampler,
    /// Rows are moved so that no text comes twice in a batch, as far as the data allows.
    NoDuplicates,
}

impl BatchSampler {
    const ALL: [(&str, BatchSampler); 2] =
        [("batch_sampler", BatchSampler::BatchSampler), ("no_duplicates", BatchSampler::NoDuplicates)];
}

impl fmt::Display for BatchSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, sampler)| sampler == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for BatchSampler {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, sampler)| *sampler).ok_or_else(|| "expected batch_sampler or no_duplicates".into())
    }
}

/// Separate these uses of a seed from others.
const ORDER: u64 = 1;
const TURNS: u64 = 8;

/// Batches that are sorted by length together, as in transformers.
const SORTED_BATCHES: usize = 50;

/// The rows of one epoch in their order. Of a single data set they are a permutation of its rows. Several data sets take turns in
/// whole batches, so that each batch is of one of them.
pub fn epoch_order(set: &TrainingSet, settings: &TrainSettings, epoch: usize) -> Vec<usize> {
    if !settings.mixes_data_sets() {
        let n = set.rows.len();
        let order = match settings.train_sampling_strategy {
            SamplingStrategy::Sequential => (0..n).collect(),
            _ => Shuffle::new(n, key(&[ORDER, settings.seed, epoch as u64])).collect(),
        };
        return arranged(order, set, settings, epoch);
    }
    let of_file = |(i, file): (usize, &DataFile)| {
        let dealt = dealt(settings, epoch, i, file.rows.len()).into_iter().map(|row| file.rows.start + row);
        arranged(dealt.collect(), set, settings, epoch)
    };
    let order: Vec<_> = set.files.iter().enumerate().flat_map(of_file).collect();
    let batches: Vec<_> = order.chunks(settings.per_device_train_batch_size).collect();
    match settings.train_sampling_strategy {
        SamplingStrategy::Sequential => batches.concat(),
        _ => Shuffle::new(batches.len(), key(&[TURNS, settings.seed, epoch as u64]))
            .flat_map(|i| batches[i])
            .copied()
            .collect(),
    }
}

/// How many rows an epoch takes of data set `i` of several, which has `n_rows`: as many as its weight says, in whole batches.
pub fn rows_per_epoch(settings: &TrainSettings, i: usize, n_rows: usize) -> usize {
    let weight = settings.dataset_weights.get(i).copied().unwrap_or(1.0);
    let n_batches = (weight * n_rows as f64 / settings.per_device_train_batch_size as f64).round() as usize;
    n_batches.max(1) * settings.per_device_train_batch_size
}

/// The rows of data set `i` in this epoch: the next ones of a deck that is shuffled anew after every round, so that all rows get their
/// turn, whatever part of them an epoch takes.
fn dealt(settings: &TrainSettings, epoch: usize, i: usize, n_rows: usize) -> Vec<usize> {
    let n_wanted = rows_per_epoch(settings, i, n_rows);
    let first = epoch * n_wanted;
    let round = |round: usize| -> Vec<usize> {
        match settings.train_sampling_strategy {
            SamplingStrategy::Sequential => (0..n_rows).collect(),
            _ => Shuffle::new(n_rows, key(&[ORDER, settings.seed, round as u64, i as u64])).collect(),
        }
    };
    let rounds = first / n_rows..(first + n_wanted).div_ceil(n_rows);
    rounds.flat_map(round).skip(first % n_rows).take(n_wanted).collect()
}

/// An order of rows as the settings want it within batches.
fn arranged(mut order: Vec<usize>, set: &TrainingSet, settings: &TrainSettings, epoch: usize) -> Vec<usize> {
    if settings.train_sampling_strategy == SamplingStrategy::GroupByLength {
        sort_by_length(&mut order, set, settings.per_device_train_batch_size);
    }
    match settings.batch_sampler {
        BatchSampler::BatchSampler => order,
        BatchSampler::NoDuplicates => {
            spread(&order, settings.per_device_train_batch_size, |row| texts_of(set, settings, epoch, row))
        }
    }
}

/// How many rows of an epoch in this `order` share a text with a row before them in their batch.
pub fn n_duplicates(set: &TrainingSet, settings: &TrainSettings, epoch: usize, order: &[usize]) -> usize {
    n_sharing(order, settings.per_device_train_batch_size, |row| texts_of(set, settings, epoch, row))
}

/// transformers' LengthGroupedSampler: a random order, of which each part is sorted by length; the longest row of all comes first, so
/// that a batch that is too large for the memory is the first one.
fn sort_by_length(order: &mut [usize], set: &TrainingSet, batch_size: usize) {
    let length = |row: &usize| {
        let row = set.rows.get(*row);
        set.texts.n_tokens(row.query) + set.texts.n_tokens(row.positives[0])
    };
    let n_together = (order.len() / (batch_size * 4)).clamp(1, SORTED_BATCHES) * batch_size;
    order.chunks_mut(n_together).for_each(|part| part.sort_by_key(|row| Reverse(length(row))));
    if let Some(longest) =
        (0..order.len()).step_by(n_together).max_by_key(|&first| (length(&order[first]), Reverse(first)))
    {
        order.swap(0, longest);
    }
}

/// What a row's texts say in this epoch.
fn texts_of(set: &TrainingSet, settings: &TrainSettings, epoch: usize, row: usize) -> Vec<u64> {
    let draw = Draw { seed: settings.seed, epoch, row };
    let group_size = settings.group_size_of(set.file_of(row));
    let row = set.rows.get(row);
    let group = choose(draw, row.positives.len(), row.negatives.len(), group_size);
    let negatives = group.negatives.iter().map(|&place| row.negatives[place]);
    let texts = [row.query, row.positives[group.positive]].into_iter().chain(negatives);
    texts.map(|text| set.texts.id(text)).collect()
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
    use crate::data::row_list::{Row, RowList};
    use crate::text::Tokens;
    use crate::train::texts::NewTexts;

    /// Rows of one query and one positive each, of many lengths; every third row has the same positive.
    fn set(n_rows: u32) -> TrainingSet {
        let (mut texts, mut ids, mut rows) = (NewTexts::default(), Vec::new(), RowList::default());
        let mut text = |id: u32, n_tokens: u32| {
            ids.push(u64::from(id));
            texts.push(&Tokens { ids: vec![7; n_tokens as usize], prompt_len: 0, truncated: false }).unwrap();
        };
        (0..n_rows).for_each(|i| text(i, 1 + i * i % 31));
        (0..n_rows).for_each(|i| text(if i % 3 == 0 { n_rows } else { n_rows + i }, 1 + i % 3));
        (0..n_rows).for_each(|i| rows.push(Row { query: i, positives: &[n_rows + i], ..Row::default() }));
        let mut set = TrainingSet::default();
        (set.rows, set.texts) = (rows, texts.that_say(ids));
        set
    }

    fn settings(train_sampling_strategy: SamplingStrategy, seed: u64) -> TrainSettings {
        TrainSettings { train_sampling_strategy, seed, per_device_train_batch_size: 2, ..TrainSettings::default() }
    }

    #[test]
    fn order_is_a_permutation_and_a_function_of_seed_and_epoch() {
        let set = set(50);
        for strategy in [SamplingStrategy::Random, SamplingStrategy::GroupByLength] {
            for batch_sampler in [BatchSampler::BatchSampler, BatchSampler::NoDuplicates] {
                let order = |seed, epoch| {
                    epoch_order(&set, &TrainSettings { batch_sampler, ..settings(strategy, seed) }, epoch)
                };
                assert_eq!(order(1, 0), order(1, 0));
                assert_ne!(order(1, 0), order(1, 1));
                assert_ne!(order(1, 0), order(2, 0));
                let mut sorted = order(7, 3);
                sorted.sort_unstable();
                assert_eq!(sorted, (0..50).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn sequential_is_the_order_of_the_file_in_every_epoch() {
        for epoch in 0..2 {
            assert_eq!(epoch_order(&set(4), &settings(SamplingStrategy::Sequential, 9), epoch), [0, 1, 2, 3]);
        }
    }

    #[test]
    fn batches_without_duplicates_share_no_text() {
        let set = set(60);
        let plain = settings(SamplingStrategy::Random, 3);
        let spread = TrainSettings { batch_sampler: BatchSampler::NoDuplicates, ..plain.clone() };
        let n_shared = |settings| n_duplicates(&set, settings, 1, &epoch_order(&set, settings, 1));
        assert!(n_shared(&plain) > 0);
        assert_eq!(n_shared(&spread), 0);
    }

    #[test]
    fn every_batch_is_of_one_data_set_and_every_row_gets_its_turn() {
        let mut set = set(70);
        let file = |rows| DataFile { path: "x".into(), rows };
        set.files = vec![file(0..23), file(23..70)];
        for strategy in SamplingStrategy::ALL.map(|(_, strategy)| strategy) {
            let settings = TrainSettings {
                more_train_data: vec!["y".into()],
                dataset_weights: vec![2.0, 0.5],
                per_device_train_batch_size: 4,
                batch_sampler: BatchSampler::NoDuplicates,
                ..settings(strategy, 1)
            };
            let mut count = [0; 70];
            for epoch in 0..46 {
                let order = epoch_order(&set, &settings, epoch);
                assert_eq!(order.len(), 48 + 24);
                assert!(order.chunks(4).all(|batch| batch.iter().all(|row| (*row < 23) == (batch[0] < 23))));
                order.iter().for_each(|row| count[*row] += 1);
                assert_eq!(order, epoch_order(&set, &settings, epoch));
            }
            // 46 epochs of 48 of 23 rows are 96 rounds; 46 of 24 of 47 are 23 and a half.
            assert!(
                count[..23].iter().all(|n| *n == 96) && count[23..].iter().all(|n| (23..=24).contains(n)),
                "{count:?}"
            );
        }
    }

    #[test]
    fn lengths_are_near_each_other_and_the_longest_row_is_the_first() {
        let set = set(400);
        let length = |row: usize| set.texts.n_tokens(row as u32) + set.texts.n_tokens(400 + row as u32);
        let spread_of = |strategy| {
            let order = epoch_order(&set, &settings(strategy, 5), 2);
            (order.chunks(2).map(|pair| length(pair[0]).abs_diff(length(pair[1]))).sum::<usize>(), order[0])
        };
        let (by_length, first) = spread_of(SamplingStrategy::GroupByLength);
        assert!(by_length * 10 < spread_of(SamplingStrategy::Random).0, "{by_length}");
        assert_eq!(length(first), (0..400).map(length).max().unwrap());
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, strategy) in SamplingStrategy::ALL {
            assert_eq!((name.parse::<SamplingStrategy>().unwrap(), strategy.to_string()), (strategy, name.into()));
            assert_eq!(serde_json::to_value(strategy).unwrap(), name);
        }
        for (name, sampler) in BatchSampler::ALL {
            assert_eq!((name.parse::<BatchSampler>().unwrap(), sampler.to_string()), (sampler, name.into()));
            assert_eq!(serde_json::to_value(sampler).unwrap(), name);
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
