//! Large batches in chunks: what the chunks and the memory may not change.

use std::path::Path;

use embertune::data::{Example, Scores};
use embertune::model::{DropoutRates, EmbeddingModel};
use embertune::progress::Silent;
use embertune::train::chunks::{CHUNK_TOKENS, cut};
use embertune::train::forecast::{Limits, forecast};
use embertune::train::loss_settings::{LossName, Reads};
use embertune::train::objective::Objective;
use embertune::train::step::{MicroBatch, Pass, Repeats, Take, forward_backward};
use embertune::train::{LossSettings, TrainSettings, Trainer, TrainingSet};
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::testing::assert_close;

use crate::golden::golden;
use crate::training::take;

/// Loss and gradients of the same numbers, summed in another order (golden README).
const LOSS: f64 = 3e-5;
/// Relative to a tensor's largest gradient.
const ORDER: f64 = 5e-4;
/// Gradients that are zero in exact arithmetic (key biases).
const ZERO: f64 = 2e-6;

const N_ROWS: usize = 120;

fn settings() -> TrainSettings {
    TrainSettings {
        per_device_train_batch_size: N_ROWS,
        train_group_size: 3,
        learning_rate: 1e-3,
        max_steps: Some(2),
        temperature: 0.05,
        ..TrainSettings::default()
    }
}

fn model(name: &str) -> Option<EmbeddingModel<Cpu>> {
    let folder = golden(name)?;
    Some(EmbeddingModel::load(Cpu::new(), &folder, &settings().overrides().unwrap(), &Silent).unwrap())
}

fn set(model: &EmbeddingModel<Cpu>) -> TrainingSet {
    set_of(model, &settings())
}

/// With a teacher's scores, or as pairs with labels, where the loss reads them.
fn set_of(model: &EmbeddingModel<Cpu>, settings: &TrainSettings) -> TrainingSet {
    let name = settings.loss.name;
    let scores = |i: usize| match name.reads() {
        Reads::Texts => Scores::None,
        Reads::TeacherScores => {
            Scores::Teacher { positives: vec![0.5 + i as f32 / 100.0], negatives: vec![0.1, 0.01 * (i % 9) as f32] }
        }
        _ => Scores::Pair(f32::from(i.is_multiple_of(3))),
    };
    let text = |kind: &str, i: usize| format!("{kind} {i} {}", "the flow of heat in a slip flow ".repeat(1 + i % 3));
    let examples: Vec<_> = (0..N_ROWS)
        .map(|i| Example {
            query: format!("query {i} of heat"),
            positives: vec![text("answer", i)],
            negatives: match name.takes_pairs() {
                true => vec![],
                false => vec![text("first other", i + 1), text("second other", i + 2)],
            },
            scores: scores(i),
            line: i + 1,
        })
        .collect();
    TrainingSet::new(model, &examples, Path::new("train.jsonl"), settings, &Silent).unwrap()
}

/// With dropout, so that a chunk that is computed again has to draw the same masks.
fn pass(objective: &Objective, kept_tokens: usize) -> Pass<'_> {
    let dropout = DropoutRates { hidden: 0.1, attention: 0.1, adapter: 0.0 };
    Pass { objective, dropout, frozen: None, weight: 0.5, kept_tokens }
}

/// One micro batch of all rows, of at least two chunks; of four where there are negatives.
fn micro_batch(set: &TrainingSet) -> MicroBatch {
    let rows: Vec<_> = (0..N_ROWS).collect();
    let micro = MicroBatch::new(set, &rows, take(3, 0)).unwrap();
    let least = if set.rows.get(0).negatives.is_empty() { 2 } else { 4 };
    let n_chunks = cut(&MicroBatch::text_lengths(set, &rows, take(3, 0)).0).len();
    assert!(n_chunks >= least, "{} tokens", micro.batch.n_tokens());
    micro
}

fn downloaded(model: &EmbeddingModel<Cpu>, buffers: &[<Cpu as Ops>::Buf]) -> Vec<Vec<f32>> {
    buffers.iter().map(|buffer| model.ops().download(buffer)).collect()
}

fn gradients(model: &EmbeddingModel<Cpu>, micro: &MicroBatch, kept_tokens: usize) -> (f64, Vec<Vec<f32>>) {
    gradients_of(model, micro, pass(&settings().objective(), kept_tokens))
}

