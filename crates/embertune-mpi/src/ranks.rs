//! The processes of MPI's world.

use std::panic;
use std::thread;
use std::time::{Duration, Instant};

use embertune::comm::Communicator;
use embertune::{Error, Result};
use mpi::datatype::Equivalence;
use mpi::environment::{Threading, Universe, processor_name};
use mpi::point_to_point::{Destination, Source};
use mpi::request::{LocalScope, Request};
use mpi::topology::{Communicator as _, SimpleCommunicator};

/// The exit code of a run that is ended in the middle.
const FAILED: i32 = 2;

/// How often it is looked for a message before others may have the processor in between: one of the same machine comes sooner.
const N_EAGER: usize = 2000;
/// How long they have it. Later by this much a message is not worth noticing, beside a step.
const PAUSE: Duration = Duration::from_micros(50);

/// This process among those of MPI's world. MPI ends when it is dropped; all ranks have to have come to their end by then.
pub struct MpiRanks {
    hosts: Vec<String>,
    limit: Duration,
    report: fn(&Error),
    _universe: Universe,
}

impl MpiRanks {
    /// Starts MPI, once in a process. Who was started neither by `mpirun` nor by `srun` is rank 0 of 1.
    ///
    /// A rank that sends nothing for `limit` while others wait for it, and one that panics, ends all of them: `report` is told why, since
    /// there is no way back from half a message. Who dies is noticed by `mpirun` itself.
    ///
    /// # Errors
    /// MPI cannot be started.
    pub fn start(limit: Duration, report: fn(&Error)) -> Result<Self> {
        let setting =
            |problem: &str, hint: Option<&str>| Error::Setting { problem: problem.into(), hint: hint.map(Into::into) };
        let started = mpi::initialize_with_threading(Threading::Serialized);
        let (universe, level) = started.ok_or_else(|| setting("MPI has been started in this process before", None))?;
        let size = universe.world().size() as usize;
        let mut ranks = MpiRanks { hosts: vec!["an unknown machine".into(); size], limit, report, _universe: universe };
        if size > 1 {
            if level < Threading::Serialized {
                let problem =
                    "this MPI can be called from one thread of a process alone, and gradients are sent from another";
                return Err(setting(problem, Some("use one with `MPI_THREAD_SERIALIZED`, as Open MPI and MPICH are")));
            }
            end_all_on_panic();
            let own = processor_name().unwrap_or_default();
            let hosts = ranks.all_gather_bytes(own.as_bytes())?;
            ranks.hosts = hosts.iter().map(|host| String::from_utf8_lossy(host).into_owned()).collect();
        }
        Ok(ranks)
    }

    /// Ends all ranks now, whatever they are at.
    pub fn end_all(&self) -> ! {
        world().abort(FAILED)
    }

    /// Ends all ranks because of `rank`.
    fn give_up(&self, rank: usize) -> ! {
        let problem = format!("has sent nothing for {} s, and rank {} waits for it", self.limit.as_secs(), self.rank());
        let hint = "look whether its machine is well; a step or an evaluation that takes longer needs a larger `--rank_timeout`; go on with \
                    `--resume_from_checkpoint last`";
        (self.report)(&self.blame(rank, problem, Some(hint.into())));
        self.end_all()
    }

    /// Calls `done` until it is, or the time is up: `rank` is to blame then.
    fn wait<T>(&self, until: Instant, rank: impl Fn() -> usize, mut done: impl FnMut() -> Option<T>) -> T {
        let mut n_tries = 0;
        loop {
            if let Some(value) = done() {
                return value;
            }
            n_tries += 1;
            if n_tries > N_EAGER {
                if Instant::now() > until {
                    self.give_up(rank());
                }
                thread::sleep(PAUSE);
            }
        }
    }

    /// Waits for the end of a request.
    fn finish<'a>(&self, request: Request<'a, [u8], &LocalScope<'a>>, until: Instant, rank: usize) {
        let mut pending = Some(request);
        self.wait(
            until,
            || rank,
            || match pending.take()?.test() {
                Ok(_) => Some(()),
                Err(request) => {
                    pending = Some(request);
                    None
                }
            },
        );
    }
}

/// All ranks. MPI knows them by itself, so that no thread has to keep them.
fn world() -> SimpleCommunicator {
    SimpleCommunicator::world()
}

/// A rank that panics would wait for the others at its end, and they for it.
fn end_all_on_panic() {
    let says = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        says(panic);
        world().abort(FAILED)
    }));
}

impl Communicator for MpiRanks {
    fn rank(&self) -> usize {
        world().rank() as usize
    }

    fn size(&self) -> usize {
        world().size() as usize
    }

    fn host(&self, rank: usize) -> &str {
        &self.hosts[rank]
    }

    fn exchange(&self, outgoing: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let (own, size) = (self.rank(), self.size());
        assert_eq!(outgoing.len(), size, "a message for each rank");
        if let Some(bytes) = outgoing.iter().find(|bytes| i32::try_from(bytes.len()).is_err()) {
            let problem = format!("a message of {} bytes is more than MPI carries at once", bytes.len());
            return Err(self.blame(own, problem, None));
        }
        let until = Instant::now() + self.limit;
        let world = world();
        let process = |rank: usize| world.process_at_rank(rank as i32);
        let mut received = vec![Vec::new(); size];
        received[own] = outgoing[own].to_vec();
        // Each begins with its neighbour, so that not all send to rank 0 first.
        let others = || (1..size).map(|i| (own + i) % size);
        mpi::request::scope(|scope| {
            let sending: Vec<_> =
                others().map(|rank| (rank, process(rank).immediate_send(scope, outgoing[rank]))).collect();
            let mut missing: Vec<_> = received.iter_mut().enumerate().filter(|(rank, _)| *rank != own).collect();
            let mut receiving = Vec::new();
            // A large message is not on its way before it is received, so all are received at once: else a rank that others wait for in
            // turns leaves their links idle.
            while let Some(&(first, _)) = missing.first() {
                let next = || {
                    let found = |(place, (rank, _)): (usize, &(usize, _))| {
                        Some((place, process(*rank).immediate_matched_probe()?))
                    };
                    missing.iter().enumerate().find_map(found)
                };
                let (place, (message, status)) = self.wait(until, || first, next);
                let (rank, bytes) = missing.swap_remove(place);
                bytes.resize(status.count(u8::equivalent_datatype()) as usize, 0);
                receiving.push((rank, message.immediate_matched_receive_into(scope, &mut bytes[..])));
            }
            let mut finish = |(rank, request)| self.finish(request, until, rank);
            receiving.into_iter().for_each(&mut finish);
            sending.into_iter().for_each(finish);
        });
        Ok(received)
    }
}
