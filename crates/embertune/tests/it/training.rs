//! Properties of training that no single number shows: what it depends on, what it does not, what it refuses, what it writes.

use std::fs;
use std::path::{Path, PathBuf};

use embertune::data::{Example, Scores};
use embertune::loss::{InfoNce, Loss, Negatives};
use embertune::model::{DropoutRates, EmbeddingModel};
use embertune::progress::Silent;
use embertune::train::events::{EvaluationEvent, Observer, StepEvent};
use embertune::train::objective::Objective;
use embertune::train::step::{MicroBatch, Pass, Repeats, Take, forward_backward};
use embertune::train::{Plan, Steps, TrainSettings, Trainer, TrainingSet};
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::testing::assert_close;
use serde_json::{Value, json};

use crate::golden::golden;
use crate::said::Said;

impl Observer for Said {
    fn training_begins(&self, _plan: &Plan, _steps_done: usize) {}
    fn step_done(&self, event: &StepEvent<'_>) {
        self.at_step(event.report.step);
    }
    fn evaluated(&self, _event: &EvaluationEvent<'_>) {}
    fn training_ends(&self) {}
    fn saved(&self, _folder: &Path) {}
}

const WORDS: [&str; 12] =
    ["cat", "wing", "flow", "paper", "the", "speed", "of", "shock", "package", "library", "test", "heat"];

pub fn words(n: usize, first: usize) -> String {
    (0..n).map(|i| WORDS[(first * 5 + i * 7 + i * i) % WORDS.len()]).collect::<Vec<_>>().join(" ")
}

/// Rows of different lengths with `n_negatives` each. No text occurs twice.
pub fn examples(n: usize, n_negatives: usize) -> Vec<Example> {
    (0..n)
        .map(|i| Example {
            query: format!("query {i} {}", words(1 + i % 4, i)),
            positives: vec![format!("answer {i} {}", words(3 + i % 6, i))],
            negatives: (0..n_negatives).map(|k| format!("other {i} {k} {}", words(2 + (i + k) % 7, i + k))).collect(),
            scores: Scores::None,
            line: i + 1,
        })
        .collect()
}

pub fn settings() -> TrainSettings {
    TrainSettings {
        per_device_train_batch_size: 4,
        train_group_size: 3,
        learning_rate: 1e-3,
        max_steps: Some(3),
        weight_decay: 0.01,
        query_max_len: 16,
        passage_max_len: 32,
        ..TrainSettings::default()
    }
}

/// What a batch takes of its rows where there is dropout.
pub fn take(group_size: usize, epoch: usize) -> Take {
    Take { group_size, seed: 42, epoch, repeats: Repeats::Apart }
}

fn model(settings: &TrainSettings) -> Option<EmbeddingModel<Cpu>> {
    let folder = golden("tiny-bert")?;
    Some(EmbeddingModel::load(Cpu::new(), &folder, &settings.overrides().unwrap(), &Silent).unwrap())
}

fn set(model: &EmbeddingModel<Cpu>, examples: &[Example], settings: &TrainSettings) -> TrainingSet {
    TrainingSet::new(model, examples, Path::new("train.jsonl"), settings, &Silent).unwrap()
}

pub fn weights(model: &EmbeddingModel<Cpu>) -> Vec<f32> {
    model.parameters().list.iter().flat_map(|param| model.ops().download(&param.value)).collect()
}

/// The weights after all steps, and the losses.
fn run(examples: &[Example], settings: &TrainSettings) -> Option<(Vec<f32>, Vec<f64>)> {
    let mut model = model(settings)?;
    let set = set(&model, examples, settings);
    let mut trainer = Trainer::new(&mut model, &set, settings).unwrap();
    let losses = std::iter::from_fn(|| trainer.step()).map(|report| report.unwrap().loss).collect();
    Some((weights(&model), losses))
}

#[test]
fn any_number_of_threads_gives_the_same_weights() {
    // Dropout as in the model's config, 0.1.
    let examples = examples(12, 2);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&examples, &settings()))
    };
    let Some((one, losses)) = on(1) else { return };
    for threads in [2, 4] {
        assert!(on(threads).unwrap() == (one.clone(), losses.clone()), "{threads} threads");
    }
}

