//! Two models on the same queries: how much better the second is, whether that is more than chance, where, and for which queries.
//!
//! One metric decides; the others are there to be seen. Nothing is corrected for their number.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::metrics::Measure;
use super::paired::{Difference, Resampling};
use super::results::{QueryResults, Results, SetResults};
use super::slices::{SliceBy, check_fields, same_queries};
use crate::error::{Error, Result};

/// Slices with fewer queries are left out: they say more about chance than about models.
const SMALLEST_SLICE: usize = 10;
/// Slices of one field beyond these are left out: names and dates are no groups.
const MOST_SLICES: usize = 12;
/// So many documents of each ranking are shown.
const N_DOCUMENTS: usize = 3;

/// What to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompareSettings {
    /// The metric that decides.
    pub metric: Measure,
    /// Metrics to show beside it.
    pub others: Vec<Measure>,
    /// Fields of the data to slice by, besides length, script, language and rarest word.
    pub slice_by: Vec<String>,
    /// So many of the queries that gained most, and of those that lost most, are shown.
    pub n_shown: usize,
    /// How chance is simulated.
    pub resampling: Resampling,
}

/// Two models on test sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the first model.
    pub base: String,
    /// Name of the second model.
    pub tuned: String,
    /// The metric that decides.
    pub metric: Measure,
    /// The test set first, then the probes.
    pub sets: Vec<SetComparison>,
}

/// Two models on one test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetComparison {
    /// Name of the set.
    pub name: String,
    /// Number of documents; 0 where they are not known.
    pub n_candidates: usize,
    /// The metric that decides, then the others.
    pub measures: Vec<MeasureDifference>,
    /// Groups of queries, by the metric that decides.
    pub slices: Vec<Slice>,
    /// The queries that gained most, the greatest gain first.
    pub gained: Vec<Change>,
    /// The queries that lost most, the greatest loss first.
    pub lost: Vec<Change>,
}

/// A metric of two models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasureDifference {
    /// The metric.
    pub measure: Measure,
    /// What came out.
    #[serde(flatten)]
    pub difference: Difference,
}

/// A group of queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// What is grouped by.
    pub by: String,
    /// Which group it is.
    pub group: String,
    /// What came out.
    #[serde(flatten)]
    pub difference: Difference,
}

/// A query whose value changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Name of the query.
    pub query: String,
    /// Its text, unless texts are left out.
    pub text: Option<String>,
    /// Its relevant documents, the first few.
    pub relevant: Vec<Shown>,
    /// With the first model.
    pub base: Retrieved,
    /// With the second model.
    pub tuned: Retrieved,
}

/// What a model retrieved for a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieved {
    /// The metric that decides.
    pub value: f64,
    /// Rank of the first relevant document, where one was found.
    pub first_relevant: Option<usize>,
    /// The head of the ranking.
    pub documents: Vec<Shown>,
}

/// A document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Its name.
    pub id: String,
    /// Its text, where known.
    pub text: Option<String>,
    /// Its grade; 0 where it was not judged.
    pub grade: i32,
}

impl SetComparison {
    /// The metric that decides.
    pub fn main(&self) -> &Difference {
        &self.measures[0].difference
    }
}

impl Comparison {
    /// The same with at most so many of the queries that changed most.
    pub fn showing(mut self, n_shown: usize) -> Comparison {
        for set in &mut self.sets {
            set.gained.truncate(n_shown);
            set.lost.truncate(n_shown);
        }
        self
    }

    /// Leaves out all texts: names, ranks and numbers stay.
    pub fn leave_out_texts(&mut self) {
        for change in self.sets.iter_mut().flat_map(|set| set.gained.iter_mut().chain(&mut set.lost)) {
            change.text = None;
            let Change { relevant, base, tuned, .. } = change;
            for shown in relevant.iter_mut().chain(&mut base.documents).chain(&mut tuned.documents) {
                shown.text = None;
            }
        }
    }

    /// Compares what two models found.
    ///
    /// # Errors
    /// Results of other queries, judgments or documents, or of other numbers of sets; rankings that are too short for a metric; a
    /// field to slice by that no query has.
    pub fn of(base: &Results, tuned: &Results, settings: &CompareSettings) -> Result<Comparison> {
        if base.sets.len() != tuned.sets.len() {
            return Err(Error::Setting {
                problem: format!(
                    "`{}` has results on {} test sets, `{}` on {}",
                    base.model,
                    base.sets.len(),
                    tuned.model,
                    tuned.sets.len()
                ),
                hint: Some("evaluate both with the same `--probe` sets".into()),
            });
        }
        let sets = base.sets.iter().zip(&tuned.sets).enumerate();
        let sets = sets.map(|(i, (base, tuned))| {
            check_same(base, tuned)?;
            check_depth(base, settings)?;
            check_depth(tuned, settings)?;
            // Fields are the test set's: probes come from elsewhere.
            let fields = if i == 0 { &settings.slice_by[..] } else { &[] };
            compare_set(base, tuned, fields, settings)
        });
        Ok(Comparison {
            base: base.model.clone(),
            tuned: tuned.model.clone(),
            metric: settings.metric,
            sets: sets.collect::<Result<_>>()?,
        })
    }
}

