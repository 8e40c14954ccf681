//! The optimizer's state shared among ranks: each keeps the moments of its share of the trained values alone, steps these values, and sends
//! them to the others. ZeRO-1 (Rajbhandari et al. 2020, arXiv:1910.02054).
//!
//! A rank's share is a part of each bucket of tensors that is sent, whatever the tensors in it, so all shares are as large. The sums of
//! gradients are those that all ranks take otherwise, to the last bit, and so are the weights; only the norm of all gradients is a sum of
//! sums, in f64. A step sends as much as without: the sums to the rank whose they are, and then its weights instead of the sums.

use std::ops::Range;
use std::path::Path;

use embertune_kernels::Ops;

use crate::comm::{Communicator, Wire, floats, gather, share, to_bytes};
use crate::error::Result;
use crate::model::params::Kind;
use crate::model::tensor_files::{Output, TensorFiles, make, write};
use crate::model::{Gradients, Param, Parameters};
use crate::optim::Optimizer;
use crate::optim::state::name_of;
use crate::train::ranks::{Bucket, joined};
use crate::train::settings::TrainSettings;

/// The share of one rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// What is sent together.
    buckets: Vec<Bucket>,
    /// The part of each tensor that is in the share; empty of those that are not trained.
    own: Vec<Range<usize>>,
}

impl Shard {
    /// That of `rank` of `n_ranks`, where `settings` ask for it and there are several.
    pub fn new<O: Ops>(
        settings: &TrainSettings,
        parameters: &Parameters<O>,
        buckets: &[Bucket],
        (rank, n_ranks): (usize, usize),
    ) -> Option<Self> {
        let wanted = settings.shard_optimizer && n_ranks > 1;
        wanted.then(|| Self::of(&parameters.trained_lens(), buckets, rank, n_ranks))
    }

    fn of(lens: &[usize], buckets: &[Bucket], rank: usize, n_ranks: usize) -> Self {
        let mut own = vec![0..0; lens.len()];
        for Bucket { tensors, .. } in buckets {
            let of_bucket = share(lens[tensors.clone()].iter().sum(), rank, n_ranks);
            let mut start = 0;
            for id in tensors.clone() {
                let within = |place: usize| place.clamp(start, start + lens[id]) - start;
                own[id] = within(of_bucket.start)..within(of_bucket.end);
                start += lens[id];
            }
        }
        Shard { buckets: buckets.to_vec(), own }
    }

    /// Number of values of the share.
    pub fn n_values(&self) -> usize {
        self.own.iter().map(Range::len).sum()
    }

    /// The share of the weights, as tensors of their own that decay as the whole ones do. Tensors without a part are not trained.
    pub fn cut<O: Ops>(&self, ops: &O, parameters: &Parameters<O>) -> Parameters<O> {
        let cut = |(param, own): (&Param<O>, &Range<usize>)| {
            let mut value = ops.zeros(0);
            if !own.is_empty() {
                ops.with_values(&param.value, &mut |whole| value = ops.upload(&whole[own.clone()]));
            }
            let kind = if param.kind.decays() { Kind::Table } else { Kind::Bias };
            let rate = if own.is_empty() { 0.0 } else { param.rate };
            Param { parts: param.parts.clone(), kind, depth: param.depth, rate, value, packed: None, adapter: None }
        };
        Parameters { list: parameters.list.iter().zip(&self.own).map(cut).collect() }
    }

    /// A zero gradient for each part of a tensor that is in the share.
    pub fn zero_gradients<O: Ops>(&self, ops: &O) -> Gradients<O> {
        Gradients { list: self.own.iter().map(|own| ops.zeros(own.len())).collect() }
    }

    /// Puts the shares of all ranks together, of which `own` is that of this one.
    ///
    /// # Errors
    /// Those of [`Communicator::all_gather_shares`].
    pub fn join<O: Ops>(
        &self,
        ops: &O,
        own: &Parameters<O>,
        parameters: &mut Parameters<O>,
        ranks: &dyn Communicator,
    ) -> Result<()> {
        for Bucket { tensors, .. } in &self.buckets {
            let trained = parameters.list[tensors.clone()].iter_mut().filter(|param| param.is_trained());
            let trained: Vec<_> = trained.collect();
            let mut values = vec![0.0; trained.iter().map(|param| param.n_values()).sum()];
            let own = joined(ops, own.list[tensors.clone()].iter().map(|param| &param.value));
            ranks.all_gather_shares(&own, &mut values, Wire::Fp32)?;
            let mut values = values.as_slice();
            for param in trained {
                let (of_tensor, others) = values.split_at(param.n_values());
                param.value = ops.upload(of_tensor);
                param.repack(ops);
                values = others;
            }
        }
        Ok(())
    }

