//! What every layer is given in a forward or backward pass.

use embertune_kernels::Ops;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::{Pooling, Ragged};

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
    /// Which tokens are wanted of the layer that is given this.
    pub wanted: Wanted<'a>,
}

/// The tokens that are wanted of a layer.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    /// All.
    All,
    /// The first of each text: nobody reads the others of the last layer where the first one is the embedding. Attention still reads
    /// them all; what comes after it has one row per text.
    First {
        /// The offsets of as many texts of one token each, `[n_texts + 1]`.
        offsets: &'a [u32],
        /// Zeros, `[n_texts]`.
        skip: &'a [u32],
    },
}

impl<O: Ops> Clone for Pass<'_, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O: Ops> Copy for Pass<'_, O> {}

impl<'a, O: Ops> Pass<'a, O> {
    /// The pass of what comes after attention: its texts are the wanted tokens. A first token has the dropout masks that it has in its text.
    pub fn of_wanted(self) -> Self {
        match self.wanted {
            Wanted::All => self,
            Wanted::First { offsets, .. } => {
                Pass { texts: Ragged { cu_seqlens: offsets, keys: self.texts.keys }, wanted: Wanted::All, ..self }
            }
        }
    }

    /// The pass of a layer that another one follows: all its tokens are wanted.
    pub fn reading_all(self) -> Self {
        Pass { wanted: Wanted::All, ..self }
    }

    /// The rows of `x`, `[n_tokens, width]`, of the wanted tokens; `None` where that is `x` itself.
    pub fn wanted_rows(self, x: &O::Buf, width: usize) -> Option<O::Buf> {
        match self.wanted {
            Wanted::All => None,
            Wanted::First { skip, .. } => Some(self.ops.pool_forward(x, self.texts, skip, Pooling::Cls, width)),
        }
    }

    /// Of `y = wanted_rows(x)`: `d_x`.
    pub fn wanted_rows_backward(self, d_y: O::Buf, x: &O::Buf, width: usize) -> O::Buf {
        match self.wanted {
            Wanted::All => d_y,
            Wanted::First { skip, .. } => self.ops.pool_backward(&d_y, x, self.texts, skip, Pooling::Cls, width),
        }
    }

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
