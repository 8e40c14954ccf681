//! Several ranks train as one process does with the joined settings: losses, masks and weights; what they refuse, and how they end.

use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use embertune::comm::{Alone, Communicator, Wire};
use embertune::data::Example;
use embertune::model::{Completed, Depth, EmbeddingModel};
use embertune::optim::OptimizerName;
use embertune::progress::Silent;
use embertune::train::ranks::{BUCKET, buckets};
use embertune::train::step::{MicroBatch, Pass, forward_backward, forward_backward_as_rank};
use embertune::train::sums::{Sums, Way};
use embertune::train::{
    AdaptationSettings, LossSettings, RemineEvery, Resume, StepReport, Steps, TrainSettings, Trainer, TrainingSet,
    dry_run_as_rank, train_as_rank,
};
use embertune::{Error, Result};
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::testing::assert_close;
use serde_json::Value;

use crate::golden::golden;
use crate::ranks::{ThreadRank, on_ranks};
use crate::said::Said;
use crate::training::{Job, examples, load, settings};

/// Two correct runs of tiny-bert differ by 7e-6 and 1.2e-5 (golden README).
const LOSS: f64 = 3e-5;
const GRAD_NORM: f64 = 5e-5;
/// The same where gradients are sent in bf16, whose rounding is 2^-9 of an addend and of a sum: measured 1.9e-4 of losses of about 3, and 1.6e-4.
const LOSS_BF16: f64 = 5e-4;
const GRAD_NORM_BF16: f64 = 5e-4;
/// Of a final weight at a learning rate of 1e-4, absolute: measured 5e-7 after 20 steps on 1 to 4 ranks (`scripts/mpi-check`).
const WEIGHT: f64 = 1e-5;
/// Relative to a tensor's largest gradient: f32 sums in another order (golden README).
const ORDER: f64 = 5e-4;
/// Gradients that are zero in exact arithmetic (key biases).
const ZERO: f64 = 2e-6;

/// Rows of which some share their positive or their query, so that masks have to hold across ranks.
fn sharing_examples(n: usize) -> Vec<Example> {
    let mut rows = examples(n, 2);
    for i in (0..n).step_by(3) {
        rows[i].positives = vec!["an answer to many".into()];
    }
    rows[n - 1].query = rows[0].query.clone();
    rows
}

/// A row whose texts make a batch of several chunks.
fn long(mut row: Example) -> Example {
    row.positives[0] += &" the flow of heat in a slip flow".repeat(3);
    row
}

fn model(settings: &TrainSettings) -> Option<EmbeddingModel<Cpu>> {
    let folder = golden("tiny-bert")?;
    Some(EmbeddingModel::load(Cpu::new(), &folder, &settings.overrides().unwrap(), &Silent).unwrap())
}

/// Weights that have an effect: a key bias has none, and a gradient that is noise.
fn effective_weights(model: &EmbeddingModel<Cpu>) -> Vec<f32> {
    let params = model.parameters().list.iter();
    let mut effective = Vec::new();
    for param in params {
        let values = model.ops().download(&param.value);
        let mut values = values.as_slice();
        for part in &param.parts {
            let (of_part, rest) = values.split_at(part.len());
            values = rest;
            if !part.name.ends_with(".key.bias") {
                effective.extend(of_part);
            }
        }
    }
    effective
}

/// All steps of a run as one of `ranks`, and the weights afterwards.
fn run(
    examples: &[Example],
    settings: &TrainSettings,
    ranks: &dyn Communicator,
) -> Option<(Vec<StepReport>, Vec<f32>)> {
    run_sending(BUCKET, examples, settings, ranks)
}

/// As [`run`], with gradients that are sent when they are `at_least` so many.
fn run_sending(
    at_least: usize,
    examples: &[Example],
    settings: &TrainSettings,
    ranks: &dyn Communicator,
) -> Option<(Vec<StepReport>, Vec<f32>)> {
    let (reports, weights) = try_sending(at_least, examples, settings, ranks, usize::MAX)?;
    Some((reports.into_iter().map(Result::unwrap).collect(), weights))
}

