//! Processes that work together, each of them a rank, and what they send each other. A single process is rank 0 of 1.
//!
//! A transport brings [`Communicator::exchange`] alone. Whatever else is needed is made of it here, so that a sum has the same bits on
//! all ranks and over every transport. Nothing here knows of models, of searching or of training.

pub mod agreement;
mod counted;
mod wire;

pub use agreement::{all_or_none, by_all, by_first, expect_same, gather};
pub use counted::{Counted, Traffic};
pub use wire::{Wire, floats, to_bytes};

use std::ops::Range;

use crate::error::{Error, Result};

/// What all ranks together send at once where they gather something large: what is on the way takes twice as much memory.
pub(crate) const PIECE_BYTES: usize = 1 << 26;
/// Values that are summed at once: what is on the way and not yet added takes a few times this much memory, and a smaller piece would
/// wait for the network more often.
pub(crate) const PIECE: usize = 1 << 22;

/// One of the processes that work together. They all call the same methods in the same order, each from one thread at a time.
///
/// All errors name the rank that keeps the others from going on; nothing can be sent after one.
pub trait Communicator: Sync {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// The machine that `rank` runs on.
    fn host(&self, rank: usize) -> &str;

    /// Sends `outgoing[r]` to rank `r`, and gives what each rank sent to this one, `[size]`; lengths are free.
    ///
    /// # Errors
    /// A rank is gone, or sends nothing within the time limit of the transport.
    fn exchange(&self, outgoing: &[&[u8]]) -> Result<Vec<Vec<u8>>>;

    /// How many ranks run on this machine, this one included.
    fn n_on_host(&self) -> usize {
        let here = self.host(self.rank());
        (0..self.size()).filter(|&rank| self.host(rank) == here).count()
    }

    /// Number of this process among those of this machine, from 0.
    fn local_rank(&self) -> usize {
        let here = self.host(self.rank());
        (0..self.rank()).filter(|&rank| self.host(rank) == here).count()
    }

    /// [`share`] of these ranks.
    fn share(&self, n: usize, rank: usize) -> Range<usize> {
        share(n, rank, self.size())
    }

    /// What each rank has, `[size]`; lengths are free.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange).
    fn all_gather_bytes(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.exchange(&vec![own; self.size()])
    }

    /// The rows of all ranks, those of rank 0 first. Each rank has as many as it likes.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange).
    fn all_gather(&self, own: &[f32]) -> Result<Vec<f32>> {
        if self.size() == 1 {
            return Ok(own.to_vec());
        }
        Ok(self.all_gather_bytes(&to_bytes(own))?.iter().flat_map(|part| floats(part)).collect())
    }

