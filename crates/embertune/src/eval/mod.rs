//! How well a model retrieves.

pub mod metrics;
pub mod results;
pub mod retrieval;
pub mod test_set;
pub mod trec;
pub mod words;

pub use metrics::{Measure, Metric};
pub use results::{QueryResults, Results, SetResults};
pub use retrieval::{EvalSettings, Evaluation, Query, Rankings, evaluate, queries_of, retrieve};
pub use test_set::TestSet;
