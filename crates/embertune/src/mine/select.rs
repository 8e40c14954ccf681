//! Which candidates become the negatives of a query: plain rules over a ranking, without model or files.
//!
//! Two families of rules are one here. The original's (`mine_hard_neg.py`, from FlagEmbedding's `hn_mine.py`) cuts the *raw* ranking to a
//! range and then takes known positives and the query itself out. That of sentence-transformers' `mine_hard_negatives` takes out
//! positives and what breaks a limit, and then counts ranks among the survivors. Both sample from what is left.
//!
//! What differs on purpose: the original's fill-up never takes a known positive, the query or a text twice (the original's may); a
//! positive of *any* row with the same query counts as known; the query's own text is never a negative (sentence-transformers keeps it).

use std::collections::HashSet;

use embertune_kernels::dropout::splitmix64;

use super::overlap::Lookalikes;
use super::settings::{Limits, Rule, Window};
use crate::data::TextId;
use crate::error::Result;
use crate::random::Shuffle;
use crate::search::Hit;

/// Which of the candidates that are left become negatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The best.
    Top,
    /// Any, each as likely.
    Random,
    /// One in every so many ranks, the best among them: from hard to easy evenly.
    Spread,
}

impl Strategy {
    /// At most `n` places of `0..n_candidates`, ascending.
    pub fn pick(self, n_candidates: usize, n: usize, seed: u64) -> Vec<usize> {
        if n_candidates <= n {
            return (0..n_candidates).collect();
        }
        match self {
            Strategy::Top => (0..n).collect(),
            Strategy::Random => {
                let mut picks: Vec<_> = Shuffle::new(n_candidates, seed).take(n).collect();
                picks.sort_unstable();
                picks
            }
            Strategy::Spread => (0..n).map(|i| i * n_candidates / n).collect(),
        }
    }
}

/// Why a candidate is taken for a right answer that nobody marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nearly the words of a positive.
    NearDuplicate,
    /// [`Limits::absolute_margin`].
    AbsoluteMargin,
    /// [`Limits::relative_margin`].
    RelativeMargin,
    /// [`Limits::max_score`].
    MaxScore,
}

impl Reason {
    /// All, in the order in which they are looked at.
    pub const ALL: [Reason; 4] =
        [Reason::NearDuplicate, Reason::AbsoluteMargin, Reason::RelativeMargin, Reason::MaxScore];

    /// The name in review files.
    pub fn name(self) -> &'static str {
        match self {
            Reason::NearDuplicate => "near_duplicate",
            Reason::AbsoluteMargin => "absolute_margin",
            Reason::RelativeMargin => "relative_margin",
            Reason::MaxScore => "max_score",
        }
    }
}

/// What a candidate is for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may become a negative.
    Good,
    /// A known positive, or the query itself.
    Known,
    /// Maybe a right answer.
    Suspect(Reason),
    /// Below [`Limits::min_score`].
    TooLow,
}

impl Limits {
    /// What the scores say; `positive` is the lowest score of the query's positives.
    pub fn verdict(&self, score: f32, positive: Option<f32>) -> Verdict {
        let above = |ceiling: Option<f32>| ceiling.is_some_and(|ceiling| score > ceiling);
        if let (Some(p), Some(margin)) = (positive, self.absolute_margin)
            && score + margin > p
        {
            Verdict::Suspect(Reason::AbsoluteMargin)
        } else if above(positive.zip(self.relative_margin).map(|(p, margin)| p - p.abs() * margin)) {
            // Not `p * (1 - margin)`: that is above a `p` below zero.
            Verdict::Suspect(Reason::RelativeMargin)
        } else if above(self.max_score) {
            Verdict::Suspect(Reason::MaxScore)
        } else if self.min_score.is_some_and(|floor| score < floor) {
            Verdict::TooLow
        } else {
            Verdict::Good
        }
    }
}

/// Judges the candidates of one query.
pub struct Judge<'a> {
    /// Never negatives: known positives and the query. Numbers of passages, ascending.
    pub forbidden: &'a [u32],
    /// Judged to be negatives by the user: no rule suspects them.
    pub cleared: &'a HashSet<u32>,
    /// What near-duplicates of the positives look like, where they are left out.
    pub lookalikes: Option<Lookalikes<'a>>,
    /// The scores that count.
    pub limits: Limits,
    /// Lowest score of the query's positives, where it is known.
    pub lowest_positive: Option<f32>,
}

impl Judge<'_> {
    /// What the candidate is.
    ///
    /// # Errors
    /// Where its text can't be read.
    pub fn verdict(&self, hit: Hit) -> Result<Verdict> {
        if self.forbidden.binary_search(&hit.row).is_ok() {
            return Ok(Verdict::Known);
        }
        if self.cleared.contains(&hit.row) {
            return Ok(Verdict::Good);
        }
        Ok(match &self.lookalikes {
            Some(lookalikes) if lookalikes.contains(hit.row)? => Verdict::Suspect(Reason::NearDuplicate),
            _ => self.limits.verdict(hit.score, self.lowest_positive),
        })
    }
}

