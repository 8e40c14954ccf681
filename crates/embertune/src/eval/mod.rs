//! How well a model retrieves.

pub mod metrics;
pub mod retrieval;

pub use metrics::Metric;
pub use retrieval::{EvalSettings, Evaluation, Query, evaluate, queries_of};