#[test]
fn a_run_with_dropout_is_the_same_again_and_another_with_another_seed() {
    let examples = examples(12, 2);
    let Some(first) = run(&examples, &settings()) else { return };
    assert!(run(&examples, &settings()).unwrap() == first);
    assert!(run(&examples, &TrainSettings { dropout: Some(0.0), ..settings() }).unwrap() != first);
    assert!(run(&examples, &TrainSettings { seed: 43, ..settings() }).unwrap() != first);
}

#[test]
fn first_step_of_a_warm_up_changes_no_weight() {
    let settings = TrainSettings { warmup_steps: 2.0, max_steps: Some(1), ..settings() };
    let Some(model) = model(&settings) else { return };
    assert!(run(&examples(8, 2), &settings).unwrap().0 == weights(&model));
}

/// Loss and gradients of some rows in one micro batch.
fn gradients(model: &EmbeddingModel<Cpu>, set: &TrainingSet, rows: &[usize], weight: f32) -> (f64, Vec<Vec<f32>>) {
    let micro = MicroBatch::new(set, rows, take(3, 0)).unwrap();
    let objective = Objective::new(Loss::InfoNce(InfoNce::new(Negatives::InBatch, 0.05)));
    let dropout = DropoutRates { hidden: 0.1, attention: 0.1, adapter: 0.0 };
    let pass = Pass { objective: &objective, dropout, frozen: None, weight, kept_tokens: usize::MAX };
    let mut gradients = model.parameters().zero_gradients(model.ops());
    let (loss, _) = forward_backward(model, &micro, pass, &mut gradients);
    (loss, gradients.list.iter().map(|g| model.ops().download(g)).collect())
}

/// Relative to a tensor's largest gradient: f32 sums of the same numbers in another order (golden README, 8e-5 at most).
const ORDER: f64 = 5e-4;
/// Gradients that are zero in exact arithmetic (key biases).
const ZERO: f64 = 2e-6;

fn assert_same_gradients(actual: &[Vec<f32>], expected: &[Vec<f32>]) {
    for (actual, expected) in actual.iter().zip(expected) {
        let largest = expected.iter().fold(0.0_f32, |largest, g| largest.max(g.abs()));
        assert_close(actual, expected, ORDER * f64::from(largest) + ZERO, 0.0);
    }
}

#[test]
fn order_of_a_batch_does_not_change_loss_or_gradients() {
    let settings = settings();
    let Some(model) = model(&settings) else { return };
    let set = set(&model, &examples(6, 3), &settings);
    let (loss, expected) = gradients(&model, &set, &[0, 1, 2, 3, 4, 5], 1.0);
    let (turned_loss, turned) = gradients(&model, &set, &[3, 5, 1, 0, 4, 2], 1.0);
    assert_close(&[turned_loss], &[loss], 3e-5, 0.0);
    assert_same_gradients(&turned, &expected);
}

#[test]
fn accumulated_gradient_is_the_mean_over_micro_batches() {
    let examples = examples(8, 2);
    // Without in-batch negatives the batches do not matter: two of 4 are one of 8.
    let whole =
        TrainSettings { use_inbatch_neg: false, per_device_train_batch_size: 8, max_steps: Some(1), ..settings() };
    let split = TrainSettings { per_device_train_batch_size: 4, gradient_accumulation_steps: 2, ..whole.clone() };
    let first_report = |settings: &TrainSettings| {
        let mut model = model(settings)?;
        let set = set(&model, &examples, settings);
        Some(Trainer::new(&mut model, &set, settings).unwrap().step().unwrap().unwrap())
    };
    let (Some(whole), Some(split)) = (first_report(&whole), first_report(&split)) else { return };
    assert_close(&[split.loss], &[whole.loss], 3e-5, 0.0);
    assert_close(&[split.grad_norm], &[whole.grad_norm], 0.0, 2e-5);
    assert_eq!(split.stats.n_negatives, whole.stats.n_negatives);
    assert_eq!(split.n_tokens, whole.n_tokens);
}

