//! Retrieval metrics of one query from the grades of its ranked documents.
//!
//! A document is relevant where its grade is at least 1. A document without a judgment has grade 0. The formulas agree with
//! trec_eval and ranx. sentence-transformers differs in two: its nDCG takes every relevant document as grade 1, and its
//! MAP@k divides by min(k, number of relevant documents).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A retrieval metric, at a cutoff k: only the first k documents count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// `1 / rank` of the first relevant document, 0 where none is found.
    #[doc(alias = "mean reciprocal rank")]
    Mrr,
    /// 1 where a relevant document is found, else 0.
    #[doc(alias = "accuracy")]
    Hit,
    /// Found relevant documents / all relevant documents.
    Recall,
    /// `DCG / ideal DCG`, `DCG = sum of grade / log2(rank + 1)`; the ideal ranks all judged documents by grade.
    #[doc(alias = "normalized discounted cumulative gain")]
    Ndcg,
    /// Sum of the precisions at the ranks of the relevant documents that are found / all relevant documents.
    #[doc(alias = "mean average precision")]
    Map,
    /// Found relevant documents / k, also where fewer than k documents were ranked.
    Precision,
    /// Relevant documents among the first R / R, where R is the number of relevant documents; with a cutoff below R, those
    /// among the first k / R.
    #[doc(alias = "Rprec")]
    #[serde(rename = "r-precision")]
    RPrecision,
}

impl Metric {
    /// All metrics in the order in which tables list them.
    pub const ALL: [Metric; 7] =
        [Metric::Mrr, Metric::Hit, Metric::Recall, Metric::Ndcg, Metric::Map, Metric::Precision, Metric::RPrecision];

    /// The name in tables: `MRR`, `Hit`, ...
    pub fn name(self) -> &'static str {
        match self {
            Metric::Mrr => "MRR",
            Metric::Hit => "Hit",
            Metric::Recall => "Recall",
            Metric::Ndcg => "nDCG",
            Metric::Map => "MAP",
            Metric::Precision => "Precision",
            Metric::RPrecision => "R-precision",
        }
    }

    /// The value for one query. 0 where no judged document is relevant.
    ///
    /// # Shapes
    /// `ranked`: the grades of the ranked documents, best first. `judged`: the grades of all judged documents, in any order,
    /// whether they were ranked or not.
    pub fn at(self, k: usize, ranked: &[i32], judged: &[i32]) -> f64 {
        let n_relevant = judged.iter().filter(|&&grade| grade >= 1).count();
        if n_relevant == 0 {
            return 0.0;
        }
        let top = &ranked[..k.min(ranked.len())];
        let ranks_found = || (1..).zip(top).filter(|&(_, &grade)| grade >= 1).map(|(rank, _)| f64::from(rank));
        let n_found = ranks_found().count() as f64;
        let value = match self {
            Metric::Mrr => ranks_found().next().map_or(0.0, |rank| 1.0 / rank),
            Metric::Hit => f64::from(n_found > 0.0),
            Metric::Recall => n_found / n_relevant as f64,
            Metric::Precision => n_found / k as f64,
            Metric::RPrecision => {
                let n_first = ranks_found().filter(|&rank| rank <= n_relevant as f64).count();
                n_first as f64 / n_relevant as f64
            }
            Metric::Map => {
                let precisions = (1..).zip(ranks_found()).map(|(n, rank)| f64::from(n) / rank);
                precisions.sum::<f64>() / n_relevant as f64
            }
            Metric::Ndcg => {
                let mut ideal = judged.to_vec();
                ideal.sort_unstable_by(|a, b| b.cmp(a));
                dcg(top) / dcg(&ideal[..k.min(ideal.len())])
            }
        };
        // The sum of nothing is -0.
        value + 0.0
    }
}

/// A metric at a cutoff, written `MRR@10` and read in any case: `mrr@10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Measure {
    /// The metric.
    pub metric: Metric,
    /// Only the first `cutoff` documents count, at least 1.
    pub cutoff: usize,
}

impl Measure {
    /// Every metric at each of `cutoffs`, by metric, then by cutoff.
    pub fn all(cutoffs: &[usize]) -> Vec<Measure> {
        let of = |metric| cutoffs.iter().map(move |&cutoff| Measure { metric, cutoff });
        Metric::ALL.into_iter().flat_map(of).collect()
    }

    /// The value for one query, as [`Metric::at`].
    pub fn value(self, ranked: &[i32], judged: &[i32]) -> f64 {
        self.metric.at(self.cutoff, ranked, judged)
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.metric.name(), self.cutoff)
    }
}

impl FromStr for Measure {
    type Err = String;

    fn from_str(text: &str) -> Result<Measure, String> {
        let parts = text.trim().split_once('@');
        let metric = |name: &str| Metric::ALL.into_iter().find(|metric| metric.name().eq_ignore_ascii_case(name));
        let measure = parts.and_then(|(name, cutoff)| {
            Some(Measure { metric: metric(name)?, cutoff: cutoff.parse().ok().filter(|&cutoff| cutoff > 0)? })
        });
        measure.ok_or_else(|| {
            let names = Metric::ALL.map(Metric::name).join(", ");
            format!("`{text}` is no metric with a cutoff, like mrr@10; the metrics are {names}")
        })
    }
}

impl Serialize for Measure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Measure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn dcg(grades: &[i32]) -> f64 {
    (1..).zip(grades).map(|(rank, &grade)| f64::from(grade.max(0)) / f64::from(rank + 1).log2()).sum()
}
