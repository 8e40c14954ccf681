//! Tests of the library against golden values and real models, in one binary: one module per topic.

mod broken_folders;
mod comparison;
mod data;
mod embedding;
mod encode;
mod evaluation;
mod folders;
mod golden;
mod gradients;
mod invariance;
mod losses;
mod metrics;
mod mining;
mod models;
mod said;
mod saved_folders;
mod search;
mod tokenizer;
mod training;
mod trajectory;
