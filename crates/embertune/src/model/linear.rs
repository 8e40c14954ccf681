//! `y = x w^T + b` with weights of the model, and what an adapter adds to it.

use embertune_kernels::Ops;
use embertune_kernels::ops::{Activation, LinearGrads};

use super::loader::Loader;
use super::params::{Gradients, Kind, ParamId};
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

    /// `linear(act(x))`, `x`: `[n, cols]`; returns `[n, rows]`.
    pub fn forward_activated<O: Ops>(&self, pass: Pass<'_, O>, x: &O::Buf, act: Activation) -> O::Buf {
        if pass.params.adapter(self.weight).is_some() {
            return self.forward(pass, &pass.ops.activation_forward(x, act));
        }
        let bias = self.bias.map(|bias| pass.params.value(bias));
        pass.ops.activated_linear_forward(x, act, pass.params.weight(self.weight), bias)
    }

    /// Of `y = linear(act(x))`: returns `d_x`.
    pub fn backward_activated<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        d_y: &O::Buf,
        x: &O::Buf,
        act: Activation,
        grads: &mut Gradients<O>,
    ) -> O::Buf {
        if pass.params.adapter(self.weight).is_some() {
            // y = linear(active), active = act(x)
            let d_active = self.backward(pass, d_y, &pass.ops.activation_forward(x, act), grads);
            return pass.ops.activation_backward(&d_active, x, act);
        }
        let weight = pass.params.weight(self.weight);
        pass.ops.activated_linear_backward(d_y, x, act, weight, self.gradients(pass, grads))
    }

    /// `None` where the layer is frozen.
    fn gradients<'a, O: Ops>(&self, pass: Pass<'_, O>, grads: &'a mut Gradients<O>) -> Option<LinearGrads<'a, O::Buf>> {
        pass.params.is_trained(self.weight).then(|| match self.bias {
            Some(bias) => {
                let (d_weight, d_bias) = grads.pair(self.weight, bias);
                LinearGrads { d_weight, d_bias: Some(d_bias) }
            }
            None => LinearGrads { d_weight: &mut grads.list[self.weight.0], d_bias: None },
        })
    }
}
