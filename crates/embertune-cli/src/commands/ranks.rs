//! The ranks that a command runs on: this process alone, or, in a build with the feature `mpi`, those that `mpirun` or `srun` started; and
//! how a command ends on all of them.
//!
//! Rank 0 speaks for all, where they have come to the same; a rank that is alone with its error says it and takes the others with it.

use std::process::ExitCode;
use std::time::Duration;

use embertune::comm::{Communicator, expect_same};
use embertune::progress::{Progress, Quiet};
use embertune::{Error, Result};

use crate::diagnostics;
use crate::progress::Display;

#[cfg(not(feature = "mpi"))]
type Processes = embertune::comm::Alone;
#[cfg(feature = "mpi")]
type Processes = embertune_mpi::MpiRanks;

/// Waits, on another rank than 0, before it says that the command line is wrong: rank 0 mostly has the same one, says the same, and with its
/// exit code `mpirun` ends the others. Who exits first would take rank 0 with it, unsaid; who is still here afterwards has an error of its
/// own, or a launcher that ends nobody.
///
/// The variables are those that `mpirun` and `srun` set: MPI is not started yet.
pub fn let_rank_0_speak() {
    const RANK: [&str; 4] = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"];
    let rank = |name: &&str| std::env::var(name).ok()?.parse::<usize>().ok();
    if cfg!(feature = "mpi") && RANK.iter().find_map(rank).is_some_and(|rank| rank > 0) {
        std::thread::sleep(Duration::from_secs(5));
    }
}

/// The ranks that were started together, and this one among them.
pub struct Ranks(Processes);

impl Ranks {
    /// Finds the others. One that sends nothing for `limit` while others wait for it ends the work.
    ///
    /// # Errors
    /// MPI cannot be started.
    #[cfg(feature = "mpi")]
    pub fn find(limit: Duration) -> Result<Self> {
        let report = |error: &Error| {
            diagnostics::report(error);
        };
        Ok(Ranks(embertune_mpi::MpiRanks::start(limit, report)?))
    }

    #[cfg(not(feature = "mpi"))]
    pub fn find(_limit: Duration) -> Result<Self> {
        Ok(Ranks(embertune::comm::Alone))
    }

    /// What they send each other.
    pub fn communicator(&self) -> &dyn Communicator {
        &self.0
    }

    /// The end of the command on this rank, which was `done`.
    ///
    /// # Errors
    /// Of a process alone, its own.
    pub fn end(self, done: Result<ExitCode>) -> Result<ExitCode> {
        let (rank, size) = (self.0.rank(), self.0.size());
        match done {
            Err(Error::Ended) => Ok(diagnostics::failed()),
            Err(error) if error.is_interruption() && rank > 0 => Ok(diagnostics::interrupted()),
            // Said before MPI ends: after it the others are gone with their exit codes, and `mpirun` ends who is still at it.
            Err(error) if size > 1 => {
                let code = diagnostics::report(&error);
                if error.is_interruption() { Ok(code) } else { self.take_all() }
            }
            done => done,
        }
    }

    /// Some ranks may be waiting for this one.
    #[cfg(feature = "mpi")]
    fn take_all(self) -> ! {
        self.0.end_all()
    }

    #[cfg(not(feature = "mpi"))]
    fn take_all(self) -> Result<ExitCode> {
        Ok(diagnostics::failed())
    }
}

/// Does a command's `work` as one of the ranks that were started with one command line, of which the first shows what happens.
///
/// # Errors
/// Of a process alone, its own.
pub fn together(
    limit: Duration,
    display: &Display,
    work: impl FnOnce(&dyn Communicator, &dyn Progress) -> Result<()>,
) -> Result<ExitCode> {
    let ranks = Ranks::find(limit)?;
    let among = ranks.communicator();
    let command_line = format!("{} {:?}", env!("CARGO_PKG_VERSION"), std::env::args_os().skip(1).collect::<Vec<_>>());
    let progress: &dyn Progress = if among.rank() == 0 { display } else { &Quiet(display) };
    let done = expect_same(among, "command line or version of Embertune", &command_line);
    let done = done.and_then(|()| work(among, progress));
    ranks.end(done.map(|()| ExitCode::SUCCESS))
}

/// Ends a command that does not share its work, where there are several ranks: each would do all of it, into the same files.
///
/// # Errors
/// The end of the command on this rank.
#[cfg(feature = "mpi")]
pub fn refuse_several() -> std::result::Result<(), Result<ExitCode>> {
    let ranks = Ranks::find(Duration::from_secs(60)).map_err(Err)?;
    let n = ranks.0.size();
    if n == 1 {
        return Ok(());
    }
    let refusal = Error::Setting {
        problem: format!("this command does not share its work, and was started on {n} ranks"),
        hint: Some(
            "run it without `mpirun` or `srun`; `train`, `mine`, `evaluate` and `embed` run on several ranks".into(),
        ),
    };
    let refused = embertune::comm::gather(ranks.communicator(), Err::<(), _>(refusal));
    Err(ranks.end(refused.map(|_| ExitCode::SUCCESS)))
}
