//! What training sends from rank to rank: gradients that are summed, and weights and moments of a run that goes on; and the checks that
//! the ranks are at the same work.
//!
//! How the work is divided is [`TrainSettings::joined`]'s business and that of [`share`](super::chunks::share): all ranks together do
//! the steps of one process with the joined settings.

use embertune_kernels::Ops;

use crate::comm::{Communicator, by_all, floats, gather, to_bytes};
use crate::error::Result;
use crate::model::Gradients;
use crate::train::checkpoint::Fingerprint;

/// Gradients are summed when they are at least so many together: a vector of biases by itself would wait for the network. What is held
/// twice for it grows with this.
const BUCKET: usize = 1 << 22;

/// Makes the gradients those of all ranks together, with the same bits on each.
///
/// # Errors
/// Those of [`Communicator::all_reduce`].
pub fn sum_gradients<O: Ops>(ops: &O, gradients: &mut Gradients<O>, ranks: &dyn Communicator) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let (mut bucket, mut tensors) = (Vec::new(), Vec::new());
    let last = gradients.list.len().saturating_sub(1);
    for id in 0..gradients.list.len() {
        bucket.extend(ops.download(&gradients.list[id]));
        tensors.push(id);
        if bucket.len() < BUCKET && id < last {
            continue;
        }
        ranks.all_reduce(&mut bucket)?;
        let mut sums = bucket.as_slice();
        for id in tensors.drain(..) {
            let (of_tensor, others) = sums.split_at(ops.len(&gradients.list[id]));
            gradients.list[id] = ops.upload(of_tensor);
            sums = others;
        }
        bucket.clear();
    }
    Ok(())
}

/// Makes `buffers` those of rank 0.
///
/// # Errors
/// Those of [`Communicator::exchange`]; buffers of another length on rank 0.
pub fn take_from_first<'a, O: Ops>(
    ops: &O,
    buffers: impl Iterator<Item = &'a mut O::Buf>,
    ranks: &dyn Communicator,
) -> Result<()>
where
    O::Buf: 'a,
{
    for buffer in buffers {
        let own = if ranks.rank() == 0 { to_bytes(&ops.download(buffer)) } else { Vec::new() };
        let of_first = ranks.broadcast(&own)?;
        ranks.expect(0, of_first.len(), size_of::<f32>() * ops.len(buffer))?;
        if ranks.rank() > 0 {
            *buffer = ops.upload(&floats(&of_first).collect::<Vec<_>>());
        }
    }
    Ok(())
}

/// Checks that all ranks are at the same run: version, settings, data and model.
///
/// # Errors
/// Names the first rank that is not, and all that it has otherwise than rank 0.
pub fn check_alike(fingerprint: &Fingerprint, ranks: &dyn Communicator) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let own = (env!("CARGO_PKG_VERSION").to_string(), fingerprint.clone());
    let all = gather(ranks, Ok(own))?;
    let (version, of_first) = &all[0];
    for (rank, (other_version, other)) in all.iter().enumerate() {
        let differences = if other_version == version {
            of_first.differences(other, ["on rank 0 is", "here is"])
        } else {
            vec![format!("Embertune on rank 0 is {version} and here is {other_version}")]
        };
        if !differences.is_empty() {
            let problem = format!("is not at the run of rank 0: {}", differences.join("; "));
            let hint = "start all ranks with one command line, and give all machines the same program and files";
            return by_all(ranks, rank, problem, hint);
        }
    }
    Ok(())
}

/// Checks that all ranks have the same weights still, of which `norms` are a number each.
///
/// # Errors
/// Names the first rank that has others than rank 0.
pub fn check_in_step(norms: &[f64], ranks: &dyn Communicator) -> Result<()> {
    let bits: Vec<_> = norms.iter().map(|norm| norm.to_bits()).collect();
    let all = gather(ranks, Ok(bits))?;
    match all.iter().position(|other| *other != all[0]) {
        None => Ok(()),
        Some(rank) => {
            let problem = "its weights are no longer those of rank 0".into();
            by_all(ranks, rank, problem, "train on machines of one kind: their processors round differently")
        }
    }
}
