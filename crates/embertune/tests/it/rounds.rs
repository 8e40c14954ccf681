//! Negatives that are mined again while a run goes on: what they are, what becomes of them, and that a resumed run has the same.

use std::collections::HashSet;
use std::fs;

use embertune::data::{StoredPool, read_examples, read_pool, read_rows};
use embertune::mine::{MineSettings, Preset, VectorSource, mine};
use embertune::progress::Silent;
use embertune::train::{AdaptationSettings, BatchSampler, RemineEvery, Resume, Steps, TrainSettings};

use crate::mining::Done;
use crate::said::Said;
use crate::training::{Job, load, weights, words};

/// 12 rows in batches of 4, so 3 steps an epoch, and 8 steps: rounds after steps 3 and 6. Fast learning, so that rankings change.
fn job() -> Option<Job> {
    let mut job = Job::new()?;
    let pool = job.root.path().join("pool.jsonl");
    let lines =
        (0..60).map(|i| format!("{}\n", serde_json::json!({"text": format!("candidate {i} {}", words(2 + i % 7, i))})));
    fs::write(&pool, lines.collect::<String>()).unwrap();
    job.settings = TrainSettings {
        candidate_pool: Some(pool),
        remine_every: Some(RemineEvery::Epoch),
        remine_preset: Preset::SentenceTransformers,
        remine_negatives: Some(4),
        max_steps: Some(8),
        learning_rate: 5e-3,
        save_total_limit: None,
        ..job.settings
    };
    Some(job)
}

fn negatives(job: &Job, step: usize) -> Vec<Vec<String>> {
    let rows = read_examples(&job.output(&format!("mined-{step}.jsonl")), &Silent).unwrap();
    rows.into_iter().map(|row| row.negatives).collect()
}

#[test]
fn a_round_is_what_mine_does_with_the_checkpoint_of_its_step() {
    let Some(job) = job() else { return };
    let said = Said::default();
    job.train_and_say(&said).unwrap();
    for step in [3, 6] {
        let model = load(&job.output(&format!("checkpoint-{step}")));
        let rows = read_rows(&job.settings.train_data, &Silent).unwrap();
        let pool = read_pool(job.settings.candidate_pool.as_deref().unwrap(), &Silent).unwrap();
        let settings = MineSettings { n_negatives: 4, ..Preset::SentenceTransformers.settings() };
        let pool = StoredPool::new(pool).unwrap();
        let mined = mine(VectorSource::Model(&model), &rows, Some(pool), None, &settings, &Silent).unwrap();
        let expected: Vec<_> = Done::of(mined).rows.into_iter().map(|row| row.example.negatives).collect();
        assert!(expected.iter().all(|negatives| negatives.len() == 4));
        assert_eq!(negatives(&job, step), expected, "step {step}");
        assert!(said.lines().iter().any(|line| line.contains(&format!("mined again after step {step}, among 60"))));
    }
    assert_ne!(negatives(&job, 3), negatives(&job, 6), "the model has changed");
    assert!(!job.output("mined-8.jsonl").exists(), "nobody would train on it");
}

#[test]
fn new_negatives_are_trained_on_from_the_next_step_on() {
    let Some(with) = job() else { return };
    let mut without = job().unwrap();
    let TrainSettings { remine_every, remine_preset, remine_negatives, candidate_pool, .. } = TrainSettings::default();
    without.settings =
        TrainSettings { remine_every, remine_preset, remine_negatives, candidate_pool, ..without.settings };
    with.train().unwrap();
    without.train().unwrap();
    let at = |job: &Job, step: usize| weights(&load(&job.output(&format!("checkpoint-{step}"))));
    assert!(at(&with, 3) == at(&without, 3));
    assert!(at(&with, 4) != at(&without, 4));
}

