//! InfoNCE over groups: each query against its positive and its negatives, and against the passages of the other queries.
//!
//! With `S = q p^T / T` and `t(i)` the column of query i's positive,
//! `loss = mean_i( -S[i, t(i)] + ln sum_j exp S[i, j] )`, j over the columns that count for query i.
//! Formulas: FlagEmbedding's and sentence-transformers' (MultipleNegativesRankingLoss), which agree up to the order of the columns;
//! the other directions, hardness weights and GIST's mask are sentence-transformers' too.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::loss::contrast::{Rows, View};
use crate::loss::groups::{Groups, LossOutput};

/// What is compared with what, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InfoNce {
    /// Which passages are negatives of a query.
    pub negatives: Negatives,
    /// What else is compared.
    pub directions: Directions,
    /// `T`, the inverse of sentence-transformers' `scale`: 0.02 is a scale of 50.
    pub temperature: f64,
    /// More weight for negatives that are close. `None`: all alike.
    pub hardness: Option<Hardness>,
    /// A text whose similarity is greater than the positive's by more than this is no negative. `None`: no bound.
    pub mask_margin: Option<f64>,
    /// Where there is a guide: how far below the positive's a similarity has to be, in the guide's eyes, for a negative.
    pub guide_margin: Margin,
}

impl InfoNce {
    /// One way, without weights and masks.
    pub fn new(negatives: Negatives, temperature: f64) -> Self {
        InfoNce {
            negatives,
            directions: Directions::OneWay,
            temperature,
            hardness: None,
            mask_margin: None,
            guide_margin: Margin::Absolute(0.0),
        }
    }
}

/// Which passages are negatives of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Negatives {
    /// All passages of the batch but the query's positive.
    #[default]
    InBatch,
    /// The passages of the query's own group but its positive.
    OwnGroup,
}

/// What is compared with what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directions {
    /// Queries with passages.
    #[default]
    OneWay,
    /// Also positives with all queries, in a softmax of their own; the two are averaged. sentence-transformers:
    /// `directions=("query_to_doc", "doc_to_query")`, `partition_mode="per_direction"`.
    TwoWay,
    /// One softmax over a query with all passages and other queries, and its positive with all queries and the passages of
    /// other groups (GTE). sentence-transformers: all four directions, `partition_mode="joint"`.
    Joint,
    /// One softmax over a query with all passages and other queries, and its positive with other positives, as in
    /// sentence-transformers' GISTEmbedLoss.
    Gist,
}

impl fmt::Display for Directions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Directions::OneWay => "one_way",
            Directions::TwoWay => "two_way",
            Directions::Joint => "joint",
            Directions::Gist => "gist",
        })
    }
}

/// `strength * similarity`, without a gradient of its own, is added to the scores of some negatives, so that close ones weigh more.
/// Source: Lan et al. 2025 (2503.04812, eq. 5); sentence-transformers' `hardness_mode` and `hardness_strength`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hardness {
    /// Of which negatives.
    pub mode: HardnessMode,
    /// The factor, not divided by the temperature. 9 in the paper, 5 for hard negatives in EmbeddingGemma.
    pub strength: f64,
}

/// Which negatives are weighted; passages only, whatever the directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HardnessMode {
    /// The passages of other queries.
    InBatchNegatives,
    /// The negatives of the query's own group.
    HardNegatives,
    /// Both.
    AllNegatives,
}

/// How far below the positive's a similarity has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Margin {
    /// By this much.
    Absolute(f64),
    /// By this share of the positive's.
    Relative(f64),
}

/// The loss of a batch, its gradients and what happened. Products in f32, everything else in f64; runs in the current rayon
/// pool with the same result on any number of threads.
///
/// Reduction: mean over all queries of the batch. A query without a negative adds 0 to the sum. What masks leave out is decided by
/// the similarities as they are, and has no gradient.
///
/// # Panics
/// Where the sizes do not fit each other, a group is empty, or the batch is.
#[doc(alias = "MultipleNegativesRankingLoss")]
#[doc(alias = "GISTEmbedLoss")]
#[doc(alias = "cross_entropy")]
pub fn info_nce(groups: &Groups<'_>, settings: &InfoNce) -> LossOutput {
    groups.check();
    let mean = |view| Rows::new(groups, settings, view).mean(|group, scores| cross_entropy(scores, group.start));
    match settings.directions {
        Directions::OneWay => mean(View::QueryToPassages),
        Directions::Joint | Directions::Gist => mean(View::Everything),
        Directions::TwoWay => {
            let (forth, back) = (mean(View::QueryToPassages), mean(View::PositiveToQueries));
            let stats = forth.stats;
            let mut both = back.plus(forth);
            both.loss *= 0.5;
            both.d_queries.iter_mut().chain(&mut both.d_passages).for_each(|d| *d *= 0.5);
            LossOutput { stats, ..both }
        }
    }
}

/// `ln sum_j exp scores[j] - scores[target]`. The scores are replaced by its gradients with respect to them.
fn cross_entropy(scores: &mut [f64], target: usize) -> f64 {
    let score = scores[target];
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let positive = scores[target];
    scores[target] = 0.0;
    let others: f64 = scores.iter().sum();
    let sum = positive + others;
    // loss = -S_target + ln sum_j exp S_j: d_S_j = softmax_j - [j = target]
    scores.iter_mut().for_each(|score| *score /= sum);
    // softmax - 1, without the cancellation where the softmax is close to 1.
    scores[target] = -others / sum;
    largest + sum.ln() - score
}

