//! Tests of the library against golden values and real models, in one binary: one module per topic.

mod broken_folders;
mod data;
mod embedding;
mod encode;
mod evaluation;
mod folders;
mod golden;
mod gradient_cache;
mod gradients;
mod invariance;
mod loss_gradients;
mod loss_training;
mod losses;
mod metrics;
mod mining;
mod mining_rules;
mod mining_sources;
mod models;
mod pickled;
mod resume;
mod said;
mod saved_folders;
mod search;
mod tokenizer;
mod training;
mod trajectory;