#[test]
fn a_row_for_which_the_rules_leave_nothing_has_the_negatives_of_its_file_again() {
    let Some(mut job) = job() else { return };
    let rows = read_examples(&job.settings.train_data, &Silent).unwrap();
    let only = &rows[0].positives[0];
    fs::write(job.settings.candidate_pool.as_ref().unwrap(), serde_json::json!({"text": only}).to_string()).unwrap();
    job.settings.max_steps = Some(4);
    let said = Said::default();
    job.train_and_say(&said).unwrap();
    let mined = negatives(&job, 3);
    assert_eq!(mined[0], rows[0].negatives);
    assert!(mined[1..].iter().all(|negatives| negatives == std::slice::from_ref(only)));
    assert!(
        said.lines().iter().any(|line| line.ends_with("; rows without any, which get those of their file again: 1"))
    );
}

#[test]
fn a_run_with_rounds_goes_on_bit_for_bit_wherever_it_was_stopped() {
    let lora = AdaptationSettings { lora_r: Some(4), ..AdaptationSettings::default() };
    for (every, stops, sampler, adaptation) in [
        (RemineEvery::Epoch, [3, 5], BatchSampler::NoDuplicates, AdaptationSettings::default()),
        (RemineEvery::Steps(2), [4, 7], BatchSampler::BatchSampler, lora),
    ] {
        let Some(mut whole) = job() else { return };
        whole.settings = TrainSettings {
            remine_every: Some(every),
            batch_sampler: sampler,
            adaptation,
            save_steps: Steps::Number(0),
            ..whole.settings
        };
        whole.train().unwrap();
        let expected = fs::read(whole.output("model.safetensors")).unwrap();
        let files = |job: &Job| {
            let names =
                fs::read_dir(&job.settings.output_dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let mined = names.filter(|name| name.starts_with("mined-"));
            mined.map(|name| (fs::read(job.output(&name)).unwrap(), name)).collect::<HashSet<_>>()
        };
        for stop in stops {
            let mut job = job().unwrap();
            job.settings = TrainSettings {
                train_data: job.settings.train_data.clone(),
                candidate_pool: job.settings.candidate_pool.clone(),
                output_dir: job.settings.output_dir.clone(),
                ..whole.settings.clone()
            };
            job.train_and_say(&Said::stopping_at(stop)).unwrap_err();
            job.settings.resume_from_checkpoint = Some(Resume::Last);
            job.train().unwrap();
            assert!(fs::read(job.output("model.safetensors")).unwrap() == expected, "{every}, stopped after {stop}");
            assert!(files(&job) == files(&whole), "{every}, stopped after {stop}");
        }
    }
}

#[test]
fn a_run_whose_round_is_lost_or_changed_is_not_resumed() {
    let Some(mut job) = job() else { return };
    job.train_and_say(&Said::stopping_at(5)).unwrap_err();
    job.settings.resume_from_checkpoint = Some(Resume::Last);
    let mined = job.root.path().join("out.partial/mined-3.jsonl");
    let text = fs::read_to_string(&mined).unwrap();
    fs::write(&mined, text.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    assert!(job.train().unwrap_err().to_string().contains("its rows are not the 12 of the run"));
    fs::remove_file(&mined).unwrap();
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("mined-3.jsonl: the negatives that were mined"), "{error}");
    fs::write(&mined, text).unwrap();
    job.train().unwrap();
}

#[test]
fn a_run_that_ends_before_its_first_round_says_so() {
    let Some(mut job) = job() else { return };
    for (every, warns) in [(RemineEvery::Steps(2), true), (RemineEvery::Epoch, true), (RemineEvery::Steps(1), false)] {
        job.settings = TrainSettings { remine_every: Some(every), max_steps: Some(2), ..job.settings };
        let said = Said::default();
        job.train_and_say(&said).unwrap();
        let line = format!("warning: `--remine_every {every}`: no round comes before the last of 2 steps");
        assert_eq!(said.lines().contains(&line), warns, "{:?}", said.lines());
        fs::remove_dir_all(job.output("")).unwrap();
    }
}

#[test]
fn rounds_begin_with_rows_that_have_negatives() {
    let Some(job) = job() else { return };
    fs::write(&job.settings.train_data, "{\"query\": \"q\", \"pos\": [\"a\"]}\n{\"query\": \"r\", \"pos\": [\"b\"]}\n")
        .unwrap();
    let error = job.train().unwrap_err();
    assert!(error.to_string().contains("no row has negatives"), "{error}");
    assert!(error.hint().unwrap().contains("`embertune mine`"));
}
