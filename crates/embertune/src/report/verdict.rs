//! `verdict.json`: what a comparison found out about a tuned model, in the form in which it lies in the folder of a run.
//!
//! Beside the comparison it has what follows from the rankings alone: how ranks moved, and how similar right and wrong passages are.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::atomic::write_file;
use crate::error::{Error, Result};
use crate::eval::results::Counts;
use crate::eval::{CompareSettings, Comparison, Finding, QueryResults, Results, SetResults};

/// Its name in the folder of a run.
pub const VERDICT: &str = "verdict.json";
/// So many of the queries that gained most, and of those that lost most, are kept.
pub const N_CHANGES: usize = 50;
/// The name of the form of the file.
const FORMAT: &str = "embertune-verdict";
/// Counts up where a file of an earlier form can no longer be read.
const VERSION: u32 = 1;
/// Where the groups of ranks end. The last group has all beyond.
const RANK_BOUNDS: [usize; 4] = [1, 3, 10, 100];
/// Bars of a histogram: enough to see its shape, few enough to see it on a phone.
const N_BINS: usize = 24;

/// What a comparison found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerdictRecord {
    format: String,
    version: u32,
    /// [`Comparison::verdict`].
    pub verdict: String,
    /// That of the metric that decides, on the test set.
    pub finding: Finding,
    /// Equal where the queries of the test set and their judgments are equal.
    pub judgments_id: String,
    /// What is unusual about the test set, by the tuned model.
    pub counts: Counts,
    /// Where the first right passage of each query of the test set is.
    pub ranks: RankChanges,
    /// How similar to the queries passages are; `None` where the rankings have no scores.
    pub similarities: Option<Similarities>,
    /// All of the comparison.
    pub comparison: Comparison,
}

/// How the ranks of first right passages moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankChanges {
    /// Names of the groups of ranks, from the best on.
    pub groups: Vec<String>,
    /// `n_queries[before][after]`.
    pub n_queries: Vec<Vec<usize>>,
}

/// Similarities of queries to their first right passage and to their first wrong one, before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Similarities {
    /// Where the first bar begins.
    pub from: f64,
    /// Width of a bar.
    pub width: f64,
    /// With the first model.
    pub base: SideBySide,
    /// With the second model.
    pub tuned: SideBySide,
}

/// Similarities with one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SideBySide {
    /// Of the first right passages, where they were found.
    pub right: Histogram,
    /// Of the first wrong passages.
    pub wrong: Histogram,
}

/// How often values fell into each bar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Of each bar.
    pub counts: Vec<usize>,
    /// Mean of the values, 0 where there are none.
    pub mean: f64,
}

impl VerdictRecord {
    /// Compares what two models found.
    ///
    /// # Errors
    /// Those of [`Comparison::of`].
    pub fn of(base: &Results, tuned: &Results, settings: &CompareSettings) -> Result<VerdictRecord> {
        let n_shown = settings.n_shown.max(N_CHANGES);
        let comparison = Comparison::of(base, tuned, &CompareSettings { n_shown, ..settings.clone() })?;
        let (base, tuned) = (&base.sets[0], &tuned.sets[0]);
        Ok(VerdictRecord {
            format: FORMAT.into(),
            version: VERSION,
            verdict: comparison.verdict(),
            finding: comparison.sets[0].main().finding,
            judgments_id: base.judgments_id.clone(),
            counts: tuned.counts.clone(),
            ranks: RankChanges::of(base, tuned),
            similarities: Similarities::of(base, tuned),
            comparison,
        })
    }

    /// Writes it as one JSON object.
    ///
    /// # Errors
    /// [`Error::Io`] with `path`.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_file(path, |out| {
            serde_json::to_writer_pretty(&mut *out, self).map_err(io::Error::from)?;
            out.write_all(b"\n")
        })
    }

    /// Reads what [`VerdictRecord::write`] wrote.
    ///
    /// # Errors
    /// A file that is not of this form, or of a later version of it.
    pub fn read(path: &Path) -> Result<VerdictRecord> {
        let fail = |problem: String| Error::Data {
            path: path.to_path_buf(),
            problem,
            hint: Some("make it anew with `embertune compare ... --save_verdict FOLDER`".into()),
        };
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        let record: VerdictRecord = serde_json::from_str(&text).map_err(|e| fail(format!("no saved verdict: {e}")))?;
        if record.format != FORMAT || record.version != VERSION {
            let VerdictRecord { format, version, .. } = record;
            return Err(fail(format!("found `{format}` version {version}, expected `{FORMAT}` version {VERSION}")));
        }
        if record.comparison.sets.iter().any(|set| set.measures.is_empty()) || record.comparison.sets.is_empty() {
            return Err(fail("there are no metrics in it".into()));
        }
        Ok(record)
    }
}

impl RankChanges {
    fn of(base: &SetResults, tuned: &SetResults) -> RankChanges {
        let depth = base.depth.min(tuned.depth);
        let bounds: Vec<usize> = RANK_BOUNDS.into_iter().filter(|bound| *bound <= depth).collect();
        let group = |query: &QueryResults| {
            let rank = query.first_relevant().unwrap_or(usize::MAX);
            bounds.iter().position(|bound| rank <= *bound).unwrap_or(bounds.len())
        };
        let mut groups = Vec::new();
        let mut from = 1;
        for bound in &bounds {
            groups.push(if from == *bound { bound.to_string() } else { format!("{from} to {bound}") });
            from = bound + 1;
        }
        groups.push(format!("beyond {}", from - 1));
        let mut n_queries = vec![vec![0; groups.len()]; groups.len()];
        for (before, after) in base.queries.iter().zip(&tuned.queries) {
            n_queries[group(before)][group(after)] += 1;
        }
        RankChanges { groups, n_queries }
    }
}

