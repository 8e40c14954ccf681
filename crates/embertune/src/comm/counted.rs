//! What a rank sends and receives, counted.

use std::ops::{AddAssign, Sub};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Communicator;
use crate::error::Result;

/// What went over the wire, to and from one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// To other ranks, without what the transport adds.
    pub sent_bytes: u64,
    /// From other ranks.
    pub received_bytes: u64,
    /// Sending, receiving, and waiting for a rank that is not as far yet; a part of it while the backward goes on.
    pub seconds: f64,
}

impl Traffic {
    /// The mean of `n` steps.
    pub fn per(self, n: usize) -> Traffic {
        Traffic {
            sent_bytes: self.sent_bytes / n.max(1) as u64,
            received_bytes: self.received_bytes / n.max(1) as u64,
            seconds: self.seconds / n.max(1) as f64,
        }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.seconds += other.seconds;
    }
}

impl Sub for Traffic {
    type Output = Traffic;

    fn sub(self, before: Traffic) -> Traffic {
        Traffic {
            sent_bytes: self.sent_bytes - before.sent_bytes,
            received_bytes: self.received_bytes - before.received_bytes,
            seconds: self.seconds - before.seconds,
        }
    }
}

/// The same ranks, and what this one has sent and received through it.
pub struct Counted<'a> {
    ranks: &'a dyn Communicator,
    so_far: Mutex<Traffic>,
}

impl<'a> Counted<'a> {
    /// Nothing is counted yet.
    pub fn new(ranks: &'a dyn Communicator) -> Self {
        Counted { ranks, so_far: Mutex::default() }
    }

    /// All until now.
    pub fn so_far(&self) -> Traffic {
        *self.counts()
    }

    fn counts(&self) -> MutexGuard<'_, Traffic> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Communicator for Counted<'_> {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn host(&self, rank: usize) -> &str {
        self.ranks.host(rank)
    }

    fn exchange(&self, outgoing: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let began = Instant::now();
        let incoming = self.ranks.exchange(outgoing)?;
        let own = self.rank();
        let of_others = |lengths: &mut dyn Iterator<Item = usize>| {
            lengths.enumerate().filter(|(rank, _)| *rank != own).map(|(_, length)| length as u64).sum()
        };
        *self.counts() += Traffic {
            sent_bytes: of_others(&mut outgoing.iter().map(|bytes| bytes.len())),
            received_bytes: of_others(&mut incoming.iter().map(Vec::len)),
            seconds: began.elapsed().as_secs_f64(),
        };
        Ok(incoming)
    }
}
