//! Which candidates become the negatives of a query: plain rules over a ranking, without model or files.
//!
//! The rule is the original's (`mine_hard_neg.py`, from FlagEmbedding's `hn_mine.py`): cut the *raw* ranking to the range, take known positives
//! and the query itself out of what is left, sample, fill up from the whole pool. Two things differ on purpose: the fill-up
//! never takes a known positive, the query or a text twice (the original's may), and a positive of *any* row with the same query counts as known.

use std::collections::HashSet;
use std::ops::Range;

use embertune_kernels::dropout::splitmix64;

use crate::data::{Pool, TextId};
use crate::random::Shuffle;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_depends_on_run_query_and_occurrence() {
        let [a, b] = ["a", "b"].map(TextId::of);
        let seeds =
            HashSet::from([seed_of_row(1, a, 0), seed_of_row(2, a, 0), seed_of_row(1, b, 0), seed_of_row(1, a, 1)]);
        assert_eq!(seeds.len(), 4);
        assert_eq!(seed_of_row(1, a, 0), seed_of_row(1, a, 0));
    }
}
