//! The training data, tokenized once: rows of text numbers, the tokens of each distinct text, and who is whose positive.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use embertune_kernels::Ops;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::data::row_list::{Distinct, Row, RowList};
use crate::data::{Example, RowsOf, Scores, TextId};
use crate::embed::{Vectors, embed};
use crate::error::{Error, Result};
use crate::loss::Negatives;
use crate::model::EmbeddingModel;
use crate::progress::Progress;
use crate::text::Role;
use crate::train::known::Known;
use crate::train::loss_settings::{LossName, Reads};
use crate::train::settings::TrainSettings;
use crate::train::texts::{NewTexts, Texts};

/// Texts that go through the guide at once.
const GUIDE_BATCH: usize = 64;
/// Rows, or texts, whose hashes or tokens are made at once.
const BLOCK: usize = 4096;
/// Cosines that somebody has computed may be beyond 1 by their rounding.
const LARGEST_COSINE: f32 = 1.001;

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
    /// In the order of the files. Negatives are without those that the data knows as positives of the query, and without the query
    /// itself; numbers about passages are what the loss reads.
    pub rows: RowList,
    /// What the rows' numbers mean.
    pub texts: Texts,
    /// What a guide model says of [`texts`](Self::texts), in vectors of length 1.
    pub guide: Option<Vectors>,
    /// What is never a negative of a query: the positives of all rows with that query, and its own text, and texts near to them.
    known: Known,
}

