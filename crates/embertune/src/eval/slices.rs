//! Groups of queries that a comparison looks at one by one: by length, script, language, rarest word, and fields of the data.

use std::collections::{BTreeMap, BTreeSet};

use super::results::QueryResults;
use crate::error::{Error, Result};

/// What queries are grouped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceBy {
    /// Number of words.
    Length,
    /// Script of most letters.
    Script,
    /// The likeliest language, where there are several.
    Language,
    /// How many documents contain the rarest word.
    RarestWord,
    /// A field of the data.
    Field(String),
}

/// The name of a group, and the places of its queries.
pub type Group = (String, Vec<usize>);

/// Whether two groupings differ in names alone.
pub fn same_queries(a: &[Group], b: &[Group]) -> bool {
    let places = |groups: &[Group]| groups.iter().map(|(_, places)| places.clone()).collect::<BTreeSet<_>>();
    places(a) == places(b)
}

/// Whether each of `names` is a field of some query, of which `fields` gives the fields.
///
/// # Errors
/// The first that is not.
pub fn check_fields<'a, I>(names: &[String], fields: impl Fn() -> I) -> Result<()>
where
    I: Iterator<Item = &'a BTreeMap<String, String>>,
{
    let Some(name) = names.iter().find(|name| !fields().any(|fields| fields.contains_key(*name))) else {
        return Ok(());
    };
    let known: BTreeSet<_> = fields().flat_map(BTreeMap::keys).map(|name| format!("`{name}`")).collect();
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "none" } else { &known };
    Err(Error::Setting {
        problem: format!("no query has a field `{name}` to slice by; the fields are: {known}"),
        hint: Some("a field is a string, a number or true or false in the line of a query".into()),
    })
}

impl SliceBy {
    /// The groupings that need nothing but texts.
    pub const OF_TEXTS: [SliceBy; 4] = [SliceBy::Length, SliceBy::Language, SliceBy::Script, SliceBy::RarestWord];

    /// What the groups are of.
    pub fn name(&self) -> &str {
        match self {
            SliceBy::Length => "length",
            SliceBy::Script => "script",
            SliceBy::Language => "language",
            SliceBy::RarestWord => "rarest word",
            SliceBy::Field(name) => name,
        }
    }

    /// The group of a query, `None` where it is in none.
    fn group(&self, query: &QueryResults) -> Option<String> {
        Some(match self {
            SliceBy::Length => match query.n_words {
                0 => return None,
                1..=2 => "1 to 2 words",
                3..=5 => "3 to 5 words",
                6..=10 => "6 to 10 words",
                11..=20 => "11 to 20 words",
                _ => "more than 20 words",
            }
            .into(),
            SliceBy::Script => query.script.clone(),
            SliceBy::Language => query.language.clone()?,
            SliceBy::RarestWord => match query.rarest_word_in? {
                0 => "in no passage",
                1..=3 => "in 1 to 3 passages",
                4..=30 => "in 4 to 30 passages",
                _ => "in more than 30",
            }
            .into(),
            SliceBy::Field(name) => query.fields.get(name)?.clone(),
        })
    }

    /// The groups with the places of their queries, those with most queries first. Empty where there is but one group: it would
    /// say what the whole says.
    pub fn groups(&self, queries: &[QueryResults]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (place, query) in queries.iter().enumerate() {
            let Some(name) = self.group(query) else { continue };
            match groups.iter_mut().find(|(known, _)| *known == name) {
                Some((_, places)) => places.push(place),
                None => groups.push((name, vec![place])),
            }
        }
        groups.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.0.cmp(&b.0)));
        if groups.len() == 1 && groups[0].1.len() == queries.len() { Vec::new() } else { groups }
    }
}
