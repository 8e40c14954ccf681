//! The training data, tokenized once: rows of text numbers, the tokens of each distinct text, and who is whose positive.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use embertune_kernels::Ops;

use crate::data::{Example, Scores, TextId};
use crate::embed::{Vectors, embed};
use crate::error::{Error, Result};
use crate::loss::Negatives;
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::text::{Role, Tokens};
use crate::train::loss_settings::{LossName, Reads};
use crate::train::settings::TrainSettings;

/// Texts that go through the guide at once.
const GUIDE_BATCH: usize = 64;

/// Cosines that somebody has computed may be beyond 1 by their rounding.
const LARGEST_COSINE: f32 = 1.001;

/// One row, with texts as numbers in [`TrainingSet::texts`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The query.
    pub query: u32,
    /// At least one.
    pub positives: Vec<u32>,
    /// Without those that the data knows as positives of the query, and without the query itself.
    pub negatives: Vec<u32>,
    /// What the loss reads about each positive; empty where it reads nothing.
    pub positive_scores: Vec<f32>,
    /// What the loss reads about each negative; empty where it reads nothing.
    pub negative_scores: Vec<f32>,
    /// Line in the data file, from 1.
    pub line: usize,
}

/// A distinct text in a role.
#[derive(Clone, Debug)]
pub struct Text {
    /// Its token ids, prompt included.
    pub tokens: Tokens,
    /// What it says, by [`TextId::near`].
    pub id: TextId,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct DataFile {
    /// As given.
    pub path: PathBuf,
    /// Places of its rows in [`TrainingSet::rows`].
    pub rows: Range<usize>,
}

/// Rows ready to be trained on.
#[derive(Clone, Debug, Default)]
pub struct TrainingSet {
    /// Where the rows are from, one file after the other.
    pub files: Vec<DataFile>,
    /// In the order of the files.
    pub rows: Vec<Row>,
    /// What the rows' numbers mean.
    pub texts: Vec<Text>,
    /// What a guide model says of [`texts`](Self::texts), in vectors of length 1.
    pub guide: Option<Vectors>,
    /// What is never a negative of a query: the positives of all rows with that query, and its own text, and texts near to them.
    known: HashMap<TextId, HashSet<TextId>>,
}

impl TrainingSet {
    /// Tokenizes `examples` of the file `path`, each distinct text once. What is odd is said to `progress`, with counts.
    ///
    /// # Errors
    /// A row without any negative where its batch gives none either; a row without the scores that the loss reads; a prompt longer
    /// than the maximum length; no rows.
    pub fn new<O: Ops>(
        model: &EmbeddingModel<O>,
        examples: &[Example],
        path: &Path,
        settings: &TrainSettings,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let known = known_positives(examples);
        let Numbered { mut rows, queries, passages } = number(examples, &known, path, settings.loss.name)?;
        let n_false_negatives = examples.iter().map(|example| example.negatives.len()).sum::<usize>()
            - rows.iter().map(|row| row.negatives.len()).sum::<usize>();
        if n_false_negatives > 0 {
            progress.warn(&format!(
                "{}: {n_false_negatives} negatives are positives of their query, or the query itself: left out",
                path.display()
            ));
        }
        check_negatives(&rows, path, settings, progress)?;

        let n_queries = queries.len() as u32;
        for row in &mut rows {
            row.positives.iter_mut().chain(&mut row.negatives).for_each(|number| *number += n_queries);
        }
        progress.start("tokenizing", (queries.len() + passages.len()) as u64);
        let mut texts = Vec::new();
        let TrainSettings { query_instruction_for_retrieval, passage_instruction_for_retrieval, .. } = settings;
        for (role, list, prompt, max_len, flag) in [
            (Role::Query, queries, query_instruction_for_retrieval, settings.query_max_len, "query_max_len"),
            (Role::Passage, passages, passage_instruction_for_retrieval, settings.passage_max_len, "passage_max_len"),
        ] {
            // A data set may have a prompt of its own.
            let prompt = prompt.as_deref().unwrap_or(model.prompts().of(role));
            let tokens = model.tokenize_behind(prompt, &list, Some(max_len))?;
            progress.advance(list.len() as u64);
            let n_cut = tokens.iter().filter(|tokens| tokens.truncated).count();
            if n_cut > 0 {
                let (limit, set_by) = match model.max_seq_length() {
                    limit if limit < max_len => (limit, "the model's `--max_seq_length`".into()),
                    _ => (max_len, format!("`--{flag}`")),
                };
                progress.note(&format!("{n_cut} of {} texts are cut at {limit} tokens ({set_by})", list.len()));
            }
            texts.extend(tokens.into_iter().zip(list).map(|(tokens, text)| Text { tokens, id: TextId::near(text) }));
        }
        progress.finish();
        let files = vec![DataFile { path: path.into(), rows: 0..rows.len() }];
        Ok(TrainingSet { files, rows, texts, guide: None, known })
    }

