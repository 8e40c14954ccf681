//! One ranking from several: reciprocal rank fusion.
//!
//! Source: Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods", 2009.

use std::collections::HashMap;

/// The paper's constant: how little the very first ranks are preferred.
const K: f64 = 60.0;

/// Rows by the sum over the rankings of 1 / (60 + rank from 1), highest first, then by row; at most `k`. A row that is missing in a
/// ranking gets nothing from it.
pub fn fuse(rankings: &[Vec<u32>], k: usize) -> Vec<u32> {
    let mut sums: HashMap<u32, f64> = HashMap::new();
    for ranking in rankings {
        for (rank, &row) in (1..).zip(ranking) {
            *sums.entry(row).or_default() += 1.0 / (K + f64::from(rank));
        }
    }
    let mut rows: Vec<_> = sums.into_iter().collect();
    rows.sort_unstable_by(|(row_a, a), (row_b, b)| b.total_cmp(a).then(row_a.cmp(row_b)));
    rows.truncate(k);
    rows.into_iter().map(|(row, _)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_both_rankings_know_come_first_and_ties_go_by_row() {
        // 3: 1/61 + 1/63; 1: 1/62 + 1/62, which is less; then 7 and 8 with 1/61 and 1/63.
        assert_eq!(fuse(&[vec![3, 1, 8], vec![7, 1, 3]], 10), [3, 1, 7, 8]);
        assert_eq!(fuse(&[vec![5], vec![2]], 10), [2, 5]);
        assert_eq!(fuse(&[vec![5, 4], vec![2]], 1), [2]);
        assert_eq!(fuse(&[vec![], vec![]], 3), [] as [u32; 0]);
    }
}