impl TrainingSet {
    /// Tokenizes `examples` of the file `path`, each distinct text once. What is odd is said to `progress`, with counts.
    ///
    /// # Errors
    /// A row without any negative where its batch gives none either; a row without the scores that the loss reads; a prompt longer
    /// than the maximum length; no rows; a temporary file that can't be written.
    pub fn new<O: Ops>(
        model: &EmbeddingModel<O>,
        examples: &(impl RowsOf<Example> + ?Sized),
        path: &Path,
        settings: &TrainSettings,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let known = known_positives(examples)?;
        let Numbered { mut rows, queries, passages, n_left_out } = number(examples, &known, path, settings.loss.name)?;
        if n_left_out > 0 {
            progress.warn(&format!(
                "{}: {n_left_out} negatives are positives of their query, or the query itself: left out",
                path.display()
            ));
        }
        check_negatives(&rows, path, settings, progress)?;

        let n_queries = queries.len();
        rows.shift(0, n_queries as u32);
        progress.start("tokenizing", (queries.len() + passages.len()) as u64);
        let TrainSettings { query_instruction_for_retrieval, passage_instruction_for_retrieval, .. } = settings;
        let mut sides = [
            (Role::Query, queries, query_instruction_for_retrieval, settings.query_max_len, "query_max_len"),
            (Role::Passage, passages, passage_instruction_for_retrieval, settings.passage_max_len, "passage_max_len"),
        ]
        .map(|(role, ids, prompt, max_len, flag)| {
            // A data set may have a prompt of its own.
            let prompt = prompt.as_deref().unwrap_or(model.prompts().of(role));
            Side { ids, prompt, max_len, flag, texts: NewTexts::default() }
        });
        for_each_block(examples, &rows, n_queries, &known, |new| {
            for (side, list) in sides.iter_mut().zip(new) {
                side.tokenize(model, &list.iter().map(String::as_str).collect::<Vec<_>>())?;
                progress.advance(list.len() as u64);
            }
            Ok(())
        })?;
        let mut texts = Texts::default();
        for Side { ids, max_len, flag, texts: of_side, .. } in sides {
            let n_cut = of_side.n_truncated();
            if n_cut > 0 {
                let (limit, set_by) = match model.max_seq_length() {
                    limit if limit < max_len => (limit, "the model's `--max_seq_length`".into()),
                    _ => (max_len, format!("`--{flag}`")),
                };
                progress.note(&format!("{n_cut} of {} texts are cut at {limit} tokens ({set_by})", ids.len()));
            }
            texts.append(of_side.that_say(ids));
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
        examples: &(impl RowsOf<Example> + ?Sized),
        settings: &TrainSettings,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let n_queries = self.rows.iter().map(|row| row.query as usize + 1).max().unwrap_or(0);
        let mut all = [Vec::new(), Vec::new()];
        for_each_block(examples, &self.rows, n_queries, &self.known, |new| {
            all.iter_mut().zip(new).for_each(|(all, new)| all.append(new));
            Ok(())
        })?;
        let [queries, passages] = &all;
        let mut vectors = Vectors { dim: guide.dim(), ..Vectors::default() };
        for (role, list, max_len) in
            [(Role::Query, queries, settings.query_max_len), (Role::Passage, passages, settings.passage_max_len)]
        {
            let list: Vec<_> = list.iter().map(String::as_str).collect();
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
        let mut rows = other.rows;
        rows.shift(n_texts, n_texts);
        self.rows.append(&rows);
        self.texts.append(other.texts);
        self.known = self.known.join(other.known);
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
        format!("{}:{}", self.files[self.file_of(row)].path.display(), self.rows.get(row).line)
    }

    /// Whether `text` is never a negative of row `row`: a known positive of its query, or its query, or near to one of these.
    pub fn is_known(&self, row: usize, text: &str) -> bool {
        self.known.of(self.texts.id(self.rows.get(row).query)).contains(TextId::near(text).half())
    }

    /// Whether row `row` has `text` among its negatives, or one near to it.
    pub fn has_negative(&self, row: usize, text: &str) -> bool {
        let id = TextId::near(text).half();
        self.rows.get(row).negatives.iter().any(|&negative| self.texts.id(negative) == id)
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
        let mut distinct = Distinct::default();
        let mut list = Vec::new();
        let mut rows = RowList::default();
        for (row, negatives) in negatives.iter().enumerate() {
            let usable = negatives.iter().filter(|text| !self.is_known(row, text));
            let numbers: Vec<_> = usable
                .map(|text| {
                    let (number, is_new) = distinct.number(xxh3_64(text.as_bytes()));
                    if is_new {
                        list.push(text.as_str());
                    }
                    n_texts as u32 + number
                })
                .collect();
            rows.push(Row { negatives: &numbers, ..self.rows.get(row) });
        }
        let mut new = NewTexts::default();
        let tokens = model.tokenize(&list, Role::Passage, Some(settings.passage_max_len))?;
        tokens.iter().try_for_each(|tokens| new.push(tokens))?;
        self.texts.truncate(n_texts);
        self.texts.append(new.that_say(list.iter().map(|text| TextId::near(text).half()).collect()));
        self.rows = rows;
        Ok(())
    }

    /// For each of `passages` whether it is a known positive of `query`, or its text, or near to one of these.
    pub fn are_never_negatives(&self, query: u32, passages: impl Iterator<Item = u32>) -> impl Iterator<Item = bool> {
        let known = self.known.of(self.texts.id(query));
        passages.map(move |passage| known.contains(self.texts.id(passage)))
    }
}

/// Rows whose numbers are places in two lists, of queries and of passages: what these say.
struct Numbered {
    rows: RowList,
    queries: Vec<u64>,
    passages: Vec<u64>,
    /// Negatives that are none.
    n_left_out: usize,
}

/// The distinct texts of a role at work.
struct Side<'a> {
    /// What they say.
    ids: Vec<u64>,
    prompt: &'a str,
    max_len: usize,
    flag: &'static str,
    texts: NewTexts,
}

impl Side<'_> {
    /// Adds the tokens of the next texts.
    fn tokenize<O: Ops>(&mut self, model: &EmbeddingModel<O>, next: &[&str]) -> Result<()> {
        let tokens = model.tokenize_behind(self.prompt, next, Some(self.max_len))?;
        tokens.iter().try_for_each(|tokens| self.texts.push(tokens))
    }
}

/// Some of the rows at a time.
fn blocks<E: RowsOf<Example> + ?Sized>(examples: &E) -> impl Iterator<Item = Result<Vec<Cow<'_, Example>>>> {
    let mut rows = examples.rows();
    std::iter::from_fn(move || {
        let block: Result<Vec<_>> = rows.by_ref().take(BLOCK).collect();
        block.map(|block| Some(block).filter(|block| !block.is_empty())).transpose()
    })
}

/// The hash of a string, and what it says.
fn hashed(text: &str) -> (u64, u64) {
    (xxh3_64(text.as_bytes()), TextId::near(text).half())
}

