//! A loss on the first k numbers of every vector, and on several such k at once, so that vectors can be cut short later on.
//!
//! `sum over k of weight_k * loss(q[..k], p[..k])`. What is cut is brought to length 1 again, after the cut, so that it does not matter
//! whether it was before. Sources: sentence-transformers' MatryoshkaLoss (weights 1); FlagEmbedding's `use_mrl` (the mean).

use crate::loss::Loss;
use crate::loss::groups::{Groups, LossOutput, Vectors};

/// The smallest norm that is divided by, as in `torch.nn.functional.normalize`.
const MIN_NORM: f64 = 1e-12;

/// The loss of the first k numbers of the vectors, for each `(k, weight)`. `scale_to_1(k)` says whether what is cut at k is brought to
/// length 1. What happened in the batch is what the longest says.
///
/// # Panics
/// Where there is no k, or one that is 0 or greater than the width of the vectors; and where `loss` does.
#[doc(alias = "MatryoshkaLoss")]
pub fn matryoshka(
    loss: &Loss,
    groups: &Groups<'_>,
    dims: &[(usize, f64)],
    scale_to_1: impl Fn(usize) -> bool,
) -> LossOutput {
    let width = groups.vectors.dim;
    let mut total = LossOutput {
        loss: 0.0,
        d_queries: vec![0.0; groups.vectors.queries.len()],
        d_passages: vec![0.0; groups.vectors.passages.len()],
        stats: Default::default(),
    };
    let longest = dims.iter().map(|&(k, _)| k).max().expect("at least one width");
    let mut d_log_temperature = 0.0;
    for &(k, weight) in dims {
        assert!((1..=width).contains(&k), "first {k} of {width} numbers");
        let scaled = scale_to_1(k);
        let cut = |x: &[f32]| if scaled { unit(x, width, k) } else { first(x, width, k) };
        let (queries, passages) = (cut(groups.vectors.queries), cut(groups.vectors.passages));
        let vectors = Vectors { queries: &queries, passages: &passages, dim: k };
        let out = loss.judge(&Groups { vectors, ..*groups });
        total.loss += weight * out.loss;
        d_log_temperature += weight * out.stats.d_log_temperature;
        if k == longest {
            total.stats = out.stats;
        }
        for (d_total, d_cut, x, y) in [
            (&mut total.d_queries, &out.d_queries, groups.vectors.queries, &queries),
            (&mut total.d_passages, &out.d_passages, groups.vectors.passages, &passages),
        ] {
            let rows = d_total.chunks_exact_mut(width).zip(x.chunks_exact(width));
            for ((d_total, x), (d_y, y)) in rows.zip(d_cut.chunks_exact(k).zip(y.chunks_exact(k))) {
                // y = x / |x|: d_x = (d_y - y (y . d_y)) / |x|
                let (along, norm) = if scaled { (dot(y, d_y), norm(&x[..k])) } else { (0.0, 1.0) };
                for (d_total, (&d_y, &y)) in d_total.iter_mut().zip(d_y.iter().zip(y)) {
                    *d_total += (weight * (f64::from(d_y) - f64::from(y) * along) / norm) as f32;
                }
            }
        }
    }
    total.stats.d_log_temperature = d_log_temperature;
    total
}

fn first(x: &[f32], width: usize, k: usize) -> Vec<f32> {
    x.chunks_exact(width).flat_map(|row| &row[..k]).copied().collect()
}

fn unit(x: &[f32], width: usize, k: usize) -> Vec<f32> {
    let rows = x.chunks_exact(width).map(|row| &row[..k]);
    rows.flat_map(|row| {
        let norm = norm(row);
        row.iter().map(move |&x| (f64::from(x) / norm) as f32)
    })
    .collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn norm(x: &[f32]) -> f64 {
    dot(x, x).sqrt().max(MIN_NORM)
}