    /// The set, made of the same `examples`, with the vectors of all its texts by the model `guide`. Each text goes through it
    /// once, before the training, cut at the lengths of the training and with the guide's own prompts.
    ///
    /// # Errors
    /// Where the guide cannot embed a text.
    pub fn guided_by<O: Ops>(
        mut self,
        guide: &EmbeddingModel<O>,
        examples: &[Example],
        path: &Path,
        settings: &TrainSettings,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let Numbered { queries, passages, .. } = number(examples, &self.known, path, settings.loss.name)?;
        let mut vectors = Vectors { dim: guide.dim(), ..Vectors::default() };
        for (role, list, max_len) in
            [(Role::Query, queries, settings.query_max_len), (Role::Passage, passages, settings.passage_max_len)]
        {
            vectors.values.extend(embed(guide, &list, role, Some(max_len), GUIDE_BATCH, progress)?.values);
        }
        assert_eq!(vectors.values.len(), self.texts.len() * vectors.dim, "the set was made of other rows");
        self.guide = Some(vectors);
        Ok(self)
    }

    /// The rows of both, as files of one set. What is a positive in one is known in the other.
    pub fn join(mut self, other: TrainingSet) -> Self {
        let (n_rows, n_texts) = (self.rows.len(), self.texts.len() as u32);
        self.files.extend(other.files.into_iter().map(|file| {
            let rows = file.rows.start + n_rows..file.rows.end + n_rows;
            DataFile { rows, ..file }
        }));
        self.rows.extend(other.rows.into_iter().map(|mut row| {
            row.query += n_texts;
            row.positives.iter_mut().chain(&mut row.negatives).for_each(|number| *number += n_texts);
            row
        }));
        self.texts.extend(other.texts);
        for (query, known) in other.known {
            self.known.entry(query).or_default().extend(known);
        }
        // A data set whose loss asks no guide has nothing of one: zeros keep the numbers of the texts.
        if let Some(dim) = self.guide.as_ref().or(other.guide.as_ref()).map(|vectors| vectors.dim) {
            let mut guide = self.guide.take().unwrap_or_else(|| Vectors { dim, ..Vectors::default() });
            guide.values.resize(n_texts as usize * dim, 0.0);
            guide.values.extend(other.guide.into_iter().flat_map(|vectors| vectors.values));
            guide.values.resize(self.texts.len() * dim, 0.0);
            self.guide = Some(guide);
        }
        self
    }

    /// The file of a row, as a place in [`files`](Self::files).
    pub fn file_of(&self, row: usize) -> usize {
        self.files.iter().position(|file| file.rows.contains(&row)).unwrap_or_default()
    }

    /// Names of several files, to tell them apart: without folder and ending, or as given where two are the same then. None of a single one.
    pub fn names(&self) -> Vec<String> {
        let stem = |file: &DataFile| file.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let as_given = || self.files.iter().map(|file| file.path.display().to_string()).collect();
        match self.files.iter().map(stem).collect::<Option<Vec<_>>>() {
            _ if self.files.len() == 1 => Vec::new(),
            Some(stems) if stems.iter().collect::<HashSet<_>>().len() == stems.len() => stems,
            _ => as_given(),
        }
    }

    /// Where a row is: `file:line`.
    pub fn place(&self, row: usize) -> String {
        format!("{}:{}", self.files[self.file_of(row)].path.display(), self.rows[row].line)
    }

    /// Whether `text` is never a negative of row `row`: a known positive of its query, or its query, or near to one of these.
    pub fn is_known(&self, row: usize, text: &str) -> bool {
        self.known[&self.texts[self.rows[row].query as usize].id].contains(&TextId::near(text))
    }

    /// Whether row `row` has `text` among its negatives, or one near to it.
    pub fn has_negative(&self, row: usize, text: &str) -> bool {
        let id = TextId::near(text);
        self.rows[row].negatives.iter().any(|&negative| self.texts[negative as usize].id == id)
    }

    /// Gives each row other negatives, but for those that it never has. Of the texts only the first `n_texts` stay, those that the set
    /// was made of: negatives that were given before go.
    ///
    /// # Errors
    /// A text that cannot be tokenized.
    pub fn replace_negatives<O: Ops>(
        &mut self,
        model: &EmbeddingModel<O>,
        negatives: &[Vec<String>],
        n_texts: usize,
        settings: &TrainSettings,
    ) -> Result<()> {
        assert_eq!(negatives.len(), self.rows.len(), "negatives for each row");
        let mut new = Texts::default();
        let mut numbers = Vec::with_capacity(negatives.len());
        for (row, negatives) in negatives.iter().enumerate() {
            let usable = negatives.iter().filter(|text| !self.is_known(row, text));
            numbers.push(usable.map(|text| n_texts as u32 + new.number(text)).collect());
        }
        let tokens = model.tokenize(&new.list, Role::Passage, Some(settings.passage_max_len))?;
        self.texts.truncate(n_texts);
        let of_new = tokens.into_iter().zip(&new.list).map(|(tokens, text)| Text { tokens, id: TextId::near(text) });
        self.texts.extend(of_new);
        self.rows.iter_mut().zip(numbers).for_each(|(row, numbers)| row.negatives = numbers);
        Ok(())
    }

