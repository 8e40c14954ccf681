//! `y = x w^T + b` with weights of the model, and what an adapter adds to it.

use embertune_kernels::Ops;
use embertune_kernels::ops::LinearGrads;

use super::loader::Loader;
use super::params::{Gradients, Kind, ParamId, Parameters};
use super::pass::Pass;
use crate::Result;

/// A linear layer.
pub struct Linear {
    weight: ParamId,
    bias: Option<ParamId>,
}

impl Linear {
    /// A layer of tensors that are already among the parameters.
    pub fn new(weight: ParamId, bias: Option<ParamId>) -> Self {
        Linear { weight, bias }
    }

    /// Takes `<name>.weight` `[rows, cols]` and `<name>.bias` from the checkpoint.
    pub fn load<O: Ops>(loader: &mut Loader<'_, O>, name: &str, rows: usize, cols: usize) -> Result<Self> {
        Self::load_fused(loader, &[name.to_owned()], rows, cols)
    }

    /// Takes several layers with the same input as one: its output is theirs side by side. `rows` are those of each.
    pub fn load_fused<O: Ops>(loader: &mut Loader<'_, O>, names: &[String], rows: usize, cols: usize) -> Result<Self> {
        let tensors = |end: &str| names.iter().map(|name| format!("{name}.{end}")).collect::<Vec<_>>();
        let kind = Kind::Matrix { rows: rows * names.len(), cols };
        let weight = loader.stacked(&tensors("weight"), &[rows, cols], kind)?;
        let bias = loader.stacked(&tensors("bias"), &[rows], Kind::Bias)?;
        Ok(Linear { weight, bias: Some(bias) })
    }

    /// `x`: `[n, cols]`; returns `[n, rows]`.
    pub fn forward<O: Ops>(&self, pass: Pass<'_, O>, x: &O::Buf) -> O::Buf {
        let bias = self.bias.map(|bias| pass.params.value(bias));
        let mut y = pass.ops.linear_forward(x, pass.params.weight(self.weight), bias);
        if let Some(adapter) = pass.params.adapter(self.weight) {
            adapter.forward(pass, x, &mut y);
        }
        y
    }

    /// Of `y = linear(x)`: returns `d_x`.
    pub fn backward<O: Ops>(&self, pass: Pass<'_, O>, d_y: &O::Buf, x: &O::Buf, grads: &mut Gradients<O>) -> O::Buf {
        let mut d_x = pass.ops.linear_backward(d_y, x, pass.params.weight(self.weight), self.gradients(pass, grads));
        if let Some(adapter) = pass.params.adapter(self.weight) {
            adapter.backward(pass, d_y, x, &mut d_x, grads);
        }
        d_x
    }

    /// Weight and bias, where no adapter adds to them: all that the layer is.
    pub fn plain<O: Ops>(&self, params: &Parameters<O>) -> Option<[ParamId; 2]> {
        let bias = self.bias.filter(|_| params.adapter(self.weight).is_none())?;
        Some([self.weight, bias])
    }

    /// `None` where the layer is frozen.
    fn gradients<'a, O: Ops>(&self, pass: Pass<'_, O>, grads: &'a mut Gradients<O>) -> Option<LinearGrads<'a, O::Buf>> {
        pass.params.is_trained(self.weight).then(|| match self.bias {
            Some(bias) => {
                let [d_weight, d_bias] = grads.several([self.weight, bias]);
                LinearGrads { d_weight, d_bias: Some(d_bias) }
            }
            None => LinearGrads { d_weight: &mut grads.list[self.weight.0], d_bias: None },
        })
    }
}
