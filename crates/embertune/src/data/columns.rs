//! Which column of a file is the query, which hold positives and negatives: by the names that sentence-transformers, FlagEmbedding and
//! our own output use, or by names that the user gives.
//!
//! A row comes out in one form, `{"query": str, "pos": [str], "neg": [str], ...}`, and whoever reads it needs to know no other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::Error;

/// What a column may be, and the names that say so without being told, in the order in which they count.
const PARTS: [(&str, &[&str]); 11] = [
    ("query", &["query", "anchor", "sentence1"]),
    ("pos", &["pos", "positive", "sentence2", "passage"]),
    ("neg", &["neg"]),
    ("score", &["score"]),
    ("label", &["label"]),
    ("pos_scores", &["pos_scores"]),
    ("neg_scores", &["neg_scores"]),
    ("scores", &["scores"]),
    ("text", &["text"]),
    ("title", &["title"]),
    ("context", &["context"]),
];

/// The parts of candidates and texts.
const OF_TEXTS: [&str; 3] = ["text", "title", "context"];

/// The columns that the user has named, as `query=question,pos=answer`; by default none.
///
/// As text and in JSON it is what the user wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    given: Vec<(&'static str, String)>,
}

/// A row by the names of its parts, and what the file calls them where it is another name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Renamed {
    /// Fields that are no part keep their names; all are in the order of the file.
    pub fields: Map<String, Value>,
    /// `(part, column)`.
    pub names: Vec<(&'static str, String)>,
}

impl Columns {
    /// Whether the user has named none.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Whether the name of a column says what it is.
    pub fn knows(&self, column: &str) -> bool {
        !self.part(column).is_empty()
    }

    /// The part that a column may be by its name, empty for none.
    pub fn part(&self, column: &str) -> &'static str {
        let by_name = || PARTS.iter().find(|(_, names)| names.contains(&column)).map(|(part, _)| *part);
        let negative = || negative_number(column).map(|_| "neg");
        self.given_part(column).or_else(by_name).or_else(negative).unwrap_or_default()
    }

    /// The fields of a row of training or evaluation data.
    ///
    /// Negatives are `neg`, or else `negative` and `negative_1`, `negative_2`, ... together, of which empty ones are left out. `scores` of a
    /// row with a positive are those of the positive and of its negatives.
    pub fn row(&self, fields: Map<String, Value>) -> Renamed {
        let is_original = |name: &String| {
            let known = |(part, names): &(&str, &[&str])| *part == name || !names.contains(&name.as_str());
            name != "scores" && negative_number(name).is_none() && PARTS[..2].iter().all(known)
        };
        if self.given.is_empty() && fields.keys().all(is_original) {
            return Renamed { fields, names: Vec::new() };
        }
        let query = self.column("query", &fields);
        let positive = self.column("pos", &fields);
        let mut row = Renamed::default();
        for (name, value) in fields {
            if let Some(part) = self.given_part(&name) {
                match part {
                    "pos" | "neg" => row.append(part, name, value),
                    _ => row.set(part, name, value),
                }
            } else if self.given.iter().any(|(part, _)| *part == name) {
                // The user has put another column in its place.
            } else if Some(&name) == query.as_ref() {
                row.set("query", name, value);
            } else if Some(&name) == positive.as_ref() && name != "pos" {
                row.append("pos", name, value);
            } else if negative_number(&name).is_some() && !self.is_given("neg") && !row.fields.contains_key(&name) {
                row.append("neg", name, value);
            } else {
                row.fields.insert(name, value);
            }
        }
        row.part_scores();
        row
    }

    /// The fields of a candidate or a text: only what the user has named changes its name.
    pub fn text(&self, fields: Map<String, Value>) -> Map<String, Value> {
        if self.given.is_empty() {
            return fields;
        }
        let mut renamed = Renamed::default();
        for (name, value) in fields {
            match self.given_part(&name) {
                Some(part) => renamed.set(part, name, value),
                None if self.given.iter().any(|(part, _)| *part == name) => {}
                None => drop(renamed.fields.insert(name, value)),
            }
        }
        renamed.fields
    }

    /// The columns that the user has named as a part of rows with a query; those of candidates and texts are left out.
    pub fn of_rows(&self) -> impl Iterator<Item = &str> {
        self.given.iter().filter(|(part, _)| !OF_TEXTS.contains(part)).map(|(_, column)| column.as_str())
    }

    /// The columns that the user has named as a part of candidates and texts.
    pub fn of_texts(&self) -> impl Iterator<Item = &str> {
        self.given.iter().filter(|(part, _)| OF_TEXTS.contains(part)).map(|(_, column)| column.as_str())
    }

    /// The columns that the user has named as this part.
    pub fn given(&self, part: &str) -> impl Iterator<Item = &str> {
        self.given.iter().filter(move |(given, _)| *given == part).map(|(_, column)| column.as_str())
    }

    fn given_part(&self, column: &str) -> Option<&'static str> {
        self.given.iter().find(|(_, name)| name == column).map(|(part, _)| *part)
    }

    fn is_given(&self, part: &str) -> bool {
        self.given.iter().any(|(given, _)| *given == part)
    }

    /// The column that is `part` by its name.
    fn column(&self, part: &str, fields: &Map<String, Value>) -> Option<String> {
        let (_, names) = PARTS.iter().find(|(known, _)| *known == part && !self.is_given(part))?;
        names.iter().find(|name| fields.contains_key(**name)).map(|name| name.to_string())
    }
}

