//! Interrupted runs that go on, and evaluation while a model trains.

use std::fs;
use std::path::{Path, PathBuf};

use embertune::Error;
use embertune::data::read_examples;
use embertune::device::Precision;
use embertune::embed::cache::{Embedding, VectorCache};
use embertune::eval::{EvalSettings, Metric, evaluate, queries_of};
use embertune::progress::{Progress, Silent};
use embertune::text::Role;
use embertune::train::evaluation::{passages_of, split};
use embertune::train::{
    BatchSampler, EvaluationEvent, LossName, LossSettings, Measure, MergeAlpha, Observer, Plan, ReportTo, Resume,
    SamplingStrategy, StepEvent, Steps, Strategy, TrainSettings,
};
use embertune_kernels::cpu::Cpu;
use serde_json::Value;

use crate::golden::golden;
use crate::said::Said;
use crate::training::{Job, load, weights};

/// A job of 9 steps with dropout and accumulation that evaluates on a third of its queries after every second step.
fn job() -> Option<Job> {
    let mut job = Job::new()?;
    job.settings = TrainSettings {
        max_steps: Some(9),
        gradient_accumulation_steps: 2,
        per_device_train_batch_size: 3,
        logging_steps: Steps::Number(2),
        save_steps: Steps::Number(4),
        save_total_limit: None,
        eval_split: Some(0.34),
        eval_steps: Some(Steps::Number(2)),
        load_best_model_at_end: true,
        ..job.settings
    };
    Some(job)
}

/// The log without what depends on the clock.
fn log(job: &Job) -> Vec<Value> {
    let lines = fs::read_to_string(job.output("log.jsonl")).unwrap();
    let timed = ["examples_per_s", "tokens_per_s", "eval_seconds"];
    let without = |mut line: Value| {
        timed.iter().for_each(|key| drop(line.as_object_mut().unwrap().remove(*key)));
        line
    };
    lines.lines().map(|line| without(serde_json::from_str(line).unwrap())).collect()
}

fn record(job: &Job) -> Value {
    serde_json::from_str(&fs::read_to_string(job.output("run.json")).unwrap()).unwrap()
}

fn partial(job: &Job) -> PathBuf {
    job.settings.output_dir.with_file_name("out.partial")
}

/// The final model, the last model where it is another one, the log, and what the record says of the results.
fn outcome(job: &Job) -> (Vec<u8>, Option<Vec<u8>>, Vec<Value>, Vec<Value>) {
    let record = record(job);
    let results = ["counts", "losses", "evaluation", "step_of_model"].map(|key| record[key].clone());
    let model = fs::read(job.output("model.safetensors")).unwrap();
    (model, fs::read(job.output("last/model.safetensors")).ok(), log(job), results.to_vec())
}

#[test]
fn a_run_that_is_stopped_and_resumed_is_the_uninterrupted_one_bit_for_bit() {
    let Some(whole) = job() else { return };
    whole.train().unwrap();
    let expected = outcome(&whole);
    assert!(expected.2.iter().any(|line| line["step"] == 0 && line["eval_mrr@10"].is_number()));
    for stop in 1..9 {
        let mut job = job().unwrap();
        let error = job.train_and_say(&Said::stopping_at(stop)).unwrap_err();
        assert!(matches!(error, Error::Interrupted { step, .. } if step == stop), "{error}");
        assert!(error.hint().unwrap().contains("--resume_from_checkpoint last"));
        assert!(!job.settings.output_dir.exists());
        job.settings.resume_from_checkpoint = Some(Resume::Last);
        // These may change on the way.
        job.settings.save_steps = Steps::Number(3);
        job.settings.save_total_limit = Some(1);
        job.train().unwrap();
        assert!(outcome(&job) == expected, "stopped after step {stop}");
        assert_eq!(record(&job)["resumed_after"], serde_json::json!([stop]));
        assert!(!partial(&job).exists());
    }
}

