//! Flags of `embertune train` about the optimizer that take more than a number: which one, and the parameters of the schedule.

use clap::Args;
use embertune::Error;
use embertune::optim::{OptimizerName, SchedulerKwargs, SchedulerType};

/// The optimizer and its schedule.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Optimizer")]
pub struct OptimizerArgs {
    /// Optimizer: adamw_torch, or adafactor, which needs hardly any memory beside the weights and their gradients
    #[arg(long, value_name = "NAME", value_parser = optimizer, default_value_t = OptimizerName::default())]
    pub optim: OptimizerName,

    /// Parameters of the schedule as JSON, by transformers' names: num_cycles of cosine and cosine_with_restarts, power and lr_end
    /// of polynomial, timescale of inverse_sqrt, num_decay_steps and others of warmup_stable_decay
    #[arg(long, value_name = "JSON", value_parser = scheduler_kwargs, default_value = "{}", hide_default_value = true)]
    pub lr_scheduler_kwargs: SchedulerKwargs,
}

fn optimizer(text: &str) -> Result<OptimizerName, String> {
    text.parse().map_err(with_hint)
}

/// A schedule by its name.
pub fn scheduler(text: &str) -> Result<SchedulerType, String> {
    text.parse().map_err(with_hint)
}

fn scheduler_kwargs(text: &str) -> Result<SchedulerKwargs, String> {
    text.parse().map_err(with_hint)
}

/// clap shows one text.
fn with_hint(error: Error) -> String {
    format!("{error}, {}", error.hint().unwrap_or_default())
}
