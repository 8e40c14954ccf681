//! AdamW with decoupled weight decay, as `torch.optim.AdamW`; which tensors decay is
//! [`Kind::decays`](crate::model::params::Kind::decays).
//!
//! Every trained tensor is updated in every step, rows of an embedding table without a gradient too: they decay and are moved by
//! their moments, as in PyTorch, where gradients of embeddings are dense.

use embertune_kernels::Ops;
use embertune_kernels::ops::AdamWStep;

use super::state::State;
use crate::model::{Gradients, Parameters};

/// The settings of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// `w -= lr * weight_decay * w`, on tensors that decay. Hugging Face's default is 0, torch's 0.01.
    pub weight_decay: f64,
}

/// The moments of every trained tensor, on the device.
pub struct AdamW<O: Ops> {
    settings: AdamWSettings,
    pub(super) first: State<O>,
    pub(super) second: State<O>,
    pub(super) steps_done: u64,
}

impl<O: Ops> AdamW<O> {
    /// Zero moments for every trained tensor of `parameters`.
    pub fn new(ops: &O, parameters: &Parameters<O>, settings: AdamWSettings) -> Self {
        let moments = |suffix| State { suffix, list: parameters.zero_gradients(ops).list };
        AdamW { settings, first: moments("exp_avg"), second: moments("exp_avg_sq"), steps_done: 0 }
    }

    /// One step with learning rate `lr` on gradients scaled by `grad_scale`, and the matrices packed again.
    pub fn step(
        &mut self,
        ops: &O,
        parameters: &mut Parameters<O>,
        gradients: &Gradients<O>,
        lr: f64,
        grad_scale: f64,
    ) {
        assert_eq!(parameters.list.len(), gradients.list.len(), "tensors and gradients");
        self.steps_done += 1;
        let AdamWSettings { beta1, beta2, eps, weight_decay } = self.settings;
        let step = AdamWStep {
            lr: 0.0,
            beta1,
            beta2,
            eps: eps as f32,
            weight_decay: 0.0,
            bias_correction1: (1.0 - beta1.powf(self.steps_done as f64)) as f32,
            bias_correction2: (1.0 - beta2.powf(self.steps_done as f64)) as f32,
            grad_scale: grad_scale as f32,
        };
        let moments = self.first.list.iter_mut().zip(&mut self.second.list);
        let tensors = parameters.list.iter_mut().zip(&gradients.list).zip(moments);
        for ((param, g), (m, v)) in tensors.filter(|((param, _), _)| param.is_trained()) {
            let weight_decay = if param.kind.decays() { weight_decay as f32 } else { 0.0 };
            let lr = (lr * param.rate) as f32;
            ops.adamw_step(&mut param.value, g, m, v, AdamWStep { lr, weight_decay, ..step });
            param.repack(ops);
        }
    }
}