#[test]
fn a_run_that_is_stopped_in_an_evaluation_begins_with_it_when_it_goes_on() {
    let Some(whole) = job() else { return };
    whole.train().unwrap();
    let mut job = job().unwrap();
    // After step 4 an evaluation and a checkpoint are due.
    let error = job.train_and_say(&Said::stopping_at(4)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { step: 4, .. }), "{error}");
    let checkpoint = partial(&job).join("checkpoint-4");
    let evaluated = |log: &str| log.contains(r#"{"step":4,"epoch":"#) && log.contains("eval_loss");
    let log = fs::read_to_string(checkpoint.join("log.jsonl")).unwrap();
    assert!(!log.lines().any(|line| line.starts_with(r#"{"step":4,"#) && evaluated(line)), "{log}");
    // Again, where it was; then after the next step.
    for (stop, expected) in [(0, 4), (5, 5)] {
        job.settings.resume_from_checkpoint = Some(Resume::Path(checkpoint.clone()));
        let error = job.train_and_say(&Said::stopping_at(stop)).unwrap_err();
        assert!(matches!(error, Error::Interrupted { step, .. } if step == expected), "{error}");
    }
    // What was the best model meanwhile is found again.
    assert!(partial(&job).join("best-4").exists());
    job.settings.resume_from_checkpoint = Some(Resume::Path(checkpoint));
    job.train().unwrap();
    assert!(outcome(&job) == outcome(&whole));
}

/// What is in the output folder.
fn names(job: &Job) -> Vec<String> {
    let entries = fs::read_dir(&job.settings.output_dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_run_that_is_stopped_while_it_mixes_goes_on_there_bit_for_bit() {
    // To the last step, and to where it stops early.
    for (last, patience) in [(9, None), (3, Some(2))] {
        let mixing = || {
            let mut job = job()?;
            job.settings.eval_steps = Some(Steps::Number(1));
            job.settings.merge_alpha = Some(MergeAlpha::Auto);
            job.settings.early_stopping_patience = patience;
            job.settings.early_stopping_threshold = 2.0;
            Some(job)
        };
        let Some(whole) = mixing() else { return };
        whole.train().unwrap();
        let mut job = mixing().unwrap();
        let error = job.train_and_say(&Said::stopping_at(last)).unwrap_err();
        let Error::Interrupted { step, checkpoint } = error else { panic!("{error}") };
        assert_eq!((step, checkpoint), (last, partial(&job).join(format!("checkpoint-{last}"))));
        assert!(!job.settings.output_dir.exists());
        job.settings.resume_from_checkpoint = Some(Resume::Last);
        // Again, where it was.
        job.train_and_say(&Said::stopping_at(0)).unwrap_err();
        job.train().unwrap();
        assert!(outcome(&job) == outcome(&whole), "stopped after step {last}");
        // This process had evaluated neither the base nor the tuned model.
        assert_eq!(record(&job)["merging"], record(&whole)["merging"]);
        assert_eq!(names(&job), names(&whole));
        assert!(!partial(&job).exists() && !job.output(&format!("checkpoint-{last}")).exists());
    }
}

#[test]
fn kept_vectors_change_no_evaluation_and_are_those_of_base_and_saved_model() {
    let (Some(whole), Some(base)) = (job(), golden("tiny-bert")) else { return };
    whole.train().unwrap();
    let mut job = job().unwrap();
    let cache = VectorCache::new(job.root.path().join("vectors"), 1.0);
    job.settings.vector_cache = Some(cache.folder.clone());
    job.train().unwrap();
    assert!(outcome(&job) == outcome(&whole));
    let examples = read_examples(&job.settings.train_data, &Silent).unwrap();
    let passages = passages_of(&examples).unwrap();
    let passages: Vec<_> = passages.iter().map(String::as_str).collect();
    for folder in [&base, &job.settings.output_dir] {
        let said = Said::default();
        let embedding = Embedding { cache: Some(&cache), ..Embedding::from(256) };
        embedding.embed(&load(folder), &passages, Role::Passage, &said).unwrap();
        assert_eq!(said.units(), 0, "{}", folder.display());
    }
}

#[test]
fn every_way_to_make_batches_goes_on_where_it_was() {
    for (strategy, sampler) in [
        (SamplingStrategy::Random, BatchSampler::NoDuplicates),
        (SamplingStrategy::GroupByLength, BatchSampler::BatchSampler),
        (SamplingStrategy::Sequential, BatchSampler::NoDuplicates),
    ] {
        let Some(mut whole) = job() else { return };
        whole.settings.train_sampling_strategy = strategy;
        whole.settings.batch_sampler = sampler;
        // One of two negatives in each epoch.
        whole.settings.train_group_size = 2;
        whole.settings.dataloader_drop_last = true;
        whole.settings.eval_split = None;
        whole.settings.eval_steps = None;
        whole.settings.load_best_model_at_end = false;
        whole.train().unwrap();
        let settings = whole.settings.clone();
        let expected = outcome(&whole);
        whole.settings = TrainSettings { output_dir: whole.root.path().join("again"), ..settings };
        whole.train_and_say(&Said::stopping_at(5)).unwrap_err();
        whole.settings.resume_from_checkpoint = Some(Resume::Last);
        whole.train().unwrap();
        assert!(outcome(&whole) == expected, "{strategy} {sampler}");
    }
}

#[test]
fn several_data_sets_go_on_where_they_were_and_are_told_apart() {
    let Some(mut job) = job() else { return };
    let other = job.root.path().join("other.jsonl");
    let row =
        |i: usize| serde_json::json!({"query": format!("word {i}"), "pos": [format!("text {i}")], "neg": ["an other"]});
    fs::write(&other, (0..5).map(|i| format!("{}\n", row(i))).collect::<String>()).unwrap();
    job.settings = TrainSettings {
        more_train_data: vec![other.clone()],
        dataset_weights: vec![0.5, 2.0],
        gradient_accumulation_steps: 1,
        eval_split: None,
        eval_steps: None,
        load_best_model_at_end: false,
        ..job.settings
    };
    let said = Said::default();
    job.train_and_say(&said).unwrap();
    assert!(
        said.lines().iter().any(|line| line.ends_with("5 rows, of which an epoch takes 9, in 3 batches of their own"))
    );
    let expected = outcome(&job);
    job.settings.output_dir = job.root.path().join("again");
    job.train_and_say(&Said::stopping_at(6)).unwrap_err();
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    let rows = fs::read_to_string(&other).unwrap();
    fs::write(&other, rows.replace("text 3", "text three")).unwrap();
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("the content of `--train_data` is another one"), "{error}");
    fs::write(&other, rows).unwrap();
    job.train().unwrap();
    assert!(outcome(&job) == expected);

    for (settings, problem) in [
        (TrainSettings { dataset_weights: vec![1.0], ..job.settings.clone() }, "`--dataset_weights` has 1 numbers"),
        (
            TrainSettings { dataset_weights: vec![1.0, 0.0], ..job.settings.clone() },
            "`--dataset_weights 0` is not allowed",
        ),
        (
            TrainSettings { eval_split: Some(0.1), ..job.settings.clone() },
            "`--eval_split` takes its queries from a single",
        ),
    ] {
        let error = settings.validate().unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn events_of_a_resumed_run_are_those_of_the_whole_run() {
    if job().is_none() {
        return;
    }
    // The time of each event aside.
    let events = |job: &Job| {
        let file = fs::read(job.output("runs/events.out.tfevents.0.embertune")).unwrap();
        let mut events = Vec::new();
        let mut rest = &file[..];
        while let Some(length) = rest.get(..8).map(|length| u64::from_le_bytes(length.try_into().unwrap()) as usize) {
            events.push(String::from_utf8_lossy(&rest[12 + 9..12 + length]).matches("train/loss").count());
            rest = &rest[length + 16..];
        }
        events
    };
    let job = |stop: Option<usize>| {
        let mut job = job().unwrap();
        job.settings.report_to = ReportTo::Tensorboard;
        if let Some(stop) = stop {
            job.settings.save_steps = Steps::Number(2);
            job.train_and_say(&Said::stopping_at(stop)).unwrap_err();
            // From before the last events.
            job.settings.resume_from_checkpoint = Some(Resume::Path(partial(&job).join("checkpoint-4")));
        }
        job.train().unwrap();
        job
    };
    let expected = events(&job(None));
    // The version, 6 evaluations, 5 lines of the log.
    assert_eq!((expected.len(), expected.iter().sum::<usize>()), (12, 5));
    assert_eq!(events(&job(Some(7))), expected);
}

#[test]
fn a_run_goes_on_from_an_earlier_checkpoint_as_well() {
    let Some(mut job) = job() else { return };
    job.train_and_say(&Said::stopping_at(8)).unwrap_err();
    let earlier = partial(&job).join("checkpoint-4");
    job.settings.resume_from_checkpoint = Some(Resume::Path(earlier));
    job.train().unwrap();
    let resumed = outcome(&job);
    let whole = self::job().unwrap();
    whole.train().unwrap();
    assert!(resumed == outcome(&whole));
}

#[test]
fn a_checkpoint_of_another_run_is_refused_by_what_differs_and_stays() {
    let Some(mut job) = job() else { return };
    job.train_and_say(&Said::stopping_at(5)).unwrap_err();
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    let good = job.settings.clone();
    for (settings, difference) in [
        (TrainSettings { seed: 1, ..good.clone() }, "`--seed` was 42 and is 1"),
        (TrainSettings { precision: Precision::Bf16, ..good.clone() }, "`--precision` was `auto` and is `bf16`"),
        (TrainSettings { max_steps: Some(10), ..good.clone() }, "`--max_steps` was 9 and is 10"),
    ] {
        job.settings = settings;
        let error = job.train().unwrap_err();
        assert!(error.to_string().contains(difference), "{error}");
        assert!(error.to_string().contains("checkpoint-5"), "{error}");
    }
    job.settings = good.clone();
    let data = fs::read_to_string(&good.train_data).unwrap();
    fs::write(&good.train_data, data.replace("answer 3", "answer three")).unwrap();
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("the content of `--train_data` is another one"), "{error}");
    fs::write(&good.train_data, data).unwrap();

    let other = job.root.path().join("other-base");
    load(good.model_name_or_path.as_ref()).save(&other).unwrap();
    let config = other.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"hidden_dropout_prob\": 0.1", "\"hidden_dropout_prob\": 0.2")).unwrap();
    assert_ne!(fs::read_to_string(&config).unwrap(), text);
    job.settings.model_name_or_path = other.to_str().unwrap().into();
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("the base model is another one"), "{error}");

    job.settings = good;
    job.train().unwrap();
}

#[test]
fn other_adapters_are_no_other_base_model() {
    let Some(mut job) = job() else { return };
    job.settings.adaptation.lora_r = Some(2);
    job.train_and_say(&Said::stopping_at(5)).unwrap_err();
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    let good = job.settings.clone();
    let with = |lora_r| {
        let mut settings = good.clone();
        settings.adaptation.lora_r = lora_r;
        settings
    };
    for (settings, difference) in [
        (with(Some(3)), "`--lora_r` was 2 and is 3"),
        (with(None), "`--lora_r` was 2 and is not given"),
        (TrainSettings { seed: 1, ..good.clone() }, "`--seed` was 42 and is 1"),
    ] {
        job.settings = settings;
        let error = job.train().unwrap_err();
        assert!(error.to_string().ends_with(difference), "{error}");
    }
    let other = golden("tiny-roberta").unwrap();
    job.settings = TrainSettings { model_name_or_path: other.to_str().unwrap().into(), ..good };
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("the base model is another one"), "{error}");
}

#[test]
fn a_damaged_checkpoint_is_an_error() {
    let Some(mut job) = job() else { return };
    job.train_and_say(&Said::stopping_at(5)).unwrap_err();
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    for file in ["optimizer.safetensors", "model.safetensors", "training_state.json", "log.jsonl"] {
        let path = partial(&job).join("checkpoint-5").join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        if file == "log.jsonl" {
            fs::remove_file(&path).unwrap();
        }
        let error = job.train().unwrap_err();
        assert!(error.to_string().contains("checkpoint-5"), "{file}: {error}");
        // A bit that changes nothing but a number.
        let mut flipped = whole.clone();
        let place = whole.len() - whole.iter().rev().position(u8::is_ascii_digit).unwrap() - 1;
        flipped[place] ^= 1;
        fs::write(&path, flipped).unwrap();
        let error = job.train().unwrap_err();
        assert!(
            error.to_string().contains(&format!("checkpoint-5: `{file}` is damaged: its bytes")),
            "{file}: {error}"
        );
        fs::write(&path, whole).unwrap();
    }
    job.train().unwrap();
}

#[test]
fn a_checkpoint_before_a_loss_that_is_no_number_is_good() {
    let Some(mut job) = job() else { return };
    job.settings.learning_rate = 1e38;
    job.settings.warmup_steps = 2.0;
    job.settings.save_steps = Steps::Number(0);
    job.settings.eval_split = None;
    job.settings.eval_steps = None;
    job.settings.load_best_model_at_end = false;
    job.train_and_say(&Said::stopping_at(1)).unwrap_err();
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    let error = job.train().unwrap_err();
    assert!(error.to_string().starts_with("step 3: the loss is NaN, and the gradient of `embeddings."), "{error}");
    assert!(error.to_string().contains("/train.jsonl:"), "{error}");
    assert!(partial(&job).join("checkpoint-1").is_dir());
    assert_eq!(job.train().unwrap_err().to_string(), error.to_string());

    // Nor is the model of step 2 written, whose vectors are no numbers.
    job.settings.save_steps = Steps::Number(1);
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("no finite numbers; it is not saved"), "{error}");
    assert!(!partial(&job).join("checkpoint-2").exists());
}