/// Rows without the negatives that are `known`, with the scores that the loss reads.
fn number(examples: &(impl RowsOf<Example> + ?Sized), known: &Known, path: &Path, loss: LossName) -> Result<Numbered> {
    let (mut of_queries, mut of_passages) = (Distinct::default(), Distinct::default());
    let mut numbered = Numbered { rows: RowList::default(), queries: Vec::new(), passages: Vec::new(), n_left_out: 0 };
    for block in blocks(examples) {
        let block = block?;
        let of_row = |example: &Cow<'_, Example>| {
            let passages = example.positives.iter().chain(&example.negatives).map(|text| hashed(text));
            (hashed(&example.query), passages.collect::<Vec<_>>())
        };
        let hashes: Vec<_> = block.par_iter().map(of_row).collect();
        for (example, ((query, said), passages)) in block.iter().zip(hashes) {
            let (positive_scores, negative_scores) = scores(example, path, loss)?;
            let (query, is_new) = of_queries.number(query);
            if is_new {
                numbered.queries.push(said);
            }
            let mut number = |(hash, said)| {
                let (number, is_new) = of_passages.number(hash);
                if is_new {
                    numbered.passages.push(said);
                }
                number
            };
            let (positives, negatives) = passages.split_at(example.positives.len());
            let known = known.of(said);
            let kept = |place: &usize| !known.contains(negatives[*place].1);
            let positives: Vec<_> = positives.iter().map(|&hashed| number(hashed)).collect();
            let kept_places = || (0..negatives.len()).filter(kept);
            let kept_negatives: Vec<_> = kept_places().map(|place| number(negatives[place])).collect();
            let kept_scores: Vec<_> = kept_places().filter_map(|place| negative_scores.get(place).copied()).collect();
            numbered.n_left_out += negatives.len() - kept_negatives.len();
            numbered.rows.push(Row {
                query,
                positives: &positives,
                negatives: &kept_negatives,
                positive_scores: &positive_scores,
                negative_scores: &kept_scores,
                line: example.line,
            });
        }
    }
    Ok(numbered)
}

/// Gives the texts of `examples` to `take`, each distinct one once, queries and passages apart, in the order of their numbers in `rows`, some
/// thousand at once. Passages are numbered from `n_queries` on.
fn for_each_block(
    examples: &(impl RowsOf<Example> + ?Sized),
    rows: &RowList,
    n_queries: usize,
    known: &Known,
    mut take: impl FnMut(&mut [Vec<String>; 2]) -> Result<()>,
) -> Result<()> {
    // New texts have the next number.
    let mut next = [0, n_queries as u32];
    let mut new = [Vec::new(), Vec::new()];
    for (example, row) in examples.rows().zip(rows.iter()) {
        let example = example?;
        let mut look = |side: usize, number: u32, text: &String| {
            if number == next[side] {
                next[side] += 1;
                new[side].push(text.clone());
            }
        };
        look(0, row.query, &example.query);
        row.positives.iter().zip(&example.positives).for_each(|(&number, text)| look(1, number, text));
        let known = known.of(TextId::near(&example.query).half());
        let is_kept = |text: &&String| {
            row.negatives.len() == example.negatives.len() || !known.contains(TextId::near(text).half())
        };
        let kept = example.negatives.iter().filter(is_kept);
        row.negatives.iter().zip(kept).for_each(|(&number, text)| look(1, number, text));
        if new.iter().any(|texts| texts.len() >= BLOCK) {
            take(&mut new)?;
            new.iter_mut().for_each(Vec::clear);
        }
    }
    take(&mut new)
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

fn known_positives(examples: &(impl RowsOf<Example> + ?Sized)) -> Result<Known> {
    let mut pairs = Vec::new();
    for block in blocks(examples) {
        let said = |text: &str| TextId::near(text).half();
        let of_row = |example: &Cow<'_, Example>| {
            (said(&example.query), example.positives.iter().map(|text| said(text)).collect::<Vec<_>>())
        };
        let of_rows: Vec<_> = block?.par_iter().map(of_row).collect();
        pairs.extend(of_rows.into_iter().flat_map(|(query, said)| said.into_iter().map(move |said| (query, said))));
    }
    Ok(Known::new(pairs))
}

/// Says which rows have fewer negatives than the group has room for; refuses rows that would learn nothing.
fn check_negatives(rows: &RowList, path: &Path, settings: &TrainSettings, progress: &dyn Progress) -> Result<()> {
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
