//! What every layer is given in a forward or backward pass.

use embertune_kernels::Ops;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::Ragged;

use super::config::DropoutRates;
use super::params::Parameters;

/// The device, the weights and the batch of one pass.
pub struct Pass<'a, O: Ops> {
    /// The device.
    pub ops: &'a O,
    /// The weights.
    pub params: &'a Parameters<O>,
    /// Where the texts begin, and their dropout keys.
    pub texts: Ragged<'a>,
    /// Dropout of this pass.
    pub dropout: DropoutRates,
}

impl<O: Ops> Clone for Pass<'_, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O: Ops> Copy for Pass<'_, O> {}

impl<O: Ops> Pass<'_, O> {
    /// Dropout of hidden states at a site; `None` where nothing is dropped.
    pub fn hidden_dropout(&self, site: u32) -> Option<Dropout> {
        at(self.dropout.hidden, site)
    }

    /// Dropout of attention probabilities at a site; `None` where nothing is dropped.
    pub fn attention_dropout(&self, site: u32) -> Option<Dropout> {
        at(self.dropout.attention, site)
    }
}

fn at(p: f32, site: u32) -> Option<Dropout> {
    (p > 0.0).then_some(Dropout { p, site })
}
