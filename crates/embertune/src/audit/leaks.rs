//! What the test rows have in common with the training rows.

use std::collections::HashMap;

use super::finding::{Finding, Kind, Severity, Shown, Tally};
use super::texts::{ByText, Near, Texts};
use super::{NearTexts, Numbered};
use crate::data::row_list::Row;

/// What a training row has to do with the test rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leak {
    /// It has the query of one.
    Same,
    /// It has a query that is near to that of one.
    Near,
}

/// Where queries are first, by what they say and by their group. Of rows that are scored pairs, where pairs of texts are.
pub struct Places {
    same: HashMap<(u32, u32), u32>,
    near: HashMap<(u32, u32), u32>,
    are_answers: bool,
}

impl Places {
    /// Of `rows`.
    pub fn of(rows: &Numbered<'_>, texts: &Texts, near: &Near) -> Places {
        let mut places = Places { same: HashMap::new(), near: HashMap::new(), are_answers: rows.are_answers };
        for (i, row) in (0..).zip(rows.rows.iter()) {
            places.same.entry(places.key(row, |number| texts.said(number))).or_insert(i);
            places.near.entry(places.key(row, |number| near.group(number))).or_insert(i);
        }
        places
    }

    fn key(&self, row: Row<'_>, name: impl Fn(u32) -> u32) -> (u32, u32) {
        match (self.are_answers, row.positives.first()) {
            (false, Some(&other)) => {
                let (a, b) = (name(row.query), name(other));
                (a.min(b), a.max(b))
            }
            _ => (name(row.query), u32::MAX),
        }
    }

    /// The first row with the query of `row`, or one that is near to it.
    pub fn leak(&self, row: Row<'_>, texts: &Texts, near: &Near) -> Option<(Leak, usize)> {
        let same = self.same.get(&self.key(row, |number| texts.said(number))).map(|&at| (Leak::Same, at as usize));
        same.or_else(|| self.near.get(&self.key(row, |number| near.group(number))).map(|&at| (Leak::Near, at as usize)))
    }
}

/// All findings about test rows beside training rows.
pub fn findings(data: &Numbered<'_>, test: &Numbered<'_>, texts: &Texts, near: &NearTexts) -> Vec<Finding> {
    let places = Places::of(data, texts, &near.queries);
    let (mut same, mut alike) = (Tally::default(), Tally::default());
    for (i, row) in test.rows.iter().enumerate() {
        let text = |row: Row<'_>| texts.text(row.query);
        match places.leak(row, texts, &near.queries) {
            Some((Leak::Same, at)) => same.add(|| Shown::new([test.place(i), data.place(at)], [text(row)])),
            Some((Leak::Near, at)) => {
                alike.add(|| Shown::new([test.place(i), data.place(at)], [text(row), text(data.rows.get(at))]));
            }
            None => {}
        }
    }
    let n = test.rows.len();
    let all = "All of them: this is an evaluation on training data.".to_string();
    let all = (same.n == n).then_some(all);
    let mut found = Vec::new();
    found.extend(same.finding(Kind::LeakedQueries, Severity::Error, n, all));
    found.extend(alike.finding(Kind::NearLeakedQueries, Severity::Warning, n, None));
    if data.are_answers {
        found.extend(shared_answers(data, test, texts));
    }
    found
}

fn shared_answers(data: &Numbered<'_>, test: &Numbered<'_>, texts: &Texts) -> Option<Finding> {
    let mut row_of = ByText::new(texts.len());
    for (i, row) in (0_u32..).zip(data.rows.iter()) {
        for &positive in row.positives {
            row_of.first(texts.said(positive), i);
        }
    }
    let mut tally = Tally::default();
    let mut n = 0;
    for (i, row) in test.rows.iter().enumerate() {
        for &positive in row.positives {
            n += 1;
            if let Some(at) = row_of.get(texts.said(positive)) {
                tally.add(|| Shown::new([test.place(i), data.place(at as usize)], [texts.text(positive)]));
            }
        }
    }
    tally.finding(Kind::SharedAnswers, Severity::Warning, n, None)
}
