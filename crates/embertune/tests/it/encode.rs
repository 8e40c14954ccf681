//! Embeddings and hidden states against PyTorch's, on both devices.

use std::collections::BTreeMap;
use std::path::Path;

use embertune::model::{DropoutRates, Overrides, mpnet};
use embertune::progress::Silent;
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::ops::Pooling;
use embertune_kernels::reference::Reference;
use serde_json::Value;

use crate::golden;
use crate::models::{POOLINGS, batch, difference, largest, load, pooled, texts, tokenize};

/// A golden file, the models in it, and the poolings of each.
struct Set {
    name: &'static str,
    models: &'static [&'static str],
    poolings: &'static [(Pooling, &'static str)],
}

const SETS: [Set; 2] = [
    Set { name: "encode", models: &["tiny-bert", "tiny-mpnet"], poolings: &POOLINGS },
    Set {
        name: "models",
        models: &["tiny-roberta", "tiny-xlm-roberta", "tiny-distilbert"],
        poolings: &[(Pooling::Cls, "cls"), (Pooling::Mean, "mean")],
    },
];

/// Between normalised embeddings. Correct f32 programs differ by 2e-7; a wrong epsilon of LayerNorm gives 2.9e-5.
const NORMALIZED: f32 = 5e-6;
/// Between normalised embeddings, where products are of bf16: measured 1.25e-3 on both real models (2026-11-23). PyTorch's
/// own bf16 is off by 3.3e-3 (golden README).
const NORMALIZED_BF16: f32 = 2.5e-3;
/// The same for vectors of any length, relative to the largest value.
const UNNORMALIZED: f32 = 5e-6;

#[test]
fn mpnet_buckets_equal_those_of_transformers() {
    let Some(json) = golden::json("buckets.json") else { return };
    let first = json["from"].as_i64().expect("a number");
    for (i, expected) in json["bucket"].as_array().expect("a list").iter().enumerate() {
        let distance = first + i as i64;
        assert_eq!(u64::from(mpnet::bucket(distance)), expected.as_u64().expect("a number"), "distance {distance}");
    }
}

#[test]
fn embeddings_of_tiny_models_equal_pytorch_in_every_pooling() {
    for set in SETS {
        set.check_embeddings(&Reference::<f32>::new);
        set.check_embeddings(&Cpu::new);
    }
}

impl Set {
    fn values(&self) -> Option<(Value, BTreeMap<String, golden::Tensor>)> {
        let name = self.name;
        Some((golden::json(&format!("{name}.json"))?, golden::tensors(&format!("{name}.safetensors"))?))
    }

    fn check_embeddings<O: Ops>(&self, ops: &impl Fn() -> O) {
        let Some((json, tensors)) = self.values() else { return };
        let texts = texts(&json["texts"]);
        for name in self.models {
            let Some(folder) = golden::golden(name) else { return };
            for &(pooling, pooling_name) in self.poolings {
                for (normalize, end) in [(false, ""), (true, "/norm")] {
                    let model = load(ops(), &folder, &pooled(pooling, normalize));
                    for length in [64, 16] {
                        let case = format!("{name}/len{length}/{pooling_name}{end}");
                        let (shape, expected) = &tensors[&case];
                        assert_eq!(shape[..], [texts.len(), model.dim()], "{case}");
                        let actual = model.encode(&batch(&tokenize(&model, &texts, Some(length))));
                        let allowed = if normalize { NORMALIZED } else { UNNORMALIZED * largest(expected) };
                        let difference = difference(&actual, expected);
                        assert!(difference <= allowed, "{case}: {difference:e}");
                    }
                }
            }
        }
    }

    fn check_hidden<O: Ops>(&self, ops: &impl Fn() -> O) {
        let Some((json, tensors)) = self.values() else { return };
        let texts = texts(&json["texts"]);
        let mut n_checked = 0;
        for name in self.models {
            let Some(folder) = golden::golden(name) else { return };
            // Pooling that reads all tokens, so that all are computed.
            let model = load(ops(), &folder, &pooled(Pooling::Mean, false));
            for length in [64, 16] {
                let batch = batch(&tokenize(&model, &texts, Some(length)));
                let (_, saved) = model.forward(&batch, DropoutRates::default());
                for (k, state) in model.hidden_states(&batch, &saved).iter().enumerate() {
                    let width = state.len() / batch.n_tokens();
                    for text in 0..texts.len() {
                        let case = format!("{name}/len{length}/hidden/{text}/{k}");
                        let Some((_, expected)) = tensors.get(&case) else { continue };
                        let rows = batch.ragged().range(text);
                        let difference = difference(&state[rows.start * width..rows.end * width], expected);
                        assert!(difference <= UNNORMALIZED * largest(expected), "{case}: {difference:e}");
                        n_checked += 1;
                    }
                }
            }
        }
        assert_eq!(n_checked, tensors.keys().filter(|key| key.contains("/hidden/")).count());
    }
}

