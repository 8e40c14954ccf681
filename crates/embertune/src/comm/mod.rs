//! Processes that work together, each of them a rank, and what they send each other. A single process is rank 0 of 1.
//!
//! A transport brings [`Communicator::exchange`] alone. Whatever else is needed is made of it here, so that a sum has the same bits on
//! all ranks and over every transport. Nothing here knows of models, of searching or of training.

pub mod agreement;
mod counted;

pub use agreement::{all_or_none, by_all, by_first, expect_same, gather};
pub use counted::{Counted, Traffic};

use std::ops::Range;

use crate::error::{Error, Result};

/// What all ranks together send at once where they gather something large: what is on the way takes twice as much memory.
pub(crate) const PIECE_BYTES: usize = 1 << 26;
/// Values that are summed at once: what is on the way and not yet added takes a few times this much memory, and a smaller piece would
/// wait for the network more often.
const PIECE: usize = 1 << 22;

/// One of the processes that work together. They all call the same methods in the same order.
///
/// All errors name the rank that keeps the others from going on; nothing can be sent after one.
pub trait Communicator {
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

    /// Which of `n` things are a rank's, where each has as many, up to one, and they are in the order of the ranks.
    fn share(&self, n: usize, rank: usize) -> Range<usize> {
        rank * n / self.size()..(rank + 1) * n / self.size()
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

    /// Adds up the values of all ranks, in the order of the ranks: all of them get the same bits. Each rank adds up one part, so that
    /// it sends and receives `2 (size - 1) / size` times the values, which is the least that there is.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange); another number of values on another rank.
    fn all_reduce(&self, values: &mut [f32]) -> Result<()> {
        let size = self.size();
        if size == 1 {
            return Ok(());
        }
        for piece in values.chunks_mut(PIECE) {
            let len = piece.len();
            let part = |rank: usize| self.share(len, rank);
            let own_len = part(self.rank()).len();
            let outgoing: Vec<_> = (0..size).map(|rank| to_bytes(&piece[part(rank)])).collect();
            let parts = self.exchange(&outgoing.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            let mut sum = vec![0.0; own_len];
            for (rank, addend) in parts.iter().enumerate() {
                self.expect(rank, addend.len(), size_of::<f32>() * own_len)?;
                match rank {
                    0 => sum.iter_mut().zip(floats(addend)).for_each(|(sum, x)| *sum = x),
                    _ => sum.iter_mut().zip(floats(addend)).for_each(|(sum, x)| *sum += x),
                }
            }
            for (rank, sums) in self.all_gather_bytes(&to_bytes(&sum))?.iter().enumerate() {
                self.expect(rank, sums.len(), size_of::<f32>() * part(rank).len())?;
                piece[part(rank)].iter_mut().zip(floats(sums)).for_each(|(value, sum)| *value = sum);
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

/// As they go over the wire: little-endian, bit for bit.
pub fn to_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(values)];
    bytes
        .chunks_exact_mut(size_of::<f32>())
        .zip(values)
        .for_each(|(to, value)| to.copy_from_slice(&value.to_le_bytes()));
    bytes
}

/// What [`to_bytes`] made bytes of.
pub fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(size_of::<f32>()).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_wire_bit_for_bit() {
        let values = [0.0, -0.0, 1.5e-42, f32::NAN, f32::INFINITY, -7.25];
        let back: Vec<_> = floats(&to_bytes(&values)).map(f32::to_bits).collect();
        assert_eq!(back, values.map(f32::to_bits));
    }

    #[test]
    fn a_process_alone_has_what_it_has() {
        let mut values = [1.0, 2.0];
        Alone.all_reduce(&mut values).unwrap();
        assert_eq!((values, Alone.all_gather(&values).unwrap()), ([1.0, 2.0], vec![1.0, 2.0]));
        assert_eq!((Alone.broadcast(b"x").unwrap(), Alone.n_on_host()), (b"x".to_vec(), 1));
    }
}