#[test]
fn numbers_are_those_of_an_evaluation_of_the_checkpoint_and_of_the_base_model() {
    let Some(mut job) = job() else { return };
    job.settings.save_steps = Steps::Number(2);
    job.train().unwrap();
    let rows = read_examples(&job.settings.train_data, &Silent).unwrap();
    let pool = passages_of(&rows).unwrap();
    let (_, held_out) = split(&rows, 0.34, 42).unwrap();
    assert_eq!(held_out.len(), 4);
    let base = PathBuf::from(&job.settings.model_name_or_path);
    for (step, folder) in [(0, base), (2, job.output("checkpoint-2")), (8, job.output("checkpoint-8"))] {
        let queries = queries_of(&held_out, &Silent);
        let found = evaluate(&load(&folder), &queries, pool.clone(), &EvalSettings::default(), &Silent).unwrap();
        let line = log(&job).into_iter().find(|line| line["step"] == step && line["eval_loss"].is_number()).unwrap();
        for (key, metric, cutoff) in
            [("mrr@10", Metric::Mrr, 10), ("ndcg@10", Metric::Ndcg, 10), ("hit@1", Metric::Hit, 1)]
        {
            assert_eq!(line[format!("eval_{key}")].as_f64(), found.mean(metric, cutoff), "step {step}, {key}");
        }
    }
    let steps: Vec<_> = log(&job).iter().filter(|l| l["eval_loss"].is_number()).map(|l| l["step"].clone()).collect();
    assert_eq!(steps, [0, 2, 4, 6, 8, 9]);
}

