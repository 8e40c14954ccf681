//! From gradients to new weights: the global norm and clipping, the learning rate of a step, AdamW.

pub mod adamw;
pub mod clip;
pub mod schedule;

pub use adamw::{AdamW, AdamWSettings};
pub use schedule::{Schedule, SchedulerKwargs, SchedulerType};
