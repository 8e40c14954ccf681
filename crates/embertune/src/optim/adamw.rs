//! AdamW with decoupled weight decay, as `torch.optim.AdamW`; which tensors decay is
//! [`Kind::decays`](crate::model::params::Kind::decays).
//!
//! Every tensor is updated in every step, rows of an embedding table without a gradient too: they decay and are moved by
//! their momentum, as with torch's dense gradients. A row-sparse update is another optimizer.

use std::path::Path;

use embertune_kernels::Ops;
use embertune_kernels::ops::AdamWStep;

use crate::error::{Error, Result};
use crate::model::tensor_files::{Output, TensorFiles, write};
use crate::model::{Gradients, Param, Parameters};

/// What PyTorch calls the moments.
const FIRST: &str = "exp_avg";
const SECOND: &str = "exp_avg_sq";

/// What stays the same over all steps.
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

/// The moments of every tensor, on the device.
pub struct AdamW<O: Ops> {
    settings: AdamWSettings,
    first: Vec<O::Buf>,
    second: Vec<O::Buf>,
    steps_done: u64,
}

impl<O: Ops> AdamW<O> {
    /// Zero moments for every tensor of `parameters`.
    pub fn new(ops: &O, parameters: &Parameters<O>, settings: AdamWSettings) -> Self {
        AdamW {
            settings,
            first: parameters.zero_gradients(ops).list,
            second: parameters.zero_gradients(ops).list,
            steps_done: 0,
        }
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
            lr: lr as f32,
            beta1,
            beta2,
            eps: eps as f32,
            weight_decay: weight_decay as f32,
            bias_correction1: (1.0 - beta1.powf(self.steps_done as f64)) as f32,
            bias_correction2: (1.0 - beta2.powf(self.steps_done as f64)) as f32,
            grad_scale: grad_scale as f32,
        };
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((param, g), (m, v)) in parameters.list.iter_mut().zip(&gradients.list).zip(moments) {
            let weight_decay = if param.kind.decays() { step.weight_decay } else { 0.0 };
            ops.adamw_step(&mut param.value, g, m, v, AdamWStep { weight_decay, ..step });
        }
        parameters.repack(ops);
    }

    /// Writes the moments as safetensors, named as in PyTorch: `<tensor>.exp_avg` and `<tensor>.exp_avg_sq`, where a parameter that
    /// is several tensors of the model has the name of the first.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, ops: &O, parameters: &Parameters<O>, path: &Path) -> Result<()> {
        let mut outputs = Vec::new();
        for (moments, suffix) in [(&self.first, FIRST), (&self.second, SECOND)] {
            for (param, moment) in parameters.list.iter().zip(moments) {
                let shape = vec![ops.len(moment)];
                outputs.push(Output::weights(name_of(param, suffix), shape, || ops.download(moment)));
            }
        }
        write(path, outputs)
    }

    /// Takes the moments that [`save`](Self::save) wrote after `steps_done` steps.
    ///
    /// # Errors
    /// Where the file is damaged, or is of another model.
    pub fn restore(&mut self, ops: &O, parameters: &Parameters<O>, path: &Path, steps_done: u64) -> Result<()> {
        let file = TensorFiles::open_file(path)?;
        for (moments, suffix) in [(&mut self.first, FIRST), (&mut self.second, SECOND)] {
            for (param, moment) in parameters.list.iter().zip(moments) {
                let name = name_of(param, suffix);
                let values = file.read(&name)?;
                if values.len() != ops.len(moment) {
                    return Err(Error::Model {
                        path: path.into(),
                        problem: format!("`{name}` has {} values instead of {}", values.len(), ops.len(moment)),
                        hint: None,
                    });
                }
                *moment = ops.upload(&values);
            }
        }
        self.steps_done = steps_done;
        Ok(())
    }
}

fn name_of<O: Ops>(param: &Param<O>, suffix: &str) -> String {
    format!("{}.{suffix}", param.parts[0].name)
}