#[test]
fn best_and_last_are_kept_apart() {
    let Some(mut job) = job() else { return };
    // A rate that is far too high: the loss rises again, so that the best is not the last.
    job.settings.metric_for_best_model = Some(Measure::Loss);
    job.settings.learning_rate = 5e-2;
    job.settings.save_steps = Steps::Number(2);
    job.train().unwrap();
    let record = record(&job);
    let lines = log(&job);
    let evaluations = lines.iter().filter(|line| line["eval_loss"].is_number() && line["step"] != 0);
    let best = evaluations.min_by(|a, b| a["eval_loss"].as_f64().unwrap().total_cmp(&b["eval_loss"].as_f64().unwrap()));
    let best = best.unwrap()["step"].clone();
    assert_eq!((&record["step_of_model"], &record["evaluation"]["best"]["step"]), (&best, &best));
    assert!(best.as_u64().unwrap() < 9, "{lines:?}");
    let of = |name: &str| weights(&load(&job.output(name)));
    assert!(of("") == of(&format!("checkpoint-{best}")));
    assert!(of("last") != of(""));
}

/// Does something when the steps are done.
struct AtTheEnd<'a> {
    said: Said,
    act: &'a (dyn Fn() + Sync),
}

impl Progress for AtTheEnd<'_> {
    fn start(&self, _what: &str, _total: u64) {}
    fn advance(&self, _n: u64) {}
    fn finish(&self) {}
    fn warn(&self, message: &str) {
        self.said.warn(message);
    }
    fn note(&self, message: &str) {
        self.said.note(message);
    }
}

