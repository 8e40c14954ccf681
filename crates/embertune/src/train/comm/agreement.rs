//! What all ranks have to know alike before they go on: results and errors, so that none waits for one that has failed.
//!
//! Of a failure rank 0 gets the error, with the rank that it is of; the others get [`Error::Ended`], so that it is said once.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Communicator;
use crate::error::{Error, Result};

/// An error on the wire.
#[derive(Serialize, Deserialize)]
struct Said {
    problem: String,
    hint: Option<String>,
}

impl Said {
    fn of(error: &Error) -> Self {
        Said { problem: error.to_string(), hint: error.hint().map(Into::into) }
    }
}

/// What all ranks have come to, in their order, or the error of the first that failed.
///
/// # Errors
/// A rank failed, or is gone.
pub fn gather<T: Serialize + DeserializeOwned>(ranks: &dyn Communicator, own: Result<T>) -> Result<Vec<T>> {
    if ranks.size() == 1 {
        return Ok(vec![own?]);
    }
    let all = ranks.all_gather_bytes(&written(&own))?;
    if ranks.rank() == 0 {
        own?;
    }
    let mut found = Vec::with_capacity(all.len());
    for (rank, bytes) in all.iter().enumerate() {
        match read(ranks, rank, bytes)? {
            Ok(value) => found.push(value),
            Err(_) if ranks.rank() > 0 => return Err(Error::Ended),
            Err(Said { problem, hint }) => return Err(ranks.blame(rank, problem, hint)),
        }
    }
    Ok(found)
}

/// What rank 0 comes to by `work`, which it alone does.
///
/// # Errors
/// Those of `work`; rank 0 is gone.
pub fn by_first<T: Serialize + DeserializeOwned>(
    ranks: &dyn Communicator,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if ranks.rank() > 0 {
        let result = read(ranks, 0, &ranks.broadcast(&[])?)?;
        return result.map_err(|_| Error::Ended);
    }
    let own = work();
    if ranks.size() > 1 {
        ranks.broadcast(&written(&own))?;
    }
    own
}

fn written<T: Serialize>(own: &Result<T>) -> Vec<u8> {
    let own = own.as_ref().map_err(Said::of);
    serde_json::to_vec(&own).expect("plain values with names")
}

fn read<T: DeserializeOwned>(
    ranks: &dyn Communicator,
    rank: usize,
    bytes: &[u8],
) -> Result<std::result::Result<T, Said>> {
    serde_json::from_slice(bytes).map_err(|error| {
        ranks.blame(rank, format!("sent what rank {} does not understand: {error}", ranks.rank()), None)
    })
}
