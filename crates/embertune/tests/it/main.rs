//! Tests of the library against golden values and real models, in one binary: one module per topic.

mod data;
mod embedding;
mod evaluation;
mod golden;
mod losses;
mod metrics;
mod mining;
mod said;
mod search;
mod training;
mod trajectory;
