//! What was found for the queries of test sets, in a form that can be saved, scored and compared later without the model.
//!
//! The rankings and judgments are what counts; every metric follows from them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::languages::languages;
use super::metrics::Measure;
use super::retrieval::Rankings;
use super::test_set::TestSet;
use super::words::{script, words};
use crate::data::atomic::write_file;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The name of the form of the file.
const FORMAT: &str = "embertune-results";
/// Counts up where a file of an earlier form can no longer be read.
const VERSION: u32 = 1;
/// The texts of so many documents at the head of each ranking are kept, to be shown.
const DOCUMENTS_WITH_TEXT: usize = 3;

/// The results of a model on one test set or more; the first one counts, the others are probes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    format: String,
    version: u32,
    /// Name or folder of the model, or the run file.
    pub model: String,
    /// One for each test set.
    pub sets: Vec<SetResults>,
}

/// Counts of what is unusual about a test set, or was in its evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Number of distinct documents; 0 where they are not known, of a run that was made elsewhere.
    pub n_candidates: usize,
    /// Documents that were left out because an equal one was there already.
    pub n_duplicate_candidates: usize,
    /// Relevant documents, over all queries.
    pub n_positives: usize,
    /// Relevant documents that are not among the documents. They cannot be found, but still count as relevant.
    pub n_positives_missing: usize,
    /// Queries none of whose relevant documents is there: every metric of theirs is 0.
    pub n_queries_without_positive: usize,
    /// Queries that are longer than the model reads.
    pub n_queries_truncated: usize,
    /// Documents that are longer than the model reads.
    pub n_candidates_truncated: usize,
}

/// The results of a model on one test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetResults {
    /// Name of the set.
    pub name: String,
    /// Equal where the queries and their judgments are equal.
    pub judgments_id: String,
    /// Equal where the documents are equal; `None` where they are not known.
    pub documents_id: Option<String>,
    /// Documents beyond this rank were not looked for.
    pub depth: usize,
    /// What is unusual.
    pub counts: Counts,
    /// One for each query, in the order of the set.
    pub queries: Vec<QueryResults>,
    /// Texts of documents that may be shown: the heads of the rankings and the relevant ones.
    pub documents: BTreeMap<String, String>,
    /// Metrics per query, in the order of `queries`, by names like `MRR@10`. For other programs: it is not read back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", skip_deserializing)]
    pub scores: BTreeMap<String, Vec<f64>>,
}

/// What was found for one query, and what results can be sliced by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryResults {
    /// Its name.
    pub id: String,
    /// Its text, unless texts are left out.
    pub text: Option<String>,
    /// What the data says about it.
    pub fields: BTreeMap<String, String>,
    /// Number of words.
    pub n_words: usize,
    /// Script of most letters.
    pub script: String,
    /// English name of the likeliest language, where the queries are in several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// How many documents contain its rarest word.
    pub rarest_word_in: Option<usize>,
    /// `(document, grade)`.
    pub judged: Vec<(String, i32)>,
    /// `(document, score)`, best first.
    pub ranking: Vec<(String, f32)>,
}

impl SetResults {
    /// Puts the rankings beside the judgments. What is unusual about the set is said through `progress`.
    ///
    /// # Panics
    /// Where there is not one ranking for each query.
    pub fn new(set: &TestSet, rankings: Rankings, progress: &dyn Progress) -> SetResults {
        assert_eq!(set.queries.len(), rankings.of_query.len(), "queries and rankings");
        let known: HashMap<&str, &str> = set.documents.iter().map(|d| (d.id.as_str(), d.text.as_str())).collect();
        let mut counts = Counts {
            n_candidates: set.documents.len(),
            n_duplicate_candidates: set.n_duplicates,
            n_queries_truncated: rankings.n_queries_truncated,
            n_candidates_truncated: rankings.n_documents_truncated,
            ..Counts::default()
        };
        let mut documents = BTreeMap::new();
        let rarest = set.documents_with_rarest_word();
        let languages = languages(&set.queries.iter().map(|query| query.text.as_str()).collect::<Vec<_>>());
        let of_query = rankings.of_query.into_iter().zip(rarest).zip(languages);
        let queries = set.queries.iter().zip(of_query).map(|(query, ((ranking, rarest_word_in), language))| {
            let relevant = || query.judged.iter().filter(|(_, grade)| *grade >= 1).map(|(id, _)| id);
            let n_relevant = relevant().count();
            // Without documents nothing can be said to be missing.
            let n_missing = relevant().filter(|id| !known.is_empty() && !known.contains_key(id.as_str())).count();
            counts.n_positives += n_relevant;
            counts.n_positives_missing += n_missing;
            counts.n_queries_without_positive += usize::from(n_missing == n_relevant);
            for id in ranking.iter().take(DOCUMENTS_WITH_TEXT).map(|(id, _)| id).chain(relevant()) {
                if let Some(text) = known.get(id.as_str()) {
                    documents.entry(id.clone()).or_insert_with(|| text.to_string());
                }
            }
            QueryResults {
                id: query.id.clone(),
                text: (!query.text.is_empty()).then(|| query.text.clone()),
                fields: query.fields.clone(),
                n_words: words(&query.text).len(),
                script: script(&query.text).into(),
                language: language.map(String::from),
                rarest_word_in,
                judged: query.judged.clone(),
                ranking,
            }
        });
        let queries = queries.collect();
        say_what_is_unusual(&counts, set.queries.len(), progress);
        SetResults {
            name: set.name.clone(),
            judgments_id: set.judgments_id(),
            documents_id: set.documents_id(),
            depth: rankings.depth,
            counts,
            queries,
            documents,
            scores: BTreeMap::new(),
        }
    }

