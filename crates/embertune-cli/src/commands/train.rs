//! `embertune train`: rows in, a tuned model folder out.

use embertune::Result;
use embertune::comm::{Communicator, all_or_none};
use embertune::device::Precision;
use embertune::progress::Quiet;
use embertune::report::{Run, card};
use embertune::train::{Observer, TrainSettings, dry_run_as_rank, train_as_rank};

use super::start_threads;
use crate::args::TrainArgs;
use crate::device::{Device, on_device};
use crate::progress::Display;

/// Runs the command as one of `ranks`, of which the first shows what happens.
pub fn run(args: &TrainArgs, ranks: &dyn Communicator, display: &Display) -> Result<()> {
    let settings = all_or_none(ranks, args.settings())?;
    all_or_none(ranks, start_threads(&args.machine))?;
    let _listening = display.signals().listen()?;
    // Signals reach each rank.
    let quiet = Quiet(display);
    let progress: &dyn Observer = if ranks.rank() == 0 { display } else { &quiet };
    if args.per_device_train_batch_size == 1 && args.train_group_size == 2 {
        progress.warn(
            "`--per_device_train_batch_size 1` with `--train_group_size 2` gives each query a single negative, which is \
             little; a larger batch brings more of them and is faster: try 32",
        );
    }
    let device = Device::open(&args.machine, args.precision(), ranks, progress)?;
    // The record says what was computed, not what was asked for.
    let precision = device.precision();
    if args.fp16 || args.bf16 == Some(true) && precision != Precision::Bf16 {
        let flag = if args.fp16 { "fp16" } else { "bf16" };
        progress.note(&format!(
            "`--{flag} True`: {} does not multiply {flag}, so products are {}",
            if matches!(device, Device::Cpu(_)) { "this CPU" } else { "this build on a GPU" },
            if precision == Precision::Bf16 { "bf16" } else { "f32" }
        ));
    }
    let settings = TrainSettings { precision, ..settings };
    on_device!(device, |ops| if args.dry_run {
        all_or_none(ranks, dry_run_as_rank(ops, &settings, ranks, progress))?;
    } else if train_as_rank(ops, &settings, ranks, progress)?.is_some() {
        card::write(&Run::read(&settings.output_dir)?)?;
    });
    Ok(())
}