#[test]
fn known_positives_and_the_query_itself_are_never_negatives() {
    let settings = TrainSettings { train_group_size: 1, ..settings() };
    let Some(model) = model(&settings) else { return };
    let row = |query: &str, positives: &[&str], line| Example {
        query: query.into(),
        positives: positives.iter().map(|&text| text.into()).collect(),
        negatives: vec![],
        scores: Scores::None,
        line,
    };
    let examples = [
        row("heat", &["a"], 1),
        // The same query but for spaces: "a" and "b" are positives of both rows.
        row(" heat ", &["b"], 2),
        // The first query's text is this one's positive; both rows' "c" differ in spaces.
        row("flow", &["heat"], 3),
        row("wing", &["c"], 4),
        row("speed", &["c "], 5),
    ];
    let set = set(&model, &examples, &settings);
    let micro = MicroBatch::new(&set, &[0, 1, 2, 3, 4], take(1, 0)).unwrap();
    let excluded: Vec<Vec<usize>> =
        micro.excluded.chunks(5).map(|row| (0..5).filter(|&column| row[column]).collect()).collect();
    assert_eq!(excluded, [vec![0, 1, 2], vec![0, 1, 2], vec![2], vec![3, 4], vec![3, 4]]);
}

#[test]
fn negatives_that_are_positives_are_left_out_and_counted() {
    let settings = settings();
    let Some(model) = model(&settings) else { return };
    let mut examples = examples(4, 3);
    examples[1].negatives[0] = format!(" {}", examples[1].positives[0]);
    examples[2].negatives[2] = examples[2].query.clone();
    let said = Said::default();
    let set = TrainingSet::new(&model, &examples, Path::new("train.jsonl"), &settings, &said).unwrap();
    assert_eq!(set.rows.iter().map(|row| row.negatives.len()).collect::<Vec<_>>(), [3, 2, 2, 3]);
    assert!(said.lines()[0].contains("train.jsonl: 2 negatives are positives of their query"), "{:?}", said.lines());
}

#[test]
fn rows_without_negatives_are_refused_where_the_batch_gives_none() {
    let mut examples = examples(6, 2);
    examples[3].negatives.clear();
    examples[4].negatives.clear();
    let with = |settings: TrainSettings| {
        let model = model(&settings)?;
        let said = Said::default();
        let set = TrainingSet::new(&model, &examples, Path::new("train.jsonl"), &settings, &said);
        Some((set.map(|_| ()), said.lines()))
    };
    for settings in [
        TrainSettings { use_inbatch_neg: false, ..settings() },
        TrainSettings { per_device_train_batch_size: 1, ..settings() },
    ] {
        let Some((Err(error), _)) = with(settings) else { return };
        assert!(error.to_string().starts_with("train.jsonl:4: the row has no negatives (2 of 6"), "{error}");
        assert!(error.hint().unwrap().contains("embertune mine"));
    }
    let Some((Ok(()), said)) = with(settings()) else { return };
    let said = said.iter().find(|line| line.starts_with("warning: train.jsonl:4: 2 of 6 rows have no")).unwrap();
    assert!(said.contains("a wider `--range_for_sampling`"), "the others have some, so they were mined: {said}");
}

#[test]
fn number_of_steps_is_that_of_transformers() {
    let Some(model) = model(&settings()) else { return };
    let plan = |n_rows, settings: TrainSettings| {
        let plan = Plan::new(&set(&model, &examples(n_rows, 2), &settings), &settings).unwrap();
        (plan.batches.steps_per_epoch(), plan.total_steps)
    };
    let base = TrainSettings { max_steps: None, ..settings() };
    assert_eq!(plan(10, base.clone()), (3, 9));
    assert_eq!(plan(10, TrainSettings { dataloader_drop_last: true, ..base.clone() }), (2, 6));
    assert_eq!(plan(10, TrainSettings { gradient_accumulation_steps: 2, ..base.clone() }), (2, 6));
    assert_eq!(plan(10, TrainSettings { num_train_epochs: 1.5, ..base.clone() }), (3, 5));
    assert_eq!(plan(10, TrainSettings { max_steps: Some(7), ..base.clone() }), (3, 7));
    // One row alone in the last batch: it has negatives of its own, or it is left out.
    assert_eq!(plan(9, base.clone()), (3, 9));
    assert_eq!(plan(9, TrainSettings { train_group_size: 1, ..base }), (2, 6));
}

