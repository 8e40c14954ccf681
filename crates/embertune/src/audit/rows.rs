//! What is odd within the training rows themselves: copies, contradictions, queries among their passages.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3Default;

use super::finding::{Finding, Kind, Severity, Shown, Tally};
use super::texts::{ByText, Near, Pairs, Texts, distinct};
use super::{NearTexts, Numbered};
use crate::data::row_list::{Row, RowList};
use crate::mine::overlap::Bag;

/// Copies are a warning from this share of the rows on: fewer change nothing that could be measured.
const MANY_COPIES: f64 = 0.01;
/// A passage that answers so many queries, and this share of all, is said to be unspecific.
const UNSPECIFIC: (usize, f64) = (20, 0.02);

/// What the rows say of each query together. Queries and passages are the same where they say the same ([`Texts::said`]).
pub struct Known {
    positives: Pairs,
}

impl Known {
    /// Of these rows.
    pub fn of(rows: &RowList, texts: &Texts) -> Known {
        let said = |number: &u32| texts.said(*number);
        let of_row = |row: Row<'_>| row.positives.iter().map(said).map(|it| (said(&row.query), it)).collect::<Vec<_>>();
        Known { positives: Pairs::new(rows.iter().flat_map(of_row)) }
    }

    /// Whether a row has `passage` as a positive of `query`.
    pub fn has(&self, query: u32, passage: u32, texts: &Texts) -> bool {
        self.positives.has(texts.said(query), texts.said(passage))
    }

    /// What the positives of a query say, ascending.
    pub fn of_query(&self, query: u32, texts: &Texts) -> impl Iterator<Item = u32> {
        self.positives.of(texts.said(query))
    }
}

