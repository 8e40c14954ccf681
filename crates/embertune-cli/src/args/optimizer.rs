//! Flags of `embertune train` about the optimizer that take more than a number.

use clap::Args;
use embertune::Error;
use embertune::optim::SchedulerKwargs;

/// Parameters of the schedule.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Optimizer")]
pub struct OptimizerArgs {
    /// Parameters of the schedule as JSON, by transformers' names: num_cycles of cosine and cosine_with_restarts, power and lr_end
    /// of polynomial, timescale of inverse_sqrt, num_decay_steps and others of warmup_stable_decay
    #[arg(long, value_name = "JSON", value_parser = scheduler_kwargs, default_value = "{}", hide_default_value = true)]
    pub lr_scheduler_kwargs: SchedulerKwargs,
}

fn scheduler_kwargs(text: &str) -> Result<SchedulerKwargs, String> {
    text.parse().map_err(|error: Error| format!("{error}, {}", error.hint().unwrap_or_default()))
}