/// As [`run_sending`], up to `n_steps` or the first step that fails.
fn try_sending(
    at_least: usize,
    examples: &[Example],
    settings: &TrainSettings,
    ranks: &dyn Communicator,
    n_steps: usize,
) -> Option<(Vec<Result<StepReport>>, Vec<f32>)> {
    let settings = settings.joined(ranks.size());
    let mut model = model(&settings)?;
    settings.adaptation.apply(&mut model, "tiny-bert", settings.seed).unwrap();
    let set = TrainingSet::new(&model, examples, Path::new("train.jsonl"), &settings, &Silent).unwrap();
    let trainer = Trainer::as_rank(&mut model, Cow::Borrowed(&set), &settings, ranks).unwrap();
    let mut trainer = trainer.sending_at_least(at_least);
    trainer.cache_frozen_layers().unwrap();
    let mut reports = Vec::new();
    while reports.len() < n_steps && reports.last().is_none_or(Result::is_ok) {
        let Some(report) = trainer.step() else { break };
        reports.push(report);
    }
    Some((reports, effective_weights(&model)))
}

/// Runs `whole` on each of `ns` ranks, each with its part of the batch, and compares them with one process. Gives the pairs that were masked.
fn check(examples: &[Example], whole: &TrainSettings, ns: &[usize]) -> Option<usize> {
    let expected = run(examples, whole, &Alone)?;
    ns.iter().for_each(|&n| check_on(n, examples, whole, &expected));
    Some(expected.0.iter().map(|report| report.stats.n_masked_known).sum())
}

fn check_on(
    n: usize,
    examples: &[Example],
    whole: &TrainSettings,
    (expected, expected_weights): &(Vec<StepReport>, Vec<f32>),
) {
    let per_rank = match whole.negatives_cross_device {
        true => TrainSettings { per_device_train_batch_size: whole.per_device_train_batch_size / n, ..whole.clone() },
        false => TrainSettings { gradient_accumulation_steps: whole.gradient_accumulation_steps / n, ..whole.clone() },
    };
    assert_eq!(per_rank.joined(n), *whole);
    let all = on_ranks(n, |ranks| run(examples, &per_rank, &ranks).unwrap());
    for (reports, weights) in &all {
        assert!(*reports == all[0].0 && *weights == all[0].1, "all ranks have the same numbers to the last bit");
    }
    let (reports, weights) = &all[0];
    assert_eq!(reports.len(), expected.len());
    for (actual, expected) in reports.iter().zip(expected) {
        assert_close(&[actual.loss], &[expected.loss], LOSS, 0.0);
        assert_close(&[actual.grad_norm], &[expected.grad_norm], 0.0, GRAD_NORM);
        let counts = |r: &StepReport| (r.n_tokens, r.stats.n_queries, r.stats.n_negatives, r.stats.n_masked_known);
        assert_eq!(counts(actual), counts(expected));
    }
    assert_close(weights, expected_weights, WEIGHT, 0.0);
}

/// Epochs of two batches of 12 and one of 6, with the dropout of the model, at a learning rate whose noise is known.
fn shared(max_steps: usize) -> TrainSettings {
    TrainSettings {
        per_device_train_batch_size: 12,
        negatives_cross_device: true,
        learning_rate: 1e-4,
        max_steps: Some(max_steps),
        ..settings()
    }
}

#[test]
fn ranks_that_share_their_batches_train_as_one_process() {
    let n_masked = check(&sharing_examples(30), &shared(20), &[1, 2, 3, 4]);
    assert!(n_masked.is_none_or(|n| n > 0), "known positives are among the passages of other ranks");
}

#[test]
fn ranks_with_batches_of_their_own_train_as_one_process_that_accumulates() {
    for n in [2, 3, 4] {
        // Of the last step of an epoch some ranks have no batch.
        let settings = TrainSettings {
            per_device_train_batch_size: 4,
            gradient_accumulation_steps: 2 * n,
            max_steps: Some(4),
            negatives_cross_device: false,
            ..shared(4)
        };
        check(&sharing_examples(30), &settings, &[n]);
    }
}

#[test]
fn more_ranks_than_texts_have_nothing_to_do_and_change_nothing() {
    let settings = TrainSettings { per_device_train_batch_size: 4, train_group_size: 1, ..shared(3) };
    check(&examples(5, 0), &settings, &[4]);
}

