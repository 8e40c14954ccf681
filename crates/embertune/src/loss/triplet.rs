//! Triplets: the positive should be closer than a negative of its group, by a margin.
//!
//! `mean over all negatives of relu(d(q, p+) - d(q, p-) + margin)`. Source: sentence-transformers' TripletLoss.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::loss::groups::{Groups, LossOutput};
use crate::loss::pairs::{Measure, Pairs};

/// How far two texts are from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// `1 - cos`. The default, unlike in sentence-transformers: vectors of length 1 are never further than 2 from each other, and the
    /// margin of 5 that goes with the other distance is out of reach.
    #[default]
    Cosine,
    /// The length of the difference.
    Euclidean,
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Distance::Cosine => "cosine",
            Distance::Euclidean => "euclidean",
        })
    }
}

/// The loss of a batch. For [`Distance::Cosine`] vectors have to be of length 1. Reduction: mean over all pairs of a positive and a
/// negative of its group; 0 where there are none.
///
/// # Panics
/// Where sizes do not fit.
#[doc(alias = "TripletLoss")]
pub fn triplet(groups: &Groups<'_>, distance: Distance, margin: f64) -> LossOutput {
    // 1 - s grows as s falls.
    let (measure, sign) = match distance {
        Distance::Cosine => (Measure::Dot, -1.0),
        Distance::Euclidean => (Measure::Euclidean, 1.0),
    };
    let pairs = Pairs::new(groups, measure);
    let n_triplets = (groups.n_passages() - groups.n_queries()).max(1) as f64;
    let (mut loss, mut d_values) = (0.0, vec![0.0; pairs.values.len()]);
    for range in &pairs.ranges {
        let positive = range.start;
        for negative in positive + 1..range.end {
            let excess = sign * (pairs.values[positive] - pairs.values[negative]) + margin;
            if excess > 0.0 {
                loss += excess / n_triplets;
                d_values[positive] += sign / n_triplets;
                d_values[negative] -= sign / n_triplets;
            }
        }
    }
    pairs.output(loss, &d_values, pairs.stats_of_groups())
}
