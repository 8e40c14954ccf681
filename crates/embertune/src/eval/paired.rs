//! Whether two lists of values, one pair for each query, differ by more than chance: interval, test, and how many queries it takes.
//!
//! Queries are what chance draws, so everything is about the differences of pairs. Per-query differences of retrieval metrics are
//! lumpy: mostly zeros, the rest differences of a few fractions, with heavy tails. `docs/LOG.md` has the coverage of the intervals
//! that were tried on such data.
//!
//! Sources: bootstrap-t: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), 12.5. Sign flips: Smucker, Allan,
//! Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval Evaluation" (CIKM 2007).

use embertune_kernels::dropout::splitmix64;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::random;

/// Up to so many differences that are not zero, the test goes through all signs: 65,536 sums.
const EXACT_TEST: usize = 16;
/// The standard normal quantile of a two-sided level of 5 %.
const Z_LEVEL: f64 = 1.959_964;
/// The standard normal quantile of a power of 80 %.
const Z_POWER: f64 = 0.841_621;
/// Where samples without a difference that is not zero are so many that a critical value of the bootstrap is infinite, it counts as
/// so many of Student's.
const WIDEST: f64 = 4.0;
/// Keeps what is drawn for the interval and for the test apart.
const FOR_INTERVAL: u64 = 1;
const FOR_TEST: u64 = 2;

/// How chance is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resampling {
    /// Samples of the bootstrap, and of the test where it is not exact. Default 9999: the ends of the interval are then the
    /// 250th value from either side, and the smallest p-value is 0.0001.
    pub n_samples: usize,
    /// The same seed gives the same numbers, on any number of threads.
    pub seed: u64,
}

impl Default for Resampling {
    fn default() -> Self {
        Resampling { n_samples: 9999, seed: 42 }
    }
}

/// What can be said about a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Greater than chance explains.
    Better,
    /// Smaller than chance explains.
    Worse,
    /// Chance explains it.
    NotShown,
    /// Every pair is equal.
    Same,
}

/// The comparison of two lists of values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Number of pairs.
    pub n: usize,
    /// Mean of the first list.
    pub base: f64,
    /// Mean of the second list.
    pub tuned: f64,
    /// Mean of second - first.
    pub difference: f64,
    /// 95 % confidence interval of the difference, within -1 and 1. `None` where all differences are equal: how they vary is then
    /// not known.
    pub interval: Option<(f64, f64)>,
    /// How often chance, giving each difference its sign, makes a mean at least as far from 0. 1 where no pair differs.
    pub p_value: f64,
    /// Whether `p_value` is of all signs, not of a sample of them.
    pub p_value_is_exact: bool,
    /// Pairs whose second value is greater.
    pub won: usize,
    /// Pairs whose second value is smaller.
    pub lost: usize,
    /// Pairs that are equal.
    pub tied: usize,
    /// So many pairs show a difference of this size with a chance of 80 %, at a level of 5 %. `None` where the mean is 0.
    pub n_needed: Option<u64>,
    /// So large a difference shows with a chance of 80 % in `n` pairs.
    pub detectable: f64,
    /// What follows from all of it.
    pub finding: Finding,
}

impl Difference {
    /// Compares two lists of values within 0 and 1, pair by pair.
    ///
    /// It takes both the interval and the test to call a difference one: neither alone keeps to its 5 % in all small samples.
    ///
    /// # Panics
    /// Where the lists are empty or not of the same length.
    pub fn of(base: &[f64], tuned: &[f64], resampling: Resampling) -> Difference {
        assert!(base.len() == tuned.len() && !base.is_empty(), "{} and {} values", base.len(), tuned.len());
        let n = base.len();
        // Sums of fractions that are equal in exact arithmetic may differ in their last bits.
        let differences: Vec<f64> =
            base.iter().zip(tuned).map(|(b, t)| if (t - b).abs() < 1e-12 { 0.0 } else { t - b }).collect();
        let Moments { mean, error } = Moments::of(differences.iter().copied());
        let interval = (error > 0.0).then(|| interval(&differences, resampling));
        let changed: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
        let (p_value, p_value_is_exact) = sign_flips(&changed, resampling);
        let deviation = error * (n as f64).sqrt();
        let finding = match interval {
            _ if changed.is_empty() => Finding::Same,
            Some((low, _)) if low > 0.0 && p_value < 0.05 => Finding::Better,
            Some((_, high)) if high < 0.0 && p_value < 0.05 => Finding::Worse,
            None if p_value < 0.05 => {
                if mean > 0.0 {
                    Finding::Better
                } else {
                    Finding::Worse
                }
            }
            _ => Finding::NotShown,
        };
        Difference {
            n,
            base: Moments::of(base.iter().copied()).mean,
            tuned: Moments::of(tuned.iter().copied()).mean,
            difference: mean,
            interval,
            p_value,
            p_value_is_exact,
            won: changed.iter().filter(|d| **d > 0.0).count(),
            lost: changed.iter().filter(|d| **d < 0.0).count(),
            tied: n - changed.len(),
            n_needed: (mean != 0.0).then(|| (deviation * (Z_LEVEL + Z_POWER) / mean).powi(2).ceil() as u64),
            detectable: error * (Z_LEVEL + Z_POWER),
            finding,
        }
    }
}

