//! Whole models on a GPU: gradients and training runs against PyTorch, and a fine-tuning against the same one on the CPU.

use std::path::Path;

use embertune::data::Example;
use embertune::model::EmbeddingModel;
use embertune::progress::Silent;
use embertune::train::{TrainSettings, Trainer, TrainingSet};
use embertune_gpu::Products;
use embertune_kernels::Ops;
use embertune_kernels::cpu::Cpu;
use embertune_kernels::ops::Pooling;

use crate::device::device;
use crate::{golden, gradients, trajectory};

#[test]
fn gradients_of_tiny_models_on_the_gpu_equal_pytorch_by_name() {
    let (Some(gpu), Some(json)) = (device(), golden::json("gradients.json")) else { return };
    for (pooling, pooling_name) in [(Pooling::Mean, "mean"), (Pooling::Cls, "cls")] {
        for name in ["tiny-bert", "tiny-mpnet"] {
            gradients::check_tiny(gpu.clone(), "gradients", &json, name, pooling, pooling_name);
        }
    }
}

#[test]
fn gradients_of_other_architectures_on_the_gpu_equal_pytorch_by_name() {
    let (Some(gpu), Some(json)) = (device(), golden::json("models.json")) else { return };
    for name in ["tiny-roberta", "tiny-distilbert"] {
        gradients::check_tiny(gpu.clone(), "models", &json["gradients"], name, Pooling::Mean, "mean");
    }
}

#[test]
fn twelve_steps_of_bert_on_the_gpu_equal_pytorch() {
    let Some(gpu) = device() else { return };
    trajectory::check_tiny(gpu.clone(), "tiny-bert", &trajectory::TINY);
}

#[test]
fn twelve_steps_of_mpnet_on_the_gpu_equal_pytorch() {
    let Some(gpu) = device() else { return };
    trajectory::check_tiny(gpu.clone(), "tiny-mpnet", &trajectory::TINY);
}

#[test]
#[ignore = "takes minutes on a software device"]
fn ten_steps_of_minilm_on_the_gpu_equal_pytorch() {
    let Some(gpu) = device() else { return };
    trajectory::check_minilm(gpu.clone(), &trajectory::REAL, trajectory::EMBEDDING);
}

#[test]
#[ignore = "takes minutes on a software device"]
fn ten_steps_of_minilm_in_bf16_on_the_gpu_follow_pytorch() {
    let Some(gpu) = device() else { return };
    let gpu = gpu.clone().multiplying(&[Products::Bf16, Products::Bf16Emulated]).unwrap();
    trajectory::check_minilm(gpu, &trajectory::REAL_BF16, trajectory::EMBEDDING_BF16);
}

/// Two f32 programs drift apart as their steps add up: measured 2e-6 of a loss and 2e-5 of a norm after 20 steps.
const LOSS: f64 = 1e-5;
const NORM: f64 = 1e-4;

/// With dropout, whose masks are the same on both.
#[test]
fn twenty_steps_with_dropout_on_the_gpu_equal_those_on_the_cpu() {
    let (Some(gpu), Some(folder)) = (device(), golden::golden("tiny-bert")) else { return };
    assert_equal_steps(&steps(gpu.clone(), &folder), &steps(Cpu::new(), &folder));
}

#[test]
#[ignore = "takes minutes on a software device"]
fn twenty_steps_of_minilm_with_dropout_on_the_gpu_equal_those_on_the_cpu() {
    let (Some(gpu), Some(folder)) = (device(), golden::real_model("all-MiniLM-L6-v2")) else { return };
    assert_equal_steps(&steps(gpu.clone(), &folder), &steps(Cpu::new(), &folder));
}

/// Products of the same factors in another order of sums, and probabilities that round to another bf16 for it.
const BF16_LOSS: f64 = 1e-2;
const BF16_NORM: f64 = 2e-2;

#[test]
fn twenty_steps_in_bf16_on_the_gpu_follow_those_on_the_cpu() {
    let (Some(gpu), Some(folder)) = (device(), golden::golden("tiny-bert")) else { return };
    let gpu = gpu.clone().multiplying(&[Products::Bf16, Products::Bf16Emulated]).unwrap();
    let (in_bf16, exact) = (steps(gpu, &folder), steps(Cpu::new(), &folder));
    assert_steps(&in_bf16, &steps(Cpu::bf16_emulated(), &folder), BF16_LOSS, BF16_NORM);
    assert_ne!(in_bf16[0].0, exact[0].0, "bf16 changes nothing");
}

fn assert_equal_steps(gpu: &[(f64, f64)], cpu: &[(f64, f64)]) {
    assert_steps(gpu, cpu, LOSS, NORM);
}

fn assert_steps(gpu: &[(f64, f64)], cpu: &[(f64, f64)], loss_tolerance: f64, norm_tolerance: f64) {
    let (mut loss, mut norm) = (0.0_f64, 0.0_f64);
    for ((gpu_loss, gpu_norm), (cpu_loss, cpu_norm)) in gpu.iter().zip(cpu) {
        loss = loss.max((gpu_loss - cpu_loss).abs());
        norm = norm.max((gpu_norm / cpu_norm - 1.0).abs());
    }
    println!("losses {:.6} to {:.6}, worst difference {loss:e}; of norms {norm:e}", gpu[0].0, gpu[19].0);
    assert!(loss <= loss_tolerance && norm <= norm_tolerance, "loss {loss:e}, norm {norm:e}");
}

/// Losses and gradient norms of twenty steps with dropout.
fn steps<O: Ops>(ops: O, folder: &Path) -> Vec<(f64, f64)> {
    let settings = TrainSettings {
        per_device_train_batch_size: 4,
        train_group_size: 2,
        learning_rate: 1e-4,
        temperature: 0.05,
        dropout: Some(0.1),
        max_steps: Some(20),
        query_max_len: 16,
        passage_max_len: 16,
        ..TrainSettings::default()
    };
    let mut model = EmbeddingModel::load(ops, folder, &settings.overrides().unwrap(), &Silent).unwrap();
    let topics = ["a red apple", "a green pear", "the old car", "a fast train", "the blue sea", "a high hill"];
    let rows = topics.iter().enumerate().map(|(i, topic)| Example {
        query: format!("what is said of {topic}"),
        positives: vec![format!("this is all about {topic} and more")],
        negatives: vec![format!("{} is something else", topics[(i + 1) % topics.len()])],
        line: i + 1,
        ..Example::default()
    });
    let rows: Vec<_> = rows.collect();
    let set = TrainingSet::new(&model, &rows, Path::new("train.jsonl"), &settings, &Silent).unwrap();
    let mut trainer = Trainer::new(&mut model, &set, &settings).unwrap();
    let mut steps = Vec::new();
    while let Some(report) = trainer.step() {
        let report = report.unwrap();
        steps.push((report.loss, report.grad_norm));
    }
    assert_eq!(steps.len(), 20);
    steps
}
