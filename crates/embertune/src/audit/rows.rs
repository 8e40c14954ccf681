//! What is odd within the training rows themselves: copies, contradictions, queries among their passages.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::finding::{Finding, Kind, Severity, Shown, Tally};
use super::texts::{Near, Numbers, Texts, distinct};
use super::{NearTexts, Numbered};
use crate::mine::overlap::Bag;

/// Copies are a warning from this share of the rows on: fewer change nothing that could be measured.
const MANY_COPIES: f64 = 0.01;
/// A passage that answers so many queries, and this share of all, is said to be unspecific.
const UNSPECIFIC: (usize, f64) = (20, 0.02);

/// What the rows say of each query together. Queries and passages are the same where they say the same ([`Texts::said`]).
pub struct Known {
    positives: HashMap<u32, HashSet<u32>>,
}

impl Known {
    /// Of these rows.
    pub fn of(rows: &[Numbers], texts: &Texts<'_>) -> Known {
        let mut positives: HashMap<u32, HashSet<u32>> = HashMap::new();
        for row in rows {
            let known = positives.entry(texts.said(row.query)).or_default();
            known.extend(row.positives.iter().map(|&positive| texts.said(positive)));
        }
        Known { positives }
    }

    /// Whether a row has `passage` as a positive of `query`.
    pub fn has(&self, query: u32, passage: u32, texts: &Texts<'_>) -> bool {
        self.positives.get(&texts.said(query)).is_some_and(|known| known.contains(&texts.said(passage)))
    }

    /// What the positives of a query say, in no order.
    pub fn of_query(&self, query: u32, texts: &Texts<'_>) -> impl Iterator<Item = u32> {
        self.positives.get(&texts.said(query)).into_iter().flatten().copied()
    }
}

/// All findings about the rows alone.
pub fn findings(data: &Numbered<'_>, texts: &Texts<'_>, known: &Known, near: &NearTexts) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(repeated(data, texts));
    if data.are_answers {
        found.extend(within_rows(data, texts, known));
        found.extend(near_queries(data, texts, near));
        found.extend(shared(data, texts));
    }
    found.extend(near_passages(data, texts, &near.passages));
    found
}

/// Rows and queries that were there before.
fn repeated(data: &Numbered<'_>, texts: &Texts<'_>) -> Vec<Finding> {
    let mut first_row: HashMap<Key, usize> = HashMap::new();
    let mut first_query: HashMap<u32, usize> = HashMap::new();
    let (mut rows, mut queries) = (Tally::default(), Tally::default());
    for (i, row) in data.rows.iter().enumerate() {
        let text = || [texts.list[row.query as usize]];
        let earlier = *first_query.entry(texts.said(row.query)).or_insert(i);
        match *first_row.entry(Key::of(row, data.score(i))).or_insert(i) {
            first if first < i => rows.add(|| Shown::new([data.place(i), data.place(first)], text())),
            _ if earlier < i => queries.add(|| Shown::new([data.place(i), data.place(earlier)], text())),
            _ => {}
        }
    }
    let n = data.rows.len();
    let severity = if rows.share(n) >= MANY_COPIES { Severity::Warning } else { Severity::Info };
    let rows = rows.finding(Kind::RepeatedRows, severity, n, None);
    // Pairs of texts have no answers that could count together.
    let queries = if data.are_answers { queries } else { Tally::default() };
    let queries = queries.finding(Kind::RepeatedQueries, Severity::Info, n, None);
    rows.into_iter().chain(queries).collect()
}

/// What makes a row the same as another: its texts, whatever their order in a list.
#[derive(PartialEq, Eq, Hash)]
pub struct Key {
    query: u32,
    positives: Vec<u32>,
    negatives: Vec<u32>,
    score: u32,
}

impl Key {
    /// Of a row with this score, see [`Numbered::score`].
    pub fn of(row: &Numbers, score: u32) -> Key {
        let sorted = |numbers: &[u32]| {
            let mut numbers = numbers.to_vec();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        Key { query: row.query, positives: sorted(&row.positives), negatives: sorted(&row.negatives), score }
    }
}

/// What a negative is wrong for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadNegative {
    /// A positive of its row.
    PositiveOfRow,
    /// A positive of the query in another row.
    PositiveOfQuery,
    /// The query.
    Query,
}

