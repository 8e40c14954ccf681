//! What the rows say about each query together: several rows may have the same query, and the positives of one are none of the
//! negatives of another.

use std::collections::{HashMap, HashSet};

use crate::data::{Row, TextId};

/// One query.
#[derive(Debug, Default)]
pub struct Query<'a> {
    /// The positives of all its rows, each text once.
    pub positives: Vec<&'a str>,
    /// What is no negative: the positives and the query itself.
    pub forbidden: HashSet<TextId>,
    /// How many positives its rows have, equal ones counted each time.
    pub n_pairs: usize,
    /// Indices of its rows.
    pub rows: Vec<usize>,
}

/// The queries of `rows`, and for each row which one is its own.
pub fn queries(rows: &[Row]) -> (Vec<Query<'_>>, Vec<usize>) {
    let mut index: HashMap<TextId, usize> = HashMap::new();
    let mut queries: Vec<Query<'_>> = Vec::new();
    let mut of_row = Vec::with_capacity(rows.len());
    for (i, Row { example, .. }) in rows.iter().enumerate() {
        let id = TextId::of(&example.query);
        let at = *index.entry(id).or_insert(queries.len());
        if at == queries.len() {
            queries.push(Query { forbidden: HashSet::from([id]), ..Query::default() });
        }
        let query = &mut queries[at];
        query.n_pairs += example.positives.len();
        query.rows.push(i);
        for text in &example.positives {
            if query.forbidden.insert(TextId::of(text)) {
                query.positives.push(text);
            }
        }
        of_row.push(at);
    }
    (queries, of_row)
}
