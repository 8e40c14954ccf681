//! `embertune train`: rows in, a tuned model folder out.

use embertune::Result;
use embertune::progress::Progress;
use embertune::train::train;
use embertune_kernels::cpu::Cpu;

use super::start_threads;
use crate::args::TrainArgs;
use crate::progress::Display;

/// Runs the command.
pub fn run(args: &TrainArgs, progress: &Display) -> Result<()> {
    start_threads(&args.machine)?;
    if args.per_device_train_batch_size == 1 && args.train_group_size == 2 {
        progress.warn(
            "`--per_device_train_batch_size 1` with `--train_group_size 2` gives each query a single negative, which is \
             little; a larger batch brings more of them and is faster: try 32",
        );
    }
    train(Cpu::new(), &args.settings(), progress)?;
    Ok(())
}
