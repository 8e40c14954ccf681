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

/// `own`, where all ranks have come to something; else the error of the first that failed. What each has stays with it.
///
/// # Errors
/// A rank failed, or is gone.
pub fn all_or_none<T>(ranks: &dyn Communicator, own: Result<T>) -> Result<T> {
    let (own, failed) = own.map_or_else(|error| (None, Err(error)), |own| (Some(own), Ok(())));
    gather(ranks, failed)?;
    Ok(own.expect("this rank has not failed"))
}

/// Checks that all ranks have the same `own`, or that of which it is a hash.
///
/// # Errors
/// Names the first rank whose `what` is not that of rank 0.
pub fn expect_same(ranks: &dyn Communicator, what: &str, own: &str) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let all = gather(ranks, Ok(own.to_string()))?;
    match all.iter().position(|other| *other != all[0]) {
        None => Ok(()),
        Some(rank) => {
            let hint = "start all ranks with one command line, and give all machines the same program and files";
            by_all(ranks, rank, format!("its {what} is not that of rank 0"), hint)
        }
    }
}

/// The error of `rank` that all ranks have come to by themselves.
///
/// # Errors
/// That one, always.
pub fn by_all(ranks: &dyn Communicator, rank: usize, problem: String, hint: &str) -> Result<()> {
    let error = ranks.blame(rank, problem, Some(hint.into()));
    gather(ranks, Err::<(), _>(error)).map(drop)
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
