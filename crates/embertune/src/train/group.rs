//! Which positive and which negatives of a row an epoch trains on, as a pure function of (seed, epoch, row).
//!
//! The original draws anew each time it sees a row: any positive, `train_group_size - 1` negatives without replacement, and where
//! there are fewer, a sample of the list repeated often enough. Here both take turns over the epochs: each row deals its negatives
//! from a shuffled deck that goes round and round, so that all are used as soon as the epochs have room for them, none comes a
//! second time before every other came once, and a list that is too short is repeated evenly.

use crate::random::{Shuffle, key};

/// Separate these uses of a seed from others.
const POSITIVE: u64 = 2;
const NEGATIVES: u64 = 3;

/// The passages of one row in one epoch, as places in its lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Place in the row's positives.
    pub positive: usize,
    /// Places in the row's negatives, ascending: `group_size - 1` of them, or none where the row has none.
    pub negatives: Vec<usize>,
}

/// Which row in which epoch.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Seed of the run.
    pub seed: u64,
    /// From 0.
    pub epoch: usize,
    /// Place of the row in the data, from 0.
    pub row: usize,
}

/// The group of a row with `n_positives` (at least 1) and `n_negatives` texts.
pub fn choose(draw: Draw, n_positives: usize, n_negatives: usize, group_size: usize) -> Group {
    let Draw { seed, epoch, row } = draw;
    let turn = Shuffle::new(n_positives, key(&[POSITIVE, seed, row as u64])).nth(epoch % n_positives);
    let wanted = if n_negatives == 0 { 0 } else { group_size - 1 };
    let first = epoch * wanted % n_negatives.max(1);
    let deck = Shuffle::new(n_negatives, key(&[NEGATIVES, seed, row as u64])).take(first + wanted).collect::<Vec<_>>();
    let mut negatives: Vec<_> = (first..first + wanted).map(|turn| deck[turn % n_negatives]).collect();
    negatives.sort_unstable();
    Group { positive: turn.unwrap_or_default(), negatives }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn draw(epoch: usize, row: usize) -> Draw {
        Draw { seed: 42, epoch, row }
    }

    #[test]
    fn positives_take_turns_over_the_epochs() {
        let seen: Vec<_> = (0..6).map(|epoch| choose(draw(epoch, 5), 3, 0, 1).positive).collect();
        assert_eq!(seen[..3].iter().collect::<HashSet<_>>().len(), 3);
        assert_eq!(seen[..3], seen[3..]);
    }

    #[test]
    fn negatives_take_turns_over_the_epochs_until_all_were_used() {
        let of = |epoch, row| choose(draw(epoch, row), 1, 20, 7).negatives;
        for epoch in 0..10 {
            assert_eq!(of(epoch, 1).iter().collect::<HashSet<_>>().len(), 6);
            let used: HashSet<_> = (epoch..epoch + 4).flat_map(|epoch| of(epoch, 1)).collect();
            assert_eq!(used.len(), 20, "from epoch {epoch}");
        }
        let mut count = [0; 20];
        (0..10).flat_map(|epoch| of(epoch, 1)).for_each(|n| count[n] += 1);
        assert_eq!(count, [3; 20]);
        assert_ne!(of(0, 1), of(0, 2));
        assert_eq!(of(0, 1), of(0, 1));
    }

    #[test]
    fn too_few_negatives_are_repeated_evenly() {
        let mut count = [0; 3];
        choose(draw(0, 0), 1, 3, 9).negatives.into_iter().for_each(|n| count[n] += 1);
        count.sort_unstable();
        assert_eq!(count, [2, 3, 3]);
    }

    #[test]
    fn a_row_without_negatives_is_its_positive_alone() {
        assert_eq!(choose(draw(0, 0), 1, 0, 8), Group { positive: 0, negatives: vec![] });
        assert_eq!(choose(draw(0, 0), 1, 5, 1), Group { positive: 0, negatives: vec![] });
    }
}
