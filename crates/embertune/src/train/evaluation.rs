//! Evaluation while a model trains: held-out rows, the passages that they are searched in, and the numbers that come out.
//!
//! The metrics are those of `embertune evaluate` on the same queries and pool, with the model's own maximum length, so that a
//! checkpoint evaluated later gives the same numbers. The loss is InfoNCE without dropout, as the training has it where it trains with
//! it, but without a guide: held-out rows need no teacher's scores, and what they have is the same for every loss.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use embertune_kernels::Ops;

use crate::comm::{Communicator, gather};
use crate::data::{Example, Pool, RowsOf, Scores as RowScores, StoredExamples, TextId};
use crate::embed::Vectors;
use crate::embed::cache::{Embedding, LIMIT_GB, SLICE, VectorCache};
use crate::error::{Error, Result};
use crate::eval::retrieval::score;
use crate::eval::similarity::cosine;
use crate::eval::{Metric, Query, queries_of};
use crate::model::{DropoutRates, EmbeddingModel};
use crate::progress::{Progress, Quiet, Silent};
use crate::random::{Shuffle, key};
use crate::search::top_k_among;
use crate::text::{Batch, Role, Tokens};
use crate::train::chunks::{CHUNK_TOKENS, cut};
use crate::train::dataset::TrainingSet;
use crate::train::loss_settings::{LossName, LossSettings};
use crate::train::measure::{Measure, Scores};
use crate::train::sampler::{Batches, LastBatch};
use crate::train::settings::TrainSettings;
use crate::train::step::MicroBatch;

/// Separates this use of a seed from others.
const SPLIT: u64 = 5;
/// And this one; a sample has so many texts.
const PROBE: u64 = 7;
const PROBE_TEXTS: usize = 256;
/// And the sample that an evaluation is forecast from.
const SHAPE: u64 = 8;
/// Cutoffs of the metrics.
const CUTOFFS: [usize; 2] = [1, 10];
/// Texts that go through the model at once, as in `embertune evaluate`.
const BATCH_SIZE: usize = 256;

/// Rows with `share` of their queries held out: those to train on, and those to evaluate on, each in the order of the file. A query
/// is on one side with all its rows. Which ones is a pure function of the seed and of the queries, not of their order.
///
/// # Errors
/// Too few queries for two sides.
pub fn split(
    examples: &(impl RowsOf<Example> + ?Sized),
    share: f64,
    seed: u64,
) -> Result<(StoredExamples, Vec<Example>)> {
    let id = |example: &Example| TextId::of(&example.query);
    let mut queries = examples.rows().map(|example| Ok(id(&*example?))).collect::<Result<Vec<_>>>()?;
    queries.sort_unstable();
    queries.dedup();
    queries.sort_unstable_by_key(|query| (key(&[SPLIT, seed, query.0 as u64, (query.0 >> 64) as u64]), *query));
    let n = ((share * queries.len() as f64).round() as usize).max(1);
    if n >= queries.len() {
        return Err(Error::Setting {
            problem: format!("`--eval_split {share}` of {} different queries leaves none to train on", queries.len()),
            hint: Some("take a smaller share, or pass `--eval_data FILE`".into()),
        });
    }
    let held_out: HashSet<_> = queries[..n].iter().copied().collect();
    let (mut to_train, mut to_evaluate) = (StoredExamples::default(), Vec::new());
    for example in examples.rows() {
        let example = example?;
        match held_out.contains(&id(&example)) {
            true => to_evaluate.push(example.into_owned()),
            false => to_train.push(&example)?,
        }
    }
    Ok((to_train, to_evaluate))
}

/// The positives and negatives of rows, as candidates.
///
/// # Errors
/// Those of [`RowsOf::rows`].
pub fn passages_of(examples: &(impl RowsOf<Example> + ?Sized)) -> Result<Vec<String>> {
    let mut passages = Vec::new();
    for example in examples.rows() {
        let Example { positives, negatives, .. } = example?.into_owned();
        passages.extend(positives.into_iter().chain(negatives));
    }
    Ok(passages)
}