impl Observer for AtTheEnd<'_> {
    fn training_begins(&self, _plan: &Plan, _steps_done: usize) {}
    fn step_done(&self, _event: &StepEvent<'_>) {}
    fn evaluated(&self, _event: &EvaluationEvent<'_>) {}
    fn training_ends(&self) {
        (self.act)();
    }
    fn saved(&self, _folder: &Path) {}
}

#[test]
fn a_best_model_that_cannot_be_read_is_an_error() {
    let Some(mut job) = job() else { return };
    job.settings.metric_for_best_model = Some(Measure::Loss);
    job.settings.learning_rate = 5e-2;
    job.train_and_say(&Said::stopping_at(8)).unwrap_err();
    let best = fs::read_dir(partial(&job)).unwrap().map(|entry| entry.unwrap().path());
    let best: Vec<_> = best.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("best-")).collect();
    let damage = || best.iter().for_each(|folder| fs::write(folder.join("model.safetensors"), "").unwrap());
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    let at_the_end = AtTheEnd { said: Said::default(), act: &damage };
    for observer in [&at_the_end as &dyn Observer, &Said::default()] {
        let error = embertune::train::train(Cpu::new(), &job.settings, observer).unwrap_err();
        assert!(error.to_string().contains("best-") && error.to_string().contains("model.safetensors"), "{error}");
        assert!(!job.settings.output_dir.exists());
        assert!(partial(&job).join("last/model.safetensors").exists(), "the trained model is not lost");
    }
    best.iter().for_each(|folder| fs::remove_dir_all(folder).unwrap());
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("the best model until there is missing"), "{error}");
}