impl Renamed {
    fn set(&mut self, part: &'static str, name: String, value: Value) {
        self.fields.insert(part.into(), value);
        self.note(part, name);
    }

    /// Adds a text or texts to the list that `part` is. What is no text stays there to be found by whoever reads the list.
    fn append(&mut self, part: &'static str, name: String, value: Value) {
        let is_blank = |value: &Value| value.as_str().is_some_and(|text| text.trim().is_empty());
        if value.is_null() && part == "pos" && !self.fields.contains_key(part) {
            // To be told as what it is, where no other column has a positive.
            return self.set(part, name, value);
        }
        if value.is_null() || (part == "neg" && is_blank(&value)) {
            return;
        }
        let mut list = match self.fields.remove(part) {
            Some(Value::Array(list)) => list,
            None | Some(Value::Null) => Vec::new(),
            Some(other) => vec![other],
        };
        match value {
            Value::Array(more) => list.extend(more),
            one => list.push(one),
        }
        self.fields.insert(part.into(), Value::Array(list));
        self.note(part, name);
    }

    fn note(&mut self, part: &'static str, name: String) {
        if name != part {
            self.names.push((part, name));
        }
    }

    /// `scores` as mining writes it for triplets and tuples.
    fn part_scores(&mut self) {
        let n = |part: &str| self.fields.get(part).and_then(Value::as_array).map_or(0, Vec::len);
        let (n_positives, n_negatives) = (n("pos"), n("neg"));
        let Some(Value::Array(scores)) = self.fields.get("scores") else { return };
        if n_positives == 1 && scores.len() == 1 + n_negatives {
            let (positive, negatives) = scores.split_at(1);
            let (positive, negatives) = (positive.to_vec(), negatives.to_vec());
            self.fields.shift_remove("scores");
            self.fields.insert("pos_scores".into(), positive.into());
            self.fields.insert("neg_scores".into(), negatives.into());
        }
    }
}

/// The number of `negative_1`, `negative_2`, ...; 0 for `negative`.
fn negative_number(name: &str) -> Option<usize> {
    match name.strip_prefix("negative")? {
        "" => Some(0),
        number => number.strip_prefix('_')?.parse().ok(),
    }
}

impl FromStr for Columns {
    type Err = Error;

    /// `part=column`, separated by commas; `pos` and `neg` may be given several times.
    fn from_str(text: &str) -> Result<Columns, Error> {
        let fail = |problem: String| Error::Setting {
            problem: format!("`--columns {text}`: {problem}"),
            hint: Some("as in `--columns query=question,pos=answer,neg=wrong_1,neg=wrong_2`".into()),
        };
        let mut columns = Columns::default();
        for item in text.split(',') {
            let Some((part, column)) = item.split_once('=').map(|(part, column)| (part.trim(), column.trim())) else {
                return Err(fail(format!("`{item}` has no `=`")));
            };
            let known = PARTS.iter().find(|(name, names)| *name == part || names[..names.len().min(3)].contains(&part));
            let Some((part, _)) = known else {
                let all: Vec<_> = PARTS.iter().map(|(name, _)| *name).collect();
                return Err(fail(format!("`{part}` is not one of {}", all.join(", "))));
            };
            if column.is_empty() {
                return Err(fail(format!("the column of `{part}` is missing")));
            }
            if columns.is_given(part) && !matches!(*part, "pos" | "neg") {
                return Err(fail(format!("`{part}` is given twice")));
            }
            if let Some(other) = columns.given_part(column) {
                return Err(fail(match other == *part {
                    true => format!("`{column}` is given twice"),
                    false => format!("`{column}` is given as `{other}` and as `{part}`"),
                }));
            }
            columns.given.push((part, column.into()));
        }
        Ok(columns)
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<_> = self.given.iter().map(|(part, column)| format!("{part}={column}")).collect();
        f.write_str(&items.join(","))
    }
}