    /// Whether `passage` is a known positive of `query`, or its text, or near to one of these.
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

/// Rows whose numbers are places in two lists, of queries and of passages.
struct Numbered<'a> {
    rows: Vec<Row>,
    queries: Vec<&'a str>,
    passages: Vec<&'a str>,
}

/// Rows without the negatives that are `known`, with the scores that the loss reads.
fn number<'a>(
    examples: &'a [Example],
    known: &HashMap<TextId, HashSet<TextId>>,
    path: &Path,
    loss: LossName,
) -> Result<Numbered<'a>> {
    let (mut queries, mut passages) = (Texts::default(), Texts::default());
    let mut rows = Vec::with_capacity(examples.len());
    for example in examples {
        let (positive_scores, negative_scores) = scores(example, path, loss)?;
        let never = &known[&TextId::near(&example.query)];
        let is_negative: Vec<_> = example.negatives.iter().map(|text| !never.contains(&TextId::near(text))).collect();
        let kept = |place: &usize| is_negative[*place];
        rows.push(Row {
            query: queries.number(&example.query),
            positives: example.positives.iter().map(|text| passages.number(text)).collect(),
            negatives: (0..is_negative.len()).filter(kept).map(|i| passages.number(&example.negatives[i])).collect(),
            positive_scores,
            negative_scores: (0..negative_scores.len()).filter(kept).map(|i| negative_scores[i]).collect(),
            line: example.line,
        });
    }
    Ok(Numbered { rows, queries: queries.list, passages: passages.list })
}

/// What `loss` reads about the positives and the negatives of a row.
fn scores(example: &Example, path: &Path, loss: LossName) -> Result<(Vec<f32>, Vec<f32>)> {
    let lacks = |problem: String, hint: &str| {
        Err(Error::Row { path: path.into(), line: example.line, problem, hint: Some(hint.into()) })
    };
    let labels = || (vec![1.0; example.positives.len()], vec![0.0; example.negatives.len()]);
    let (positives, negatives) = match (loss.reads(), &example.scores) {
        (Reads::Texts, _) => Ok((Vec::new(), Vec::new())),
        (Reads::Labels, Scores::Pair(label)) if *label == 0.0 || *label == 1.0 => Ok((vec![*label], Vec::new())),
        (Reads::Labels, Scores::Pair(score)) => lacks(
            format!("the pair has the score {score}, and `--loss {loss}` learns from the labels 0 and 1"),
            match score.abs() <= LARGEST_COSINE {
                true => "choose `--loss cosent` or `--loss cosine_mse`, or turn the scores into labels",
                false => "choose `--loss cosent`, or turn the scores into labels",
            },
        ),
        (Reads::Labels, _) | (Reads::PairScoresOrLabels, Scores::None) => Ok(labels()),
        (Reads::PairScores | Reads::PairScoresOrLabels, Scores::Pair(score)) => Ok((vec![*score], Vec::new())),
        (_, Scores::Teacher { positives, negatives }) => Ok((positives.clone(), negatives.clone())),
        (Reads::TeacherScores, Scores::None | Scores::Pair(_)) => lacks(
            format!("the row has no scores of a teacher, which `--loss {loss}` learns from"),
            "add `pos_scores` and `neg_scores`, lists with a number for each text of `pos` and `neg`, or choose another `--loss`",
        ),
        (Reads::PairScores, Scores::None) => lacks(
            format!("the row has no score, which `--loss {loss}` learns from"),
            "give every row one `pos` and a `score`, or `pos_scores` and `neg_scores`, or choose another `--loss`",
        ),
    }?;
    let beyond = |score: &&f32| loss == LossName::CosineMse && score.abs() > LARGEST_COSINE;
    match positives.iter().chain(&negatives).find(beyond) {
        Some(score) => lacks(
            format!("the row has the score {score}, and `--loss {loss}` learns cosines, which are within -1..1"),
            "divide the scores by the highest that there can be (5 in STS-B), or choose `--loss cosent`, which learns their order alone",
        ),
        None => Ok((positives, negatives)),
    }
}

fn known_positives(examples: &[Example]) -> HashMap<TextId, HashSet<TextId>> {
    let mut known: HashMap<TextId, HashSet<TextId>> = HashMap::new();
    for example in examples {
        let query = TextId::near(&example.query);
        let positives = example.positives.iter().map(|text| TextId::near(text));
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
    if wanted == 0 || settings.loss.name.takes_pairs() {
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
    let hint = match n_without == rows.len() {
        true => "mine negatives with `embertune mine`",
        false => "where they were mined, a wider `--range_for_sampling` of `embertune mine` finds more",
    };
    if settings.negatives() == Negatives::OwnGroup || settings.per_device_train_batch_size == 1 {
        return Err(Error::Row {
            path: path.into(),
            line: first.line,
            problem: format!(
                "the row has no negatives ({n_without} of {} rows have none), and gets none from its batch",
                rows.len()
            ),
            hint: Some(match settings.loss.name.compares_over_batch() {
                true => format!("{hint}, or use in-batch negatives with a batch of 2 or more"),
                false => format!("{hint}, or choose a `--loss` with in-batch negatives"),
            }),
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