/// Mean and standard error of the mean; the error of fewer than two values is 0.
struct Moments {
    mean: f64,
    error: f64,
}

impl Moments {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Moments {
        let (n, sum) = values.clone().fold((0.0, 0.0), |(n, sum), value| (n + 1.0, sum + value));
        let mean = sum / n;
        let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
        let error = if n < 2.0 { 0.0 } else { (squares / (n - 1.0) / n).sqrt() };
        // Equal values leave squares of rounding errors.
        Moments { mean, error: if error < 1e-12 { 0.0 } else { error } }
    }
}

/// The interval of 95 % whose critical values are halfway between the bootstrap-t's and Student's. Where most differences are zero the
/// bootstrap-t alone covers too rarely if the others have both signs, and Student's if they have one; their mean is
/// right within 1.5 % from 100 queries on.
fn interval(differences: &[f64], resampling: Resampling) -> (f64, f64) {
    let n = differences.len();
    let Moments { mean, error } = Moments::of(differences.iter().copied());
    let mut deviations: Vec<f64> = (0..resampling.n_samples as u64)
        .into_par_iter()
        .map(|sample| {
            let key = random::key(&[resampling.seed, FOR_INTERVAL, sample]);
            let (mut sum, mut squares) = (0.0, 0.0);
            for i in 0..n.div_ceil(2) as u64 {
                let bits = splitmix64(key ^ splitmix64(i));
                // Two draws of 32 bits each, uniform up to a bias of n / 2^32.
                for draw in [bits >> 32, bits & 0xffff_ffff].into_iter().take(n - 2 * i as usize) {
                    let value = differences[(draw as usize * n) >> 32] - mean;
                    sum += value;
                    squares += value * value;
                }
            }
            let deviation = sum / n as f64;
            let variance = (squares / n as f64 - deviation * deviation) / (n - 1) as f64;
            // A sample of equal values has no error to measure its deviation by.
            if variance > 1e-24 {
                deviation / variance.sqrt()
            } else if deviation == 0.0 {
                0.0
            } else {
                deviation * f64::INFINITY
            }
        })
        .collect();
    deviations.sort_unstable_by(f64::total_cmp);
    let tail = (((deviations.len() + 1) as f64 * 0.025) as usize).clamp(1, deviations.len()) - 1;
    let student = student_quantile(n - 1);
    let between = |deviation: f64, student: f64| (deviation.abs().min(WIDEST * student) + student) / 2.0 * error;
    let (lowest, highest) = (deviations[tail], deviations[deviations.len() - 1 - tail]);
    ((mean - between(highest, student)).max(-1.0), (mean + between(lowest, student)).min(1.0))
}

/// The 97.5 % quantile of Student's t, within 0.002: the expansion of Cornish and Fisher (Abramowitz and Stegun 26.7.5), and the
/// values where it is not good enough.
fn student_quantile(freedom: usize) -> f64 {
    match freedom {
        0 | 1 => 12.706,
        2 => 4.303,
        3 => 3.182,
        _ => {
            let (z, v) = (Z_LEVEL, freedom as f64);
            let terms = [
                (z.powi(3) + z) / 4.0,
                (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
                (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
                (79.0 * z.powi(9) + 776.0 * z.powi(7) + 1482.0 * z.powi(5) - 1920.0 * z.powi(3) - 945.0 * z) / 92160.0,
            ];
            z + terms.iter().rev().fold(0.0, |sum, term| (sum + term) / v)
        }
    }
}

/// The two-sided sign-flip test of the differences that are not zero (zeros change no sum): p-value, and whether it is exact.
fn sign_flips(changed: &[f64], resampling: Resampling) -> (f64, bool) {
    let size: f64 = changed.iter().map(|d| d.abs()).sum();
    // Sums that are equal in exact arithmetic count as equal.
    let bound = changed.iter().sum::<f64>().abs() - 1e-12 * size;
    if changed.len() <= EXACT_TEST {
        let n_signs = 1_u64 << changed.len();
        let far = (0..n_signs).filter(|signs| flipped_sum(changed, *signs).abs() >= bound).count();
        return (far as f64 / n_signs as f64, true);
    }
    let far = (0..resampling.n_samples as u64).into_par_iter().filter(|sample| {
        let key = random::key(&[resampling.seed, FOR_TEST, *sample]);
        let sums =
            (0_u64..).zip(changed.chunks(64)).map(|(i, part)| flipped_sum(part, splitmix64(key ^ splitmix64(i))));
        sums.sum::<f64>().abs() >= bound
    });
    // The signs as they are count as one of the samples, so that no p-value is 0.
    ((far.count() + 1) as f64 / (resampling.n_samples + 1) as f64, false)
}

/// The sum where each value whose bit is set changes its sign; at most 64 values.
fn flipped_sum(values: &[f64], signs: u64) -> f64 {
    (0..).zip(values).map(|(i, value)| if signs >> i & 1 == 1 { -value } else { *value }).sum()
}

#[cfg(test)]
mod tests;
