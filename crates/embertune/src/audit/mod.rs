//! What is wrong with training data before any compute is spent on it: copies, contradictions, leaks into the test rows, texts that are
//! cut, right answers among the negatives; and how hard it is, for words and for a model.
//!
//! In: rows, maybe test rows, a pool of candidates and a model. Out: an [`Audit`]: findings in the order of their severity, facts, and what
//! can be repaired. Everything is counted by hashes of texts; no two texts are compared unless they share a bucket. Same input, same
//! audit, whatever the number of threads. Of the rows only numbers are in memory.

use embertune_kernels::Ops;
use serde::Serialize;

use crate::data::row_list::RowList;
use crate::data::{Example, RowsOf};
use crate::error::{Error, Result};
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::text::Role;

mod baseline;
mod batch;
mod finding;
mod fix;
mod languages;
mod leaks;
mod lengths;
mod rows;
mod texts;

pub use baseline::{Baseline, Ranker};
pub use batch::{BatchRisk, rounded};
pub use finding::{Finding, Kind, Severity, Shown};
pub use fix::{Part, Repair, list_path, write_repaired};
pub use languages::{Count, Mix};
pub use lengths::{Lengths, Unit};

use baseline::Search;
use lengths::Placed;
use rows::Known;
use texts::{Near, NewTexts, Texts, distinct};

/// Rows and what to call their file.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The name in places: `train.jsonl` makes `train.jsonl:812`.
    pub name: &'a str,
    /// The rows.
    pub examples: &'a dyn RowsOf<Example>,
}

/// What to look at.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The training rows.
    pub data: Source<'a>,
    /// The rows that the tuned model will be evaluated on.
    pub test: Option<Source<'a>>,
    /// The candidates of mining and evaluation. `None`: all passages of the rows.
    pub pool: Option<&'a [String]>,
}

/// What is planned, and how closely to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// Longest query in tokens. Default 32, as in training.
    pub query_max_len: usize,
    /// Longest passage in tokens. Default 128, as in training.
    pub passage_max_len: usize,
    /// Rows of a batch. Default 8, as in training.
    pub batch_size: usize,
    /// Passages per row in a batch. Default 8, as in training.
    pub group_size: usize,
    /// Whether the passages of other rows are negatives. Default true, as in training.
    pub use_inbatch_neg: bool,
    /// At most so many queries of each file are searched with. Default 1000.
    pub n_queries: usize,
    /// Seed of the samples. Default 42.
    pub seed: u64,
    /// Texts that go through the model at once. Default 256.
    pub embed_batch_size: usize,
}

