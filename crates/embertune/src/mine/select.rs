//! Which candidates become the negatives of a query: plain rules over a ranking, without model or files.
//!
//! The rule is the original's (`mine_hard_neg.py`, from FlagEmbedding's `hn_mine.py`): cut the *raw* ranking to the range, take known positives
//! and the query itself out of what is left, sample, fill up from the whole pool. Two things differ on purpose: the fill-up
//! never takes a known positive, the query or a text twice (the original's may), and a positive of *any* row with the same query counts as known.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use embertune_kernels::dropout::splitmix64;

use crate::data::{Pool, TextId};

/// The ranks of `ranking` (pool rows, best first) that may become negatives: those within `range`, 0-based, the end excluded,
/// that are not in `forbidden`. Best first.
pub fn candidates(ranking: &[u32], range: &Range<usize>, pool: &Pool, forbidden: &HashSet<TextId>) -> Vec<u32> {
    let end = range.end.min(ranking.len());
    let window = ranking.get(range.start..end).unwrap_or_default();
    window.iter().copied().filter(|&row| !forbidden.contains(&pool.ids()[row as usize])).collect()
}

/// The negatives of one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Pool rows: the sampled ones in the order of their ranks, then those drawn from the whole pool.
    pub rows: Vec<u32>,
    /// How many of them, the last ones, were drawn from the whole pool.
    pub n_filled: usize,
}

/// Samples `n` of `candidates`; where these are too few, takes all and draws the rest from the whole pool. Fewer than `n` come out
/// where the pool has no more texts that are allowed.
pub fn select(candidates: &[u32], n: usize, pool: &Pool, forbidden: &HashSet<TextId>, seed: u64) -> Selection {
    let mut rows = if candidates.len() > n {
        let mut picks: Vec<_> = Shuffle::new(candidates.len(), seed).take(n).collect();
        picks.sort_unstable();
        picks.into_iter().map(|pick| candidates[pick]).collect()
    } else {
        candidates.to_vec()
    };
    let n_sampled = rows.len();
    if n_sampled < n {
        let taken: HashSet<u32> = rows.iter().copied().collect();
        let allowed = |row: &u32| !taken.contains(row) && !forbidden.contains(&pool.ids()[*row as usize]);
        rows.extend(Shuffle::new(pool.len(), seed).map(|row| row as u32).filter(allowed).take(n - n_sampled));
    }
    Selection { n_filled: rows.len() - n_sampled, rows }
}

/// The seed of one row's sampling: a pure function of the run's seed, the query, and how many rows before had the same query.
/// So the other rows of a file don't change what a query gets.
pub fn seed_of_row(seed: u64, query: TextId, occurrence: u64) -> u64 {
    let TextId(id) = query;
    splitmix64(seed ^ splitmix64((id >> 64) as u64 ^ splitmix64(id as u64 ^ splitmix64(occurrence))))
}

/// The numbers `0..n` in a random order, made as far as they are asked for: a Fisher-Yates shuffle that stores only the
/// places that were swapped.
struct Shuffle {
    n: usize,
    next: usize,
    seed: u64,
    moved: HashMap<usize, usize>,
}

impl Shuffle {
    fn new(n: usize, seed: u64) -> Shuffle {
        Shuffle { n, next: 0, seed, moved: HashMap::new() }
    }
}

impl Iterator for Shuffle {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.next == self.n {
            return None;
        }
        let left = self.n - self.next;
        let random = splitmix64(self.seed ^ splitmix64(self.next as u64));
        // The high half of a 64 by 64 bit product: uniform over 0..left up to a bias of left / 2^64.
        let pick = self.next + ((u128::from(random) * left as u128) >> 64) as usize;
        let at_next = self.moved.remove(&self.next).unwrap_or(self.next);
        let result = if pick == self.next { at_next } else { self.moved.insert(pick, at_next).unwrap_or(pick) };
        self.next += 1;
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_and_depends_on_the_seed() {
        for n in [0, 1, 2, 7, 100] {
            let mut numbers: Vec<_> = Shuffle::new(n, 5).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..n).collect::<Vec<_>>());
        }
        assert_ne!(Shuffle::new(100, 5).collect::<Vec<_>>(), Shuffle::new(100, 6).collect::<Vec<_>>());
    }

    #[test]
    fn every_number_is_equally_likely_at_every_place() {
        let (n, draws) = (5, 20_000_u64);
        let mut count = vec![0_u32; n * n];
        for seed in 0..draws {
            for (place, number) in Shuffle::new(n, seed).enumerate() {
                count[place * n + number] += 1;
            }
        }
        // Expected 4000; five standard deviations of a binomial are 283.
        assert!(count.iter().all(|&c| (3717..=4283).contains(&c)), "{count:?}");
    }

    #[test]
    fn a_seed_depends_on_run_query_and_occurrence() {
        let [a, b] = ["a", "b"].map(TextId::of);
        let seeds =
            HashSet::from([seed_of_row(1, a, 0), seed_of_row(2, a, 0), seed_of_row(1, b, 0), seed_of_row(1, a, 1)]);
        assert_eq!(seeds.len(), 4);
        assert_eq!(seed_of_row(1, a, 0), seed_of_row(1, a, 0));
    }
}