impl Similarities {
    fn of(base: &SetResults, tuned: &SetResults) -> Option<Similarities> {
        let [base, tuned] = [base, tuned].map(scores);
        let all = || base.iter().chain(&tuned).flatten().copied();
        let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
        // A run made elsewhere may have no scores, and one with any scores has at least two.
        if !(low.is_finite() && high.is_finite() && low < high) {
            return None;
        }
        let width = (high - low) / N_BINS as f64;
        let histogram = |values: &Vec<f64>| {
            let mut counts = vec![0; N_BINS];
            for value in values {
                counts[(((value - low) / width) as usize).min(N_BINS - 1)] += 1;
            }
            Histogram { counts, mean: values.iter().sum::<f64>() / values.len().max(1) as f64 }
        };
        let side_by_side =
            |[right, wrong]: &[Vec<f64>; 2]| SideBySide { right: histogram(right), wrong: histogram(wrong) };
        Some(Similarities { from: low, width, base: side_by_side(&base), tuned: side_by_side(&tuned) })
    }
}

/// Of the first right and of the first wrong passage of each query.
fn scores(set: &SetResults) -> [Vec<f64>; 2] {
    let mut scores = [Vec::new(), Vec::new()];
    for query in &set.queries {
        let relevant: HashSet<&str> =
            query.judged.iter().filter(|(_, grade)| *grade >= 1).map(|(id, _)| id.as_str()).collect();
        for (i, is_right) in [(0, true), (1, false)] {
            let first = query.ranking.iter().find(|(id, _)| relevant.contains(id.as_str()) == is_right);
            scores[i].extend(first.map(|(_, score)| f64::from(*score)));
        }
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::retrieval::Rankings;
    use crate::eval::test_set::{Document, TestQuery, TestSet};
    use crate::progress::Silent;

    /// Two queries; each ranking gives the scores of `d1` and `d2`.
    fn results(rankings: [[(&str, f32); 2]; 2]) -> Results {
        let query = |id: &str, right: &str| TestQuery {
            id: id.into(),
            text: format!("text of {id}"),
            judged: vec![(right.into(), 1)],
            fields: Default::default(),
        };
        let set = TestSet {
            name: "t".into(),
            documents: ["d1", "d2"].map(|id| Document { id: id.into(), text: format!("text of {id}") }).to_vec(),
            n_duplicates: 0,
            queries: vec![query("q1", "d1"), query("q2", "d2")],
        };
        let of_query = rankings.map(|r| r.map(|(id, score)| (id.to_string(), score)).to_vec()).to_vec();
        let rankings = Rankings { of_query, depth: 100, ..Rankings::default() };
        Results::new("m", vec![SetResults::new(&set, rankings, &Silent)])
    }

    fn record() -> VerdictRecord {
        let base = results([[("d2", 0.5), ("d1", 0.25)], [("d2", 0.75), ("d1", 0.0)]]);
        let tuned = results([[("d1", 1.0), ("d2", 0.5)], [("d2", 0.5), ("d1", 0.25)]]);
        let settings = CompareSettings {
            metric: "mrr@10".parse().unwrap(),
            others: vec!["hit@1".parse().unwrap()],
            slice_by: Vec::new(),
            n_shown: 1,
            resampling: Default::default(),
        };
        VerdictRecord::of(&base, &tuned, &settings).unwrap()
    }

    #[test]
    fn ranks_and_similarities_follow_from_the_rankings() {
        let record = record();
        assert_eq!(record.ranks.groups, ["1", "2 to 3", "4 to 10", "11 to 100", "beyond 100"]);
        assert_eq!((record.ranks.n_queries[0][0], record.ranks.n_queries[1][0]), (1, 1));
        let Similarities { from, width, base, tuned } = record.similarities.clone().unwrap();
        assert_eq!((from, width * N_BINS as f64), (0.0, 1.0));
        assert_eq!((base.right.mean, base.wrong.mean), (0.5, 0.25));
        assert_eq!((tuned.right.mean, tuned.wrong.mean), (0.75, 0.375));
        assert_eq!((tuned.right.counts[N_BINS - 1], tuned.right.counts[N_BINS / 2]), (1, 1));
    }

    #[test]
    fn a_record_comes_back_as_it_was_and_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(VERDICT);
        record().write(&path).unwrap();
        assert_eq!(VerdictRecord::read(&path).unwrap(), record());
        let later = std::fs::read_to_string(&path).unwrap().replacen("\"version\": 1", "\"version\": 9", 1);
        std::fs::write(&path, later).unwrap();
        let error = VerdictRecord::read(&path).unwrap_err();
        assert!(error.to_string().contains("version 9"), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn without_texts_only_names_and_numbers_stay() {
        let mut record = record();
        assert!(serde_json::to_string(&record).unwrap().contains("text of q1"));
        record.comparison.leave_out_texts();
        assert!(!serde_json::to_string(&record).unwrap().contains("text of"));
    }
}