/// What an evaluation will send through the model, as far as a sample of its texts tells.
pub struct EvaluationShape {
    /// Some of the candidates, in a chunk or less.
    pub sample: Batch,
    /// All that is encoded: queries, candidates, and the rows of the loss.
    pub n_tokens: usize,
    /// The most that goes through the model at once, of all threads.
    pub chunk_tokens: usize,
    /// Queries and candidates, whose vectors are held.
    pub n_vectors: usize,
    /// Whose vectors are written at once, to be kept.
    pub n_written: usize,
}

/// What an evaluation finds.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// The numbers of the model.
    pub scores: Scores,
    /// The measure of the run for each query, where it is one of queries.
    pub per_query: Option<Vec<f64>>,
    /// The cosine of every pair of a sample of the candidates, always the same ones, where `merge_alpha` asks for it: how the model orders
    /// what it was not trained on.
    pub pair_similarities: Vec<f64>,
}

/// The tokens of a text, and how many of them pooling leaves out.
type Tokenized = (Vec<u32>, u32);

/// What the model is evaluated on.
pub struct HeldOut {
    queries: Vec<Query>,
    pool: Pool,
    rows: TrainingSet,
    /// The texts of the rows that are searched anyway, by their tokens: their places among the queries and, behind these, the candidates.
    searched: HashMap<Tokenized, usize>,
    /// Where vectors are kept.
    vectors: Option<VectorCache>,
}

impl HeldOut {
    /// Prepares the held-out rows `examples` of the file `path`, to be searched for in `candidates`. What is odd is said.
    ///
    /// # Errors
    /// No rows, no candidates, or none of the positives among them.
    pub fn new<O: Ops>(
        model: &EmbeddingModel<O>,
        examples: &[Example],
        path: &Path,
        candidates: Vec<String>,
        settings: &TrainSettings,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let queries = queries_of(examples, progress);
        let pool = Pool::new(candidates);
        let positives = || queries.iter().flat_map(|query| &query.judged);
        let n_missing = positives().filter(|(id, _)| pool.row(*id).is_none()).count();
        let n_positives = positives().count();
        if n_missing == n_positives {
            return Err(Error::Data {
                path: path.into(),
                problem: format!(
                    "none of the {n_positives} positives to evaluate on is among the {} candidates",
                    pool.len()
                ),
                hint: Some("`--candidate_pool` has to hold them; without it they are candidates themselves".into()),
            });
        }
        if n_missing > 0 {
            progress.warn(&format!(
                "{n_missing} of {n_positives} positives to evaluate on are not among the candidates and can't be found"
            ));
        }
        progress.note(&format!("evaluation: {} queries in {} candidates", queries.len(), pool.len()));
        if let Some(pair) = examples.iter().find(|example| matches!(example.scores, RowScores::Pair(_))) {
            return Err(Error::Row {
                path: path.into(),
                line: pair.line,
                problem: "a pair with a score is no query with its right answer, and can't be evaluated by searching"
                    .into(),
                hint: Some("pass queries and positives with `--eval_data FILE`, or leave the evaluation out".into()),
            });
        }
        // Rows without negatives are none to train on, but can be evaluated: a group of one asks for none.
        let settings = TrainSettings { train_group_size: 1, loss: held_out_loss(settings), ..settings.clone() };
        let rows = TrainingSet::new(model, examples, path, &settings, progress)?;
        let searched = searched(model, examples, &queries, &pool)?;
        // Adapters are merged in what is saved: nobody else has this model.
        let folder = settings.vector_cache.filter(|_| !model.has_adapters());
        let vectors = folder.map(|folder| VectorCache::new(folder, settings.vector_cache_gb.unwrap_or(LIMIT_GB)));
        Ok(HeldOut { queries, pool, rows, searched, vectors })
    }