#[test]
fn early_stopping_ends_the_run_after_so_many_evaluations_without_a_gain() {
    let Some(mut job) = job() else { return };
    job.settings.eval_strategy = Some(Strategy::Steps);
    job.settings.eval_steps = Some(Steps::Number(1));
    job.settings.early_stopping_patience = Some(2);
    // No gain is this large, so the first evaluation is the best for good.
    job.settings.early_stopping_threshold = 2.0;
    let said = Said::default();
    job.train_and_say(&said).unwrap();
    assert_eq!(record(&job)["counts"]["steps"], 3);
    assert!(said.lines().iter().any(|line| line.starts_with("note: stops early, after step 3")), "{:?}", said.lines());
    assert_eq!(log(&job).last().unwrap()["step"], 3);
}

#[test]
fn epochs_are_a_cadence_of_evaluation_saving_and_logging() {
    let Some(mut job) = job() else { return };
    job.settings = TrainSettings {
        max_steps: None,
        num_train_epochs: 3.0,
        eval_steps: None,
        logging_strategy: Strategy::Epoch,
        logging_first_step: true,
        save_strategy: Strategy::Epoch,
        ..job.settings
    };
    job.train().unwrap();
    // 8 rows in batches of 3, two of which make a step.
    let lines = log(&job);
    let steps = |key: &str| lines.iter().filter(|l| l[key].is_number()).map(|l| l["step"].clone()).collect::<Vec<_>>();
    assert_eq!(steps("eval_hit@1"), [0, 2, 4, 6]);
    assert_eq!(steps("loss"), [1, 2, 4, 6]);
    for (step, kept) in [(2, true), (3, false), (4, true), (6, false)] {
        assert_eq!(job.output(&format!("checkpoint-{step}")).exists(), kept, "step {step}");
    }
}