    /// Writes the moments of all ranks to `path`, as one process would. All ranks call it, of which only the first has a path.
    ///
    /// # Errors
    /// What the file system says; those of [`Communicator::all_gather`].
    pub fn save_moments<O: Ops>(
        &self,
        ops: &O,
        parameters: &Parameters<O>,
        optimizer: &Optimizer<O>,
        path: Option<&Path>,
        ranks: &dyn Communicator,
    ) -> Result<()> {
        let mut outputs = Vec::new();
        for state in optimizer.states() {
            for (param, own) in parameters.list.iter().zip(&state.list).filter(|(param, _)| param.is_trained()) {
                // Parts of a tensor are in the order of the ranks.
                let whole = || ranks.all_gather(&ops.download(own));
                outputs.push(Output::gathered(name_of(param, state.suffix), vec![param.n_values()], whole));
            }
        }
        match path {
            Some(path) => write(path, outputs),
            None => make(outputs),
        }
    }

    /// Takes this rank's share of the moments that were written after `steps_done` steps, by however many ranks. All ranks call it, of which
    /// only the first has a path.
    ///
    /// # Errors
    /// Where the file is damaged, or is of another model; those of [`Communicator::broadcast`].
    pub fn restore_moments<O: Ops>(
        &self,
        ops: &O,
        parameters: &Parameters<O>,
        optimizer: &mut Optimizer<O>,
        (path, steps_done): (Option<&Path>, u64),
        ranks: &dyn Communicator,
    ) -> Result<()> {
        let file = path.map(TensorFiles::open_file).transpose()?;
        let (states, steps) = optimizer.states_mut();
        for state in states {
            let own = self.own.iter().zip(&mut state.list);
            for (param, (own, moment)) in parameters.list.iter().zip(own).filter(|(param, _)| param.is_trained()) {
                let name = name_of(param, state.suffix);
                let read = |file: &TensorFiles| file.read(&name);
                let whole = ranks.broadcast(&to_bytes(&file.as_ref().map_or(Ok(Vec::new()), read)?))?;
                ranks.expect(0, whole.len(), size_of::<f32>() * param.n_values())?;
                let part: Vec<_> = floats(&whole).skip(own.start).take(own.len()).collect();
                *moment = ops.upload(&part);
            }
        }
        *steps = steps_done;
        Ok(())
    }
}

/// The optimizer of a run before its first step, with the state of a share where there is one.
pub fn optimizer_of<O: Ops>(
    ops: &O,
    parameters: &Parameters<O>,
    settings: &TrainSettings,
    shard: Option<&Shard>,
) -> Optimizer<O> {
    match shard {
        None => Optimizer::new(settings.optim, ops, parameters, settings.adamw()),
        Some(shard) => Optimizer::new(settings.optim, ops, &shard.cut(ops, parameters), settings.adamw()),
    }
}

/// The norm of the gradients of which each rank has a share, with the same bits on all.
///
/// # Errors
/// Those of [`gather`].
pub fn norm_of_shares<O: Ops>(ops: &O, own: &Gradients<O>, ranks: &dyn Communicator) -> Result<f64> {
    let own: f64 = ops.squared_norms(&own.list.iter().collect::<Vec<_>>()).iter().sum();
    // As bits: JSON knows no infinity.
    let all = gather(ranks, Ok(own.to_bits()))?;
    Ok(all.into_iter().map(f64::from_bits).sum::<f64>().sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Depth;

    #[test]
    fn shares_cover_every_value_once_and_are_as_large() {
        let lens = [5_000_000, 0, 7, 384, 3_999_999, 250_000, 0, 11];
        let bucket = |tensors| Bucket { tensors, depth: Depth::Embeddings };
        let buckets = [bucket(5..8), bucket(1..5), bucket(0..1)];
        for n_ranks in 2..6 {
            let shards: Vec<_> = (0..n_ranks).map(|rank| Shard::of(&lens, &buckets, rank, n_ranks)).collect();
            for (id, len) in lens.into_iter().enumerate() {
                let end = shards.iter().fold(0, |end, shard| {
                    let own = &shard.own[id];
                    assert!(own.is_empty() || own.start == end, "{own:?} of tensor {id} after {end}");
                    end + own.len()
                });
                assert_eq!(end, len);
            }
            let sizes = shards.iter().map(Shard::n_values);
            let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
            assert!(most - least <= buckets.len(), "{least} to {most}");
        }
    }
}
