//! Tests of the library against golden values and real models, in one binary: one module per topic.

mod broken_folders;
mod data;
mod embedding;
mod encode;
mod evaluation;
mod folders;
mod golden;
mod losses;
mod gradients;
mod invariance;
mod metrics;
mod mining;
mod models;
mod said;
mod saved_folders;
mod search;
mod training;
mod trajectory;
mod tokenizer;
