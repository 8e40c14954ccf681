//! Ranks that `mpirun` or `srun` has started, as a [`Communicator`](embertune::comm::Communicator) of the library.
//!
//! Messages between two ranks and nothing else of MPI: of them it is known at any time which rank has not sent its own, and sums do not
//! depend on the algorithm that an MPI picks. Empty without the feature `mpi`.
#![forbid(unsafe_code)]
#![cfg(feature = "mpi")]

mod ranks;

pub use ranks::MpiRanks;