    /// One value for each query.
    pub fn values(&self, measure: Measure) -> Vec<f64> {
        self.values_of(&[measure]).swap_remove(0)
    }

    /// Of each measure, one value for each query.
    pub fn values_of(&self, measures: &[Measure]) -> Vec<Vec<f64>> {
        let of_queries: Vec<_> = self.queries.par_iter().map(|query| query.values(measures)).collect();
        (0..measures.len()).map(|i| of_queries.iter().map(|values| values[i]).collect()).collect()
    }

    /// Leaves out all texts and all fields of the queries but `kept`: names, scores and judgments stay.
    pub fn leave_out_texts(&mut self, kept: &[String]) {
        self.documents.clear();
        for query in &mut self.queries {
            query.text = None;
            query.fields.retain(|name, _| kept.contains(name));
        }
    }
}

impl QueryResults {
    /// Metrics of this query.
    fn values(&self, measures: &[Measure]) -> Vec<f64> {
        let grade_of: HashMap<&str, i32> = self.judged.iter().map(|(id, grade)| (id.as_str(), *grade)).collect();
        let ranked: Vec<_> =
            self.ranking.iter().map(|(id, _)| grade_of.get(id.as_str()).copied().unwrap_or(0)).collect();
        let judged: Vec<_> = self.judged.iter().map(|(_, grade)| *grade).collect();
        measures.iter().map(|measure| measure.value(&ranked, &judged)).collect()
    }

    /// Rank of the first relevant document, from 1, where it was found.
    pub fn first_relevant(&self) -> Option<usize> {
        let relevant: HashSet<&str> =
            self.judged.iter().filter(|(_, grade)| *grade >= 1).map(|(id, _)| id.as_str()).collect();
        self.ranking.iter().position(|(id, _)| relevant.contains(id.as_str())).map(|place| place + 1)
    }
}

impl Results {
    /// The results of a model, or of a run.
    pub fn new(model: &str, sets: Vec<SetResults>) -> Results {
        Results { format: FORMAT.into(), version: VERSION, model: model.into(), sets }
    }

    /// Writes everything, and every metric per query at these cutoffs for other programs, as one JSON object.
    ///
    /// # Errors
    /// [`Error::Io`] with `path`.
    pub fn write(&self, path: &Path, cutoffs: &[usize]) -> Result<()> {
        let mut results = self.clone();
        for set in &mut results.sets {
            let measures = Measure::all(cutoffs);
            set.scores = measures.iter().map(Measure::to_string).zip(set.values_of(&measures)).collect();
        }
        write_file(path, |out| {
            serde_json::to_writer(&mut *out, &results).map_err(io::Error::from)?;
            out.write_all(b"\n")
        })
    }

    /// Reads what [`Results::write`] wrote.
    ///
    /// # Errors
    /// A file that is not of this form, or of a later version of it.
    pub fn read(path: &Path) -> Result<Results> {
        let fail = |problem: String| Error::Data {
            path: path.to_path_buf(),
            problem,
            hint: Some("make it anew with `embertune evaluate --output FILE`".into()),
        };
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        let results: Results = serde_json::from_str(&text).map_err(|e| fail(format!("no saved results: {e}")))?;
        if results.format != FORMAT || results.version != VERSION {
            let Results { format, version, .. } = results;
            return Err(fail(format!("found `{format}` version {version}, expected `{FORMAT}` version {VERSION}")));
        }
        if results.sets.iter().any(|set| set.queries.is_empty()) || results.sets.is_empty() {
            return Err(fail("there are no queries in it".into()));
        }
        Ok(results)
    }
}

fn say_what_is_unusual(counts: &Counts, n_queries: usize, progress: &dyn Progress) {
    let Counts { n_duplicate_candidates, n_positives, n_positives_missing, n_queries_without_positive, .. } = counts;
    if *n_duplicate_candidates > 0 {
        progress.note(&format!("{n_duplicate_candidates} candidates are equal to another one and count once"));
    }
    if *n_positives_missing > 0 {
        progress.warn(&format!(
            "{n_positives_missing} of {n_positives} positives are not in the pool and can't be found; \
             {n_queries_without_positive} of {n_queries} queries have none in it"
        ));
    } else if *n_queries_without_positive > 0 {
        progress.warn(&format!(
            "{n_queries_without_positive} of {n_queries} queries have no relevant document among the judgments: their metrics are 0"
        ));
    }
}
