//! A search that several ranks share: each searches the whole pool for its share of the queries, and the lists are put together.
//!
//! All ranks have all vectors, since what comes after a search asks for the scores of any candidate. So a division by queries costs
//! nothing: no list has to be merged with another, the lists on the wire are as large for any number of ranks, and each of them is that of
//! one process.

use super::exact::{Hit, top_k};
use crate::comm::{Communicator, PIECE_BYTES};
use crate::embed::Vectors;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// A list's length, and a hit: its row and the bits of its score.
const LENGTH_BYTES: usize = 4;
const HIT_BYTES: usize = 8;

/// As [`top_k`], for ranks that have the same `queries` and the same `pool`. All of them get all lists.
///
/// # Errors
/// Those of [`Communicator::exchange`].
///
/// # Panics
/// Where the dims differ.
pub fn top_k_among(
    queries: &Vectors,
    pool: &Vectors,
    k: usize,
    ranks: &dyn Communicator,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Hit>>> {
    if ranks.size() == 1 {
        return Ok(top_k(queries, pool, k, progress));
    }
    let own = queries.part(ranks.share(queries.n_rows(), ranks.rank()));
    gather_hits(top_k(&own, pool, k, progress), queries.n_rows(), k, ranks)
}

/// The lists of all `n_queries`, of which each rank has those of its [share](Communicator::share), at most `k` hits in each.
///
/// # Errors
/// Those of [`Communicator::exchange`]; a rank that sends something else.
pub fn gather_hits(own: Vec<Vec<Hit>>, n_queries: usize, k: usize, ranks: &dyn Communicator) -> Result<Vec<Vec<Hit>>> {
    if ranks.size() == 1 {
        return Ok(own);
    }
    let piece = (PIECE_BYTES / ranks.size() / (LENGTH_BYTES + k * HIT_BYTES)).max(1);
    let shares = || (0..ranks.size()).map(|rank| ranks.share(n_queries, rank));
    let mut all = vec![Vec::new(); n_queries];
    for start in (0..n_queries.div_ceil(ranks.size())).step_by(piece) {
        let lists = own.iter().skip(start).take(piece);
        let sent = ranks.all_gather_bytes(&lists.flat_map(|list| written(list)).collect::<Vec<_>>())?;
        for ((rank, bytes), share) in sent.iter().enumerate().zip(shares()) {
            let mut rest = bytes.as_slice();
            for list in all[share].iter_mut().skip(start).take(piece) {
                *list = read(&mut rest).ok_or_else(|| short(ranks, rank))?;
            }
            ranks.expect(rank, rest.len(), 0)?;
        }
    }
    Ok(all)
}

fn short(ranks: &dyn Communicator, rank: usize) -> Error {
    ranks.blame(rank, format!("sent fewer lists of hits than rank {} expects", ranks.rank()), None)
}

fn written(list: &[Hit]) -> Vec<u8> {
    let mut bytes = (list.len() as u32).to_le_bytes().to_vec();
    for hit in list {
        bytes.extend(hit.row.to_le_bytes());
        bytes.extend(hit.score.to_le_bytes());
    }
    bytes
}

/// Takes a list off the front of `bytes`.
fn read(bytes: &mut &[u8]) -> Option<Vec<Hit>> {
    let (n, rest) = bytes.split_first_chunk()?;
    let (hits, rest) = rest.split_at_checked((u32::from_le_bytes(*n) as usize).checked_mul(HIT_BYTES)?)?;
    *bytes = rest;
    let hit = |bytes: &[u8; HIT_BYTES]| {
        let [a, b, c, d, e, f, g, h] = *bytes;
        Hit { row: u32::from_le_bytes([a, b, c, d]), score: f32::from_le_bytes([e, f, g, h]) }
    };
    Some(hits.as_chunks().0.iter().map(hit).collect())
}
