//! Fine-tuning: rows and a model in, a better model out.
//!
//! [`train`] is the whole job with its files; [`Trainer`] is the loop alone, one optimizer step at a time. Everything random is
//! a pure function of (seed, epoch, row), so a run gives the same weights again, on any number of threads.

pub mod adaptation;
pub mod cadence;
pub mod checkpoint;
pub mod checksums;
pub mod chunks;
pub mod config;
pub mod costs;
pub mod dataset;
pub mod evaluation;
pub mod events;
pub mod forecast;
pub mod frozen;
pub mod group;
pub mod guards;
mod known;
pub mod loss_settings;
pub mod measure;
pub mod memory;
pub mod merge;
pub mod mixture;
pub mod objective;
pub mod output;
pub mod ranks;
pub mod record;
pub mod rounds;
mod rows;
pub mod run;
pub mod sampler;
pub mod settings;
pub mod shard;
pub mod spread;
pub mod step;
pub mod sums;
pub mod temperature;
pub mod tensorboard;
pub mod texts;
pub mod trainer;

pub use adaptation::AdaptationSettings;
pub use cadence::{Steps, Strategy};
pub use dataset::TrainingSet;
pub use events::{EvaluationEvent, Observer, StepEvent};
pub use forecast::Forecast;
pub use loss_settings::{LossName, LossSettings};
pub use measure::Measure;
pub use memory::MemoryBudget;
pub use merge::{MergeAlpha, Merging};
pub use mixture::{DataSet, OwnSettings};
pub use output::Resume;
pub use record::RunRecord;
pub use rounds::RemineEvery;
pub use run::{dry_run, dry_run_as_rank, train, train_as_rank};
pub use sampler::{BatchSampler, SamplingStrategy};
pub use settings::TrainSettings;
pub use tensorboard::ReportTo;
pub use trainer::{Plan, StepReport, Trainer};
