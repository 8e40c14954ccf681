//! What of a model is trained: frozen parts stay bit for bit, adapters have the gradients that they predict, and runs of either kind go on
//! where they were interrupted.

use std::fs;

use embertune::model::{Depth, DropoutRates, EmbeddingModel, Overrides};
use embertune::optim::OptimizerName;
use embertune::train::step::{MicroBatch, Pass, forward_backward};
use embertune::train::{AdaptationSettings, Resume, Steps, TrainSettings, Trainer, TrainingSet};
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::reference::Reference;
use embertune_kernels::testing::seeded;
use serde_json::Value;

use crate::golden::golden;
use crate::models::{batch, difference, load, tokenize};
use crate::said::Said;
use crate::training::{Job, examples, settings, take};

fn default() -> AdaptationSettings {
    AdaptationSettings::default()
}

/// `name`, set up as `adaptation` says.
fn adapted<O: Ops>(ops: O, name: &str, adaptation: &AdaptationSettings) -> Option<EmbeddingModel<O>> {
    let mut model = load(ops, &golden(name)?, &Overrides::default());
    adaptation.validate().unwrap();
    adaptation.apply(&mut model, name, 42).unwrap();
    Some(model)
}

/// A tensor before and after three steps.
struct Tensor {
    /// Of its first part.
    name: String,
    is_trained: bool,
    before: Vec<f32>,
    after: Vec<f32>,
}

fn three_steps(name: &str, adaptation: &AdaptationSettings) -> Option<Vec<Tensor>> {
    let settings = TrainSettings { adaptation: adaptation.clone(), ..settings() };
    let mut model = adapted(Cpu::new(), name, adaptation)?;
    let set = TrainingSet::new(&model, &examples(12, 2), "train.jsonl".as_ref(), &settings, &Said::default()).unwrap();
    let values = |model: &EmbeddingModel<Cpu>| -> Vec<_> {
        model.parameters().list.iter().map(|param| model.ops().download(&param.value)).collect()
    };
    let before = values(&model);
    let mut trainer = Trainer::new(&mut model, &set, &settings).unwrap();
    while let Some(report) = trainer.step() {
        assert!(report.unwrap().grad_norm > 0.0);
    }
    let after = values(&model);
    let tensors = model.parameters().list.iter().zip(before).zip(after).map(|((param, before), after)| Tensor {
        name: param.parts[0].name.clone(),
        is_trained: param.is_trained(),
        before,
        after,
    });
    Some(tensors.collect())
}

#[test]
fn frozen_tensors_stay_bit_for_bit_and_all_others_move() {
    let is_of = |names: &'static [&'static str]| move |name: &str| names.iter().any(|part| name.contains(part));
    type Case = (&'static str, AdaptationSettings, Box<dyn Fn(&str) -> bool>);
    let cases: [Case; 5] = [
        (
            "tiny-bert",
            AdaptationSettings { freeze_layers: 2, ..default() },
            Box::new(is_of(&["embeddings.", "layer.0.", "layer.1."])),
        ),
        ("tiny-bert", AdaptationSettings { freeze_embeddings: true, ..default() }, Box::new(is_of(&["embeddings."]))),
        (
            "tiny-bert",
            AdaptationSettings { fix_position_embedding: true, ..default() },
            Box::new(is_of(&["position_embeddings"])),
        ),
        (
            "tiny-mpnet",
            AdaptationSettings { freeze_layers: 1, ..default() },
            Box::new(is_of(&["embeddings.", "relative_attention_bias", "layer.0."])),
        ),
        (
            "tiny-bert",
            AdaptationSettings { lora_r: Some(2), lora_dropout: 0.1, freeze_layers: 1, ..default() },
            Box::new(|name: &str| !name.contains("lora_")),
        ),
    ];
    for (model, adaptation, is_frozen) in cases {
        let Some(tensors) = three_steps(model, &adaptation) else { return };
        for Tensor { name, is_trained, before, after } in tensors {
            assert_eq!(is_trained, !is_frozen(&name), "{name} with {adaptation:?}");
            assert_eq!(before == after, is_frozen(&name), "{name} with {adaptation:?}");
            assert!(adaptation.lora_r.is_none() || !name.contains("layer.0.attention.self.query.lora"), "{name}");
        }
    }
}