impl Default for AuditSettings {
    fn default() -> Self {
        AuditSettings {
            query_max_len: 32,
            passage_max_len: 128,
            batch_size: 8,
            group_size: 8,
            use_inbatch_neg: true,
            n_queries: 1000,
            seed: 42,
            embed_batch_size: 256,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audit {
    /// Name of the training rows' file.
    pub data: String,
    /// Name of the test rows' file.
    pub test: Option<String>,
    /// The most severe first; of one severity the most frequent first.
    pub findings: Vec<Finding>,
    /// What there is to know beside.
    pub facts: Facts,
    /// What [`write_repaired`] leaves out, by row.
    #[serde(skip)]
    pub repairs: Vec<Repair>,
}

impl Audit {
    /// How many findings have this severity.
    pub fn n(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Removes all texts of the data; places and numbers stay.
    pub fn leave_out_texts(&mut self) {
        self.findings.iter_mut().flat_map(|finding| &mut finding.examples).for_each(|shown| shown.texts.clear());
    }
}

/// Counts and measurements that are neither good nor bad.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Facts {
    /// Training rows.
    pub n_rows: usize,
    /// Distinct queries of the training rows.
    pub n_queries: usize,
    /// Positives of the training rows.
    pub n_positives: usize,
    /// Negatives of the training rows.
    pub n_negatives: usize,
    /// Distinct passages of the training rows.
    pub n_passages: usize,
    /// Test rows.
    pub n_test_rows: usize,
    /// Distinct candidates: those of the pool, or else all passages of training and test rows.
    pub n_candidates: usize,
    /// Candidates of the pool that are equal to an earlier one.
    pub n_equal_candidates: usize,
    /// Lengths of the training queries.
    pub query_lengths: Lengths,
    /// Lengths of the training passages.
    pub passage_lengths: Lengths,
    /// What the training queries are written in.
    pub queries_in: Mix,
    /// What the training passages are written in.
    pub passages_in: Mix,
    /// Right answers among the negatives of a batch; `None` without in-batch negatives, and for scored pairs.
    pub batch: Option<BatchRisk>,
    /// How well answers are found before any training: by words, and by the model if there is one. Of training rows first, then of
    /// test rows. Empty for scored pairs.
    pub baselines: Vec<Baseline>,
}

/// Rows by the numbers of their texts.
struct Numbered<'a> {
    name: &'a str,
    rows: RowList,
    /// The candidate pool; empty where none was given.
    pool: &'a [u32],
    /// Whether a positive is an answer; else the rows are pairs of texts with a score.
    are_answers: bool,
}

impl<'a> Numbered<'a> {
    fn of(source: Source<'a>, texts: &mut NewTexts, pool: &'a [u32]) -> Result<Numbered<'a>> {
        let rows = texts.add_rows(source.examples)?;
        let are_answers = rows.iter().all(|row| row.positive_scores.is_empty());
        Ok(Numbered { name: source.name, rows, pool, are_answers })
    }

    fn place(&self, row: usize) -> String {
        format!("{}:{}", self.name, self.rows.get(row).line)
    }

    fn queries(&self) -> impl Iterator<Item = u32> {
        self.rows.iter().map(|row| row.query)
    }

    fn passages(&self) -> impl Iterator<Item = u32> {
        self.rows.iter().flat_map(|row| row.passages())
    }
}

/// Which texts are nearly the same.
struct NearTexts {
    /// Queries of training and test rows, by their letters: rewordings, too.
    queries: Near,
    /// The same by their words: queries that ask the same.
    asked: Near,
    /// Passages and candidates by their words.
    passages: Near,
}

/// Looks at everything.
///
/// # Errors
/// No rows; or the model fails on a text; a temporary file that can't be read or written.
pub fn audit<O: Ops>(
    input: &Input<'_>,
    model: Option<&EmbeddingModel<O>>,
    settings: &AuditSettings,
    progress: &dyn Progress,
) -> Result<Audit> {
    if input.data.examples.n_rows() == 0 {
        return Err(Error::Setting { problem: format!("{}: no rows to look at", input.data.name), hint: None });
    }
    let mut texts = NewTexts::default();
    let pool_texts: Vec<&str> = input.pool.unwrap_or_default().iter().map(String::as_str).collect();
    let read_pool = texts.add(&pool_texts)?;
    drop(pool_texts);
    let data = Numbered::of(input.data, &mut texts, &read_pool)?;
    let test = input.test.map(|test| Numbered::of(test, &mut texts, &read_pool)).transpose()?;
    let texts = texts.done();
    let near = near_texts(&data, test.as_ref(), &texts, progress);
    let known = Known::of(&data.rows, &texts);

    let mut findings = rows::findings(&data, &texts, &known, &near);
    if let Some(test) = &test {
        findings.extend(leaks::findings(&data, test, &texts, &near));
    }
    let scripts = languages::scripts(&texts);
    let batch = match data.are_answers {
        true => batch::risk(&data, &texts, &known, &near, settings),
        false => None,
    };
    let (batch, finding) = batch.map_or((None, None), |(risk, finding)| (Some(risk), finding));
    findings.extend(finding);
    if data.are_answers {
        findings.extend(languages::cross_script(&data, &texts, &scripts));
        findings.extend(missing_from_pool(&data, test.as_ref(), &texts));
    }
    let repairs = fix::repairs(&data, test.as_ref(), &texts, &known, &near.queries);
    drop(near);

    let queries = placed(texts.len(), data.rows.iter().map(|row| [row.query].into_iter()));
    let passages = placed(texts.len(), data.rows.iter().map(|row| row.passages()));
    let place = |row| data.place(row);
    let (query_lengths, finding) =
        lengths::lengths(model, &texts, &queries, Role::Query, settings.query_max_len, place)?;
    findings.extend(finding);
    let (passage_lengths, finding) =
        lengths::lengths(model, &texts, &passages, Role::Passage, settings.passage_max_len, place)?;
    findings.extend(finding);
    let (queries_in, passages_in) = (
        languages::mix(&texts, &scripts, &queries, settings.seed),
        languages::mix(&texts, &scripts, &passages, settings.seed),
    );
    drop(scripts);

    let (candidates, _) = match input.pool {
        Some(_) => distinct(read_pool.iter().copied(), texts.len()),
        None => distinct([Some(&data), test.as_ref()].into_iter().flatten().flat_map(Numbered::passages), texts.len()),
    };
    let mut baselines = Vec::new();
    if data.are_answers {
        let search = Search {
            texts: &texts,
            pool: &candidates,
            n_queries: settings.n_queries,
            seed: settings.seed,
            batch_size: settings.embed_batch_size,
        };
        let sets: Vec<_> = [Some(&data), test.as_ref().filter(|test| test.are_answers)].into_iter().flatten().collect();
        let (found, more) = search.run(model, &sets, progress)?;
        baselines = found;
        findings.extend(more);
    }

    // Stable: findings of one severity and one share stay in the order of the checks.
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.share.total_cmp(&a.share)));
    let facts = Facts {
        n_rows: data.rows.len(),
        n_queries: queries.len(),
        n_positives: data.rows.iter().map(|row| row.positives.len()).sum(),
        n_negatives: data.rows.iter().map(|row| row.negatives.len()).sum(),
        n_passages: passages.len(),
        n_test_rows: test.as_ref().map_or(0, |test| test.rows.len()),
        n_candidates: candidates.len(),
        n_equal_candidates: if input.pool.is_some() { read_pool.len() - candidates.len() } else { 0 },
        query_lengths,
        passage_lengths,
        queries_in,
        passages_in,
        batch,
        baselines,
    };
    texts.check()?;
    let test = test.map(|test| test.name.to_string());
    Ok(Audit { data: data.name.to_string(), test, findings, facts, repairs })
}

