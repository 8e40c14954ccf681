//! What training sends from rank to rank: what of the gradients goes together, and weights and moments of a run that goes on; and the checks
//! that the ranks are at the same work. The gradients are summed in [`sums`](super::sums); what is sent where ranks share the optimizer's
//! state is in [`shard`](super::shard).
//!
//! How the work is divided is [`TrainSettings::joined`]'s business and that of [`share`](super::chunks::share): all ranks together do
//! the steps of one process with the joined settings.

use std::cmp::Reverse;
use std::ops::Range;

use embertune_kernels::Ops;

use crate::comm::{Communicator, PIECE, by_all, floats, gather, to_bytes};
use crate::error::Result;
use crate::model::{Depth, Parameters};
use crate::train::checkpoint::Fingerprint;
use crate::train::sums::IN_FLIGHT;

/// Layers are sent when they have at least so many values together: each by itself from MiniLM's on, so that much of it goes while the backward
/// computes the next ones; one of an adapter by itself would wait for the network.
pub const BUCKET: usize = 1 << 20;

/// Tensors that are sent together.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// Consecutive ones.
    pub tensors: Range<usize>,
    /// The lowest place that one of them is used at: where the backward is through with it, their gradients are complete.
    pub depth: Depth,
}

/// All tensors, the last ones first, as the backward completes them: in whole layers, of `at_least` so many trained values together.
pub fn buckets<O: Ops>(parameters: &Parameters<O>, at_least: usize) -> Vec<Bucket> {
    let lens = parameters.trained_lens();
    let depths: Vec<_> = parameters.list.iter().map(|param| param.depth).collect();
    let (mut buckets, mut end, mut n_values) = (Vec::new(), lens.len(), 0);
    for id in (0..lens.len()).rev() {
        n_values += lens[id];
        let is_whole = id == 0 || depths[id - 1] != depths[id];
        if is_whole && (n_values >= at_least || id == 0) {
            let depth = depths[id..end].iter().copied().min().unwrap_or(Depth::Embeddings);
            buckets.push(Bucket { tensors: id..end, depth });
            (end, n_values) = (id, 0);
        }
    }
    buckets
}

/// The most that is on the host at once while gradients are sent, by one of `n_ranks`.
pub fn exchanged_bytes<O: Ops>(parameters: &Parameters<O>, n_ranks: usize) -> usize {
    if n_ranks == 1 {
        return 0;
    }
    let lens = parameters.trained_lens();
    let mut sizes: Vec<_> = buckets(parameters, BUCKET).iter().map(|b| lens[b.tensors.clone()].iter().sum()).collect();
    sizes.sort_unstable_by_key(|&size: &usize| Reverse(size));
    let largest = sizes.first().copied().unwrap_or(0);
    // Beside the buckets in flight the share of one; of a piece what is sent, what has come, and what of it stays in the heap of the thread.
    let in_flight: usize = sizes.iter().take(IN_FLIGHT).sum();
    size_of::<f32>() * (in_flight + largest.div_ceil(n_ranks) + 3 * largest.min(PIECE))
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

#[cfg(test)]
mod tests {
    use embertune_kernels::reference::Reference;

    use super::*;
    use crate::model::params::{Kind, Part};

    #[test]
    fn buckets_are_whole_layers_from_the_last_down_and_have_every_tensor_once() {
        let ops = Reference::<f32>::new();
        let mut parameters = Parameters::default();
        let names =
            ["embeddings.word", "encoder.relative", "encoder.layer.0.a", "encoder.layer.0.b", "encoder.layer.1.a"];
        for (name, len) in names.into_iter().chain(["encoder.layer.1.b", "2_Dense.weight"]).zip([9, 1, 2, 2, 3, 1, 1]) {
            let part = Part { name: name.into(), shape: vec![len] };
            parameters.add(&ops, vec![part], Kind::Bias, &vec![0.0; len]);
        }
        let (first, second) = (Depth::Layer(0), Depth::Layer(1));
        let tables = (0..2, Depth::Embeddings);
        for (at_least, expected) in [
            (1, vec![(6..7, Depth::Head), (4..6, second), (2..4, first), tables.clone()]),
            (4, vec![(4..7, second), (2..4, first), tables.clone()]),
            (6, vec![(2..7, first), tables]),
            (10, vec![(0..7, Depth::Embeddings)]),
        ] {
            let buckets: Vec<_> = buckets(&parameters, at_least).into_iter().map(|b| (b.tensors, b.depth)).collect();
            assert_eq!(buckets, expected, "of {at_least}");
        }
        parameters.list.iter_mut().for_each(|param| param.rate = 0.0);
        assert_eq!(buckets(&parameters, 1).len(), 1, "nothing is sent of what is not trained");
        assert!(buckets(&Parameters::<Reference<f32>>::default(), 1).is_empty());
    }
}
