//! The training data, tokenized once: rows of text numbers, the tokens of each distinct text, and who is whose positive.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use embertune_kernels::Ops;

use crate::data::{Example, TextId};
use crate::error::{Error, Result};
use crate::loss::Negatives;
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::text::{Role, Tokens};
use crate::train::settings::TrainSettings;

/// One row, with texts as numbers in [`TrainingSet::texts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The query.
    pub query: u32,
    /// At least one.
    pub positives: Vec<u32>,
    /// Without those that the data knows as positives of the query, and without the query itself.
    pub negatives: Vec<u32>,
    /// Line in the data file, from 1.
    pub line: usize,
}

/// A distinct text in a role.
#[derive(Clone, Debug)]
pub struct Text {
    /// Its token ids, prompt included.
    pub tokens: Tokens,
    /// Which text it is.
    pub id: TextId,
}

/// Rows ready to be trained on.
#[derive(Clone, Debug)]
pub struct TrainingSet {
    /// In the order of the file.
    pub rows: Vec<Row>,
    /// What the rows' numbers mean.
    pub texts: Vec<Text>,
    /// What is never a negative of a query: the positives of all rows with that query, and its own text.
    known: HashMap<TextId, HashSet<TextId>>,
}

impl TrainingSet {
    /// Tokenizes `examples` of the file `path`, each distinct text once. What is odd is said to `progress`, with counts.
    ///
    /// # Errors
    /// A row without any negative where its batch gives none either; a prompt longer than the maximum length; no rows.
    pub fn new<O: Ops>(
        model: &EmbeddingModel<O>,
        examples: &[Example],
        path: &Path,
        settings: &TrainSettings,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let known = known_positives(examples);
        let mut queries = Texts::default();
        let mut passages = Texts::default();
        let mut n_false_negatives = 0;
        let mut rows: Vec<Row> = examples
            .iter()
            .map(|example| {
                let never = &known[&TextId::of(&example.query)];
                let negatives = example.negatives.iter().filter(|text| !never.contains(&TextId::of(text)));
                let negatives: Vec<_> = negatives.map(|text| passages.number(text)).collect();
                n_false_negatives += example.negatives.len() - negatives.len();
                Row {
                    query: queries.number(&example.query),
                    positives: example.positives.iter().map(|text| passages.number(text)).collect(),
                    negatives,
                    line: example.line,
                }
            })
            .collect();
        if n_false_negatives > 0 {
            progress.warn(&format!(
                "{}: {n_false_negatives} negatives are positives of their query, or the query itself: left out",
                path.display()
            ));
        }
        check_negatives(&rows, path, settings, progress)?;

        let n_queries = queries.list.len() as u32;
        for row in &mut rows {
            row.positives.iter_mut().chain(&mut row.negatives).for_each(|number| *number += n_queries);
        }
        progress.start("tokenizing", (queries.list.len() + passages.list.len()) as u64);
        let mut texts = Vec::new();
        for (role, list, max_len, flag) in [
            (Role::Query, queries.list, settings.query_max_len, "query_max_len"),
            (Role::Passage, passages.list, settings.passage_max_len, "passage_max_len"),
        ] {
            let tokens = model.tokenize(&list, role, Some(max_len))?;
            progress.advance(list.len() as u64);
            let n_cut = tokens.iter().filter(|tokens| tokens.truncated).count();
            if n_cut > 0 {
                let limit = max_len.min(model.max_seq_length());
                progress.note(&format!("{n_cut} of {} texts are cut at {limit} tokens (`--{flag}`)", list.len()));
            }
            texts.extend(tokens.into_iter().zip(list).map(|(tokens, text)| Text { tokens, id: TextId::of(text) }));
        }
        progress.finish();
        Ok(TrainingSet { rows, texts, known })
    }

    /// Whether `passage` is a known positive of `query`, or its very text.
    pub fn is_never_negative(&self, query: u32, passage: u32) -> bool {
        self.known[&self.texts[query as usize].id].contains(&self.texts[passage as usize].id)
    }
}

/// Numbers of distinct strings, in the order of their first appearance.
#[derive(Default)]
struct Texts<'a> {
    list: Vec<&'a str>,
    numbers: HashMap<&'a str, u32>,
}

impl<'a> Texts<'a> {
    fn number(&mut self, text: &'a str) -> u32 {
        *self.numbers.entry(text).or_insert_with(|| {
            self.list.push(text);
            self.list.len() as u32 - 1
        })
    }
}

fn known_positives(examples: &[Example]) -> HashMap<TextId, HashSet<TextId>> {
    let mut known: HashMap<TextId, HashSet<TextId>> = HashMap::new();
    for example in examples {
        let query = TextId::of(&example.query);
        let positives = example.positives.iter().map(|text| TextId::of(text));
        known.entry(query).or_insert_with(|| HashSet::from([query])).extend(positives);
    }
    known
}

/// Says which rows have fewer negatives than the group has room for; refuses rows that would learn nothing.
fn check_negatives(rows: &[Row], path: &Path, settings: &TrainSettings, progress: &dyn Progress) -> Result<()> {
    if rows.is_empty() {
        return Err(Error::Data { path: path.into(), problem: "there is no row to train on".into(), hint: None });
    }
    let wanted = settings.train_group_size - 1;
    if wanted == 0 {
        return Ok(());
    }
    let n_few = rows.iter().filter(|row| (1..wanted).contains(&row.negatives.len())).count();
    if n_few > 0 {
        progress.note(&format!(
            "{n_few} of {} rows have fewer than {wanted} negatives: theirs are repeated (`--train_group_size {}`)",
            rows.len(),
            settings.train_group_size
        ));
    }
    let mut without = rows.iter().filter(|row| row.negatives.is_empty());
    let Some(first) = without.next() else { return Ok(()) };
    let n_without = 1 + without.count();
    let hint = "mine negatives with `embertune mine`";
    if settings.negatives() == Negatives::OwnGroup || settings.per_device_train_batch_size == 1 {
        return Err(Error::Row {
            path: path.into(),
            line: first.line,
            problem: format!(
                "the row has no negatives ({n_without} of {} rows have none), and gets none from its batch",
                rows.len()
            ),
            hint: Some(format!("{hint}, or use in-batch negatives with a batch of 2 or more")),
        });
    }
    progress.warn(&format!(
        "{}:{}: {n_without} of {} rows have no negatives and are trained with those of their batch alone; {hint}",
        path.display(),
        first.line,
        rows.len()
    ));
    Ok(())
}
