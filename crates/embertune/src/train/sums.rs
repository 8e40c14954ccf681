//! Gradients that are summed over the ranks while the backward that completes them goes on: a thread sends the [buckets](super::ranks::buckets)
//! of the upper layers while the lower ones are computed.
//!
//! A sum is that of [`Communicator::all_reduce`] to the last bit, whenever it is taken. Nobody else may send anything meanwhile.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Scope, ScopedJoinHandle};

use embertune_kernels::Ops;

use crate::comm::{Communicator, Wire};
use crate::error::Result;
use crate::model::{Depth, Gradients};
use crate::train::ranks::{Bucket, joined};
use crate::train::shard::Shard;

/// Buckets that are copied to be sent at the same time: one is on the wire, and the next one waits for it.
pub const IN_FLIGHT: usize = 2;

/// How the ranks sum their gradients.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// What is sent together, in this order.
    pub buckets: &'a [Bucket],
    /// Where each rank gets the sums of a share alone: its own.
    pub shard: Option<&'a Shard>,
    /// How they are sent.
    pub wire: Wire,
}

/// The sums of a step in the making.
pub struct Sums<'scope, 'a, O: Ops> {
    ops: &'a O,
    buckets: &'a [Bucket],
    /// Those of this rank's share, where it has one.
    own: Option<Gradients<O>>,
    to_thread: Sender<Vec<f32>>,
    from_thread: Receiver<Vec<f32>>,
    thread: ScopedJoinHandle<'scope, Result<()>>,
    n_sent: usize,
    n_summed: usize,
}

impl<'scope, 'a: 'scope, O: Ops> Sums<'scope, 'a, O> {
    /// Nothing is sent before the first bucket is complete.
    pub fn begin(
        scope: &'scope Scope<'scope, '_>,
        ops: &'a O,
        Way { buckets, shard, wire }: Way<'a>,
        ranks: &'a dyn Communicator,
    ) -> Self {
        let (to_thread, complete) = channel::<Vec<f32>>();
        let (summed, from_thread) = channel();
        let is_shared = shard.is_some();
        let thread = scope.spawn(move || {
            for mut values in complete {
                if is_shared {
                    values = ranks.reduce_scatter(&values, wire)?;
                } else {
                    ranks.all_reduce(&mut values, wire)?;
                }
                // Nobody takes it where this rank has failed meanwhile.
                let _ = summed.send(values);
            }
            Ok(())
        });
        let own = shard.map(|shard| shard.zero_gradients(ops));
        Sums { ops, buckets, own, to_thread, from_thread, thread, n_sent: 0, n_summed: 0 }
    }

    /// Nothing more is added to the gradients of `depth` and of all above it: sends them, and takes what has come back.
    pub fn completed(&mut self, depth: Depth, gradients: &mut Gradients<O>) {
        while let Ok(sums) = self.from_thread.try_recv() {
            self.take(&sums, gradients);
        }
        while self.n_sent - self.n_summed < IN_FLIGHT
            && let Some(bucket) = self.buckets.get(self.n_sent).filter(|bucket| bucket.depth >= depth)
        {
            // A thread that has ended is asked at the end why.
            let _ = self.to_thread.send(joined(self.ops, gradients.list[bucket.tensors.clone()].iter()));
            self.n_sent += 1;
        }
    }

    /// All gradients are complete: makes them those of all ranks together, or gives this rank's share of these and leaves them as they are.
    ///
    /// # Errors
    /// Those of [`Communicator::all_reduce`].
    pub fn finish(mut self, gradients: &mut Gradients<O>) -> Result<Option<Gradients<O>>> {
        loop {
            self.completed(Depth::Embeddings, gradients);
            if self.n_summed == self.buckets.len() {
                break;
            }
            let Ok(sums) = self.from_thread.recv() else { break };
            self.take(&sums, gradients);
        }
        drop(self.to_thread);
        self.thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(self.own)
    }

    /// Puts the sums of the next bucket in their place.
    fn take(&mut self, mut sums: &[f32], gradients: &mut Gradients<O>) {
        let list = &mut self.own.as_mut().unwrap_or(gradients).list[self.buckets[self.n_summed].tensors.clone()];
        for gradient in list {
            *gradient = self.ops.upload(sums.split_off(..self.ops.len(gradient)).expect("as many sums as values"));
        }
        self.n_summed += 1;
    }
}