#[test]
fn whatever_the_loss_and_what_is_trained_ranks_train_as_one_process() {
    let loss = LossSettings {
        matryoshka_dims: vec![48, 16],
        directions: embertune::loss::Directions::Joint,
        temperature_learning_rate: Some(1e-3),
        ..LossSettings::default()
    };
    check(&sharing_examples(24), &TrainSettings { loss, ..shared(4) }, &[3]);
    let adaptation = AdaptationSettings { lora_r: Some(4), ..AdaptationSettings::default() };
    check(&sharing_examples(24), &TrainSettings { adaptation, learning_rate: 1e-3, ..shared(4) }, &[2]);
    check(
        &sharing_examples(24),
        &TrainSettings { optim: OptimizerName::Adafactor, dropout: Some(0.0), ..shared(4) },
        &[2],
    );
}

#[test]
fn an_optimizer_state_that_ranks_share_gives_the_same_weights_to_the_last_bit() {
    let decays = TrainSettings { weight_decay: 0.1, ..shared(5) };
    let adaptation = AdaptationSettings { lora_r: Some(4), ..AdaptationSettings::default() };
    let lora = TrainSettings { adaptation, learning_rate: 1e-3, ..shared(3) };
    let apart = TrainSettings { negatives_cross_device: false, per_device_train_batch_size: 4, ..shared(3) };
    if model(&decays).is_none() {
        return;
    }
    for whole in [decays, lora, apart] {
        for n in 2..=4 {
            let each = TrainSettings { per_device_train_batch_size: 12 / n, ..whole.clone() };
            let on = |shard_optimizer| {
                let settings = TrainSettings { shard_optimizer, ..each.clone() };
                on_ranks(n, |ranks| run(&sharing_examples(30), &settings, &ranks).unwrap())
            };
            let [apart, shared] = [false, true].map(on);
            for ((reports, weights), (expected, expected_weights)) in shared.iter().zip(&apart) {
                assert!(weights == expected_weights, "weights on {n} ranks");
                for (report, expected) in reports.iter().zip(expected) {
                    // The squares are added up in another order, in f64.
                    assert_close(&[report.grad_norm], &[expected.grad_norm], 0.0, 1e-12);
                    assert_eq!(*report, StepReport { grad_norm: report.grad_norm, ..expected.clone() });
                }
                assert_eq!(reports.len(), expected.len());
            }
        }
    }
}

/// Of several layers each is sent by itself, or everything at once after the backward.
const SENT: [usize; 2] = [1, usize::MAX];

#[test]
fn sums_have_the_same_bits_whether_they_are_taken_while_the_backward_goes_on_or_after_it() {
    let rows = sharing_examples(30);
    let small = |settings| TrainSettings { per_device_train_batch_size: 2, ..settings };
    let accumulated = small(TrainSettings { gradient_accumulation_steps: 3, ..shared(4) });
    // Of the last step of an epoch some ranks have no batch.
    let apart = TrainSettings { negatives_cross_device: false, ..accumulated.clone() };
    let without_texts = TrainSettings { train_group_size: 1, per_device_train_batch_size: 1, ..shared(3) };
    let adapted = |adaptation| small(TrainSettings { adaptation, learning_rate: 1e-3, ..shared(3) });
    let lora = adapted(AdaptationSettings { lora_r: Some(4), ..AdaptationSettings::default() });
    let frozen =
        adapted(AdaptationSettings { freeze_layers: 1, cache_frozen_layers: true, ..AdaptationSettings::default() });
    for settings in [accumulated, apart, without_texts, lora, frozen] {
        for (n, shard_optimizer, reduce_dtype) in
            [(2, false, Wire::Fp32), (4, false, Wire::Bf16), (3, true, Wire::Fp32), (4, true, Wire::Bf16)]
        {
            let settings = TrainSettings { shard_optimizer, reduce_dtype, ..settings.clone() };
            let of = |at_least| on_ranks(n, |ranks| run_sending(at_least, &rows, &settings, &ranks));
            let [meanwhile, afterwards] = SENT.map(of);
            for (meanwhile, afterwards) in meanwhile.iter().flatten().zip(afterwards.iter().flatten()) {
                assert!(meanwhile.1 == afterwards.1, "weights on {n} ranks");
                for (report, expected) in meanwhile.0.iter().zip(&afterwards.0) {
                    // Squares of shares are added up in another order, in f64.
                    assert_close(&[report.grad_norm], &[expected.grad_norm], 0.0, 1e-12);
                    assert_eq!(*report, StepReport { grad_norm: report.grad_norm, ..expected.clone() });
                }
            }
        }
    }
}

