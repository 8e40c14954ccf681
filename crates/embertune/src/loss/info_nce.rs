//! InfoNCE over groups: each query against its positive and its negatives, and against the passages of the other queries.
//!
//! With `S = q p^T / T` and `t(i)` the column of query i's positive,
//! `loss = mean_i( -S[i, t(i)] + ln sum_j exp S[i, j] )`, j over the columns that count for query i.
//! Formulas: FlagEmbedding's and sentence-transformers' (MultipleNegativesRankingLoss), which agree up to the order of the columns.

use embertune_kernels::cpu::matmul::{matmul_nn, matmul_nt, matmul_tn};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Which passages are negatives of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Negatives {
    /// All passages of the batch but the query's positive.
    #[default]
    InBatch,
    /// The passages of the query's own group but its positive.
    OwnGroup,
}

/// The embeddings of a batch and what is to be done with them.
///
/// # Shapes
/// `queries`: [n_queries, dim]. `passages`: [n_passages, dim], the groups one after the other, the positive first in each.
#[derive(Clone, Copy, Debug)]
pub struct InfoNce<'a> {
    /// Embeddings of the queries. The loss takes them as they are: whoever wants cosines normalises before.
    pub queries: &'a [f32],
    /// Embeddings of the passages.
    pub passages: &'a [f32],
    /// Width of an embedding.
    pub dim: usize,
    /// Number of passages of each query, [n_queries]. A group of one has no negatives of its own, but counts in the mean.
    pub group_sizes: &'a [usize],
    /// `true` at `query * n_passages + passage` where the passage is never a negative of the query: a known positive of it,
    /// or its own text. The query's positive stays in, whatever is said here.
    pub excluded: &'a [bool],
    /// Which other passages count.
    pub negatives: Negatives,
    /// `T`, the inverse of sentence-transformers' `scale`: 0.02 is a scale of 50.
    pub temperature: f64,
}

/// What [`info_nce`] gives.
#[derive(Clone, Debug)]
pub struct InfoNceOutput {
    /// The mean over the queries.
    pub loss: f64,
    /// Gradient of the loss with respect to the queries, [n_queries, dim].
    pub d_queries: Vec<f32>,
    /// Gradient with respect to the passages, [n_passages, dim].
    pub d_passages: Vec<f32>,
    /// What happened in the batch.
    pub stats: InfoNceStats,
}

/// Counts and sums over queries, to be added up over batches. Similarities are dot products, without the temperature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InfoNceStats {
    /// Number of queries.
    pub n_queries: usize,
    /// Number of queries that had at least one negative; the others learn nothing.
    pub n_contrasted: usize,
    /// Among those, the queries whose positive is closer than every negative.
    pub n_correct: usize,
    /// Number of (query, negative) pairs.
    pub n_negatives: usize,
    /// Sum over all queries of the similarity with the positive.
    pub positive_similarity_sum: f64,
    /// Sum over the contrasted queries of the similarity with the closest negative.
    pub hardest_similarity_sum: f64,
}

impl InfoNceStats {
    /// Adds the counts of another batch.
    pub fn add(&mut self, other: &InfoNceStats) {
        self.n_queries += other.n_queries;
        self.n_contrasted += other.n_contrasted;
        self.n_correct += other.n_correct;
        self.n_negatives += other.n_negatives;
        self.positive_similarity_sum += other.positive_similarity_sum;
        self.hardest_similarity_sum += other.hardest_similarity_sum;
    }

    /// Share of the contrasted queries whose positive is closer than every negative; 0 where there are none.
    pub fn accuracy(&self) -> f64 {
        self.n_correct as f64 / self.n_contrasted.max(1) as f64
    }

    /// Mean similarity of query and positive.
    pub fn positive_similarity(&self) -> f64 {
        self.positive_similarity_sum / self.n_queries.max(1) as f64
    }

    /// Mean similarity of a query and its closest negative; 0 where no query has one.
    pub fn hardest_negative_similarity(&self) -> f64 {
        self.hardest_similarity_sum / self.n_contrasted.max(1) as f64
    }
}

