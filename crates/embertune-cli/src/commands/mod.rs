//! What each command does: read files, call the library, show the result.

mod embed;
mod evaluate;
mod gen_docs;
mod mine;
mod train;

use embertune::model::{EmbeddingModel, resolve};
use embertune::progress::Progress;
use embertune::{Error, Result};
use embertune_kernels::cpu::Cpu;

use crate::args::{Cli, Command, MachineArgs, ModelArgs};
use crate::progress::Display;

/// Runs the command that the user asked for.
pub fn run(cli: Cli) -> Result<()> {
    let progress = Display::new();
    match cli.command {
        Command::Mine(args) => mine::run(&args, &progress),
        Command::Train(args) => train::run(&args, &progress),
        Command::Evaluate(args) => evaluate::run(&args, &progress),
        Command::Embed(args) => embed::run(&args, &progress),
        Command::GenDocs => gen_docs::run(),
    }
}

/// Finds and reads the model that the flags name.
fn load(args: &ModelArgs, machine: &MachineArgs, progress: &dyn Progress) -> Result<EmbeddingModel<Cpu>> {
    let folder = resolve(&args.model_name_or_path, progress)?;
    EmbeddingModel::load(machine.cpu(machine.precision)?, &folder, &args.overrides()?, progress)
}

/// Sets up the threads that all later work of this process runs on.
fn start_threads(args: &MachineArgs) -> Result<()> {
    if args.threads == Some(0) {
        return Err(Error::Setting {
            problem: "`--threads 0`: at least 1 is needed".into(),
            hint: Some("leave the flag out for one thread per core".into()),
        });
    }
    rayon::ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build_global().map_err(|error| {
        Error::Setting { problem: format!("cannot start threads: {error}"), hint: Some("try fewer `--threads`".into()) }
    })
}