/// 150 rows of long texts, all in one batch, with their model.
fn a_batch_of_several_chunks() -> Option<(TrainSettings, EmbeddingModel<Cpu>, TrainingSet)> {
    let settings = TrainSettings { per_device_train_batch_size: 150, ..shared(1) };
    let model = model(&settings)?;
    let rows: Vec<_> = sharing_examples(150).into_iter().map(long).collect();
    let set = TrainingSet::new(&model, &rows, Path::new("train.jsonl"), &settings, &Silent).unwrap();
    Some((settings, model, set))
}

#[test]
fn the_upper_layers_are_summed_before_the_lower_ones_are_computed() {
    let Some((settings, model, set)) = a_batch_of_several_chunks() else { return };
    let dropout = settings.dropout_rates(model.dropout());
    let order: Vec<_> = (0..set.rows.len()).collect();
    let objective = settings.objective();
    let (ops, parameters) = (model.ops(), model.parameters());
    let buckets = buckets(parameters, 1);
    on_ranks(2, |ranks| {
        let micro = MicroBatch::new(&set, &order, settings.take(dropout, 0)).unwrap();
        assert!(micro.chunks().len() >= 4, "{} tokens", micro.batch.n_tokens());
        let pass = Pass { objective: &objective, dropout, frozen: None, weight: 1.0, kept_tokens: 0 };
        let gradients_telling = |completed: &mut Completed<'_, Cpu>| {
            let mut gradients = parameters.zero_gradients(ops);
            forward_backward_as_rank(&model, &micro, pass, &ranks, &mut gradients, completed).unwrap();
            gradients
        };
        let sent = || ranks.n_sent_bytes.load(Relaxed);
        let (mut before, mut depths) = (None, Vec::new());
        let summed = thread::scope(|scope| {
            let way = Way { buckets: &buckets, shard: None, wire: Wire::Fp32 };
            let mut sums = Sums::begin(scope, ops, way, &ranks);
            let mut gradients = gradients_telling(&mut |depth, gradients| {
                let before = *before.get_or_insert_with(sent);
                sums.completed(depth, gradients);
                depths.push(depth);
                let upper = parameters.list.iter().filter(|param| param.depth >= depth);
                let expected: usize = upper.map(|param| size_of::<f32>() * param.n_values()).sum();
                // The backward of this rank waits here, and goes on when the layer is summed.
                let began = Instant::now();
                while sent() - before < expected && began.elapsed() < Duration::from_secs(20) {
                    thread::sleep(Duration::from_millis(1));
                }
                assert_eq!(sent() - before, expected, "at {depth:?}");
            });
            sums.finish(&mut gradients).unwrap();
            gradients
        });
        assert_eq!(depths, [2, 1, 0].map(Depth::Layer), "once, in the last chunk");
        let own = gradients_telling(&mut |_, _| {});
        for (own, summed) in own.list.iter().zip(&summed.list) {
            let mut expected = ops.download(own);
            ranks.all_reduce(&mut expected, Wire::Fp32).unwrap();
            assert!(ops.download(summed) == expected);
        }
    });
}