    /// What [`evaluate`](Self::evaluate) will send through `model`.
    ///
    /// # Errors
    /// A text that cannot be tokenized; a temporary file that can't be read.
    pub fn shape<O: Ops>(&self, model: &EmbeddingModel<O>, settings: &TrainSettings) -> Result<EvaluationShape> {
        let places = Shuffle::new(self.pool.len(), key(&[SHAPE, settings.seed])).take(PROBE_TEXTS);
        let texts: Vec<_> = places.map(|row| self.pool.texts()[row].as_str()).collect();
        let tokens = model.tokenize(&texts, Role::Passage, None)?;
        let (mut n_sampled, mut longest) = (0, 1);
        let mut sample = Batch::default();
        for text in &tokens {
            n_sampled += text.ids.len();
            longest = longest.max(text.ids.len());
            if sample.n_tokens() == 0 || sample.n_tokens() + text.ids.len() <= CHUNK_TOKENS {
                sample.push(&text.ids, text.prompt_len, 0);
            }
        }
        let chunks = model.ops().chunks();
        let of_candidates = n_sampled * self.pool.len() / tokens.len();
        let of_queries: usize = self.rows.rows.iter().map(|row| self.rows.texts.n_tokens(row.query)).sum();
        // Texts that come in several batches count once.
        let mut of_rest = 0;
        for block in self.rows.texts.blocks() {
            let searched = |text: &Tokens| self.searched.contains_key(&(text.ids.clone(), text.prompt_len));
            of_rest += block?.iter().filter(|text| !searched(text)).map(|text| text.ids.len()).sum::<usize>();
        }
        Ok(EvaluationShape {
            sample,
            n_tokens: of_queries + of_candidates + of_rest,
            chunk_tokens: (chunks.at_once * (BATCH_SIZE * longest).min(chunks.tokens.max(longest))).min(of_candidates),
            n_vectors: self.queries.len() + self.pool.len(),
            n_written: self.vectors.as_ref().map_or(0, |_| self.pool.len().min(SLICE)),
        })
    }

    /// What is found of `model` as it is now, on all `ranks` the same: they share the work. Nothing of it is said to `progress`.
    ///
    /// # Errors
    /// A model that gives values that are no finite numbers; files of vectors that cannot be read or written; [`Error::Stopped`] where `progress` wants
    /// it to end; a rank that is gone.
    pub fn evaluate<O: Ops>(
        &self,
        model: &EmbeddingModel<O>,
        settings: &TrainSettings,
        ranks: &dyn Communicator,
        progress: &dyn Progress,
    ) -> Result<Evaluated> {
        let queries: Vec<_> = self.queries.iter().map(|query| query.text.as_str()).collect();
        let candidates: Vec<_> = self.pool.texts().iter().map(String::as_str).collect();
        let embedding = Embedding { batch_size: BATCH_SIZE, cache: self.vectors.as_ref(), ranks };
        let vectors = |texts: &[&str], role| embedding.embed(model, texts, role, &Quiet(progress));
        let (queries, candidates) = (vectors(&queries, Role::Query)?, vectors(&candidates, Role::Passage)?);
        let found = top_k_among(&queries, &candidates, CUTOFFS[1], ranks, &Silent)?;
        let rankings: Vec<Vec<u32>> = found.iter().map(|hits| hits.iter().map(|hit| hit.row).collect()).collect();
        let evaluation = score(&self.queries, &self.pool, &rankings, &CUTOFFS);
        let mean = |metric, cutoff| evaluation.mean(metric, cutoff).unwrap_or_default();
        let scores = Scores {
            loss: self.loss(model, [&queries, &candidates], settings, ranks)?,
            mrr10: mean(Metric::Mrr, 10),
            ndcg10: mean(Metric::Ndcg, 10),
            hit1: mean(Metric::Hit, 1),
        };
        let measured = match settings.measure() {
            Measure::Loss => None,
            Measure::Mrr10 => Some((Metric::Mrr, 10)),
            Measure::Ndcg10 => Some((Metric::Ndcg, 10)),
            Measure::Hit1 => Some((Metric::Hit, 1)),
        };
        let list =
            measured.and_then(|measured| evaluation.scores.into_iter().find(|s| (s.metric, s.cutoff) == measured));
        let pair_similarities = match settings.merge_alpha {
            Some(_) => pair_similarities(&candidates, settings.seed),
            None => Vec::new(),
        };
        Ok(Evaluated { scores, per_query: list.map(|score| score.per_query), pair_similarities })
    }