    /// Adds up the values of all ranks, in f32 and in the order of the ranks: all of them get the same bits. Each rank adds up its share,
    /// so that it sends and receives `2 (size - 1) / size` times the values, which is the least that there is.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange); another number of values on another rank.
    fn all_reduce(&self, values: &mut [f32], wire: Wire) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        let own = self.reduce_scatter(values, wire)?;
        self.all_gather_shares(&own, values, wire)
    }

    /// The sums of this rank's [share](Self::share) of the values, with the bits that [`all_reduce`](Self::all_reduce) adds up.
    ///
    /// # Errors
    /// Those of [`all_reduce`](Self::all_reduce).
    fn reduce_scatter(&self, values: &[f32], wire: Wire) -> Result<Vec<f32>> {
        let mut sums = vec![0.0; self.share(values.len(), self.rank()).len()];
        for piece in pieces(values.len(), self.size()) {
            let outgoing: Vec<_> = (0..self.size())
                .map(|rank| wire.to_bytes(&values[within(self.share(values.len(), rank), &piece)]))
                .collect();
            let addends = self.exchange(&outgoing.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            let range = within(0..sums.len(), &piece);
            let sums = &mut sums[range];
            for (rank, addend) in addends.iter().enumerate() {
                self.expect(rank, addend.len(), wire.value_bytes() * sums.len())?;
                match rank {
                    0 => wire.read(addend, sums, |sum, x| *sum = x),
                    _ => wire.read(addend, sums, |sum, x| *sum += x),
                }
            }
        }
        Ok(sums)
    }

    /// Makes of `values` what each rank has as `own` of its share.
    ///
    /// # Errors
    /// Those of [`all_reduce`](Self::all_reduce).
    fn all_gather_shares(&self, own: &[f32], values: &mut [f32], wire: Wire) -> Result<()> {
        let len = values.len();
        for piece in pieces(len, self.size()) {
            let shares = self.all_gather_bytes(&wire.to_bytes(&own[within(0..own.len(), &piece)]))?;
            for (rank, share) in shares.iter().enumerate() {
                let places = &mut values[within(self.share(len, rank), &piece)];
                self.expect(rank, share.len(), wire.value_bytes() * places.len())?;
                wire.read(share, places, |place, x| *place = x);
            }
        }
        Ok(())
    }

    /// What rank 0 has; the others' `own` is not looked at. Each rank gets a part and hands it on, so that rank 0 sends not `size - 1` times
    /// as much as there is, but twice.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange).
    fn broadcast(&self, own: &[u8]) -> Result<Vec<u8>> {
        let own = if self.rank() == 0 { own } else { &[] };
        let parts: Vec<_> = (0..self.size()).map(|rank| &own[self.share(own.len(), rank)]).collect();
        let part = self.exchange(&parts)?.swap_remove(0);
        Ok(self.all_gather_bytes(&part)?.concat())
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange).
    fn barrier(&self) -> Result<()> {
        self.all_gather_bytes(&[]).map(drop)
    }

    /// The error of `rank`, which keeps the others from going on.
    fn blame(&self, rank: usize, problem: String, hint: Option<String>) -> Error {
        Error::Rank { rank, host: self.host(rank).into(), problem, hint }
    }

    /// Checks that `rank` sent as many bytes as were expected of it.
    ///
    /// # Errors
    /// It did not.
    fn expect(&self, rank: usize, n_bytes: usize, expected: usize) -> Result<()> {
        if n_bytes == expected {
            return Ok(());
        }
        Err(self.blame(rank, format!("sent {n_bytes} bytes where rank {} expects {expected}", self.rank()), None))
    }
}

/// A process that works by itself.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn host(&self, _rank: usize) -> &str {
        "this machine"
    }

    fn exchange(&self, outgoing: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        Ok(outgoing.iter().map(|bytes| bytes.to_vec()).collect())
    }
}

/// Which of `n` things are those of `rank` of `n_ranks`: each has as many, up to one, and they are in the order of the ranks.
pub fn share(n: usize, rank: usize, n_ranks: usize) -> Range<usize> {
    rank * n / n_ranks..(rank + 1) * n / n_ranks
}

/// The places in the shares of `n_ranks` that are on the way at once, of `len` values.
fn pieces(len: usize, n_ranks: usize) -> impl Iterator<Item = Range<usize>> {
    let step = PIECE.div_ceil(n_ranks);
    (0..len.div_ceil(n_ranks)).step_by(step).map(move |start| start..start + step)
}

/// The `piece` of a share.
fn within(share: Range<usize>, piece: &Range<usize>) -> Range<usize> {
    (share.start + piece.start).min(share.end)..(share.start + piece.end).min(share.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_alone_has_what_it_has() {
        let mut values = [1.0, 2.0];
        Alone.all_reduce(&mut values, Wire::Bf16).unwrap();
        assert_eq!((values, Alone.all_gather(&values).unwrap()), ([1.0, 2.0], vec![1.0, 2.0]));
        assert_eq!((Alone.broadcast(b"x").unwrap(), Alone.n_on_host()), (b"x".to_vec(), 1));
    }

    #[test]
    fn pieces_cover_each_share_once() {
        let n_ranks = 3;
        for len in [0, 1, 2, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 2] {
            for rank in 0..n_ranks {
                let share = share(len, rank, n_ranks);
                let mut end = share.start;
                for piece in pieces(len, n_ranks) {
                    let part = within(share.clone(), &piece);
                    assert!(part.start == end && part.len() <= PIECE.div_ceil(n_ranks), "{part:?} of {len}");
                    end = part.end;
                }
                assert_eq!(end, share.end, "{len} values");
            }
            assert!(pieces(len, n_ranks).count() <= len.div_ceil(PIECE));
        }
    }
}