/// All findings about the rows alone.
pub fn findings(data: &Numbered<'_>, texts: &Texts, known: &Known, near: &NearTexts) -> Vec<Finding> {
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
fn repeated(data: &Numbered<'_>, texts: &Texts) -> Vec<Finding> {
    let mut first_row: HashMap<u64, u32> = HashMap::new();
    let mut first_query = ByText::new(texts.len());
    let (mut rows, mut queries) = (Tally::default(), Tally::default());
    for (i, row) in data.rows.iter().enumerate() {
        let text = || [texts.text(row.query)];
        let earlier = first_query.first(texts.said(row.query), i as u32) as usize;
        match *first_row.entry(key(row)).or_insert(i as u32) as usize {
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

/// What makes a row the same as another, by a hash: its texts, whatever their order in a list, and the score of a pair. Two of 5 million
/// different rows have the same one with a probability of 7e-7.
pub fn key(row: Row<'_>) -> u64 {
    let mut hash = Xxh3Default::new();
    let mut add = |number: u32| hash.update(&number.to_le_bytes());
    add(row.query);
    for numbers in [row.positives, row.negatives] {
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        add(numbers.len() as u32);
        numbers.into_iter().for_each(&mut add);
    }
    row.positive_scores.iter().for_each(|score| add(score.to_bits()));
    hash.digest()
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
pub fn bad_negative(row: Row<'_>, negative: u32, known: &Known, texts: &Texts) -> Option<BadNegative> {
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
fn within_rows(data: &Numbered<'_>, texts: &Texts, known: &Known) -> Vec<Finding> {
    let mut query_is_positive = Tally::default();
    let mut repeated = Tally::default();
    let [mut in_row, mut across, mut is_query, mut near] = [(); 4].map(|()| Tally::default());
    let near_negatives = near_negatives(data, texts, known);
    let mut near_negatives = near_negatives.iter().peekable();
    for (i, row) in data.rows.iter().enumerate() {
        let text = |number: u32| texts.text(number);
        let query = texts.said(row.query);
        if let Some(&positive) = row.positives.iter().find(|&&positive| texts.said(positive) == query) {
            query_is_positive.add(|| Shown::new([data.place(i)], [text(positive)]));
        }
        let mut seen = HashSet::new();
        for list in [row.positives, row.negatives] {
            seen.clear();
            for &passage in list.iter().filter(|passage| !seen.insert(**passage)) {
                repeated.add(|| Shown::new([data.place(i)], [text(passage)]));
            }
        }
        for &negative in row.negatives {
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
        while let Some((_, at)) = near_negatives.next_if(|(of, _)| *of == i) {
            near.add(|| Shown::new([data.place(i)], [text(row.query), text(row.negatives[*at])]));
        }
    }
    let n = data.rows.len();
    let n_negatives = data.rows.iter().map(|row| row.negatives.len()).sum();
    let n_passages = data.passages().count();
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

/// Rows and the places of their negatives that are near a positive of their query, and no worse than that.
fn near_negatives(data: &Numbered<'_>, texts: &Texts, known: &Known) -> Vec<(usize, usize)> {
    let bag = |number: u32| Bag::of(&texts.text(number));
    let of_row = |row: Row<'_>| {
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
    let all = (0..data.rows.len()).into_par_iter();
    all.flat_map_iter(|i| of_row(data.rows.get(i)).into_iter().map(move |at| (i, at))).collect()
}

/// Queries that are near another one, which they do not equal.
fn near_queries(data: &Numbered<'_>, texts: &Texts, near: &NearTexts) -> Option<Finding> {
    let mut first: HashMap<u32, (u32, u32)> = HashMap::new();
    let of_row = |row: Row<'_>| {
        let group = |positive: &u32| (texts.said(row.query), near.passages.group(*positive));
        row.positives.iter().map(group).collect::<Vec<_>>()
    };
    let answers = Pairs::new(data.rows.iter().flat_map(of_row));
    let mut tally = Tally::default();
    let (mut seen, mut n_other) = (HashSet::new(), 0);
    for (i, row) in data.rows.iter().enumerate() {
        let said = texts.said(row.query);
        if !seen.insert(said) {
            continue;
        }
        let (head, at) = *first.entry(near.queries.group(row.query)).or_insert((said, i as u32));
        if head != said {
            let at = at as usize;
            n_other += usize::from(!answers.of(said).any(|answer| answers.has(head, answer)));
            let text = |row: usize| texts.text(data.rows.get(row).query);
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
fn near_passages(data: &Numbered<'_>, texts: &Texts, near: &Near) -> Option<Finding> {
    // Of each group its first passage, and where that is: a row, or the pool.
    let mut first = ByText::new(texts.len());
    let place = |row: Option<u32>| row.map_or("the pool".into(), |row| data.place(row as usize));
    let mut tally = Tally::default();
    let mut look = |passage: u32, row: Option<u32>| {
        let (head, at) = first.first(near.group(passage), (passage, row));
        if head != passage {
            tally.add(|| Shown::new([place(row), place(at)], [texts.text(passage), texts.text(head)]));
        }
    };
    let mut seen = vec![false; texts.len()];
    let mut is_new = |passage: u32| !std::mem::replace(&mut seen[passage as usize], true);
    let mut n = 0;
    for (i, row) in (0..).zip(data.rows.iter()) {
        for passage in row.passages().filter(|&passage| is_new(passage)) {
            look(passage, Some(i));
            n += 1;
        }
    }
    for &passage in data.pool.iter().filter(|&&passage| is_new(passage)) {
        look(passage, None);
        n += 1;
    }
    let severity = if tally.share(n) >= MANY_COPIES { Severity::Warning } else { Severity::Info };
    tally.finding(Kind::NearPassages, severity, n, None)
}

/// Positives of several queries, the most shared first.
fn shared(data: &Numbered<'_>, texts: &Texts) -> Option<Finding> {
    // Positive, query, and the first row that has both.
    let mut triples = Vec::new();
    for (i, row) in (0_u32..).zip(data.rows.iter()) {
        triples.extend(row.positives.iter().map(|&positive| (texts.said(positive), texts.said(row.query), i)));
    }
    triples.par_sort_unstable();
    triples.dedup_by_key(|&mut (positive, query, _)| (positive, query));
    let of_positives = || triples.chunk_by(|a, b| a.0 == b.0);
    let n = of_positives().count();
    let rows_of = |triples: &[(u32, u32, u32)]| {
        let mut rows: Vec<_> = triples.iter().map(|&(.., row)| row as usize).collect();
        rows.sort_unstable();
        (triples[0].0, rows)
    };
    let mut shared: Vec<_> = of_positives().filter(|triples| triples.len() > 1).map(rows_of).collect();
    shared.sort_unstable_by_key(|(positive, rows)| (std::cmp::Reverse(rows.len()), *positive));
    let (n_queries, _) = distinct(data.rows.iter().map(|row| texts.said(row.query)), texts.len());
    let most = shared.first().map_or(0, |(_, rows)| rows.len());
    let is_unspecific = most >= UNSPECIFIC.0 && most as f64 >= UNSPECIFIC.1 * n_queries.len() as f64;
    let mut tally = Tally::default();
    for (positive, rows) in &shared {
        tally.add(|| Shown::new(rows.iter().take(2).map(|&row| data.place(row)), [texts.text(*positive)]));
    }
    let severity = if is_unspecific { Severity::Warning } else { Severity::Info };
    tally.finding(Kind::SharedPositives, severity, n, Some(format!("One passage answers {most} queries.")))
}