    /// The mean loss of the queries that have a negative, in batches of the training's size in the order of the file, which the ranks take
    /// in turns. Queries and candidates have their vectors.
    fn loss<O: Ops>(
        &self,
        model: &EmbeddingModel<O>,
        searched: [&Vectors; 2],
        settings: &TrainSettings,
        ranks: &dyn Communicator,
    ) -> Result<Option<f64>> {
        let n_rows = self.rows.rows.len();
        let batches = Batches::new(n_rows, settings.per_device_train_batch_size, 1, LastBatch::Keep);
        let objective = TrainSettings { loss: held_out_loss(settings), ..settings.clone() }.objective();
        let places = (0..batches.steps_per_epoch()).flat_map(|step| batches.of_step(step));
        let of_batch = |places: Range<usize>| {
            let rows: Vec<_> = places.collect();
            let micro = MicroBatch::new(&self.rows, &rows, settings.take(DropoutRates::default(), 0))?;
            let embeddings = self.embeddings(model, &micro.batch, searched);
            let judged = objective.judge(&micro, &micro.of_texts(&embeddings, model.dim()), model.dim());
            // The loss is a mean over all queries of the batch, with 0 for those without a negative.
            Ok(((judged.loss * judged.stats.n_queries as f64).to_bits(), judged.stats.n_contrasted))
        };
        let own = places.skip(ranks.rank()).step_by(ranks.size()).map(of_batch).collect::<Result<Vec<_>>>();
        let of_ranks = gather(ranks, own)?;
        let (mut sum, mut n_contrasted) = (0.0, 0);
        for batch in 0..of_ranks.iter().map(Vec::len).sum() {
            let (bits, n) = of_ranks[batch % ranks.size()][batch / ranks.size()];
            sum += f64::from_bits(bits);
            n_contrasted += n;
        }
        Ok((n_contrasted > 0).then(|| sum / n_contrasted as f64))
    }

    /// The embeddings of a batch of rows, `[n_texts, dim]`: of queries and candidates those that were searched, of the rest new ones.
    fn embeddings<O: Ops>(&self, model: &EmbeddingModel<O>, batch: &Batch, searched: [&Vectors; 2]) -> Vec<f32> {
        let mut rest = Batch::default();
        let mut known = Vec::new();
        for text in 0..batch.n_texts() {
            let (ids, skip) = (&batch.ids[batch.ragged().range(text)], batch.skip[text]);
            let place = self.searched.get(&(ids.to_vec(), skip)).copied();
            if place.is_none() {
                rest.push(ids, skip, 0);
            }
            known.push(place);
        }
        let lengths: Vec<_> = (0..rest.n_texts()).map(|text| rest.ragged().range(text).len()).collect();
        let mut new = cut(&lengths).into_iter().flat_map(|chunk| model.encode(&rest.part(chunk.texts)));
        let [queries, candidates] = searched;
        let mut embeddings = Vec::with_capacity(batch.n_texts() * model.dim());
        for place in known {
            match place {
                Some(place) if place < queries.n_rows() => embeddings.extend_from_slice(queries.row(place)),
                Some(place) => embeddings.extend_from_slice(candidates.row(place - queries.n_rows())),
                None => embeddings.extend(new.by_ref().take(model.dim())),
            }
        }
        embeddings
    }
}