#[test]
fn gradients_above_what_is_frozen_are_those_of_the_whole_model_and_nothing_is_kept_below() {
    for name in ["tiny-bert", "tiny-mpnet"] {
        let run = |adaptation: AdaptationSettings| {
            let model = adapted(Cpu::new(), name, &adaptation)?;
            let batch = batch(&tokenize(&model, &["boundary layer", "heat transfer in a slip flow"], None));
            let rates = DropoutRates { hidden: 0.1, attention: 0.1, adapter: 0.0 };
            let before = model.ops().buffer_bytes().used;
            let (y, saved) = model.forward(&batch, rates);
            let kept = model.ops().buffer_bytes().used - before;
            let mut gradients = model.parameters().zero_gradients(model.ops());
            model.backward(&batch, &saved, &seeded(y.len(), 5), &mut gradients);
            let of_list: Vec<_> = gradients.list.iter().map(|gradient| model.ops().download(gradient)).collect();
            Some((of_list, model.hidden_states(&batch, &saved).len(), kept))
        };
        let (Some(whole), Some(part)) = (run(default()), run(AdaptationSettings { freeze_layers: 2, ..default() }))
        else {
            return;
        };
        assert_eq!((whole.1, part.1), (4, 2), "the input of each layer with a backward, and the last output");
        assert!(part.2 < whole.2 / 2, "{} of {} bytes", part.2, whole.2);
        let trained: Vec<_> = whole.0.iter().zip(&part.0).filter(|(_, part)| !part.is_empty()).collect();
        assert!(trained.len() > 8 && trained.len() < whole.0.len() / 2);
        assert!(trained.iter().all(|(whole, part)| whole == part), "{name}");
    }
}

#[test]
fn rates_fall_with_every_layer_below_the_top() {
    let adaptation = AdaptationSettings { layer_decay: 0.5, freeze_embeddings: true, ..default() };
    let Some(model) = adapted(Cpu::new(), "tiny-bert", &adaptation) else { return };
    for param in &model.parameters().list {
        let expected = match param.depth {
            Depth::Embeddings => 0.0,
            Depth::Layer(layer) => [0.25, 0.5, 1.0][layer],
            Depth::Head => 1.0,
        };
        assert_eq!(param.rate, expected, "{}", param.parts[0].name);
    }
    // Adam's first step moves a weight by the learning rate, whatever its gradient.
    let step = |layer_decay| {
        let settings = TrainSettings { max_steps: Some(1), weight_decay: 0.0, ..settings() };
        let mut model = adapted(Cpu::new(), "tiny-bert", &AdaptationSettings { layer_decay, ..default() })?;
        let set =
            TrainingSet::new(&model, &examples(4, 2), "train.jsonl".as_ref(), &settings, &Said::default()).unwrap();
        let value = |model: &EmbeddingModel<Cpu>| {
            let lowest = model.parameters().list.iter().find(|param| param.depth == Depth::Layer(0));
            model.ops().download(&lowest.unwrap().value)
        };
        let before = value(&model);
        Trainer::new(&mut model, &set, &settings).unwrap().step().unwrap().unwrap();
        let moved = value(&model).iter().zip(before).map(|(after, before)| (after - before).abs()).sum::<f32>();
        Some(moved)
    };
    let (Some(even), Some(decayed)) = (step(1.0), step(0.5)) else { return };
    assert!((decayed / even - 0.25).abs() < 1e-3, "{decayed} of {even}");
}

#[test]
fn what_leaves_nothing_to_train_or_is_no_part_of_the_model_is_refused() {
    let lora = |names: &[&str]| AdaptationSettings {
        lora_r: Some(2),
        lora_target_modules: names.iter().map(|&name| name.into()).collect(),
        ..default()
    };
    for (adaptation, problem) in [
        (AdaptationSettings { freeze_layers: 4, ..default() }, "`--freeze_layers 4`: the model has 3 layers"),
        (AdaptationSettings { freeze_layers: 3, ..default() }, "freezes the whole model"),
        (AdaptationSettings { freeze_layers: 3, cache_frozen_layers: true, ..default() }, "all 3 layers"),
        (AdaptationSettings { freeze_layers: 3, ..lora(&["query"]) }, "leaves no layer for an adapter"),
        (lora(&["query", "q_proj"]), "`--lora_target_modules q_proj` is the name of no linear layer"),
    ] {
        let Some(folder) = golden("tiny-bert") else { return };
        let mut model = load(Cpu::new(), &folder, &Overrides::default());
        let error = adaptation.apply(&mut model, "tiny-bert", 42).unwrap_err();
        assert!(error.to_string().contains(problem) && error.hint().is_some(), "{error}");
    }
}

