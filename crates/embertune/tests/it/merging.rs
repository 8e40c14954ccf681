//! The tuned model between its base and itself, on purpose or by what the held-out rows say.

use std::fs;

use embertune::model::EmbeddingModel;
use embertune::train::{AdaptationSettings, MergeAlpha, Steps, TrainSettings};
use embertune_kernels::cpu::Cpu;
use embertune_kernels::testing::assert_close;
use serde_json::Value;

use crate::said::Said;
use crate::training::{Job, load, weights};

/// Rounding of a mean of two f32, and of the sums of an adapter.
const MIXED: f64 = 1e-6;

fn job(merge_alpha: Option<MergeAlpha>, lora_r: Option<usize>) -> Option<Job> {
    let mut job = Job::new()?;
    job.settings = TrainSettings {
        max_steps: Some(3),
        learning_rate: 1e-2,
        save_steps: Steps::Number(0),
        merge_alpha,
        adaptation: AdaptationSettings { lora_r, save_adapter: lora_r.is_some(), ..AdaptationSettings::default() },
        ..job.settings
    };
    Some(job)
}

fn trained(merge_alpha: Option<MergeAlpha>, lora_r: Option<usize>) -> Option<Vec<f32>> {
    let job = job(merge_alpha, lora_r)?;
    job.train().unwrap();
    Some(weights(&load(&job.settings.output_dir)))
}

#[test]
fn an_alpha_is_the_share_of_the_way_from_the_base_to_the_tuned_model() {
    let Some(folder) = crate::golden::golden("tiny-bert") else { return };
    let base = weights(&load(&folder));
    for lora_r in [None, Some(2)] {
        let tuned = trained(None, lora_r).unwrap();
        assert_ne!(tuned, base);
        let at = |alpha| trained(Some(MergeAlpha::Fixed(alpha)), lora_r).unwrap();
        assert!(at(0.0) == base && at(1.0) == tuned, "adapters: {lora_r:?}");
        let expected: Vec<_> = base.iter().zip(&tuned).map(|(base, tuned)| 0.75 * base + 0.25 * tuned).collect();
        assert_close(&at(0.25), &expected, MIXED, 0.0);
    }
}

#[test]
fn a_mixed_adapter_is_written_with_its_share() {
    let Some(job) = job(Some(MergeAlpha::Fixed(0.25)), Some(2)) else { return };
    job.train().unwrap();
    let config: Value = serde_json::from_slice(&fs::read(job.output("adapter/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["lora_alpha"], 0.5);
}

#[test]
fn auto_measures_every_alpha_and_records_what_it_chose() {
    let Some(mut job) = job(Some(MergeAlpha::Auto), None) else { return };
    job.settings.eval_split = Some(0.34);
    let said = Said::default();
    let record = job.train_and_say(&said).unwrap();
    let merging = record.merging.unwrap();
    assert_eq!(merging.trials.iter().map(|trial| trial.alpha).collect::<Vec<_>>(), [0.0, 0.4, 0.8, 1.0]);
    let (first, last) = (&merging.trials[0], &merging.trials[3]);
    assert_eq!(Some(first.scores), record.evaluation.baseline.map(|at| at.scores));
    assert_eq!(Some(last.scores), record.evaluation.last.map(|at| at.scores));
    assert!((first.agreement_with_base - 1.0).abs() < 1e-12);
    assert!(merging.trials.is_sorted_by(|a, b| a.agreement_with_base > b.agreement_with_base), "{merging:?}");
    let lines: Vec<_> = said.lines().into_iter().filter(|line| line.contains("merge: ")).collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert!(lines.iter().filter(|line| line.ends_with("<- saved")).count() == 1);

    // The model that is saved scores what the trial of its alpha did.
    let chosen = merging.trials.iter().find(|trial| trial.alpha == merging.alpha).unwrap();
    let written: Value = serde_json::from_str(&fs::read_to_string(job.output("run.json")).unwrap()).unwrap();
    assert_eq!(written["merging"]["alpha"], merging.alpha);
    assert_eq!(written["merging"]["trials"][0]["eval_mrr@10"], first.scores.mrr10);
    let saved: EmbeddingModel<Cpu> = load(&job.settings.output_dir);
    let share = Some(MergeAlpha::Fixed(chosen.alpha));
    let mut fixed = self::job(share, None).unwrap();
    fixed.settings.eval_split = Some(0.34);
    fixed.train().unwrap();
    assert!(weights(&saved) == weights(&load(&fixed.settings.output_dir)));
}

#[test]
fn every_alpha_of_adapters_is_evaluated_as_what_it_is() {
    let Some(mut job) = job(Some(MergeAlpha::Auto), Some(4)) else { return };
    job.settings.eval_split = Some(0.34);
    let record = job.train().unwrap();
    let trials = record.merging.unwrap().trials;
    // The same weights in memory, each time with another share of what the adapters add.
    assert_eq!(Some(trials[0].scores), record.evaluation.baseline.map(|at| at.scores));
    assert_eq!(Some(trials[3].scores), record.evaluation.last.map(|at| at.scores));
    assert!(trials.iter().skip(1).all(|trial| trial.scores.loss != trials[0].scores.loss), "{trials:?}");
}