/// See [`HeldOut`]. Texts that the model reads further than the training does are none of them.
fn searched<O: Ops>(
    model: &EmbeddingModel<O>,
    examples: &[Example],
    queries: &[Query],
    pool: &Pool,
) -> Result<HashMap<Tokenized, usize>> {
    let passages = examples.iter().flat_map(|example| example.positives.iter().chain(&example.negatives));
    let mut rows: Vec<_> = passages.filter_map(|text| pool.row(TextId::of(text))).map(|row| row as usize).collect();
    rows.sort_unstable();
    rows.dedup();
    let of_queries: Vec<_> = queries.iter().map(|query| query.text.as_str()).collect();
    let of_rows: Vec<_> = rows.iter().map(|&row| pool.texts()[row].as_str()).collect();
    let places = (0..queries.len()).chain(rows.iter().map(|row| queries.len() + row));
    let tokens = model.tokenize(&of_queries, Role::Query, None)?.into_iter();
    let tokens = tokens.chain(model.tokenize(&of_rows, Role::Passage, None)?);
    Ok(tokens.map(|tokens| (tokens.ids, tokens.prompt_len)).zip(places).collect())
}

/// See [`Evaluated::pair_similarities`].
fn pair_similarities(candidates: &Vectors, seed: u64) -> Vec<f64> {
    let sample: Vec<_> = Shuffle::new(candidates.n_rows(), key(&[PROBE, seed])).take(PROBE_TEXTS).collect();
    let pairs = sample.iter().enumerate().flat_map(|(i, &left)| sample[..i].iter().map(move |&right| (left, right)));
    pairs.map(|(left, right)| cosine(candidates.row(left), candidates.row(right))).collect()
}

/// The loss of held-out rows in a training as `settings` say.
fn held_out_loss(settings: &TrainSettings) -> LossSettings {
    match settings.loss.name {
        LossName::InfoNce => LossSettings { guide_model: None, ..settings.loss.clone() },
        _ => LossSettings::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(queries: &[&str]) -> Vec<Example> {
        let row = |(i, query): (usize, &&str)| Example {
            query: (*query).into(),
            positives: vec![format!("p{i}")],
            negatives: vec![],
            scores: RowScores::None,
            line: i + 1,
        };
        queries.iter().enumerate().map(row).collect()
    }

    #[test]
    fn a_query_is_held_out_with_all_its_rows_and_whatever_the_order_of_the_file() {
        let names: Vec<_> = (0..20).flat_map(|i| [format!("query {i}"), format!(" query  {i}")]).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let of = |rows: &[Example]| rows.iter().map(|row| TextId::of(&row.query)).collect::<HashSet<_>>();
        let (train, held_out) = split(&rows(&names), 0.25, 42).unwrap();
        let train: Vec<_> = train.rows().map(|row| row.unwrap().into_owned()).collect();
        assert_eq!((of(&train).len(), of(&held_out).len()), (15, 5));
        assert_eq!((train.len(), held_out.len()), (30, 10));
        assert!(of(&train).is_disjoint(&of(&held_out)));
        assert!(train.is_sorted_by_key(|row| row.line));

        let turned: Vec<_> = names.iter().rev().copied().collect();
        assert_eq!(of(&split(&rows(&turned), 0.25, 42).unwrap().1), of(&held_out));
        assert_ne!(of(&split(&rows(&names), 0.25, 43).unwrap().1), of(&held_out));
    }

    #[test]
    fn one_query_at_least_is_on_each_side() {
        assert_eq!(split(&rows(&["a", "b", "c"]), 0.01, 1).unwrap().1.len(), 1);
        for names in [&["a", "a "][..], &[]] {
            let error = split(&rows(names), 0.9, 1).unwrap_err();
            assert!(error.to_string().contains("leaves none to train on"), "{error}");
        }
        split(&rows(&["a", "b", "c"]), 0.9, 1).unwrap_err();
    }
}
