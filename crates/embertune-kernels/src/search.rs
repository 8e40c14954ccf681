//! What a device with memory of its own does of a search: it scores candidates for queries, and tells the best of groups of them. The scores
//! themselves stay there.

use std::fmt;

/// What is known of a query's scores in a group of candidates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupBest {
    /// The best score.
    pub best: f32,
    /// Its candidate, one of those with that score.
    pub row: u32,
    /// What no other candidate of the group exceeds; [`f32::MIN`] where there is no other.
    pub second: f32,
}

/// A device that searches.
pub trait SearchDevice: fmt::Debug + Sync {
    /// Scores `candidates` for `queries` by dot products in f32, some queries at a time, and calls `found(first query, groups)` for those, in
    /// their order. Candidate `row` belongs to group `row % n_groups`.
    ///
    /// A sum may be in any order, and each of its at most `dim` operations rounded to either neighbour. What comes of scores that are not
    /// finite may be anything but for [`GroupBest::row`], which is one of the group.
    ///
    /// # Shapes
    /// `queries`: `[n_queries, dim]`, `candidates`: `[n, dim]`, none of the numbers 0, and `n_groups` at most n. `groups`: `[some queries, n_groups]`.
    fn best_of_groups(
        &self,
        queries: &[f32],
        candidates: &[f32],
        dim: usize,
        n_groups: usize,
        found: &mut dyn FnMut(usize, &[GroupBest]),
    );
}

/// The groups of one query, from the scores of all candidates: the specification.
pub fn groups_of(scores: &[f32], n_groups: usize) -> Vec<GroupBest> {
    let of_group = |group: usize| {
        let members = || (group..scores.len()).step_by(n_groups);
        let row = members().skip(1).fold(group, |row, other| if scores[other] > scores[row] { other } else { row });
        let second = members().filter(|&other| other != row).map(|other| scores[other]).fold(f32::MIN, f32::max);
        GroupBest { best: scores[row], row: row as u32, second }
    };
    (0..n_groups).map(of_group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_every_so_many_candidates_and_keep_two_scores() {
        let best = |best, row, second| GroupBest { best, row, second };
        let scores = [1.0, 5.0, 3.0, 2.0, 4.0, 3.0, 9.0];
        assert_eq!(groups_of(&scores, 3), [best(9.0, 6, 2.0), best(5.0, 1, 4.0), best(3.0, 2, 3.0)]);
        assert_eq!(groups_of(&scores[..2], 2), [best(1.0, 0, f32::MIN), best(5.0, 1, f32::MIN)]);
    }
}
