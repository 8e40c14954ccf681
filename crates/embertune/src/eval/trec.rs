//! TREC run files: rankings in the form that trec_eval, ranx, pyterrier and others read and write,
//! `query Q0 document rank score tag`, one line for each document found.
//!
//! Source: trec_eval 9.0, `get_trec_results.c` and `form_res_rels.c`: the rank column does not count; documents are ordered by
//! score, compared as f32, and equal scores by document name, both descending.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::results::SetResults;
use super::retrieval::Rankings;
use super::test_set::TestSet;
use crate::data::atomic::write_file;
use crate::data::lines::Lines;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Writes the rankings of a set. Where scores are equal, or not in order, they are lowered by the least that an f32 can be, so that
/// every tool that sorts the file by score sees our order and computes our metrics.
///
/// # Errors
/// [`Error::Io`] with `path`.
pub fn write_run(path: &Path, results: &SetResults, tag: &str) -> Result<()> {
    let tag: String = tag.chars().map(|c| if c.is_whitespace() { '_' } else { c }).collect();
    write_file(path, |out| {
        for query in &results.queries {
            let mut bound = f32::INFINITY;
            for (rank, (document, score)) in (1..).zip(&query.ranking) {
                let score = score.min(bound);
                writeln!(out, "{} Q0 {document} {rank} {score} {tag}", query.id)?;
                bound = score.next_down();
            }
        }
        Ok(())
    })
}

/// Reads a run for the queries of a set, in trec_eval's order. A query that the run lacks has an empty ranking, so that its metrics
/// are 0 (trec_eval leaves it out of the means, unless called with `-c`); queries that the set lacks are left out. Both are said.
///
/// # Errors
/// A line of another form, a document twice for one query, no query of the set in the run.
pub fn read_run(path: &Path, set: &TestSet, progress: &dyn Progress) -> Result<Rankings> {
    let row_of: HashMap<&str, usize> = set.queries.iter().enumerate().map(|(i, q)| (q.id.as_str(), i)).collect();
    let mut of_query: Vec<Vec<(String, f32)>> = vec![Vec::new(); set.queries.len()];
    let mut seen: HashSet<(usize, String)> = HashSet::new();
    let mut unknown: HashSet<String> = HashSet::new();
    for entry in Lines::open(path)? {
        let (line, text) = entry?;
        let fail = |problem: String, hint: &str| {
            Err(Error::Row { path: path.to_path_buf(), line, problem, hint: Some(hint.into()) })
        };
        let fields: Vec<_> = text.split_whitespace().collect();
        let (query, document, score) = match fields[..] {
            [] => continue,
            [query, _, document, _, score] | [query, _, document, _, score, _] => (query, document, score),
            _ => {
                let problem = format!("found {} fields, expected 6", fields.len());
                return fail(problem, "a line of a run is `query-id Q0 document-id rank score tag`");
            }
        };
        let score = match score.parse::<f32>() {
            Ok(score) if score.is_finite() => score + 0.0,
            _ => return fail(format!("the score `{score}` is no finite number"), "scores are numbers like 0.71"),
        };
        let Some(&row) = row_of.get(query) else {
            unknown.insert(query.to_string());
            continue;
        };
        if !seen.insert((row, document.to_string())) {
            return fail(
                format!("`{document}` was found for `{query}` already"),
                "a run has each document once a query",
            );
        }
        of_query[row].push((document.to_string(), score));
    }
    let n_missing = of_query.iter().filter(|ranking| ranking.is_empty()).count();
    if n_missing == set.queries.len() {
        return Err(Error::Data {
            path: path.to_path_buf(),
            problem: format!("none of the {n_missing} queries is in the run"),
            hint: Some("the first column of the run and of the judgments is the same name of the query".into()),
        });
    }
    if n_missing > 0 {
        progress.warn(&format!("{n_missing} of {} queries are not in the run: their metrics are 0", set.queries.len()));
    }
    if !unknown.is_empty() {
        progress.note(&format!("{} queries of the run have no judgments and are left out", unknown.len()));
    }
    for ranking in &mut of_query {
        ranking.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| b.0.cmp(&a.0)));
    }
    let depth = of_query.iter().map(Vec::len).max().unwrap_or(0);
    Ok(Rankings { of_query, depth, n_queries_truncated: 0, n_documents_truncated: 0 })
}
