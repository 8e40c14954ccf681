//! LayerNorm of `dropout(x) + residual`, the end of every block of a BERT layer.

use embertune_kernels::Ops;
use embertune_kernels::dropout::Dropout;
use embertune_kernels::ops::{Norm, NormSaved};

use super::loader::Loader;
use super::params::{Gradients, Kind, ParamId};
use super::pass::Pass;
use crate::Result;

/// A LayerNorm, and the site of the dropout before it, if there is one.
pub struct LayerNorm {
    gamma: ParamId,
    beta: ParamId,
    eps: f32,
    site: Option<u32>,
}

impl LayerNorm {
    /// Takes `<name>.weight` and `<name>.bias` from the checkpoint.
    pub fn load<O: Ops>(
        loader: &mut Loader<'_, O>,
        name: &str,
        width: usize,
        eps: f32,
        site: Option<u32>,
    ) -> Result<Self> {
        let gamma = loader.tensor(&format!("{name}.weight"), &[width], Kind::Norm)?;
        let beta = loader.tensor(&format!("{name}.bias"), &[width], Kind::Norm)?;
        Ok(LayerNorm { gamma, beta, eps, site })
    }

    /// `y = norm(dropout(x) + residual)`.
    pub fn forward_with_residual<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        x: &O::Buf,
        residual: &O::Buf,
    ) -> (O::Buf, NormSaved<O::Buf>) {
        let dropout = self.dropout(pass);
        pass.ops.layer_norm_forward(x, Some(residual), pass.texts, dropout, self.norm(pass))
    }

    /// The `y` of either forward again, which is so not kept for the backward.
    pub fn output<O: Ops>(&self, pass: Pass<'_, O>, saved: &NormSaved<O::Buf>) -> O::Buf {
        pass.ops.layer_norm_output(saved, self.norm(pass))
    }

    /// Of `y = norm(dropout(x) + residual)`: returns `(d_x, d_residual)`.
    pub fn backward_with_residual<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        d_y: &O::Buf,
        saved: &NormSaved<O::Buf>,
        width: usize,
        grads: &mut Gradients<O>,
    ) -> Branches<O::Buf> {
        let d_sum = self.backward(pass, d_y, saved, grads);
        let d_x = self.dropout(pass).map(|dropout| pass.ops.dropout_backward(&d_sum, pass.texts, dropout, width));
        Branches { dropped: d_x, d_residual: d_sum }
    }

    /// `y = norm(x)`.
    pub fn forward<O: Ops>(&self, pass: Pass<'_, O>, x: &O::Buf) -> (O::Buf, NormSaved<O::Buf>) {
        pass.ops.layer_norm_forward(x, None, pass.texts, None, self.norm(pass))
    }

    /// Of `y = norm(x)`: returns `d_x`.
    pub fn backward<O: Ops>(
        &self,
        pass: Pass<'_, O>,
        d_y: &O::Buf,
        saved: &NormSaved<O::Buf>,
        grads: &mut Gradients<O>,
    ) -> O::Buf {
        if !pass.params.is_trained(self.gamma) {
            // Frozen: the sums come with the pass over `d_y` anyway, and go nowhere.
            let width = pass.ops.len(pass.params.value(self.gamma));
            let (mut d_gamma, mut d_beta) = (pass.ops.zeros(width), pass.ops.zeros(width));
            return pass.ops.layer_norm_backward(d_y, saved, self.norm(pass), &mut d_gamma, &mut d_beta);
        }
        let [d_gamma, d_beta] = grads.several([self.gamma, self.beta]);
        pass.ops.layer_norm_backward(d_y, saved, self.norm(pass), d_gamma, d_beta)
    }

    fn dropout<O: Ops>(&self, pass: Pass<'_, O>) -> Option<Dropout> {
        self.site.and_then(|site| pass.hidden_dropout(site))
    }

    fn norm<'a, O: Ops>(&self, pass: Pass<'a, O>) -> Norm<'a, O::Buf> {
        Norm { gamma: pass.params.value(self.gamma), beta: pass.params.value(self.beta), eps: self.eps }
    }
}

/// The gradients of both inputs of `dropout(x) + residual`. Without dropout they are the same buffer.
pub struct Branches<B> {
    dropped: Option<B>,
    /// Gradient of the residual.
    pub d_residual: B,
}

impl<B> Branches<B> {
    /// Gradient of `x`.
    pub fn d_x(&self) -> &B {
        self.dropped.as_ref().unwrap_or(&self.d_residual)
    }
}