#[test]
fn candidates_of_a_file_are_searched_and_have_to_hold_a_positive() {
    let Some(mut job) = job() else { return };
    let pool = job.root.path().join("pool.jsonl");
    fs::write(&pool, "{\"text\": \"nothing that answers\"}\n").unwrap();
    job.settings.candidate_pool = Some(pool.clone());
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("none of the 4 positives"), "{error}");

    let rows = read_examples(&job.settings.train_data, &Silent).unwrap();
    let lines: Vec<_> = rows.iter().map(|row| serde_json::json!({"text": row.positives[0]}).to_string()).collect();
    fs::write(&pool, lines.join("\n")).unwrap();
    let said = Said::default();
    job.train_and_say(&said).unwrap();
    assert!(said.lines().contains(&"note: evaluation: 4 queries in 12 candidates".into()), "{:?}", said.lines());
    assert!(record(&job)["candidate_pool"]["xxh3_128"].is_string());
}

#[test]
fn the_loss_is_the_same_whether_or_not_its_passages_are_candidates() {
    let Some(mut few) = job() else { return };
    let rows = read_examples(&few.settings.train_data, &Silent).unwrap();
    let (_, held_out) = split(&rows, 0.34, few.settings.seed).unwrap();
    let pool = few.root.path().join("pool.jsonl");
    fs::write(&pool, serde_json::json!({"text": held_out[0].positives[0]}).to_string()).unwrap();
    few.settings.candidate_pool = Some(pool);
    few.train().unwrap();
    let all = job().unwrap();
    all.train().unwrap();
    // The first searches one of the passages and computes the others for the loss alone.
    let losses =
        [few, all].map(|job| log(&job).iter().filter_map(|line| line["eval_loss"].as_f64()).collect::<Vec<_>>());
    assert_eq!(losses[0].len(), 6);
    for (few, all) in losses[0].iter().zip(&losses[1]) {
        assert!((few - all).abs() < 1e-6, "{losses:?}");
    }
}

#[test]
fn held_out_rows_without_negatives_have_no_loss_where_their_batch_gives_none() {
    let Some(mut job) = job() else { return };
    let data = job.root.path().join("eval.jsonl");
    let row = |i: usize| format!("{{\"query\": \"q {i}\", \"pos\": [\"a text about {i}\"]}}\n");
    fs::write(&data, (0..5).map(row).collect::<String>()).unwrap();
    job.settings = TrainSettings { eval_split: None, eval_data: Some(data), use_inbatch_neg: false, ..job.settings };
    let wrong = TrainSettings { metric_for_best_model: Some(Measure::Loss), ..job.settings.clone() };
    let good = std::mem::replace(&mut job.settings, wrong);
    let error = job.train().unwrap_err();
    assert!(
        error.to_string().contains("`--metric_for_best_model loss`: the held-out rows have no negatives"),
        "{error}"
    );
    job.settings = good;
    job.train().unwrap();
    assert!(log(&job)[0]["eval_loss"].is_null() && log(&job)[0]["eval_mrr@10"].is_number());
}

#[test]
fn held_out_rows_need_no_scores_of_a_teacher() {
    let Some(mut job) = job() else { return };
    let (data, held_out) = (job.root.path().join("scored.jsonl"), job.root.path().join("eval.jsonl"));
    let row =
        |i: usize| serde_json::json!({"query": format!("q {i}"), "pos": [format!("text {i}")], "neg": ["an other"]});
    let scored = |i: usize| {
        let mut row = row(i);
        row["pos_scores"] = serde_json::json!([2.0]);
        row["neg_scores"] = serde_json::json!([1.0]);
        row
    };
    let lines = |rows: Vec<Value>| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    fs::write(&data, lines((0..9).map(scored).collect())).unwrap();
    fs::write(&held_out, lines((0..5).map(row).collect())).unwrap();
    let loss = LossSettings { name: LossName::KlDiv, ..LossSettings::default() };
    let by_split = TrainSettings { train_data: data, loss, train_group_size: 2, max_steps: Some(1), ..job.settings };
    for settings in [TrainSettings { eval_split: None, eval_data: Some(held_out), ..by_split.clone() }, by_split] {
        job.settings = TrainSettings { overwrite_output_dir: true, ..settings };
        job.train().unwrap();
        assert!(log(&job)[0]["eval_loss"].is_number(), "{}", log(&job)[0]);
    }
}