fn check_same(base: &SetResults, tuned: &SetResults) -> Result<()> {
    // Results without texts, and runs made elsewhere, know only names; those must agree in any case.
    let names = |set: &SetResults| set.queries.iter().map(|query| query.id.clone()).collect::<Vec<_>>();
    let what = if names(base) != names(tuned) {
        "queries"
    } else if base.judgments_id != tuned.judgments_id {
        "judgments"
    } else if base.documents_id != tuned.documents_id && base.documents_id.is_some() && tuned.documents_id.is_some() {
        "passages"
    } else {
        return Ok(());
    };
    Err(Error::Setting {
        problem: format!(
            "the two results are not of the same test set: their {what} differ (`{}`: {} queries, {} passages; `{}`: {} \
             queries, {} passages)",
            base.name,
            base.queries.len(),
            base.counts.n_candidates,
            tuned.name,
            tuned.queries.len(),
            tuned.counts.n_candidates
        ),
        hint: Some("evaluate both models with the same files".into()),
    })
}

fn check_depth(set: &SetResults, settings: &CompareSettings) -> Result<()> {
    let is_cut = set.queries.iter().any(|query| query.ranking.len() >= set.depth);
    let too_deep =
        settings.others.iter().chain([&settings.metric]).find(|measure| is_cut && measure.cutoff > set.depth);
    match too_deep {
        None => Ok(()),
        Some(measure) => Err(Error::Setting {
            problem: format!(
                "{measure} needs {} ranks; the results on `{}` have {}",
                measure.cutoff, set.name, set.depth
            ),
            hint: Some("evaluate with `--cutoffs` as deep, or ask for a metric within the ranks".into()),
        }),
    }
}

fn compare_set(
    base: &SetResults,
    tuned: &SetResults,
    fields: &[String],
    settings: &CompareSettings,
) -> Result<SetComparison> {
    let resampling = settings.resampling;
    let values = |set: &SetResults| set.values(settings.metric);
    let (base_values, tuned_values) = (values(base), values(tuned));
    let others = settings.others.iter().filter(|other| **other != settings.metric);
    let measures = std::iter::once(&settings.metric).chain(others).map(|&measure| MeasureDifference {
        measure,
        difference: Difference::of(&base.values(measure), &tuned.values(measure), resampling),
    });
    check_fields(fields, || base.queries.iter().map(|query| &query.fields))?;
    let mut slices = Vec::new();
    // What the data says comes before what texts let guess.
    let of_texts = SliceBy::OF_TEXTS.into_iter().filter(|by| !fields.iter().any(|field| field == by.name()));
    for by in of_texts.chain(fields.iter().cloned().map(SliceBy::Field)) {
        let groups = by.groups(&base.queries);
        if by == SliceBy::Script && same_queries(&groups, &SliceBy::Language.groups(&base.queries)) {
            // The languages say it.
            continue;
        }
        for (group, places) in groups.into_iter().filter(|(_, p)| p.len() >= SMALLEST_SLICE).take(MOST_SLICES) {
            let of = |values: &[f64]| places.iter().map(|&place| values[place]).collect::<Vec<_>>();
            let difference = Difference::of(&of(&base_values), &of(&tuned_values), resampling);
            slices.push(Slice { by: by.name().into(), group, difference });
        }
    }
    let mut changes: Vec<(usize, f64)> = base_values
        .iter()
        .zip(&tuned_values)
        .map(|(b, t)| t - b)
        .enumerate()
        .filter(|(_, d)| d.abs() >= 1e-12)
        .collect();
    changes.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let show = |place: usize| Change {
        query: base.queries[place].id.clone(),
        text: base.queries[place].text.clone().or_else(|| tuned.queries[place].text.clone()),
        relevant: relevant(&base.queries[place], &[base, tuned]),
        base: retrieved(&base.queries[place], base_values[place], &[base, tuned]),
        tuned: retrieved(&tuned.queries[place], tuned_values[place], &[tuned, base]),
    };
    let gained = changes.iter().filter(|(_, d)| *d > 0.0).take(settings.n_shown).map(|(place, _)| show(*place));
    let lost = changes.iter().rev().filter(|(_, d)| *d < 0.0).take(settings.n_shown).map(|(place, _)| show(*place));
    Ok(SetComparison {
        name: base.name.clone(),
        n_candidates: base.counts.n_candidates.max(tuned.counts.n_candidates),
        gained: gained.collect(),
        lost: lost.collect(),
        measures: measures.collect(),
        slices,
    })
}

fn shown(id: &str, grade: i32, sets: &[&SetResults]) -> Shown {
    let text = sets.iter().find_map(|set| set.documents.get(id));
    Shown { id: id.into(), text: text.cloned(), grade }
}

fn relevant(query: &QueryResults, sets: &[&SetResults]) -> Vec<Shown> {
    let mut judged: Vec<_> = query.judged.iter().filter(|(_, grade)| *grade >= 1).collect();
    judged.sort_by_key(|(_, grade)| std::cmp::Reverse(*grade));
    judged.into_iter().take(N_DOCUMENTS).map(|(id, grade)| shown(id, *grade, sets)).collect()
}

fn retrieved(query: &QueryResults, value: f64, sets: &[&SetResults]) -> Retrieved {
    let grade_of: HashMap<&str, i32> = query.judged.iter().map(|(id, grade)| (id.as_str(), *grade)).collect();
    let head = query.ranking.iter().take(N_DOCUMENTS);
    Retrieved {
        value,
        first_relevant: query.first_relevant(),
        documents: head.map(|(id, _)| shown(id, grade_of.get(id.as_str()).copied().unwrap_or(0), sets)).collect(),
    }
}
