//! The optimizer of a run, by the names of transformers' `--optim`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use embertune_kernels::Ops;
use serde::{Deserialize, Serialize};

use super::state::{self, State};
use super::{Adafactor, AdamW, AdamWSettings};
use crate::error::{Error, Result};
use crate::model::{Gradients, Parameters};

/// Which optimizer (`--optim`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimizerName {
    /// [`AdamW`]: two numbers for every weight.
    #[default]
    #[serde(rename = "adamw_torch")]
    AdamW,
    /// [`Adafactor`]: next to nothing.
    #[serde(rename = "adafactor")]
    Adafactor,
}

/// Names of transformers for what `adamw_torch` computes.
const ALSO_ADAMW: [&str; 6] = [
    "adamw_torch_fused",
    "adamw_torch_xla",
    "adamw_torch_npu_fused",
    "adamw_apex_fused",
    "adamw_anyprecision",
    "adamw_hf",
];

impl fmt::Display for OptimizerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OptimizerName::AdamW => "adamw_torch",
            OptimizerName::Adafactor => "adafactor",
        })
    }
}

impl FromStr for OptimizerName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let reason = match name {
            "adamw_torch" => return Ok(OptimizerName::AdamW),
            "adafactor" => return Ok(OptimizerName::Adafactor),
            _ if ALSO_ADAMW.contains(&name) => return Ok(OptimizerName::AdamW),
            _ if ["8bit", "4bit", "bnb", "paged"].iter().any(|part| name.contains(part)) => {
                "moments are not quantised here; adafactor needs less memory still"
            }
            "sgd" | "adagrad" | "rmsprop" => "it does not fit the learning rates that embedding models are tuned with",
            _ if ["galore", "apollo", "lomo", "grokadamw", "schedule_free", "stable_adamw"]
                .iter()
                .any(|part| name.contains(part)) =>
            {
                "it is not built in"
            }
            _ => "it is not known",
        };
        Err(Error::Setting {
            problem: format!("`--optim {name}` is not supported: {reason}"),
            hint: Some("one of adamw_torch, adafactor".into()),
        })
    }
}

/// An optimizer with its state.
pub enum Optimizer<O: Ops> {
    /// AdamW.
    AdamW(AdamW<O>),
    /// Adafactor.
    Adafactor(Adafactor<O>),
}

impl<O: Ops> Optimizer<O> {
    /// Before the first step. Adafactor takes the weight decay of `settings` alone.
    pub fn new(name: OptimizerName, ops: &O, parameters: &Parameters<O>, settings: AdamWSettings) -> Self {
        match name {
            OptimizerName::AdamW => Optimizer::AdamW(AdamW::new(ops, parameters, settings)),
            OptimizerName::Adafactor => Optimizer::Adafactor(Adafactor::new(ops, parameters, settings.weight_decay)),
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
        match self {
            Optimizer::AdamW(adamw) => adamw.step(ops, parameters, gradients, lr, grad_scale),
            Optimizer::Adafactor(adafactor) => adafactor.step(ops, parameters, gradients, lr, grad_scale),
        }
    }

    /// Writes the moments; see [`state::save`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, ops: &O, parameters: &Parameters<O>, path: &Path) -> Result<()> {
        state::save(ops, parameters, self.states(), path)
    }

    /// All moments, after `steps_done` steps from now on.
    pub fn moments_after(&mut self, steps_done: u64) -> impl Iterator<Item = &mut O::Buf> {
        let ([first, second], steps) = self.states_mut();
        *steps = steps_done;
        first.list.iter_mut().chain(&mut second.list)
    }

    /// Takes the moments that [`save`](Self::save) wrote after `steps_done` steps.
    ///
    /// # Errors
    /// Where the file is damaged, or is of another model.
    pub fn restore(&mut self, ops: &O, parameters: &Parameters<O>, path: &Path, steps_done: u64) -> Result<()> {
        let (states, steps) = self.states_mut();
        state::restore(ops, parameters, states, path)?;
        *steps = steps_done;
        Ok(())
    }

    /// Its moments.
    pub fn states(&self) -> [&State<O>; 2] {
        match self {
            Optimizer::AdamW(adamw) => [&adamw.first, &adamw.second],
            Optimizer::Adafactor(adafactor) => [&adafactor.rows, &adafactor.columns],
        }
    }

    /// Its moments and the number of steps that are done.
    pub fn states_mut(&mut self) -> ([&mut State<O>; 2], &mut u64) {
        match self {
            Optimizer::AdamW(adamw) => ([&mut adamw.first, &mut adamw.second], &mut adamw.steps_done),
            Optimizer::Adafactor(adafactor) => {
                ([&mut adafactor.rows, &mut adafactor.columns], &mut adafactor.steps_done)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_transformers_and_others_are_refused_with_the_reason() {
        for name in [OptimizerName::AdamW, OptimizerName::Adafactor] {
            assert_eq!(name.to_string().parse::<OptimizerName>().unwrap(), name);
            assert_eq!(serde_json::to_value(name).unwrap(), name.to_string());
        }
        for name in ["adamw_torch_fused", "adamw_hf"] {
            assert_eq!(name.parse::<OptimizerName>().unwrap(), OptimizerName::AdamW);
        }
        for (name, reason) in [
            ("adamw_bnb_8bit", "not quantised"),
            ("sgd", "learning rates"),
            ("galore_adamw", "built in"),
            ("x", "known"),
        ] {
            let error = name.parse::<OptimizerName>().unwrap_err();
            assert!(error.to_string().contains(reason) && error.hint().is_some(), "{error}");
        }
    }
}