#[test]
fn pairs_with_scores_are_no_queries_to_evaluate() {
    let Some(mut job) = job() else { return };
    let data = job.root.path().join("pairs.jsonl");
    let row = |i: usize| format!("{{\"sentence1\": \"a {i}\", \"sentence2\": \"b {i}\", \"score\": 0.{i}}}\n");
    fs::write(&data, (0..9).map(row).collect::<String>()).unwrap();
    let loss = LossSettings { name: LossName::CoSent, ..LossSettings::default() };
    job.settings = TrainSettings { train_data: data, loss, train_group_size: 1, ..job.settings };
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("a pair with a score is no query with its right answer"), "{error}");
    assert!(error.hint().unwrap().contains("--eval_data"));
}

#[test]
fn a_loss_that_needs_no_negatives_does_not_warn_of_missing_ones() {
    let Some(mut job) = job() else { return };
    let data = job.root.path().join("pairs.jsonl");
    let row = |i: usize| format!("{{\"sentence1\": \"a {i}\", \"sentence2\": \"b {i}\", \"score\": 0.5}}\n");
    fs::write(&data, (0..9).map(row).collect::<String>()).unwrap();
    let loss = LossSettings { name: LossName::CosineMse, ..LossSettings::default() };
    job.settings = TrainSettings {
        train_data: data,
        loss,
        train_group_size: 1,
        eval_split: None,
        load_best_model_at_end: false,
        eval_steps: None,
        ..job.settings
    };
    let said = Said::default();
    job.train_and_say(&said).unwrap();
    assert!(!said.lines().iter().any(|line| line.contains("learn nothing")), "{:?}", said.lines());
}

#[test]
fn a_learnt_temperature_goes_on_where_it_was() {
    let Some(mut whole) = job() else { return };
    let learns = LossSettings { temperature_learning_rate: Some(0.1), ..LossSettings::default() };
    whole.settings.loss = learns.clone();
    whole.train().unwrap();
    let mut job = job().unwrap();
    job.settings.loss = learns;
    job.train_and_say(&Said::stopping_at(5)).unwrap_err();
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    job.train().unwrap();
    assert!(outcome(&job) == outcome(&whole));
    assert_eq!(record(&job)["temperature"], record(&whole)["temperature"]);
    assert_ne!(record(&job)["temperature"], whole.settings.temperature);
}

#[test]
fn a_run_that_learns_nothing_says_so() {
    let Some(mut job) = job() else { return };
    job.settings = TrainSettings { max_steps: Some(1), warmup_steps: 5.0, ..job.settings };
    let said = Said::default();
    job.train_and_say(&said).unwrap();
    for part in ["the learning rate is 0 in all 1 steps", "no weight of the model has changed"] {
        assert!(
            said.lines().iter().any(|line| line.starts_with("warning: ") && line.contains(part)),
            "{:?}",
            said.lines()
        );
    }
}

#[test]
fn a_guide_may_move_but_not_change() {
    let (Some(mut job), Some(guide)) = (job(), golden("tiny-mpnet")) else { return };
    let moved = job.root.path().join("moved");
    load(&guide).save(&moved).unwrap();
    job.settings.loss.guide_model = Some(guide.to_str().unwrap().into());
    job.train_and_say(&Said::stopping_at(4)).unwrap_err();
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    job.settings.loss.guide_model = Some(job.settings.model_name_or_path.clone());
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("`--guide_model` is another model"), "{error}");
    job.settings.loss.guide_model = Some(moved.to_str().unwrap().into());
    job.train().unwrap();
}

#[test]
fn what_is_said_once_is_not_said_again_by_a_resumed_run() {
    let Some(mut job) = job() else { return };
    job.settings.learning_rate = 1e-30;
    let said = Said::stopping_at(4);
    job.train_and_say(&said).unwrap_err();
    let n_said = |said: &Said| said.lines().iter().filter(|line| line.contains("no weight has changed at")).count();
    assert_eq!(n_said(&said), 1);
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    let said = Said::default();
    job.train_and_say(&said).unwrap();
    assert_eq!(n_said(&said), 0, "{:?}", said.lines());
}