/// The loss of a batch, its gradients and what happened. Products in f32, everything else in f64; runs in the current rayon
/// pool with the same result on any number of threads.
///
/// Reduction: mean over all queries of the batch. A query without a negative adds 0 to the sum.
///
/// # Panics
/// Where the sizes do not fit each other, a group is empty, or the batch is.
#[doc(alias = "MultipleNegativesRankingLoss")]
#[doc(alias = "cross_entropy")]
pub fn info_nce(input: &InfoNce<'_>) -> InfoNceOutput {
    let InfoNce { queries, passages, dim, group_sizes, .. } = *input;
    let n_queries = group_sizes.len();
    let n_passages: usize = group_sizes.iter().sum();
    assert!(n_queries > 0 && group_sizes.iter().all(|&n| n > 0), "group sizes {group_sizes:?}");
    assert_eq!(queries.len(), n_queries * dim, "queries of {n_queries} x {dim}");
    assert_eq!(passages.len(), n_passages * dim, "passages of {n_passages} x {dim}");
    assert_eq!(input.excluded.len(), n_queries * n_passages, "pairs of {n_queries} x {n_passages}");

    let groups: Vec<_> = group_sizes
        .iter()
        .scan(0, |start, &size| {
            *start += size;
            Some(*start - size..*start)
        })
        .collect();

    let mut similarities = vec![0.0; n_queries * n_passages];
    matmul_nt(&mut similarities, queries, passages, n_queries, n_passages, dim);
    // Each row of similarities becomes the row of their gradients.
    let rows: Vec<_> = similarities
        .par_chunks_mut(n_passages)
        .zip(input.excluded.par_chunks(n_passages))
        .zip(&groups)
        .map(|((row, excluded), group)| {
            let is_negative = |column: usize| {
                column != group.start
                    && !excluded[column]
                    && (input.negatives == Negatives::InBatch || group.contains(&column))
            };
            cross_entropy_row(row, group.start, is_negative, input.temperature, n_queries)
        })
        .collect();
    let d_similarities = similarities;

    // S = q p^T: d_q = d_S p, d_p = d_S^T q
    let mut d_queries = vec![0.0; queries.len()];
    matmul_nn(&mut d_queries, &d_similarities, passages, n_queries, dim, n_passages);
    let mut d_passages = vec![0.0; passages.len()];
    matmul_tn(&mut d_passages, &d_similarities, queries, n_passages, dim, n_queries);

    let mut stats = InfoNceStats::default();
    rows.iter().for_each(|(_, row)| stats.add(row));
    let loss = rows.iter().map(|(loss, _)| loss).sum::<f64>() / n_queries as f64;
    InfoNceOutput { loss, d_queries, d_passages, stats }
}

/// The loss of one query. Its similarities are replaced by the gradients of the batch's mean with respect to them.
fn cross_entropy_row(
    row: &mut [f32],
    target: usize,
    is_negative: impl Fn(usize) -> bool,
    temperature: f64,
    n_queries: usize,
) -> (f64, InfoNceStats) {
    let positive = f64::from(row[target]);
    let negatives = || (0..row.len()).filter(|&column| is_negative(column));
    let n_negatives = negatives().count();
    let hardest = negatives().map(|column| f64::from(row[column])).fold(f64::NEG_INFINITY, f64::max);

    let score = |similarity: f64| similarity / temperature;
    let largest = score(positive.max(hardest));
    let exp = |similarity: f64| (score(similarity) - largest).exp();
    let negative_sum: f64 = negatives().map(|column| exp(f64::from(row[column]))).sum();
    let sum = exp(positive) + negative_sum;
    let loss = largest + sum.ln() - score(positive);

    // loss = -S_target + ln sum_j exp S_j: d_S_j = softmax_j - [j = target]
    let factor = 1.0 / (temperature * n_queries as f64);
    for (column, value) in row.iter_mut().enumerate() {
        *value = if column == target {
            // softmax - 1, without the cancellation where the softmax is close to 1.
            (-negative_sum / sum * factor) as f32
        } else if is_negative(column) {
            (exp(f64::from(*value)) / sum * factor) as f32
        } else {
            0.0
        };
    }
    let contrasted = n_negatives > 0;
    let stats = InfoNceStats {
        n_queries: 1,
        n_contrasted: usize::from(contrasted),
        n_correct: usize::from(contrasted && positive > hardest),
        n_negatives,
        positive_similarity_sum: positive,
        hardest_similarity_sum: if contrasted { hardest } else { 0.0 },
    };
    (loss, stats)
}

#[cfg(test)]
mod tests {
    use embertune_kernels::testing::seeded;

    use super::*;

    const DIM: usize = 8;
    /// Sums of a few dozen f32 products in another order.
    const TOLERANCE: f64 = 1e-6;

    /// Three queries with groups of 2, 1 and 3.
    struct Fixture {
        queries: Vec<f32>,
        passages: Vec<f32>,
        excluded: Vec<bool>,
    }

