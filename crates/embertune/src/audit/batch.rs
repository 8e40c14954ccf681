//! How many right answers a batch holds as negatives, on average, by counting.
//!
//! Rows come in random order, so each other row is in the batch of a row with the chance `(b - 1) / (n - 1)`. A row brings one of its
//! positives and `group size - 1` of its negatives; summed over rows, that is how often each passage is expected. Of these, all that a
//! query has for an answer are false negatives; training masks those that say the same as a known positive (`loss::contrast`).

use serde::Serialize;

use super::finding::{Finding, Kind, Severity, Shown, Tally};
use super::rows::Known;
use super::texts::{Pairs, Texts};
use super::{AuditSettings, NearTexts, Numbered};
use crate::data::row_list::{Row, RowList};

/// From so many expected per query on it is a warning: one query of a hundred learns the opposite of what is right.
const MANY: f64 = 0.01;

/// False negatives that a batch is expected to hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchRisk {
    /// Rows of a batch: as planned, or all there are.
    pub batch_size: usize,
    /// Passages per row.
    pub group_size: usize,
    /// Passages of a batch.
    pub n_passages: f64,
    /// Passages of other rows that answer the query, over all queries of a batch: equal to a positive of the query, a near copy of one,
    /// or the answer of a query that asks the same.
    pub expected: f64,
    /// Those of them that the masks of training do not find.
    pub expected_unmasked: f64,
}

/// How often passages are expected, for each class of them, if every row were in the batch.
struct Mass {
    of: Vec<f64>,
}

impl Mass {
    fn of(rows: &RowList, n_texts: usize, group_size: usize, class: impl Fn(u32) -> u32) -> Mass {
        let mut of = vec![0.0; n_texts];
        for row in rows.iter() {
            for_each_draw(row, group_size, |passage, expected| of[class(passage) as usize] += expected);
        }
        Mass { of }
    }

    /// What other rows bring of these classes.
    fn others(&self, row: Row<'_>, group_size: usize, classes: &[u32], class: impl Fn(u32) -> u32) -> f64 {
        let all: f64 = classes.iter().map(|&class| self.of[class as usize]).sum();
        let mut own = 0.0;
        for_each_draw(row, group_size, |passage, expected| {
            if classes.binary_search(&class(passage)).is_ok() {
                own += expected;
            }
        });
        // The difference of equal sums may be a rounding below 0.
        (all - own).max(0.0)
    }
}

fn for_each_draw(row: Row<'_>, group_size: usize, mut take: impl FnMut(u32, f64)) {
    let positives = row.positives.len().max(1) as f64;
    row.positives.iter().for_each(|&positive| take(positive, 1.0 / positives));
    let negatives = row.negatives.len().max(1) as f64;
    row.negatives.iter().for_each(|&negative| take(negative, (group_size.max(1) - 1) as f64 / negatives));
}

/// What a batch is expected to hold, and the finding if it is too much. `None` without in-batch negatives.
pub fn risk(
    data: &Numbered<'_>,
    texts: &Texts,
    known: &Known,
    near: &NearTexts,
    settings: &AuditSettings,
) -> Option<(BatchRisk, Option<Finding>)> {
    let n = data.rows.len();
    if !settings.use_inbatch_neg || settings.batch_size < 2 || n < 2 {
        return None;
    }
    let group_size = settings.group_size;
    let said = |number: u32| texts.said(number);
    let alike = |number: u32| near.passages.group(number);
    let [by_said, by_near] =
        [Mass::of(&data.rows, texts.len(), group_size, said), Mass::of(&data.rows, texts.len(), group_size, alike)];
    // The groups of passages that answer the queries that ask the same.
    let of_row = |row: Row<'_>| {
        let asked = near.asked.group(row.query);
        row.positives.iter().map(|&positive| (asked, alike(positive))).collect::<Vec<_>>()
    };
    let answers = Pairs::new(data.rows.iter().flat_map(of_row));
    let chance = (settings.batch_size.min(n) - 1) as f64 / (n - 1) as f64;
    let (mut all, mut unmasked, mut tally) = (0.0, 0.0, Tally::default());
    for (i, row) in data.rows.iter().enumerate() {
        let classes: Vec<u32> = answers.of(near.asked.group(row.query)).collect();
        let right = by_near.others(row, group_size, &classes, alike);
        let masked: Vec<u32> = known.of_query(row.query, texts).collect();
        let left = (right - by_said.others(row, group_size, &masked, said)).max(0.0);
        all += chance * right;
        unmasked += chance * left;
        // Sums of thirds and the like come out a little off.
        if left > 1e-6 {
            tally.add(|| Shown::new([data.place(i)], [texts.text(row.query)]));
        }
    }
    let batch_size = settings.batch_size.min(n);
    let rows_of_batch = batch_size as f64;
    let of_batch = |sum: f64| sum / n as f64 * rows_of_batch;
    let risk = BatchRisk {
        batch_size,
        group_size,
        n_passages: data
            .rows
            .iter()
            .map(|row| if row.negatives.is_empty() { 1.0 } else { group_size as f64 })
            .sum::<f64>()
            / n as f64
            * rows_of_batch,
        expected: of_batch(all),
        expected_unmasked: of_batch(unmasked),
    };
    let severity = if unmasked / n as f64 >= MANY { Severity::Warning } else { Severity::Info };
    let detail = format!(
        "A batch of {batch_size} rows has {} of them on average, {} after masking.",
        rounded(risk.expected),
        rounded(risk.expected_unmasked)
    );
    let finding = tally.finding(Kind::InBatchFalseNegatives, severity, n, Some(detail));
    Some((risk, finding))
}

/// An expected number to read: small ones are not rounded to none.
pub fn rounded(expected: f64) -> String {
    match expected {
        0.0 => "0".into(),
        small if small < 0.005 => "less than 0.01".into(),
        expected => format!("{expected:.2}"),
    }
}