#[test]
fn a_rank_that_is_gone_before_gradients_are_summed_is_named() {
    for negatives_cross_device in [true, false] {
        let settings = TrainSettings { negatives_cross_device, per_device_train_batch_size: 4, ..shared(3) };
        let ended = on_ranks(3, |ranks| {
            let n_steps = if ranks.rank() == 1 { 1 } else { usize::MAX };
            let (mut reports, _) = try_sending(1, &sharing_examples(30), &settings, &ranks, n_steps)?;
            Some((reports.len(), reports.pop()?.err().map(|error| error.to_string())))
        });
        let named = Some((2, Some("rank 1 on bela: has ended".into())));
        assert!(ended[0].is_none() || ended == [named.clone(), Some((1, None)), named], "{ended:?}");
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_named_also_where_no_rank_has_all_sums() {
    for (negatives_cross_device, n) in [(true, 2), (true, 3), (false, 3)] {
        let on = |shard_optimizer| {
            let settings = TrainSettings {
                // Losses are finite in f32 still, and gradients no longer are.
                temperature: 4e-39,
                negatives_cross_device,
                shard_optimizer,
                per_device_train_batch_size: 2,
                dropout: Some(0.0),
                ..shared(2)
            };
            let first = |ranks| try_sending(1, &sharing_examples(30), &settings, &ranks, 1)?.0.pop()?.err();
            on_ranks(n, first)
        };
        let ended = on(true);
        let Some(Some(error)) = ended.first() else { return };
        let tensor = "step 1: the gradient of `embeddings.word_embeddings.weight` is not finite";
        assert!(error.to_string().starts_with(tensor), "{error}");
        assert_eq!(error.to_string(), on(false)[0].as_ref().unwrap().to_string());
        assert!(ended[1..].iter().all(|error| matches!(error, Some(Error::Ended))), "{ended:?}");
    }
}

#[test]
fn gradients_that_are_sent_in_bf16_change_losses_by_little() {
    let Some((expected, _)) = run(&sharing_examples(30), &shared(20), &Alone) else { return };
    for (n, shard_optimizer) in [(2, false), (3, false), (4, false), (3, true)] {
        let settings = TrainSettings {
            per_device_train_batch_size: 12 / n,
            reduce_dtype: Wire::Bf16,
            shard_optimizer,
            ..shared(20)
        };
        let all = on_ranks(n, |ranks| run(&sharing_examples(30), &settings, &ranks).unwrap());
        for (reports, weights) in &all {
            assert!(*reports == all[0].0 && *weights == all[0].1, "all ranks have the same numbers to the last bit");
        }
        for (actual, expected) in all[0].0.iter().zip(&expected) {
            assert_close(&[actual.loss], &[expected.loss], LOSS_BF16, 0.0);
            assert_close(&[actual.grad_norm], &[expected.grad_norm], 0.0, GRAD_NORM_BF16);
        }
    }
}

#[test]
fn chunks_of_ranks_have_the_gradient_of_the_batch_whatever_is_kept() {
    let Some((settings, model, set)) = a_batch_of_several_chunks() else { return };
    let dropout = settings.dropout_rates(model.dropout());
    let order: Vec<_> = (0..set.rows.len()).collect();
    let objective = settings.objective();
    let gradients = |ranks: Option<&ThreadRank>, kept_tokens| {
        let model = self::model(&settings).unwrap();
        let micro = MicroBatch::new(&set, &order, settings.take(dropout, 0)).unwrap();
        assert!(micro.chunks().len() >= 4, "{} tokens", micro.batch.n_tokens());
        let pass = Pass { objective: &objective, dropout, frozen: None, weight: 1.0, kept_tokens };
        let mut gradients = model.parameters().zero_gradients(model.ops());
        let (loss, _) = match ranks {
            Some(ranks) => {
                forward_backward_as_rank(&model, &micro, pass, ranks, &mut gradients, &mut |_, _| {}).unwrap()
            }
            None => forward_backward(&model, &micro, pass, &mut gradients),
        };
        (loss, gradients.list.iter().map(|g| model.ops().download(g)).collect::<Vec<_>>())
    };
    let (loss, expected) = gradients(None, usize::MAX);
    let [none, all] = [0, usize::MAX].map(|kept| on_ranks(2, |ranks| gradients(Some(&ranks), kept)));
    assert!(none == all, "memory changes no bit");
    assert_close(&[none[0].0], &[loss], LOSS, 0.0);
    for (id, expected) in expected.iter().enumerate() {
        let sum: Vec<_> = none[0].1[id].iter().zip(&none[1].1[id]).map(|(a, b)| a + b).collect();
        let largest = expected.iter().fold(0.0_f32, |largest, g| largest.max(g.abs()));
        assert_close(&sum, expected, ORDER * f64::from(largest) + ZERO, 0.0);
    }
}

/// The whole job on `n` ranks, of which each may have other settings. What each gives, and what it said.
fn train_on(
    n: usize,
    settings: impl Fn(usize) -> TrainSettings + Sync,
    said: impl Fn() -> Said + Sync,
) -> Vec<(Result<bool>, Vec<String>)> {
    on_ranks(n, |ranks| {
        let said = said();
        let record = train_as_rank(Cpu::new(), &settings(ranks.rank()), &ranks, &said);
        (record.map(|record| record.is_some()), said.lines())
    })
}

/// A run of 6 steps that evaluates, with the best model and checkpoints.
fn job() -> Option<Job> {
    let mut job = Job::new()?;
    job.settings = TrainSettings {
        per_device_train_batch_size: 4,
        negatives_cross_device: true,
        learning_rate: 1e-4,
        max_steps: Some(6),
        eval_split: Some(0.34),
        eval_steps: Some(Steps::Number(3)),
        load_best_model_at_end: true,
        logging_steps: Steps::Number(1),
        save_steps: Steps::Number(2),
        ..job.settings
    };
    Some(job)
}

fn losses(job: &Job) -> Vec<f64> {
    let log = fs::read_to_string(job.output("log.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

/// Of the model after the last step.
fn last_weights(job: &Job) -> Vec<f32> {
    let last = job.output("last");
    effective_weights(&load(if last.is_dir() { &last } else { &job.settings.output_dir }))
}

/// The same job on `n` ranks, each with its part of the batch.
fn on(job: &Job, n: usize) -> TrainSettings {
    let per_device_train_batch_size = job.settings.per_device_train_batch_size / n;
    TrainSettings { per_device_train_batch_size, ..job.settings.clone() }
}

#[test]
fn the_whole_job_gives_one_output_folder_and_goes_on_with_another_number_of_ranks() {
    let Some(whole) = job() else { return };
    whole.train().unwrap();
    let expected = losses(&whole);
    assert_eq!(expected.len(), 6);
    let expected_weights = last_weights(&whole);

    let job = job().unwrap();
    // Any rank may be asked to stop.
    let stopped = train_on(2, |_| on(&job, 2), || Said::stopping_at(3));
    for (result, _) in &stopped {
        assert!(matches!(result, Err(Error::Interrupted { step: 3, .. })), "{result:?}");
    }
    let again = |rank| TrainSettings {
        // Rank 0 alone reads the checkpoint.
        resume_from_checkpoint: (rank == 0).then_some(Resume::Last),
        ..on(&job, 4)
    };
    let resumed = train_on(4, again, Said::default);
    let has_record: Vec<_> = resumed.iter().map(|(result, _)| *result.as_ref().unwrap()).collect();
    assert_eq!(has_record, [true, false, false, false]);
    assert!(resumed[0].1.iter().any(|line| line.starts_with("note: goes on after step 3")), "{:?}", resumed[0].1);
    let record: Value = serde_json::from_str(&fs::read_to_string(job.output("run.json")).unwrap()).unwrap();
    assert_eq!((&record["ranks"], &record["settings"]["per_device_train_batch_size"]), (&4.into(), &1.into()));
    assert_close(&losses(&job), &expected, LOSS, 0.0);
    assert_close(&last_weights(&job), &expected_weights, WEIGHT, 0.0);

    // What no rank has whole is whole in a checkpoint, so that it goes on on any number of ranks, and in one process.
    for (n_resumed, shard_optimizer) in [(4, true), (2, false), (1, false)] {
        let shared = self::job().unwrap();
        let each = |n, shard_optimizer| TrainSettings { shard_optimizer, ..on(&shared, n) };
        train_on(2, |_| each(2, true), || Said::stopping_at(3));
        let again = TrainSettings { resume_from_checkpoint: Some(Resume::Last), ..each(n_resumed, shard_optimizer) };
        let resumed = train_on(n_resumed, |_| again.clone(), Said::default);
        assert!(resumed.iter().all(|(result, _)| result.is_ok()), "{resumed:?}");
        assert_close(&losses(&shared), &expected, LOSS, 0.0);
        assert_close(&last_weights(&shared), &expected_weights, WEIGHT, 0.0);
    }

    // Twice the rows in a step would be another run.
    let Some(mut other) = self::job() else { return };
    other.settings.eval_split = None;
    other.settings.eval_steps = None;
    other.settings.load_best_model_at_end = false;
    train_on(2, |_| on(&other, 2), || Said::stopping_at(1));
    let doubled = TrainSettings { resume_from_checkpoint: Some(Resume::Last), ..on(&other, 2) };
    let refused = train_on(4, |_| doubled.clone(), Said::default);
    let error = refused[0].0.as_ref().unwrap_err().to_string();
    assert!(error.contains("`--per_device_train_batch_size` was 4 and is 8"), "{error}");
}

#[test]
fn an_evaluation_that_ranks_share_has_the_numbers_of_one_process() {
    let Some(whole) = job() else { return };
    whole.train().unwrap();
    let job = job().unwrap();
    train_on(3, |_| TrainSettings { per_device_train_batch_size: 2, ..on(&job, 1) }, Said::default);
    let of = |job: &Job| {
        let log = fs::read_to_string(job.output("log.jsonl")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let first = lines.into_iter().find(|line| line["step"] == 0).unwrap();
        ["eval_loss", "eval_mrr@10", "eval_ndcg@10", "eval_hit@1"].map(|field| first[field].as_f64().unwrap())
    };
    // The model before the first step is the same, and so are all bits.
    assert_eq!(of(&job), of(&whole));
}

#[test]
fn a_step_sends_twice_the_trained_values_and_the_embeddings() {
    let Some(mut job) = job() else { return };
    job.settings = TrainSettings {
        eval_split: None,
        eval_steps: None,
        load_best_model_at_end: false,
        per_device_train_batch_size: 6,
        ..job.settings
    };
    for n in 1..=3 {
        job.settings.overwrite_output_dir = true;
        let results = train_on(n, |_| on(&job, n), Said::default);
        assert!(results.iter().all(|(result, _)| result.is_ok()));
        let log = fs::read_to_string(job.output("log.jsonl")).unwrap();
        let line: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        if n == 1 {
            assert_eq!(line["wire_per_step"], Value::Null);
            continue;
        }
        let record: Value = serde_json::from_str(&fs::read_to_string(job.output("run.json")).unwrap()).unwrap();
        let sums = 8.0 * record["counts"]["parameters"].as_f64().unwrap() * (n - 1) as f64 / n as f64;
        for way in ["sent_bytes", "received_bytes"] {
            let measured = line["wire_per_step"][way].as_f64().unwrap();
            // A few embeddings of 48 values, and what ranks tell each other about the step.
            assert!(measured > sums && measured < sums + 20_000.0, "{way} on {n} ranks: {measured}, {sums}");
            let of_run = record["traffic"][way].as_f64().unwrap();
            assert!((of_run - 6.0 * measured).abs() < 0.05 * of_run, "{of_run} in 6 steps");
        }
        assert!(results[0].1.iter().any(|line| line.contains("a step of rank 0 sent")));
    }
}

#[test]
fn moments_that_ranks_share_are_saved_as_those_of_one_process() {
    let saved = |shard_optimizer| {
        let job = job()?;
        train_on(3, |_| TrainSettings { shard_optimizer, ..on(&job, 4) }, || Said::stopping_at(2));
        let checkpoint = job.root.path().join("out.partial/checkpoint-2");
        Some(["optimizer.safetensors", "model.safetensors"].map(|name| fs::read(checkpoint.join(name)).unwrap()))
    };
    let (Some(apart), Some(shared)) = (saved(false), saved(true)) else { return };
    assert!(shared == apart);
}

#[test]
fn the_plan_knows_how_much_of_the_optimizer_a_rank_has() {
    let Some(job) = job() else { return };
    let planned = |n: usize, shard_optimizer| {
        let settings = TrainSettings { shard_optimizer, ..on(&job, 1) };
        let plans = on_ranks(n, |ranks| dry_run_as_rank(Cpu::new(), &settings, &ranks, &Said::default()).unwrap());
        plans[0].buffer_limit as f64
    };
    let n_trained = load(&golden("tiny-bert").unwrap()).parameters().n_trained();
    for n in 2..=4 {
        let saved = planned(n, false) - planned(n, true);
        let moments = 8.0 * n_trained as f64;
        let share_of_others = (n - 1) as f64 / n as f64;
        assert_close(&[saved], &[1.1 * share_of_others * moments], 0.1 * moments, 0.0);
    }
}

#[test]
fn ranks_that_are_not_at_the_same_run_are_told_what_differs() {
    let Some(job) = job() else { return };
    let other = job.root.path().join("other.jsonl");
    let text = fs::read_to_string(&job.settings.train_data).unwrap();
    fs::write(&other, text.replacen("answer 3", "answer three", 1)).unwrap();
    let missing = job.root.path().join("missing.jsonl");
    type Change<'a> = &'a (dyn Fn(&mut TrainSettings) + Sync);
    let cases: [(Change<'_>, &str); 6] = [
        (
            &|s| s.train_data = other.clone(),
            "rank 1 on bela: is not at the run of rank 0: the content of `--train_data`",
        ),
        (&|s| s.seed = 7, "rank 1 on bela: is not at the run of rank 0: `--seed` on rank 0 is 42 and here is 7"),
        (&|s| s.shard_optimizer = true, "`--shard_optimizer` on rank 0 is false and here is true"),
        (&|s| s.reduce_dtype = Wire::Bf16, "`--reduce_dtype` on rank 0 is `fp32` and here is `bf16`"),
        (&|s| s.negatives_cross_device = false, "`--per_device_train_batch_size` on rank 0 is 4 and here is 2"),
        (&|s| s.train_data = missing.clone(), "rank 1 on bela: "),
    ];
    for (change, problem) in cases {
        let settings = |rank| {
            let mut settings = on(&job, 2);
            if rank == 1 {
                change(&mut settings);
            }
            settings
        };
        let refused = train_on(2, settings, Said::default);
        let error = refused[0].0.as_ref().unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
        assert!(matches!(refused[1].0, Err(Error::Ended)));
        assert!(!job.settings.output_dir.exists() && !job.root.path().join("out.partial").exists());
    }
    let refused = train_on(2, |_| TrainSettings { find_batch_size: true, ..on(&job, 2) }, Said::default);
    assert!(refused[0].0.as_ref().unwrap_err().to_string().contains("`--find_batch_size` with 2 ranks"));
}

#[test]
fn rounds_of_mining_give_all_ranks_the_same_negatives() {
    let Some(mut whole) = job() else { return };
    let rounds = |job: &Job| TrainSettings {
        remine_every: Some(RemineEvery::Steps(2)),
        eval_split: None,
        eval_steps: None,
        load_best_model_at_end: false,
        ..job.settings.clone()
    };
    whole.settings = rounds(&whole);
    whole.train().unwrap();
    let mut job = job().unwrap();
    job.settings = rounds(&job);
    train_on(2, |_| on(&job, 2), || Said::stopping_at(3));
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    let resumed = train_on(2, |_| on(&job, 2), Said::default);
    assert!(resumed.iter().all(|(result, _)| result.is_ok()));
    assert_close(&losses(&job), &losses(&whole), LOSS, 0.0);
    let mined = |job: &Job| fs::read_to_string(job.output("mined-4.jsonl")).unwrap();
    assert_eq!(mined(&job), mined(&whole));
}

#[test]
fn a_guide_masks_the_pairs_that_it_masks_in_one_process() {
    let (Some(mut whole), Some(guide)) = (job(), golden("tiny-bert")) else { return };
    let guided = |job: &Job| {
        let loss = LossSettings { guide_model: Some(guide.display().to_string()), ..job.settings.loss.clone() };
        let per_device_train_batch_size = 6;
        let (eval_split, eval_steps, load_best_model_at_end) = (None, None, false);
        TrainSettings {
            loss,
            per_device_train_batch_size,
            eval_split,
            eval_steps,
            load_best_model_at_end,
            ..job.settings.clone()
        }
    };
    let n_masked = |job: &Job| {
        let log = fs::read_to_string(job.output("log.jsonl")).unwrap();
        let of_line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["masked_similar"].as_u64().unwrap();
        log.lines().map(of_line).collect::<Vec<_>>()
    };
    whole.settings = guided(&whole);
    whole.train().unwrap();
    assert!(n_masked(&whole).iter().sum::<u64>() > 0);
    for n in [2, 3] {
        let mut job = job().unwrap();
        job.settings = guided(&job);
        let results = train_on(n, |_| on(&job, n), Said::default);
        assert!(results.iter().all(|(result, _)| result.is_ok()), "{results:?}");
        assert_close(&losses(&job), &losses(&whole), LOSS, 0.0);
        assert_eq!(n_masked(&job), n_masked(&whole));
    }
}

#[test]
fn a_loss_that_is_not_finite_on_one_rank_ends_all_with_its_rows() {
    let Some(job) = job() else { return };
    let settings = TrainSettings {
        learning_rate: 1e38,
        eval_split: None,
        load_best_model_at_end: false,
        eval_steps: None,
        ..on(&job, 2)
    };
    for negatives_cross_device in [true, false] {
        let settings = TrainSettings { negatives_cross_device, overwrite_output_dir: true, ..settings.clone() };
        let ended = train_on(2, |_| settings.clone(), Said::default);
        let error = ended[0].0.as_ref().unwrap_err();
        assert!(error.to_string().contains("step 2: ") && error.hint().is_some(), "{error}");
        assert!(matches!(ended[1].0, Err(Error::Ended)), "{:?}", ended[1].0);
    }
}