/// With the dropout of the model and of the adapters: the gradient is that of the masked network, so it predicts how a small step changes a
/// sum over the vectors.
#[test]
fn gradients_of_adapters_predict_what_a_step_changes() {
    for (name, targets) in [
        ("tiny-bert", "all-linear"),
        ("tiny-mpnet", "all-linear"),
        ("tiny-mpnet", "v"),
        ("tiny-distilbert", "q_lin,lin2"),
    ] {
        let adaptation = AdaptationSettings {
            lora_r: Some(3),
            lora_alpha: Some(6.0),
            lora_dropout: 0.3,
            lora_target_modules: targets.split(',').map(Into::into).collect(),
            ..default()
        };
        let Some(mut model) = adapted(Reference::<f64>::new(), name, &adaptation) else { return };
        // Away from B = 0, where A has no gradient.
        let values = |model: &mut EmbeddingModel<Reference<f64>>, change: &dyn Fn(usize, usize, &mut f64)| {
            for (i, param) in model.parameters_mut().list.iter_mut().enumerate().filter(|(_, param)| param.is_trained())
            {
                param.value.iter_mut().enumerate().for_each(|(j, w)| change(i, j, w));
            }
        };
        values(&mut model, &|i, j, w| *w += 0.1 * ((i * 31 + j * 7) % 13) as f64 / 13.0 - 0.05);
        let batch = batch(&tokenize(&model, &["boundary layer", "heat transfer in a slip flow", ""], None));
        let rates = DropoutRates { hidden: 0.2, attention: 0.3, adapter: 0.3 };
        let (y, saved) = model.forward(&batch, rates);
        let d_y = seeded(y.len(), 5);
        let mut gradients = model.parameters().zero_gradients(model.ops());
        model.backward(&batch, &saved, &d_y, &mut gradients);
        let slope: f64 = gradients.list.iter().map(|gradient| model.ops().squared_norm(gradient)).sum();
        let step = 1e-3 / slope.sqrt();
        let mut at = |sign: f64| -> f64 {
            values(&mut model, &|i, j, w| *w += sign * step * gradients.list[i][j]);
            let y = model.forward(&batch, rates).0;
            y.iter().zip(&d_y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let measured = (at(1.0) - at(-2.0)) / (2.0 * step);
        assert!((measured / slope - 1.0).abs() < 2e-3, "{name}: measured {measured}, predicted {slope}");
    }
}

/// Away from the base by more than the rounding of bf16.
const MOVED: f32 = 0.05;
/// Of a vector's element between f32 and bf16 on a tiny model of length 1: about 1/256 of it.
const BF16: f32 = 5e-3;

#[test]
fn adapters_multiply_bf16_as_well_and_what_is_saved_is_the_same_model() {
    let adaptation = AdaptationSettings { lora_r: Some(3), ..default() };
    let run = |cpu: Cpu| {
        let mut model = adapted(cpu, "tiny-bert", &adaptation)?;
        let ops = model.shared_ops();
        let base = model.encode(&batch(&tokenize(&model, &["boundary layer"], None)));
        for (i, param) in model.parameters_mut().list.iter_mut().enumerate().filter(|(_, param)| param.is_trained()) {
            let values = seeded(param.n_values(), i as u64).iter().map(|value| 0.3 * value).collect::<Vec<_>>();
            param.value = ops.upload(&values);
            param.repack(&ops);
        }
        let parent = tempfile::tempdir().unwrap();
        model.save(&parent.path().join("merged")).unwrap();
        Some((base, model.encode(&batch(&tokenize(&model, &["boundary layer"], None)))))
    };
    let (Some((base, exact)), Some((_, rounded))) = (run(Cpu::new()), run(Cpu::bf16_emulated())) else { return };
    assert!(difference(&base, &exact) > MOVED, "{}", difference(&base, &exact));
    assert!(difference(&exact, &rounded) < BF16, "{}", difference(&exact, &rounded));
}

#[test]
fn merged_adapters_are_those_of_the_model_in_every_architecture_and_rank_stabilized() {
    for (name, target) in [
        ("tiny-mpnet", "attention.attn.q"),
        ("tiny-roberta", "attention.self.query"),
        ("tiny-distilbert", "attention.q_lin"),
    ] {
        let adaptation = AdaptationSettings { lora_r: Some(4), use_rslora: true, freeze_layers: 1, ..default() };
        let Some(mut model) = adapted(Cpu::new(), name, &adaptation) else { return };
        let ops = model.shared_ops();
        let batch = batch(&tokenize(&model, &["boundary layer"], None));
        let base = model.encode(&batch);
        for (i, param) in model.parameters_mut().list.iter_mut().enumerate().filter(|(_, param)| param.is_trained()) {
            let values = seeded(param.n_values(), i as u64).iter().map(|value| 0.2 * value).collect::<Vec<_>>();
            param.value = ops.upload(&values);
            param.repack(&ops);
        }
        let expected = model.encode(&batch);
        assert!(difference(&base, &expected) > MOVED, "{name}: {}", difference(&base, &expected));
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("merged");
        model.save_with(&folder, |folder| model.save_adapter(folder)).unwrap();
        let merged = load(Cpu::new(), &folder, &Overrides::default());
        assert!(difference(&expected, &merged.encode(&batch)) < 1e-5, "{name}");
        let config = fs::read(folder.join("adapter/adapter_config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["use_rslora"], true);
        assert!(config["target_modules"].as_array().unwrap().contains(&target.into()), "{config}");
    }
}

#[test]
fn what_is_computed_twice_has_the_same_dropout_of_adapters() {
    let adaptation = AdaptationSettings { lora_r: Some(2), lora_dropout: 0.2, ..default() };
    let settings = TrainSettings { adaptation: adaptation.clone(), ..settings() };
    let Some(model) = adapted(Cpu::new(), "tiny-bert", &adaptation) else { return };
    let set = TrainingSet::new(&model, &examples(6, 2), "train.jsonl".as_ref(), &settings, &Said::default()).unwrap();
    let micro = MicroBatch::new(&set, &[0, 1, 2, 3, 4, 5], take(3, 0)).unwrap();
    let objective = settings.objective();
    let gradients = |kept_tokens, dropout| {
        let mut gradients = model.parameters().zero_gradients(model.ops());
        forward_backward(
            &model,
            &micro,
            Pass { objective: &objective, dropout, frozen: None, weight: 1.0, kept_tokens },
            &mut gradients,
        );
        gradients.list.iter().map(|gradient| model.ops().download(gradient)).collect::<Vec<_>>()
    };
    let rates = settings.dropout_rates(model.dropout());
    assert_eq!(rates.adapter, 0.2);
    let kept = gradients(usize::MAX, rates);
    assert!(kept == gradients(0, rates));
    assert!(kept != gradients(0, DropoutRates { adapter: 0.0, ..rates }));
}

#[test]
fn a_run_with_adapters_goes_on_where_it_was_and_keeps_its_best_model() {
    let job = || {
        let mut job = Job::new()?;
        job.settings = TrainSettings {
            max_steps: Some(6),
            gradient_accumulation_steps: 2,
            per_device_train_batch_size: 3,
            learning_rate: 1e-2,
            save_steps: Steps::Number(2),
            save_total_limit: None,
            eval_split: Some(0.34),
            eval_steps: Some(Steps::Number(2)),
            load_best_model_at_end: true,
            optim: OptimizerName::Adafactor,
            adaptation: AdaptationSettings { lora_r: Some(2), lora_dropout: 0.1, save_adapter: true, ..default() },
            ..job.settings
        };
        Some(job)
    };
    let Some(whole) = job() else { return };
    let record = whole.train().unwrap();
    let names = ["model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"];
    let outcome = |job: &Job| names.map(|name| fs::read(job.output(name)).unwrap());
    let expected = outcome(&whole);
    let mut stopped = job().unwrap();
    stopped.train_and_say(&Said::stopping_at(3)).unwrap_err();
    stopped.settings.resume_from_checkpoint = Some(Resume::Last);
    let resumed = stopped.train().unwrap();
    assert_eq!(resumed.evaluation, record.evaluation);
    assert_eq!(resumed.counts.parameters, record.counts.parameters);
    assert!(outcome(&stopped) == expected);

    stopped.settings.adaptation.lora_alpha = Some(4.0);
    stopped.settings.output_dir = stopped.root.path().join("again");
    stopped.settings.resume_from_checkpoint = Some(Resume::Path(whole.output("checkpoint-2")));
    let error = stopped.train().unwrap_err();
    assert!(error.to_string().contains("`--lora_alpha` was not given and is 4.0"), "{error}");

    let config: Value = serde_json::from_slice(&expected[2]).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"], &config["peft_type"]), (&2.into(), &2.0.into(), &"LORA".into()));
    assert!(config["target_modules"].as_array().unwrap().contains(&"attention.output.dense".into()));
}