fn near_texts(data: &Numbered<'_>, test: Option<&Numbered<'_>>, texts: &Texts, progress: &dyn Progress) -> NearTexts {
    let sets = || [Some(data), test].into_iter().flatten();
    // The second texts of scored pairs are compared with the first ones.
    let pairs = sets().filter(|set| !set.are_answers).flat_map(Numbered::passages);
    let (queries, _) = distinct(sets().flat_map(Numbered::queries).chain(pairs), texts.len());
    let (passages, _) = distinct(data.passages().chain(data.pool.iter().copied()), texts.len());
    progress.start("looking for near-duplicates", (queries.len() + passages.len()) as u64);
    let of_queries = Near::loosely(texts, &queries);
    progress.advance(queries.len() as u64);
    let of_passages = Near::loosely(texts, &passages).strictly(texts, &passages);
    progress.advance(passages.len() as u64);
    progress.finish();
    NearTexts { asked: of_queries.strictly(texts, &queries), queries: of_queries, passages: of_passages }
}

/// Distinct texts of rows with the row where each is first.
fn placed(n_texts: usize, rows: impl Iterator<Item = impl Iterator<Item = u32>>) -> Vec<Placed> {
    let mut seen = vec![false; n_texts];
    let all = (0..).zip(rows).flat_map(|(row, texts)| texts.map(move |text| Placed { text, row }));
    all.filter(|placed| !std::mem::replace(&mut seen[placed.text as usize], true)).collect()
}

/// Positives that can't be found, because they are no candidates.
fn missing_from_pool(data: &Numbered<'_>, test: Option<&Numbered<'_>>, texts: &Texts) -> Option<Finding> {
    if data.pool.is_empty() {
        return None;
    }
    let (_, is_in_pool) = distinct(data.pool.iter().copied(), texts.len());
    let (mut tally, mut n) = (finding::Tally::default(), 0);
    for set in [Some(data), test].into_iter().flatten() {
        for (i, row) in set.rows.iter().enumerate() {
            for &positive in row.positives {
                n += 1;
                if !is_in_pool[positive as usize] {
                    tally.add(|| Shown::new([set.place(i)], [texts.text(positive)]));
                }
            }
        }
    }
    tally.finding(Kind::MissingFromPool, Severity::Warning, n, None)
}