impl Serialize for Columns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Columns, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() { Ok(Columns::default()) } else { text.parse().map_err(serde::de::Error::custom) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(columns: &str, fields: Value) -> Value {
        let columns = if columns.is_empty() { Columns::default() } else { columns.parse().unwrap() };
        match fields {
            Value::Object(fields) => Value::Object(columns.row(fields).fields),
            other => other,
        }
    }

    #[test]
    fn names_of_sentence_transformers_and_of_mined_rows_are_known() {
        for (fields, expected) in [
            (json!({"query": "q", "pos": "p", "id": 1}), json!({"query": "q", "pos": "p", "id": 1})),
            (json!({"anchor": "q", "positive": "p"}), json!({"query": "q", "pos": ["p"]})),
            (
                json!({"anchor": "q", "positive": "p", "negative": "n"}),
                json!({"query": "q", "pos": ["p"], "neg": ["n"]}),
            ),
            (
                json!({"query": "q", "positive": "p", "negative_1": "a", "negative_2": "", "negative_3": null}),
                json!({"query": "q", "pos": ["p"], "neg": ["a"]}),
            ),
            (json!({"query": "q", "positive": null}), json!({"query": "q", "pos": null})),
            (
                json!({"sentence1": "q", "sentence2": "p", "score": 0.5}),
                json!({"query": "q", "pos": ["p"], "score": 0.5}),
            ),
            (json!({"query": "q", "passage": "p", "label": 0}), json!({"query": "q", "pos": ["p"], "label": 0})),
            (
                json!({"query": "q", "positive": "p", "negative": "n", "scores": [2, 1]}),
                json!({"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [2], "neg_scores": [1]}),
            ),
            (
                json!({"query": "q", "anchor": "a", "pos": ["p"], "positive": "b"}),
                json!({"query": "q", "anchor": "a", "pos": ["p"], "positive": "b"}),
            ),
        ] {
            assert_eq!(row("", fields), expected);
        }
    }

    #[test]
    fn columns_that_the_user_names_take_the_place_of_others() {
        let fields = json!({"query": 7, "title": "t", "question": "q", "right": "p", "wrong": "n", "also": "m", "negative": "x"});
        assert_eq!(
            row("query=question,pos=right,neg=wrong,neg=also", fields.clone()),
            json!({"title": "t", "query": "q", "pos": ["p"], "neg": ["n", "m"], "negative": "x"})
        );
        assert_eq!(row("query=title,pos=right", fields)["query"], "t");
        let fields = json!({"query": "q", "right": null, "left": "p"});
        assert_eq!(row("pos=right,pos=left", fields), json!({"query": "q", "pos": ["p"]}));
    }

    #[test]
    fn what_the_user_wrote_comes_back_and_what_makes_no_sense_is_refused() {
        let columns: Columns = "anchor=a, pos=b".parse().unwrap();
        assert_eq!(serde_json::to_string(&columns).unwrap(), r#""query=a,pos=b""#);
        assert_eq!(serde_json::from_str::<Columns>(r#""query=a,pos=b""#).unwrap(), columns);
        for (text, problem) in [
            ("query", "`query` has no `=`"),
            ("question=a", "`question` is not one of query, pos,"),
            ("pos=", "the column of `pos` is missing"),
            ("query=a,query=b", "`query` is given twice"),
            ("query=a,pos=a", "`a` is given as `query` and as `pos`"),
            ("pos=a,pos=a", "`a` is given twice"),
        ] {
            let error = text.parse::<Columns>().unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
}
