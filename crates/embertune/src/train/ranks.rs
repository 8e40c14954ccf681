//! What training sends from rank to rank: gradients that are summed, and weights and moments of a run that goes on; and the checks that
//! the ranks are at the same work. What is sent where they share the optimizer's state is in [`shard`](super::shard).
//!
//! How the work is divided is [`TrainSettings::joined`]'s business and that of [`share`](super::chunks::share): all ranks together do
//! the steps of one process with the joined settings.

use std::ops::Range;

use embertune_kernels::Ops;

use crate::comm::{Communicator, PIECE, Wire, by_all, floats, gather, to_bytes};
use crate::error::Result;
use crate::model::Gradients;
use crate::train::checkpoint::Fingerprint;

/// Tensors are sent when they are at least so many values together: a vector of biases by itself would wait for the network. What is held
/// twice for it grows with this.
const BUCKET: usize = 1 << 22;

/// Which consecutive tensors are sent together, of tensors with so many values.
pub fn buckets(lens: &[usize]) -> Vec<Range<usize>> {
    let (mut buckets, mut start, mut n_values) = (Vec::new(), 0, 0);
    for (id, len) in lens.iter().enumerate() {
        n_values += len;
        if n_values >= BUCKET || id + 1 == lens.len() {
            buckets.push(start..id + 1);
            (start, n_values) = (id + 1, 0);
        }
    }
    buckets
}

/// The most that is on the host at once while tensors with so many values are sent, by one of `n_ranks`.
pub fn exchanged_bytes(lens: &[usize], n_ranks: usize) -> usize {
    if n_ranks == 1 {
        return 0;
    }
    let largest = buckets(lens).into_iter().map(|tensors| lens[tensors].iter().sum::<usize>()).max().unwrap_or(0);
    // A bucket and a share of it; of a piece what is sent, and what has come.
    size_of::<f32>() * (largest + largest.div_ceil(n_ranks) + 2 * largest.min(PIECE))
}

/// The values of consecutive tensors.
pub fn joined<'a, O: Ops>(ops: &O, buffers: impl Iterator<Item = &'a O::Buf> + Clone) -> Vec<f32>
where
    O::Buf: 'a,
{
    let mut values = Vec::with_capacity(buffers.clone().map(|buffer| ops.len(buffer)).sum());
    buffers.for_each(|buffer| ops.with_values(buffer, &mut |of_buffer| values.extend_from_slice(of_buffer)));
    values
}

/// Makes the gradients those of all ranks together, with the same bits on each.
///
/// # Errors
/// Those of [`Communicator::all_reduce`].
pub fn sum_gradients<O: Ops>(
    ops: &O,
    gradients: &mut Gradients<O>,
    wire: Wire,
    ranks: &dyn Communicator,
) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let lens: Vec<_> = gradients.list.iter().map(|gradient| ops.len(gradient)).collect();
    for tensors in buckets(&lens) {
        let mut values = joined(ops, gradients.list[tensors.clone()].iter());
        ranks.all_reduce(&mut values, wire)?;
        let mut sums = values.as_slice();
        for id in tensors {
            let (of_tensor, others) = sums.split_at(lens[id]);
            gradients.list[id] = ops.upload(of_tensor);
            sums = others;
        }
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

/// Checks that all ranks are at the same run: version, settings, data and model; and that they send each other the same.
///
/// # Errors
/// Names the first rank that is not, and all that it has otherwise than rank 0.
pub fn check_alike(fingerprint: &Fingerprint, shard_optimizer: bool, ranks: &dyn Communicator) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let own = (env!("CARGO_PKG_VERSION").to_string(), fingerprint.clone(), shard_optimizer);
    let all = gather(ranks, Ok(own))?;
    let (version, of_first, shards) = &all[0];
    for (rank, (other_version, other, also_shards)) in all.iter().enumerate() {
        let mut differences = if other_version == version {
            of_first.differences(other, ["on rank 0 is", "here is"])
        } else {
            vec![format!("Embertune on rank 0 is {version} and here is {other_version}")]
        };
        if also_shards != shards {
            differences.push(format!("`--shard_optimizer` on rank 0 is {shards} and here is {also_shards}"));
        }
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
