//! From gradients to new weights: the global norm and clipping, the learning rate of a step, AdamW or Adafactor.

pub mod adafactor;
pub mod adamw;
pub mod clip;
pub mod optimizer;
pub mod schedule;
pub mod state;

pub use adafactor::Adafactor;
pub use adamw::{AdamW, AdamWSettings};
pub use optimizer::{Optimizer, OptimizerName};
pub use schedule::{Schedule, SchedulerKwargs, SchedulerType};
