//! How well a model retrieves.

pub mod comparison;
pub mod languages;
pub mod metrics;
pub mod paired;
pub mod results;
pub mod retrieval;
pub mod similarity;
pub mod slices;
pub mod test_set;
pub mod trec;
pub mod verdict;
pub mod words;

pub use comparison::{CompareSettings, Comparison, SetComparison};
pub use metrics::{Measure, Metric};
pub use paired::{Difference, Finding, Resampling};
pub use results::{QueryResults, Results, SetResults};
pub use retrieval::{EvalSettings, Evaluation, Query, Rankings, evaluate, queries_of, retrieve};
pub use test_set::TestSet;
pub use verdict::Requirement;