/// Why `negative` can't be one of `row`.
pub fn bad_negative(row: &Numbers, negative: u32, known: &Known, texts: &Texts<'_>) -> Option<BadNegative> {
    let said = texts.said(negative);
    if said == texts.said(row.query) {
        Some(BadNegative::Query)
    } else if row.positives.iter().any(|&positive| texts.said(positive) == said) {
        Some(BadNegative::PositiveOfRow)
    } else if known.has(row.query, negative, texts) {
        Some(BadNegative::PositiveOfQuery)
    } else {
        None
    }
}

/// Contradictions, the query among its passages, passages twice. Of each kind a row, or a negative, counts once.
fn within_rows(data: &Numbered<'_>, texts: &Texts<'_>, known: &Known) -> Vec<Finding> {
    let mut query_is_positive = Tally::default();
    let mut repeated = Tally::default();
    let [mut in_row, mut across, mut is_query, mut near] = [(); 4].map(|()| Tally::default());
    let near_negatives = near_negatives(data, texts, known);
    for (i, row) in data.rows.iter().enumerate() {
        let text = |number: u32| texts.list[number as usize];
        let query = texts.said(row.query);
        if let Some(&positive) = row.positives.iter().find(|&&positive| texts.said(positive) == query) {
            query_is_positive.add(|| Shown::new([data.place(i)], [text(positive)]));
        }
        let mut seen = HashSet::new();
        for list in [&row.positives, &row.negatives] {
            seen.clear();
            for &passage in list.iter().filter(|passage| !seen.insert(**passage)) {
                repeated.add(|| Shown::new([data.place(i)], [text(passage)]));
            }
        }
        for &negative in &row.negatives {
            let shown = || Shown::new([data.place(i)], [text(row.query), text(negative)]);
            match bad_negative(row, negative, known, texts) {
                Some(BadNegative::PositiveOfRow) => in_row.add(shown),
                Some(BadNegative::Query) => is_query.add(shown),
                Some(BadNegative::PositiveOfQuery) => across.add(|| {
                    let other = data.rows.iter().position(|other| {
                        let is_it = |&positive: &u32| texts.said(positive) == texts.said(negative);
                        texts.said(other.query) == query && other.positives.iter().any(is_it)
                    });
                    Shown::new([i].into_iter().chain(other).map(|row| data.place(row)), shown().texts)
                }),
                None => {}
            }
        }
        for at in &near_negatives[i] {
            near.add(|| Shown::new([data.place(i)], [text(row.query), text(row.negatives[*at])]));
        }
    }
    let n = data.rows.len();
    let n_negatives = data.rows.iter().map(|row| row.negatives.len()).sum();
    let n_passages = data.rows.iter().map(|row| row.passages().count()).sum();
    [
        query_is_positive.finding(Kind::QueryIsPositive, Severity::Warning, n, None),
        in_row.finding(Kind::ContradictionsInRow, Severity::Error, n_negatives, None),
        across.finding(Kind::ContradictionsAcrossRows, Severity::Error, n_negatives, None),
        is_query.finding(Kind::QueryIsNegative, Severity::Warning, n_negatives, None),
        near.finding(Kind::NearNegatives, Severity::Warning, n_negatives, None),
        repeated.finding(Kind::RepeatedInRow, Severity::Info, n_passages, None),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// For each row the places of its negatives that are near a positive of its query, and no worse than that.
fn near_negatives(data: &Numbered<'_>, texts: &Texts<'_>, known: &Known) -> Vec<Vec<usize>> {
    let bag = |number: u32| Bag::of(texts.list[number as usize]);
    let of_row = |row: &Numbers| {
        if row.negatives.is_empty() {
            return Vec::new();
        }
        let positives: Vec<_> = known.of_query(row.query, texts).map(bag).collect();
        let is_near = |negative: u32| {
            let bag = bag(negative);
            bad_negative(row, negative, known, texts).is_none() && positives.iter().any(|other| other.is_near(&bag))
        };
        (0..row.negatives.len()).filter(|&at| is_near(row.negatives[at])).collect()
    };
    data.rows.par_iter().map(of_row).collect()
}

/// Queries that are near another one, which they do not equal.
fn near_queries(data: &Numbered<'_>, texts: &Texts<'_>, near: &NearTexts) -> Option<Finding> {
    let mut first: HashMap<u32, (u32, usize)> = HashMap::new();
    let mut answers: HashMap<u32, HashSet<u32>> = HashMap::new();
    for row in &data.rows {
        let of_query = answers.entry(texts.said(row.query)).or_default();
        of_query.extend(row.positives.iter().map(|&positive| near.passages.group(positive)));
    }
    let mut tally = Tally::default();
    let (mut seen, mut n_other) = (HashSet::new(), 0);
    for (i, row) in data.rows.iter().enumerate() {
        let said = texts.said(row.query);
        if !seen.insert(said) {
            continue;
        }
        let (head, at) = *first.entry(near.queries.group(row.query)).or_insert((said, i));
        if head != said {
            n_other += usize::from(answers[&head].is_disjoint(&answers[&said]));
            let text = |row: usize| texts.list[data.rows[row].query as usize];
            tally.add(|| Shown::new([data.place(i), data.place(at)], [text(i), text(at)]));
        }
    }
    let severity = if tally.share(seen.len()) >= MANY_COPIES { Severity::Warning } else { Severity::Info };
    // Queries of one answer are what paraphrases are for.
    let severity = if n_other == 0 { Severity::Info } else { severity };
    let detail = match n_other {
        0 => "All of them have a positive of the query that they are near.".to_string(),
        n => format!("{n} of them have other positives than the query that they are near."),
    };
    tally.finding(Kind::NearQueries, severity, seen.len(), Some(detail))
}

/// Passages that are near an earlier one, which they do not equal.
fn near_passages(data: &Numbered<'_>, texts: &Texts<'_>, near: &Near) -> Option<Finding> {
    let mut first: HashMap<u32, (u32, String)> = HashMap::new();
    let mut tally = Tally::default();
    let mut look = |passage: u32, place: &dyn Fn() -> String| {
        let (head, at) = first.entry(near.group(passage)).or_insert_with(|| (passage, place()));
        if *head != passage {
            tally.add(|| Shown::new([place(), at.clone()], [texts.list[passage as usize], texts.list[*head as usize]]));
        }
    };
    let mut seen = vec![false; texts.len()];
    let mut is_new = |passage: u32| !std::mem::replace(&mut seen[passage as usize], true);
    let mut n = 0;
    for (i, row) in data.rows.iter().enumerate() {
        for passage in row.passages().filter(|&passage| is_new(passage)) {
            look(passage, &|| data.place(i));
            n += 1;
        }
    }
    for &passage in data.pool.iter().filter(|&&passage| is_new(passage)) {
        look(passage, &|| "the pool".into());
        n += 1;
    }
    let severity = if tally.share(n) >= MANY_COPIES { Severity::Warning } else { Severity::Info };
    tally.finding(Kind::NearPassages, severity, n, None)
}

/// Positives of several queries, the most shared first.
fn shared(data: &Numbered<'_>, texts: &Texts<'_>) -> Option<Finding> {
    let mut of_positive: HashMap<u32, Vec<usize>> = HashMap::new();
    let mut seen = HashSet::new();
    for (i, row) in data.rows.iter().enumerate() {
        for &positive in &row.positives {
            let positive = texts.said(positive);
            if seen.insert((texts.said(row.query), positive)) {
                of_positive.entry(positive).or_default().push(i);
            }
        }
    }
    let n = of_positive.len();
    let mut shared: Vec<_> = of_positive.into_iter().filter(|(_, rows)| rows.len() > 1).collect();
    shared.sort_unstable_by_key(|(positive, rows)| (std::cmp::Reverse(rows.len()), *positive));
    let (n_queries, _) = distinct(data.rows.iter().map(|row| texts.said(row.query)), texts.len());
    let most = shared.first().map_or(0, |(_, rows)| rows.len());
    let is_unspecific = most >= UNSPECIFIC.0 && most as f64 >= UNSPECIFIC.1 * n_queries.len() as f64;
    let mut tally = Tally::default();
    for (positive, rows) in &shared {
        tally.add(|| {
            Shown::new(rows.iter().take(2).map(|&row| data.place(row)), [texts.list[*positive as usize].to_string()])
        });
    }
    let severity = if is_unspecific { Severity::Warning } else { Severity::Info };
    tally.finding(Kind::SharedPositives, severity, n, Some(format!("One passage answers {most} queries.")))
}