/// A ranking after the rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sifted {
    /// What may become negatives, best first.
    pub survivors: Vec<Hit>,
    /// What may be right answers, best first.
    pub suspects: Vec<(Hit, Reason)>,
}

/// Takes out of `hits` (best first) what may not become a negative. `survivors_range` is [`Rule::survivors`].
///
/// # Errors
/// Those of [`Judge::verdict`].
pub fn sift(hits: &[Hit], rule: &Rule, survivors_range: std::ops::Range<usize>, judge: &Judge<'_>) -> Result<Sifted> {
    let window = match &rule.window {
        Window::Ranks(range) => hits.get(range.start..range.end.min(hits.len())).unwrap_or_default(),
        Window::Survivors { .. } => hits,
    };
    let mut sifted = Sifted::default();
    for &hit in window {
        match judge.verdict(hit)? {
            Verdict::Good => sifted.survivors.push(hit),
            Verdict::Suspect(reason) => sifted.suspects.push((hit, reason)),
            Verdict::Known | Verdict::TooLow => {}
        }
    }
    sifted.survivors.truncate(survivors_range.end);
    sifted.survivors.drain(..survivors_range.start.min(sifted.survivors.len()));
    Ok(sifted)
}

/// Draws `n` of `n_candidates` candidates that the judge finds good and that are not in `taken`; fewer where there are no more.
///
/// # Errors
/// Those of `score` and of [`Judge::verdict`].
pub fn fill_up(
    n: usize,
    n_candidates: usize,
    taken: &[Hit],
    judge: &Judge<'_>,
    score: impl Fn(u32) -> Result<f32>,
    seed: u64,
) -> Result<Vec<Hit>> {
    let taken: HashSet<u32> = taken.iter().map(|hit| hit.row).collect();
    let hit = |row: u32| {
        let hit = Hit { row, score: score(row)? };
        Ok((judge.verdict(hit)? == Verdict::Good).then_some(hit))
    };
    let rows = Shuffle::new(n_candidates, seed).map(|row| row as u32).filter(|row| !taken.contains(row));
    rows.filter_map(|row| hit(row).transpose()).take(n).collect()
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

    #[test]
    fn every_strategy_picks_distinct_places_in_order_and_all_where_there_are_too_few() {
        for strategy in [Strategy::Top, Strategy::Random, Strategy::Spread] {
            for (m, n) in [(0, 3), (2, 3), (3, 3), (10, 3), (10, 9), (100, 7)] {
                let picks = strategy.pick(m, n, 5);
                assert_eq!(picks.len(), n.min(m), "{strategy:?} {n} of {m}");
                assert!(picks.is_sorted_by(|a, b| a < b) && picks.iter().all(|&i| i < m), "{picks:?}");
            }
        }
        assert_eq!(Strategy::Top.pick(10, 3, 5), [0, 1, 2]);
        assert_eq!(Strategy::Spread.pick(10, 3, 5), [0, 3, 6]);
        assert_ne!(Strategy::Random.pick(100, 7, 5), Strategy::Random.pick(100, 7, 6));
    }

    /// The comparisons of `mine_hard_negatives`, at and beside each limit, for positives above and below zero.
    #[test]
    fn a_candidate_at_a_limit_is_good_and_beyond_it_is_not() {
        let limits = |change: &dyn Fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            limits
        };
        let relative = limits(&|l| l.relative_margin = Some(0.25));
        assert_eq!(relative.verdict(0.375, Some(0.5)), Verdict::Good);
        assert_eq!(relative.verdict(0.376, Some(0.5)), Verdict::Suspect(Reason::RelativeMargin));
        assert_eq!(relative.verdict(-0.6, Some(-0.5)), Verdict::Suspect(Reason::RelativeMargin));
        assert_eq!(relative.verdict(-0.625, Some(-0.5)), Verdict::Good);
        let absolute = limits(&|l| l.absolute_margin = Some(0.25));
        assert_eq!(absolute.verdict(0.25, Some(0.5)), Verdict::Good);
        assert_eq!(absolute.verdict(0.26, Some(0.5)), Verdict::Suspect(Reason::AbsoluteMargin));
        let between = limits(&|l| (l.min_score, l.max_score) = (Some(0.25), Some(0.5)));
        assert_eq!(between.verdict(0.5, None), Verdict::Good);
        assert_eq!(between.verdict(0.51, None), Verdict::Suspect(Reason::MaxScore));
        assert_eq!(between.verdict(0.25, None), Verdict::Good);
        assert_eq!(between.verdict(0.24, None), Verdict::TooLow);
        assert_eq!(Limits::default().verdict(9.0, Some(0.1)), Verdict::Good);
    }
}