    const SIZES: [usize; 3] = [2, 1, 3];

    impl Fixture {
        fn new() -> Self {
            Fixture { queries: seeded(3 * DIM, 1), passages: seeded(6 * DIM, 2), excluded: vec![false; 18] }
        }

        fn run(&self, negatives: Negatives) -> InfoNceOutput {
            info_nce(&InfoNce {
                queries: &self.queries,
                passages: &self.passages,
                dim: DIM,
                group_sizes: &SIZES,
                excluded: &self.excluded,
                negatives,
                temperature: 0.1,
            })
        }
    }

    #[test]
    fn gradients_are_those_of_the_value() {
        let mut fixture = Fixture::new();
        fixture.excluded[5] = true;
        for negatives in [Negatives::InBatch, Negatives::OwnGroup] {
            let out = fixture.run(negatives);
            // Central differences of an f32 product: h trades rounding (1e-7 / h) against curvature.
            let h = 1e-2_f32;
            for (i, &analytic) in out.d_queries.iter().chain(&out.d_passages).enumerate() {
                let at = |shift: f32| {
                    let mut moved = Fixture {
                        queries: fixture.queries.clone(),
                        passages: fixture.passages.clone(),
                        excluded: fixture.excluded.clone(),
                    };
                    let n = moved.queries.len();
                    if i < n {
                        moved.queries[i] += shift
                    } else {
                        moved.passages[i - n] += shift
                    }
                    moved.run(negatives).loss
                };
                let numeric = (at(h) - at(-h)) / f64::from(2.0 * h);
                assert!((numeric - f64::from(analytic)).abs() < 1e-2, "{negatives:?} {i}: {numeric} {analytic}");
            }
        }
    }

    #[test]
    fn an_excluded_passage_gets_no_push_from_its_query() {
        let mut fixture = Fixture::new();
        // Only query 1 may push passage 4 and only query 0 may push passage 2's group; exclude 4 from everybody.
        for query in 0..3 {
            fixture.excluded[query * 6 + 4] = true;
        }
        let out = fixture.run(Negatives::InBatch);
        assert!(out.d_passages[4 * DIM..5 * DIM].iter().all(|&d| d == 0.0));
        assert_eq!(out.stats.n_negatives, 3 * 5 - 3);
    }

    #[test]
    fn a_positive_stays_even_where_it_is_excluded() {
        let mut fixture = Fixture::new();
        let before = fixture.run(Negatives::InBatch);
        fixture.excluded[0] = true;
        assert_eq!(fixture.run(Negatives::InBatch).loss, before.loss);
    }

    #[test]
    fn order_of_the_groups_does_not_matter() {
        let fixture = Fixture::new();
        let rows = |values: &[f32], order: &[usize]| -> Vec<f32> {
            order.iter().flat_map(|&row| values[row * DIM..(row + 1) * DIM].to_vec()).collect()
        };
        let turned = info_nce(&InfoNce {
            queries: &rows(&fixture.queries, &[2, 0, 1]),
            passages: &rows(&fixture.passages, &[3, 5, 4, 0, 1, 2]),
            dim: DIM,
            group_sizes: &[3, 2, 1],
            excluded: &fixture.excluded,
            negatives: Negatives::InBatch,
            temperature: 0.1,
        });
        let out = fixture.run(Negatives::InBatch);
        assert!((turned.loss - out.loss).abs() < TOLERANCE, "{} {}", turned.loss, out.loss);
        assert_eq!(turned.stats.n_correct, out.stats.n_correct);
    }

    #[test]
    fn a_query_without_negatives_adds_nothing_but_counts_in_the_mean() {
        let fixture = Fixture::new();
        let out = fixture.run(Negatives::OwnGroup);
        assert_eq!((out.stats.n_queries, out.stats.n_contrasted, out.stats.n_negatives), (3, 2, 3));
        assert!(out.d_queries[DIM..2 * DIM].iter().chain(&out.d_passages[2 * DIM..3 * DIM]).all(|&d| d == 0.0));
    }

    #[test]
    fn extreme_scores_stay_finite() {
        let mut fixture = Fixture::new();
        fixture.queries.iter_mut().for_each(|x| *x *= 1e4);
        let out = fixture.run(Negatives::InBatch);
        assert!(out.loss.is_finite());
        assert!(out.d_queries.iter().chain(&out.d_passages).all(|d| d.is_finite()));
    }
}