#[cfg(test)]
mod tests {
    use embertune_kernels::testing::seeded;

    use super::*;
    use crate::loss::Vectors;

    const DIM: usize = 8;
    /// Sums of a few dozen f32 products in another order.
    const TOLERANCE: f64 = 1e-6;
    const SIZES: [usize; 3] = [2, 1, 3];

    /// Three queries with groups of 2, 1 and 3, and what a guide says of them.
    #[derive(Clone)]
    struct Fixture {
        queries: Vec<f32>,
        passages: Vec<f32>,
        excluded: Vec<bool>,
        settings: InfoNce,
    }

    impl Fixture {
        fn new(negatives: Negatives) -> Self {
            Fixture {
                queries: seeded(3 * DIM, 1),
                passages: seeded(6 * DIM, 2),
                excluded: vec![false; 18],
                settings: InfoNce::new(negatives, 0.1),
            }
        }

        fn run(&self) -> LossOutput {
            let vectors = Vectors { queries: &self.queries, passages: &self.passages, dim: DIM };
            let (excluded, scores) = (&self.excluded, &[]);
            info_nce(&Groups { vectors, group_sizes: &SIZES, excluded, scores, guide: None }, &self.settings)
        }
    }

    #[test]
    fn an_excluded_passage_gets_no_push_from_its_query() {
        let mut fixture = Fixture::new(Negatives::InBatch);
        // Only query 1 may push passage 4 and only query 0 may push passage 2's group; exclude 4 from everybody.
        for query in 0..3 {
            fixture.excluded[query * 6 + 4] = true;
        }
        let out = fixture.run();
        assert!(out.d_passages[4 * DIM..5 * DIM].iter().all(|&d| d == 0.0));
        assert_eq!((out.stats.n_negatives, out.stats.n_masked_known), (3 * 5 - 3, 3));
    }

    #[test]
    fn a_positive_stays_even_where_it_is_excluded() {
        let mut fixture = Fixture::new(Negatives::InBatch);
        let before = fixture.run();
        fixture.excluded[0] = true;
        assert_eq!(fixture.run().loss, before.loss);
    }

    #[test]
    fn order_of_the_groups_does_not_matter() {
        let fixture = Fixture::new(Negatives::InBatch);
        let rows = |values: &[f32], order: &[usize]| -> Vec<f32> {
            order.iter().flat_map(|&row| values[row * DIM..(row + 1) * DIM].to_vec()).collect()
        };
        let (queries, passages) = (rows(&fixture.queries, &[2, 0, 1]), rows(&fixture.passages, &[3, 5, 4, 0, 1, 2]));
        let vectors = Vectors { queries: &queries, passages: &passages, dim: DIM };
        let (excluded, scores) = (&fixture.excluded, &[]);
        let groups = Groups { vectors, group_sizes: &[3, 2, 1], excluded, scores, guide: None };
        let turned = info_nce(&groups, &fixture.settings);
        let out = fixture.run();
        assert!((turned.loss - out.loss).abs() < TOLERANCE, "{} {}", turned.loss, out.loss);
        assert_eq!(turned.stats.n_correct, out.stats.n_correct);
    }

    #[test]
    fn a_query_without_negatives_adds_nothing_but_counts_in_the_mean() {
        let out = Fixture::new(Negatives::OwnGroup).run();
        assert_eq!(
            (out.stats.n_queries, out.stats.n_contrasted, out.stats.n_idle, out.stats.n_negatives),
            (3, 2, 1, 3)
        );
        assert!(out.d_queries[DIM..2 * DIM].iter().chain(&out.d_passages[2 * DIM..3 * DIM]).all(|&d| d == 0.0));
    }

    #[test]
    fn extreme_scores_stay_finite() {
        let mut fixture = Fixture::new(Negatives::InBatch);
        fixture.queries.iter_mut().for_each(|x| *x *= 1e4);
        let out = fixture.run();
        assert!(out.loss.is_finite());
        assert!(out.d_queries.iter().chain(&out.d_passages).all(|d| d.is_finite()));
    }

    #[test]
    fn a_mask_margin_leaves_out_what_is_closer_than_the_positive_by_more() {
        let mut fixture = Fixture::new(Negatives::InBatch);
        let all = fixture.run().stats;
        fixture.settings.mask_margin = Some(10.0);
        assert_eq!(fixture.run().stats, all);
        fixture.settings.mask_margin = Some(0.0);
        let masked = fixture.run().stats;
        assert!(masked.n_masked_similar > 0);
        assert_eq!(masked.n_negatives + masked.n_masked_similar, all.n_negatives);
        // What is left is further than the positive.
        assert_eq!(masked.n_correct, masked.n_contrasted);
    }

    #[test]
    fn known_positives_are_left_out_in_all_directions() {
        let mut fixture = Fixture::new(Negatives::InBatch);
        fixture.settings.directions = Directions::Joint;
        let none = fixture.run().stats;
        // The positives of queries 0 and 1, passages 0 and 2, belong to both.
        fixture.excluded[2] = true;
        fixture.excluded[6] = true;
        let stats = fixture.run().stats;
        // For each of the two: the other's positive, its query, its query for the positive, its positive for the positive.
        assert_eq!(stats.n_masked_known, 8);
        assert_eq!(stats.n_negatives, none.n_negatives - 8);
    }
}