#[test]
fn hidden_states_of_every_layer_equal_pytorch() {
    for set in SETS {
        set.check_hidden(&Reference::<f32>::new);
        set.check_hidden(&Cpu::new);
    }
}

#[test]
fn embeddings_of_checkpoint_variants_equal_pytorch() {
    let (Some(json), Some(tensors)) = (golden::json("encode.json"), golden::tensors("encode.safetensors")) else {
        return;
    };
    let texts = texts(&json["texts"]);
    for name in ["f16", "bf16", "gelu-new", "relu", "st6", "prefix"] {
        let name = format!("tiny-bert-{name}");
        let Some(folder) = golden::golden(&name) else { return };
        // The raw checkpoint says nothing of pooling.
        let overrides = if name.ends_with("prefix") { pooled(Pooling::Mean, true) } else { Overrides::default() };
        let model = load(Cpu::new(), &folder, &overrides);
        let difference = difference(
            &model.encode(&batch(&tokenize(&model, &texts, Some(64)))),
            &tensors[&format!("{name}/mean/norm")].1,
        );
        assert!(difference <= NORMALIZED, "{name}: {difference:e}");
    }
}

#[test]
fn embeddings_of_real_models_equal_pytorch() {
    check_real("all-MiniLM-L6-v2", Cpu::new(), NORMALIZED);
    check_real("all-mpnet-base-v2", Cpu::new(), NORMALIZED);
}

#[test]
fn embeddings_of_real_models_in_bf16_stay_near_pytorch() {
    let Some(cpu) = Cpu::bf16() else { return eprintln!("SKIPPED: this CPU does not multiply bf16") };
    check_real("all-MiniLM-L6-v2", cpu.clone(), NORMALIZED_BF16);
    check_real("all-mpnet-base-v2", cpu, NORMALIZED_BF16);
}

fn check_real<O: Ops>(name: &str, ops: O, tolerance: f32) {
    let (Some(json), Some(tensors)) = (golden::json("encode.json"), golden::tensors("encode.safetensors")) else {
        return;
    };
    let Some(folder) = golden::real_model(name) else { return };
    let texts = texts(&json["real_texts"]);
    let model = load(ops, &folder, &Overrides::default());
    let actual = model.encode(&batch(&tokenize(&model, &texts, None)));
    let difference = difference(&actual, &tensors[&format!("{name}/published")].1);
    eprintln!("{name}: largest difference {difference:e}");
    assert!(difference <= tolerance, "{name}: {difference:e}");
}

#[test]
fn a_prefix_of_the_names_changes_no_vector() {
    let Some(base) = golden::golden("tiny-roberta") else { return };
    let copy = crate::folders::copy(&base);
    crate::folders::edit_weights(copy.path(), |tensors| {
        tensors.iter_mut().for_each(|tensor| tensor.0.insert_str(0, "roberta."))
    });
    let vectors = |folder: &Path| {
        let model = load(Cpu::new(), folder, &Overrides::default());
        model.encode(&batch(&tokenize(&model, &["hello world"], None)))
    };
    assert_eq!(vectors(&base), vectors(copy.path()));
}

/// The loader says what it leaves out, once.
#[test]
fn heads_of_another_task_are_noted() {
    struct Notes(std::sync::Mutex<Vec<String>>);
    impl embertune::progress::Progress for Notes {
        fn start(&self, _: &str, _: u64) {}
        fn advance(&self, _: u64) {}
        fn finish(&self) {}
        fn warn(&self, message: &str) {
            panic!("{message}");
        }
        fn note(&self, message: &str) {
            self.0.lock().expect("no panic").push(message.to_owned());
        }
    }
    let Some(folder) = golden::golden("tiny-bert-prefix") else { return };
    let notes = Notes(Default::default());
    let read = |folder: &Path, progress: &dyn embertune::progress::Progress| {
        embertune::model::EmbeddingModel::load(Cpu::new(), folder, &pooled(Pooling::Mean, false), progress)
    };
    read(&folder, &notes).map(drop).expect("a model");
    read(&folder, &Silent).map(drop).expect("a model");
    let notes = notes.0.into_inner().expect("no panic");
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("`cls.predictions.bias` and so on (7 tensors)"), "{}", notes[0]);
}