#[test]
fn a_loss_that_is_not_finite_names_step_and_rows() {
    let settings = TrainSettings { learning_rate: 1e38, max_steps: Some(5), ..settings() };
    let Some(mut model) = model(&settings) else { return };
    let set = set(&model, &examples(12, 2), &settings);
    let mut trainer = Trainer::new(&mut model, &set, &settings).unwrap();
    let error = std::iter::from_fn(|| trainer.step()).find_map(Result::err).unwrap();
    assert!(error.to_string().starts_with("step 2: the loss is NaN, and the weights of `"), "{error}");
    assert!(error.hint().unwrap().contains("--learning_rate"));
}

/// A data file and the settings of a run of 5 steps into a new folder.
pub struct Job {
    pub root: tempfile::TempDir,
    pub settings: TrainSettings,
}

impl Job {
    pub fn new() -> Option<Self> {
        let base = golden("tiny-bert")?;
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("train.jsonl");
        let rows = examples(12, 2).into_iter().map(|row| {
            let row: Value = json!({"query": row.query, "pos": row.positives, "neg": row.negatives});
            format!("{row}\n")
        });
        fs::write(&data, rows.collect::<String>()).unwrap();
        let settings = TrainSettings {
            model_name_or_path: base.to_str().unwrap().into(),
            train_data: data,
            output_dir: root.path().join("out"),
            max_steps: Some(5),
            logging_steps: Steps::Number(2),
            save_steps: Steps::Number(1),
            save_total_limit: Some(2),
            ..settings()
        };
        Some(Job { root, settings })
    }

    pub fn train(&self) -> embertune::Result<embertune::train::RunRecord> {
        self.train_and_say(&Said::default())
    }

    pub fn train_and_say(&self, said: &Said) -> embertune::Result<embertune::train::RunRecord> {
        embertune::train::train(Cpu::new(), &self.settings, said)
    }

    pub fn output(&self, name: &str) -> PathBuf {
        self.settings.output_dir.join(name)
    }

