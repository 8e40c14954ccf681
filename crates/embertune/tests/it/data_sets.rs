//! Several data sets in one run, each with settings of its own.

use std::fs;
use std::path::Path;

use embertune::data::{Example, Scores};
use embertune::model::{EmbeddingModel, Overrides};
use embertune::progress::Silent;
use embertune::train::{OwnSettings, Resume, SamplingStrategy, StepReport, Steps, TrainSettings, Trainer, TrainingSet};
use embertune_kernels::cpu::Cpu;
use serde_json::{Value, json};

use crate::golden::golden;
use crate::said::Said;
use crate::training::{Job, examples, settings, words};

fn own(value: Value) -> OwnSettings {
    serde_json::from_value(value).unwrap()
}

fn pairs() -> Vec<Example> {
    let pair = |i: usize| Example {
        query: format!("sentence {i} {}", words(2, i)),
        positives: vec![format!("phrase {i} {}", words(3, i + 1))],
        negatives: vec![],
        scores: Scores::Pair(i as f32 / 8.0),
        line: i + 1,
    };
    (0..8).map(pair).collect()
}

fn load(name: &str) -> Option<EmbeddingModel<Cpu>> {
    Some(EmbeddingModel::load(Cpu::new(), &golden(name)?, &Overrides::default(), &Silent).unwrap())
}

/// All steps on `sets`, in the order of the files.
fn steps(sets: &[&[Example]], settings: &TrainSettings) -> Option<Vec<StepReport>> {
    let mut model = load("tiny-bert")?;
    let part = |(i, rows): (usize, &&[Example])| {
        TrainingSet::new(&model, rows, Path::new(&format!("{i}.jsonl")), &settings.of_set(i), &Silent).unwrap()
    };
    let set = sets.iter().enumerate().map(part).reduce(TrainingSet::join).unwrap();
    let mut trainer = Trainer::new(&mut model, &set, settings).unwrap();
    Some(std::iter::from_fn(|| trainer.step()).map(Result::unwrap).collect())
}

#[test]
fn a_batch_is_made_and_judged_as_in_a_run_of_its_data_set_alone() {
    let tables = [
        json!({}),
        json!({"loss": "cosent", "temperature": 0.1, "query_max_len": 4}),
        json!({"train_group_size": 2, "use_inbatch_neg": false, "passage_instruction_for_retrieval": "the answer: "}),
    ];
    let sets: [&[Example]; 3] = [&examples(8, 2), &pairs(), &examples(8, 1)];
    let mixed = TrainSettings {
        more_train_data: vec!["b".into(), "c".into()],
        dataset: tables.clone().map(own).to_vec(),
        train_sampling_strategy: SamplingStrategy::Sequential,
        // Nothing is learnt, so that every step begins with the same weights.
        learning_rate: 1e-30,
        dropout: Some(0.0),
        max_steps: None,
        num_train_epochs: 1.0,
        ..settings()
    };
    let Some(all) = steps(&sets, &mixed) else { return };
    assert_eq!(all.len(), 6);
    for (i, table) in tables.into_iter().enumerate() {
        let alone = TrainSettings { more_train_data: vec![], ..own(table).over(&mixed) };
        for (found, expected) in all[2 * i..].iter().zip(steps(&sets[i..=i], &alone).unwrap()) {
            let of_sets: Vec<_> = found.set_losses.iter().map(|set| (set.sum, set.n_batches)).collect();
            let mut only_this = vec![(0.0, 0); 3];
            only_this[i] = (found.loss, 1);
            assert_eq!(of_sets, only_this);
            assert_eq!((found.loss, found.stats), (expected.loss, expected.stats), "{i}");
            assert_eq!((found.n_tokens, found.temperature), (expected.n_tokens, expected.temperature), "{i}");
        }
    }
    let without_tables = steps(&sets[2..], &TrainSettings { more_train_data: vec![], dataset: vec![], ..mixed });
    assert_ne!(without_tables.unwrap()[0].loss, all[4].loss);
}

#[test]
fn a_run_with_tables_goes_on_where_it_was_and_is_another_with_other_tables() {
    let Some(mut job) = Job::new() else { return };
    let other = job.root.path().join("pairs.jsonl");
    let row = |i: usize| json!({"text": format!("sentence {i}"), "answer": format!("phrase {i}"), "score": f64::from(i as u32) / 8.0});
    fs::write(&other, (0..9).map(|i| format!("{}\n", row(i))).collect::<String>()).unwrap();
    job.settings = TrainSettings {
        more_train_data: vec![other],
        dataset: vec![own(json!({})), own(json!({"loss": "cosent", "columns": "query=text,pos=answer,score=score"}))],
        max_steps: Some(6),
        logging_steps: Steps::Number(1),
        ..job.settings
    };
    let said = Said::default();
    let whole = job.train_and_say(&said).unwrap();
    let own_ones = said.lines().iter().filter(|line| line.contains(r#"; its own: {"columns":"#)).count();
    assert_eq!(own_ones, 1, "{:?}", said.lines());
    let log = fs::read_to_string(job.output("log.jsonl")).unwrap();
    let losses: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let name = job.settings.train_data.file_stem().unwrap().to_str().unwrap();
    let [first, second] = [format!("loss/{name}"), "loss/pairs".into()].map(|key| {
        let of_set: Vec<_> = losses.iter().filter_map(|line| line[&key].as_f64()).collect();
        of_set
    });
    // A line for each step, which is one batch of one of the sets.
    assert_eq!(first.len() + second.len(), 6, "{log}");
    assert!(!first.is_empty() && !second.is_empty());
    let sum = first.iter().chain(&second).sum::<f64>();
    assert!((sum / 6.0 - whole.losses.mean).abs() < 1e-9, "{sum}");
    let model = fs::read(job.output("model.safetensors")).unwrap();
    let config = fs::read_to_string(job.output("run.toml")).unwrap();
    assert_eq!(config.matches("[[dataset]]\ntrain_data = ").count(), 2, "{config}");

    job.settings.output_dir = job.root.path().join("again");
    job.train_and_say(&Said::stopping_at(4)).unwrap_err();
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    let good = job.settings.clone();
    job.settings.dataset[1].temperature = Some(0.1);
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("`--dataset` was [{},{"), "{error}");
    job.settings = good;
    assert_eq!(job.train().unwrap().losses.mean, whole.losses.mean);
    assert!(fs::read(job.output("model.safetensors")).unwrap() == model);
}
