//! Frozen layers whose outputs are computed once and kept.

use std::fs;

use embertune::model::{DropoutRates, EmbeddingModel, Overrides};
use embertune::train::{AdaptationSettings, Resume, Steps, TrainSettings, Trainer, TrainingSet};
use embertune_kernels::Ops;
use embertune_kernels::reference::Reference;

use crate::golden::golden;
use crate::models::{batch, load, tokenize};
use crate::said::Said;
use crate::training::{Job, examples, settings};

const MODELS: [&str; 2] = ["tiny-bert", "tiny-mpnet"];

/// With two of their three layers frozen.
fn frozen(cache_frozen_layers: bool) -> AdaptationSettings {
    AdaptationSettings { freeze_layers: 2, cache_frozen_layers, ..AdaptationSettings::default() }
}

fn model(name: &str) -> Option<EmbeddingModel<Reference<f32>>> {
    let mut model = load(Reference::new(), &golden(name)?, &Overrides::default());
    frozen(true).apply(&mut model, name, 42).unwrap();
    Some(model)
}

/// All tensors after a run over several epochs, in which texts come again and chunks are computed twice.
fn trained(name: &str, adaptation: AdaptationSettings, dropout: f32) -> Option<Vec<Vec<f32>>> {
    let settings = TrainSettings { adaptation, dropout: Some(dropout), max_steps: Some(6), ..settings() };
    let mut model = model(name)?;
    let set = TrainingSet::new(&model, &examples(12, 2), "train.jsonl".as_ref(), &settings, &Said::default()).unwrap();
    let mut trainer = Trainer::new(&mut model, &set, &settings).unwrap();
    trainer.cache_frozen_layers().unwrap();
    while let Some(report) = trainer.step() {
        assert!(report.unwrap().grad_norm > 0.0);
    }
    Some(model.parameters().list.iter().map(|param| model.ops().download(&param.value)).collect())
}

/// On the reference, whose products have the same bits for a row whatever the rows beside it.
#[test]
fn without_dropout_outputs_that_are_kept_change_no_bit() {
    for name in MODELS {
        let [Some(kept), Some(computed)] = [true, false].map(|cached| trained(name, frozen(cached), 0.0)) else {
            return;
        };
        assert!(kept == computed, "{name}");
    }
}

#[test]
fn nothing_is_dropped_in_layers_whose_outputs_are_kept_and_something_above() {
    for name in MODELS {
        let Some(model) = model(name) else { return };
        let batch = batch(&tokenize(&model, &["boundary layer", "heat transfer in a slip flow"], None));
        let rates = DropoutRates { hidden: 0.3, attention: 0.3, adapter: 0.0 };
        let lowest = model.output_of_lowest(2, &batch);
        let (_, whole) = model.forward(&batch, DropoutRates::default());
        assert_eq!(model.hidden_states(&batch, &whole)[0], lowest, "{name}");
        let (y, saved) = model.forward_above(2, &lowest, &batch, rates);
        assert_eq!(model.hidden_states(&batch, &saved)[0], lowest, "{name}");
        assert_ne!(y, model.forward_above(2, &lowest, &batch, DropoutRates::default()).0, "{name}");
        assert_ne!(y, model.forward(&batch, rates).0, "{name}");
    }
}

#[test]
fn a_run_that_keeps_them_goes_on_where_it_was_and_counts_them_in_its_plan() {
    let job = || {
        let mut job = Job::new()?;
        job.settings = TrainSettings {
            max_steps: Some(6),
            save_steps: Steps::Number(2),
            adaptation: frozen(true),
            ..job.settings
        };
        Some(job)
    };
    let Some(whole) = job() else { return };
    let record = whole.train().unwrap();
    let weights = |job: &Job| fs::read(job.output("model.safetensors")).unwrap();
    let bytes = record.forecast.frozen_bytes;
    // Rows of 48 values, of each token of each text.
    assert!(bytes > 0 && bytes.is_multiple_of(48 * 4) && bytes < record.forecast.memory_bytes, "{bytes}");
    let mut stopped = job().unwrap();
    stopped.train_and_say(&Said::stopping_at(3)).unwrap_err();
    stopped.settings.resume_from_checkpoint = Some(Resume::Last);
    stopped.train().unwrap();
    assert!(weights(&stopped) == weights(&whole));

    stopped.settings.adaptation.cache_frozen_layers = false;
    stopped.settings.output_dir = stopped.root.path().join("again");
    stopped.settings.resume_from_checkpoint = Some(Resume::Path(whole.output("checkpoint-2")));
    let error = stopped.train().unwrap_err();
    assert!(error.to_string().contains("`--cache_frozen_layers` was true and is false"), "{error}");
}