    fn names_beside_output(&self) -> Vec<String> {
        let entries = fs::read_dir(self.settings.output_dir.parent().unwrap()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub fn load(folder: &Path) -> EmbeddingModel<Cpu> {
    EmbeddingModel::load(Cpu::new(), folder, &Default::default(), &Silent).unwrap()
}

#[test]
fn without_a_gradient_the_learning_rate_is_not_blamed() {
    let Some(mut job) = Job::new() else { return };
    let row = json!({"query": words(3, 1), "pos": [words(9, 5)]});
    fs::write(&job.settings.train_data, format!("{row}\n").repeat(8)).unwrap();
    job.settings = TrainSettings { train_group_size: 1, weight_decay: 0.0, ..job.settings };
    let said = Said::default();
    job.train_and_say(&said).unwrap();
    let warnings: Vec<_> = said.lines().into_iter().filter(|line| line.starts_with("warning: ")).collect();
    let position = |part: &str| warnings.iter().position(|line| line.contains(part));
    assert!(
        position("4 of 4 queries have no negative") < position("the gradient was exactly 0 in every step"),
        "{warnings:?}"
    );
    assert!(position("4 of 4 queries have no negative").is_some(), "{warnings:?}");
    assert_eq!(position("learning_rate"), None, "{warnings:?}");
}

#[test]
fn the_limit_that_cuts_texts_is_named() {
    let Some(mut job) = Job::new() else { return };
    job.settings.max_seq_length = Some(8);
    for (passage_max_len, expected) in
        [(9, "cut at 8 tokens (the model's `--max_seq_length`)"), (7, "cut at 7 tokens (`--passage_max_len`)")]
    {
        job.settings.passage_max_len = passage_max_len;
        let said = Said::default();
        embertune::train::dry_run(Cpu::new(), &job.settings, &said).unwrap();
        assert!(said.lines().iter().any(|line| line.ends_with(expected)), "{:?}", said.lines());
    }
}

#[test]
fn a_collapse_is_seen_through_the_noise_of_dropout() {
    let Some(mut job) = Job::new() else { return };
    job.settings.learning_rate = 1e-30;
    let is_said = |job: &Job| {
        let said = Said::default();
        job.train_and_say(&said).unwrap();
        let n = said.lines().iter().filter(|line| line.contains("the model has collapsed")).count();
        fs::remove_dir_all(&job.settings.output_dir).unwrap();
        n == 1
    };
    for dropout in [None, Some(0.0), Some(0.5)] {
        job.settings.dropout = dropout;
        assert!(!is_said(&job), "{dropout:?}");
    }
    // Without embeddings all texts are the same, but for dropout.
    let mut model = load(job.settings.model_name_or_path.as_ref());
    let ops = model.shared_ops();
    for param in &mut model.parameters_mut().list {
        if param.parts[0].name.ends_with("_embeddings.weight") {
            param.value = ops.zeros(ops.len(&param.value));
        }
    }
    let folder = job.root.path().join("collapsed");
    model.save(&folder).unwrap();
    job.settings.model_name_or_path = folder.to_str().unwrap().into();
    for dropout in [None, Some(0.0), Some(0.3)] {
        job.settings.dropout = dropout;
        assert!(is_said(&job), "{dropout:?}");
    }
}

#[test]
fn output_folder_is_the_trained_model_with_its_log_record_and_checkpoints() {
    let Some(job) = Job::new() else { return };
    let record = job.train().unwrap();
    assert_eq!(job.names_beside_output(), ["out", "train.jsonl"]);

    let (expected, _) = run(&examples(12, 2), &TrainSettings { max_steps: Some(5), ..settings() }).unwrap();
    assert!(weights(&load(&job.settings.output_dir)) == expected);
    // Of the checkpoints after steps 1 to 4 the last two are kept.
    for (step, kept) in [(1, false), (2, false), (3, true), (4, true), (5, false)] {
        assert_eq!(job.output(&format!("checkpoint-{step}")).exists(), kept, "step {step}");
    }
    load(&job.output("checkpoint-4"));

    let log = fs::read_to_string(job.output("log.jsonl")).unwrap();
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(log.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4, 5]);
    assert_eq!(log[1]["lr"], 1e-3 * 2.0 / 5.0);
    for key in
        ["epoch", "loss", "grad_norm", "in_batch_accuracy", "positive_similarity", "examples_per_s", "tokens_per_s"]
    {
        assert!(log[0][key].as_f64().unwrap() > 0.0, "{key}");
    }

    let written: Value = serde_json::from_str(&fs::read_to_string(job.output("run.json")).unwrap()).unwrap();
    for part in ["counts", "losses", "data"] {
        assert_eq!(written[part], serde_json::to_value(&record).unwrap()[part]);
    }
    assert_eq!((record.counts.steps, record.counts.rows, record.counts.examples), (5, 12, 20));
    assert_eq!(written["settings"]["temperature"], 0.02);
    for text in ["answer", "query 1"] {
        assert!(!written.to_string().contains(text), "no text of the data in the record");
    }
}

#[test]
fn an_existing_output_folder_is_replaced_only_when_asked_and_only_by_a_complete_model() {
    let Some(mut job) = Job::new() else { return };
    job.train().unwrap();
    let before = fs::read(job.output("model.safetensors")).unwrap();
    let error = job.train().unwrap_err();
    assert!(error.to_string().ends_with("exists") && error.hint().unwrap().contains("--overwrite_output_dir"));

    job.settings.overwrite_output_dir = true;
    let good = job.settings.clone();
    job.settings.learning_rate = 1e38;
    job.train().unwrap_err();
    assert_eq!(fs::read(job.output("model.safetensors")).unwrap(), before);
    job.settings = TrainSettings { seed: 1, ..good };
    job.train().unwrap();
    assert_ne!(fs::read(job.output("model.safetensors")).unwrap(), before);
    assert_eq!(job.names_beside_output(), ["out", "train.jsonl"]);
}

#[test]
fn bad_data_leaves_nothing_behind() {
    let Some(job) = Job::new() else { return };
    fs::write(&job.settings.train_data, "{\"query\": \"a\"}\n").unwrap();
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("train.jsonl:1: "), "{error}");
    assert_eq!(job.names_beside_output(), ["train.jsonl"]);
}
