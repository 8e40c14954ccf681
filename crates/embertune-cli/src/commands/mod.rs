//! What each command does: read files, call the library, show the result.

mod audit;
mod compare;
mod convert;
mod embed;
mod evaluate;
mod gen_docs;
mod mine;
mod ranks;
mod report;
mod score;
mod split;
mod test_sets;
mod train;
mod tune;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use embertune::comm::Communicator;
use embertune::model::{EmbeddingModel, resolve};
use embertune::progress::Progress;
use embertune::{Error, Result};
use embertune_kernels::Ops;

use crate::args::{Cli, Command, MachineArgs, ModelChangeArgs};
use crate::progress::Display;
use ranks::Ranks;
pub use ranks::let_rank_0_speak;

/// Runs the command that the user asked for. The exit code is 1 where it did its work and a requirement is not met.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let progress = match &cli.command {
        Command::Train(args) if args.disable_tqdm => Display::lines(),
        _ => Display::new(),
    };
    #[cfg(feature = "mpi")]
    if !matches!(cli.command, Command::Train(_) | Command::Mine(_) | Command::Evaluate(_) | Command::Embed(_))
        && let Err(end) = ranks::refuse_several()
    {
        return end;
    }
    match cli.command {
        Command::Audit(args) => return audit::run(&args, &progress),
        Command::Mine(args) => {
            let work = |ranks: &dyn Communicator, progress: &dyn Progress| mine::run(&args, ranks, progress);
            return ranks::together(args.ranks.timeout(), &progress, work);
        }
        Command::Score(args) => score::run(&args, &progress),
        Command::Train(args) => {
            let ranks = Ranks::find(args.ranks.timeout())?;
            let done = train::run(&args, ranks.communicator(), &progress);
            return ranks.end(done.map(|()| ExitCode::SUCCESS));
        }
        Command::Evaluate(args) => {
            let work = |ranks: &dyn Communicator, progress: &dyn Progress| evaluate::run(&args, ranks, progress);
            return ranks::together(args.ranks.timeout(), &progress, work);
        }
        Command::Compare(args) => return compare::run(&args, &progress),
        Command::Report(args) => report::run(&args, &progress),
        Command::Embed(args) => {
            let work = |ranks: &dyn Communicator, progress: &dyn Progress| embed::run(&args, ranks, progress);
            return ranks::together(args.ranks.timeout(), &progress, work);
        }
        Command::Convert(args) => convert::run(&args, &progress),
        Command::Split(args) => split::run(&args, &progress),
        Command::Tune(args) => return tune::run(&args, &progress),
        Command::GenDocs { arguments } => gen_docs::run(arguments),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Finds and reads a model by its name.
fn load_named<O: Ops>(
    ops: O,
    name: &str,
    changes: &ModelChangeArgs,
    progress: &dyn Progress,
) -> Result<EmbeddingModel<O>> {
    let folder = resolve(name, progress)?;
    EmbeddingModel::load(ops, &folder, &changes.overrides()?, progress)
}

/// Sets up the threads that all later work of this process runs on.
fn start_threads(args: &MachineArgs) -> Result<()> {
    start_n_threads(args.threads)
}

/// The same with a number of threads, of which the calling one is the first; `None` is one for each core.
fn start_n_threads(threads: Option<usize>) -> Result<()> {
    if threads == Some(0) {
        return Err(Error::Setting {
            problem: "`--threads 0`: at least 1 is needed".into(),
            hint: Some("leave the flag out for one thread per core".into()),
        });
    }
    // `tune` does the work of several commands in one process, which has one pool.
    static STARTED: AtomicBool = AtomicBool::new(false);
    if STARTED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).use_current_thread();
    pool.build_global().map_err(|error| Error::Setting {
        problem: format!("cannot start threads: {error}"),
        hint: Some("try fewer `--threads`".into()),
    })
}