fn gradients_of(model: &EmbeddingModel<Cpu>, micro: &MicroBatch, pass: Pass<'_>) -> (f64, Vec<Vec<f32>>) {
    let mut gradients = model.parameters().zero_gradients(model.ops());
    let (loss, _) = forward_backward(model, micro, pass, &mut gradients);
    (loss, downloaded(model, &gradients.list))
}

fn chunks_have_the_gradient_of_one_piece(model: &EmbeddingModel<Cpu>, settings: &TrainSettings) {
    let micro = micro_batch(&set_of(model, settings));
    let objective = settings.objective();
    let pass = pass(&objective, 0);
    let (embeddings, saved) = model.forward(&micro.batch, pass.dropout);
    let mut judged = pass.objective.judge(&micro, &embeddings, model.dim());
    judged.d_embeddings.iter_mut().for_each(|d| *d *= pass.weight);
    let mut expected = model.parameters().zero_gradients(model.ops());
    model.backward(&micro.batch, &saved, &judged.d_embeddings, &mut expected);

    let (loss, actual) = gradients_of(model, &micro, pass);
    let name = settings.loss.name;
    assert!((loss - judged.loss).abs() <= LOSS * judged.loss.abs().max(1.0), "{name}: {loss} {}", judged.loss);
    for (actual, expected) in actual.iter().zip(downloaded(model, &expected.list)) {
        let largest = expected.iter().fold(0.0_f32, |largest, g| largest.max(g.abs()));
        assert_close(actual, &expected, ORDER * f64::from(largest) + ZERO, 0.0);
    }
    assert!(actual.iter().flatten().any(|g| g.abs() > 1e-3), "{name} has no gradient here");
}

#[test]
fn chunks_have_the_loss_and_gradient_of_the_batch_in_one_piece() {
    for name in ["tiny-bert", "tiny-mpnet"] {
        let Some(model) = model(name) else { return };
        chunks_have_the_gradient_of_one_piece(&model, &settings());
    }
}

#[test]
fn chunks_have_the_gradient_of_one_piece_with_every_loss() {
    let Some(model) = model("tiny-bert") else { return };
    for (name, _) in LossName::ALL {
        for matryoshka_dims in [vec![], vec![model.dim(), 12]] {
            let loss = LossSettings { name, matryoshka_dims, ..LossSettings::default() };
            // `distill_kl` goes with the square of the temperature.
            chunks_have_the_gradient_of_one_piece(&model, &TrainSettings { loss, temperature: 1.0, ..settings() });
        }
    }
}

#[test]
fn neither_what_is_kept_nor_the_number_of_threads_changes_a_bit() {
    let Some(model) = model("tiny-mpnet") else { return };
    let micro = micro_batch(&set(&model));
    let expected = gradients(&model, &micro, usize::MAX);
    for (kept_tokens, threads) in [(0, 1), (0, 3), (2 * CHUNK_TOKENS + 100, 2), (usize::MAX, 1)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let actual = pool.install(|| gradients(&model, &micro, kept_tokens));
        assert!(actual == expected, "{kept_tokens} tokens kept, {threads} threads");
    }
}

#[test]
fn chunks_that_are_not_kept_need_no_memory() {
    let Some(model) = model("tiny-bert") else { return };
    let micro = micro_batch(&set(&model));
    let held = |kept_tokens| {
        model.ops().limit_buffers(0);
        model.ops().limit_buffers(usize::MAX);
        let before = model.ops().buffer_bytes().held;
        gradients(&model, &micro, kept_tokens);
        (model.ops().buffer_bytes().held - before) as f64
    };
    let (all, one) = (held(usize::MAX), held(0));
    assert!(one < 0.5 * all, "{one} of {all} bytes");
}

/// The settings, a model and its data, and a budget: what the process has, and `mb` more.
fn forecast_within(
    mb: u64,
) -> Option<(EmbeddingModel<Cpu>, TrainingSet, embertune::Result<embertune::train::Forecast>)> {
    let mut model = model("tiny-bert")?;
    let set = set(&model);
    let now = embertune::train::memory::peak_memory_bytes()?;
    let limits = Limits { budget_bytes: Some(now + mb * 1_000_000), load_bytes: 0, n_ranks: 1 };
    let forecast = forecast(&mut model, &set, None, &settings(), limits).map(|(forecast, _)| forecast);
    Some((model, set, forecast))
}

