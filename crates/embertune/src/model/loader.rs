//! From a checkpoint to [`Parameters`]: what layers use to take their tensors.

use embertune_kernels::Ops;

use super::checkpoint::Checkpoint;
use super::params::{Kind, ParamId, Parameters, Part};
use crate::Result;

/// Takes tensors from a checkpoint, in the order in which layers ask for them.
pub struct Loader<'a, O: Ops> {
    /// The device.
    pub ops: &'a O,
    /// Where the values come from.
    pub checkpoint: Checkpoint,
    /// What has been taken so far.
    pub parameters: Parameters<O>,
}

impl<O: Ops> Loader<'_, O> {
    /// Takes one tensor.
    ///
    /// # Errors
    /// If the checkpoint has no such tensor, or one of another shape.
    pub fn tensor(&mut self, name: &str, shape: &[usize], kind: Kind) -> Result<ParamId> {
        self.stacked(&[name.to_owned()], shape, kind)
    }

    /// Takes several tensors of the same shape as one, the rows of the first on top.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn stacked(&mut self, names: &[String], shape: &[usize], kind: Kind) -> Result<ParamId> {
        let mut values = Vec::new();
        for name in names {
            values.append(&mut self.checkpoint.read(name, shape)?);
        }
        let parts = names.iter().map(|name| Part { name: name.clone(), shape: shape.to_vec() }).collect();
        Ok(self.parameters.add(self.ops, parts, kind, &values))
    }
}