#[test]
fn a_forecast_changes_no_weight_and_leaves_no_memory() {
    let Some((forecasted, _, _)) = forecast_within(10_000) else { return };
    let bytes = forecasted.ops().buffer_bytes();
    assert_eq!(bytes.held, bytes.used);
    let weights = |model: &EmbeddingModel<Cpu>| {
        model.parameters().list.iter().map(|param| model.ops().download(&param.value)).collect::<Vec<_>>()
    };
    assert!(weights(&forecasted) == weights(&model("tiny-bert").unwrap()));
}

#[test]
fn tokens_and_buffers_are_forecast_as_they_come() {
    let Some((mut model, set, forecast)) = forecast_within(10_000) else { return };
    let forecast = forecast.unwrap();
    let settings = settings();
    assert_eq!((forecast.steps, forecast.batches_per_epoch, forecast.kept_tokens), (2, 1, None));
    model.ops().limit_buffers(0);
    let mut trainer = Trainer::new(&mut model, &set, &settings).unwrap().within(&forecast);
    let report = trainer.step().unwrap().unwrap();
    assert_eq!(report.n_tokens, forecast.tokens_per_epoch);
    assert_eq!(report.n_tokens, forecast.largest_batch_tokens);
}

/// Rows that share queries and passages, as labels or answers to many questions do.
fn sharing_set(model: &EmbeddingModel<Cpu>) -> TrainingSet {
    let text = |kind: &str, i: usize| format!("{kind} {i} {}", "the flow of heat in a slip flow ".repeat(1 + i % 3));
    let examples: Vec<_> = (0..N_ROWS)
        .map(|i| Example {
            query: format!("query {} of heat", i % 100),
            positives: vec![text("answer", i % 40)],
            negatives: vec![text("answer", (i + 1) % 40), text("other", i)],
            scores: Scores::None,
            line: i + 1,
        })
        .collect();
    TrainingSet::new(model, &examples, Path::new("train.jsonl"), &settings(), &Silent).unwrap()
}

#[test]
fn a_text_that_comes_several_times_is_computed_once_with_the_gradient_of_all() {
    for name in ["tiny-bert", "tiny-mpnet"] {
        let Some(model) = model(name) else { return };
        let set = sharing_set(&model);
        let rows: Vec<_> = (0..N_ROWS).collect();
        let objective = settings().objective();
        let run = |repeats: Repeats| {
            let micro = MicroBatch::new(&set, &rows, Take { repeats, ..take(3, 0) }).unwrap();
            let pass = Pass { dropout: DropoutRates::default(), ..pass(&objective, 0) };
            let mut gradients = model.parameters().zero_gradients(model.ops());
            let (loss, stats) = forward_backward(&model, &micro, pass, &mut gradients);
            (micro, loss, stats, downloaded(&model, &gradients.list))
        };
        let (apart, loss_apart, stats_apart, expected) = run(Repeats::Apart);
        let (together, loss, stats, actual) = run(Repeats::Together);
        assert_eq!((apart.batch.n_texts(), together.batch.n_texts()), (4 * N_ROWS, 100 + 40 + N_ROWS));
        assert!(
            cut(&MicroBatch::text_lengths(&set, &rows, Take { repeats: Repeats::Together, ..take(3, 0) }).0).len() > 1
        );
        assert_eq!((stats.n_negatives, stats.n_masked_known), (stats_apart.n_negatives, stats_apart.n_masked_known));
        assert_close(&[loss], &[loss_apart], LOSS, 0.0);
        for (actual, expected) in actual.iter().zip(expected) {
            let largest = expected.iter().fold(0.0_f32, |largest, g| largest.max(g.abs()));
            assert_close(actual, &expected, ORDER * f64::from(largest) + ZERO, 0.0);
        }
    }
}

#[test]
fn texts_are_computed_once_where_nothing_is_dropped_and_the_forecast_knows() {
    let Some(mut model) = model("tiny-bert") else { return };
    let set = sharing_set(&model);
    let mut tokens = |dropout| {
        let settings = TrainSettings { dropout: Some(dropout), max_steps: Some(1), ..settings() };
        let limits = Limits { budget_bytes: None, load_bytes: 0, n_ranks: 1 };
        let (forecast, _) = forecast(&mut model, &set, None, &settings, limits).unwrap();
        let report = Trainer::new(&mut model, &set, &settings).unwrap().step().unwrap().unwrap();
        assert_eq!(report.n_tokens, forecast.tokens_per_epoch);
        assert_eq!(report.stats.n_queries, N_ROWS);
        report.n_tokens
    };
    let (dropped, plain) = (tokens(0.1), tokens(0.0));
    assert!(plain * 10 < dropped * 8, "{plain} of {dropped}");
}
