//! What of a model is trained, and how fast: frozen layers, learning rates by layer, low-rank adapters.

use embertune_kernels::Ops;
use embertune_kernels::dropout::splitmix64;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::lora::ALL_LINEAR;
use crate::model::{Depth, EmbeddingModel, LoraConfig};
use crate::random::key;

/// Separates this use of a seed from others.
const ADAPTERS: u64 = 6;

/// What is trained. By default everything, at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptationSettings {
    /// Keep the embedding tables and their LayerNorm as they are. Default false.
    pub freeze_embeddings: bool,
    /// Keep this many of the lowest layers, and the embeddings below them, as they are. Default 0.
    pub freeze_layers: usize,
    /// Compute these layers once for each text, before the first step, and keep their outputs in memory. Nothing is dropped in them then.
    /// Default false.
    pub cache_frozen_layers: bool,
    /// Keep the table of positions as it is, as the original does. Default false.
    pub fix_position_embedding: bool,
    /// Factor on the learning rate for each layer below the top, in `0..=1`. Default 1.
    pub layer_decay: f64,
    /// Inner width of low-rank adapters; `None` trains the weights themselves. Default `None`.
    pub lora_r: Option<usize>,
    /// What adapters are scaled by, before it is divided by the width. Default: the width, so that the scale is 1, as with PEFT's own
    /// defaults, 8 and 8.
    pub lora_alpha: Option<f64>,
    /// Dropout of the adapters' inputs, in `0..1`. Default 0.
    pub lora_dropout: f32,
    /// Ends of the names of the linear layers that get adapters. Default all linear layers (PEFT for BERT: query and value): with attention
    /// alone, more rank does not make up for the layers left out (Biderman et al. 2024, arXiv:2405.09673).
    pub lora_target_modules: Vec<String>,
    /// Divide by the root of the width instead. Default false.
    pub use_rslora: bool,
    /// Write the adapters beside the merged model, for PEFT. Default false.
    pub save_adapter: bool,
}

impl Default for AdaptationSettings {
    fn default() -> Self {
        AdaptationSettings {
            freeze_embeddings: false,
            freeze_layers: 0,
            cache_frozen_layers: false,
            fix_position_embedding: false,
            layer_decay: 1.0,
            lora_r: None,
            lora_alpha: None,
            lora_dropout: 0.0,
            lora_target_modules: vec![ALL_LINEAR.into()],
            use_rslora: false,
            save_adapter: false,
        }
    }
}

fn refuse<T>(problem: String, hint: &str) -> Result<T> {
    Err(Error::Setting { problem, hint: Some(hint.into()) })
}

impl AdaptationSettings {
    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// A value outside its range, or settings of adapters without adapters.
    pub fn validate(&self) -> Result<()> {
        let alpha = self.lora_alpha.unwrap_or(1.0);
        let rules = [
            (
                "layer_decay",
                self.layer_decay.to_string(),
                self.layer_decay > 0.0 && self.layer_decay <= 1.0,
                "above 0 and at most 1",
            ),
            ("lora_r", format!("{}", self.lora_r.unwrap_or(1)), self.lora_r != Some(0), "at least 1"),
            ("lora_alpha", alpha.to_string(), alpha > 0.0 && alpha.is_finite(), "above 0"),
            ("lora_dropout", self.lora_dropout.to_string(), (0.0..1.0).contains(&self.lora_dropout), "in 0..1"),
        ];
        if let Some((flag, value, _, allowed)) = rules.iter().find(|(_, _, is_allowed, _)| !is_allowed) {
            return refuse(
                format!("`--{flag} {value}` is not allowed: it has to be {allowed}"),
                "leave it out for the default",
            );
        }
        if self.lora_target_modules.is_empty() {
            return refuse("`--lora_target_modules` names no layer".into(), "leave it out for all linear layers");
        }
        if self.cache_frozen_layers && self.freeze_layers == 0 {
            return refuse(
                "`--cache_frozen_layers` has no effect without frozen layers".into(),
                "pass `--freeze_layers` with half of the model's layers, say, or leave it out",
            );
        }
        let default = AdaptationSettings::default();
        let of_adapters = [
            ("lora_alpha", self.lora_alpha.is_some()),
            ("lora_dropout", self.lora_dropout != default.lora_dropout),
            ("lora_target_modules", self.lora_target_modules != default.lora_target_modules),
            ("use_rslora", self.use_rslora),
            ("save_adapter", self.save_adapter),
        ];
        match of_adapters.iter().find(|(_, is_given)| *is_given && self.lora_r.is_none()) {
            Some((flag, _)) => {
                refuse(format!("`--{flag}` has no effect without adapters"), "pass `--lora_r 16`, say, or leave it out")
            }
            None => Ok(()),
        }
    }

    /// Number of layers whose outputs are kept.
    pub fn n_cached(&self) -> usize {
        if self.cache_frozen_layers { self.freeze_layers } else { 0 }
    }

    /// The adapters of a model that is the folder or hub name `base`.
    fn lora(&self, base: &str) -> Option<LoraConfig> {
        let rank = self.lora_r?;
        Some(LoraConfig {
            rank,
            alpha: self.lora_alpha.unwrap_or(rank as f64),
            rank_stabilized: self.use_rslora,
            dropout: self.lora_dropout,
            targets: self.lora_target_modules.clone(),
            first_layer: self.freeze_layers,
            base: base.into(),
        })
    }

    /// Sets up `model`, the folder or hub name `base`, for a training: its adapters, drawn from `seed`, and the rate of every tensor.
    ///
    /// # Errors
    /// Layers that the model does not have; settings that leave nothing to train.
    pub fn apply<O: Ops>(&self, model: &mut EmbeddingModel<O>, base: &str, seed: u64) -> Result<()> {
        let n_layers = model.n_layers();
        if self.freeze_layers > n_layers {
            return refuse(
                format!("`--freeze_layers {}`: the model has {n_layers} layers", self.freeze_layers),
                "half of them is a good start",
            );
        }
        if self.cache_frozen_layers && self.freeze_layers == n_layers {
            return refuse(
                format!("`--cache_frozen_layers`: all {n_layers} layers of the model are frozen"),
                "leave the uppermost one to be trained, or `--cache_frozen_layers` out",
            );
        }
        if let Some(lora) = self.lora(base) {
            model.attach_adapters(lora, |name, rows, inputs| first_values(seed, name, rows * inputs, inputs))?;
        }
        let is_frozen = |depth: Depth| match depth {
            Depth::Embeddings => self.freeze_embeddings || self.freeze_layers > 0,
            Depth::Layer(layer) => layer < self.freeze_layers,
            Depth::Head => false,
        };
        let n_below_top = |depth: Depth| match depth {
            Depth::Embeddings => n_layers,
            Depth::Layer(layer) => n_layers - 1 - layer,
            Depth::Head => 0,
        };
        for param in &mut model.parameters_mut().list {
            let is_position = param.parts[0].name == "embeddings.position_embeddings.weight";
            param.rate *= if is_frozen(param.depth) || (self.fix_position_embedding && is_position) {
                0.0
            } else {
                self.layer_decay.powi(n_below_top(param.depth) as i32)
            };
        }
        if model.parameters().lowest_trained().is_none() {
            return refuse(
                format!("`--freeze_layers {}` freezes the whole model: nothing is trained", self.freeze_layers),
                "freeze fewer layers",
            );
        }
        Ok(())
    }

    /// What should be said of it, one line each.
    pub fn notes<O: Ops>(&self, model: &EmbeddingModel<O>) -> Vec<String> {
        let parameters = model.parameters();
        let (n_trained, n_own) =
            (parameters.n_trained(), parameters.own().map(|param| param.n_values()).sum::<usize>());
        if n_trained == n_own {
            return Vec::new();
        }
        let what = if model.has_adapters() { "the adapters have" } else { "trained are" };
        let share = 100.0 * n_trained as f64 / n_own as f64;
        vec![format!("{what} {n_trained} values; the model has {n_own} ({share:.1} %)")]
    }
}

/// PEFT's first values of an `A` (`kaiming_uniform_` with `a = sqrt(5)`): uniform within `1 / sqrt(inputs)`.
fn first_values(seed: u64, name: &str, len: usize, inputs: usize) -> Vec<f32> {
    let mut parts = vec![ADAPTERS, seed];
    parts.extend(name.bytes().map(u64::from));
    let key = key(&parts);
    let bound = 1.0 / (inputs as f32).sqrt();
    let uniform = |i: usize| {
        // 24 bits are what an f32 between 0 and 1 holds.
        let bits = splitmix64(key ^ splitmix64(i as u64)) >> 40;
        (bits as f32 + 0.5) / (1_u32 << 23) as f32 - 1.0
    };
    (0..len).map(|i| bound * uniform(i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_adapters_without_adapters_and_out_of_range_are_refused_by_name() {
        let d = AdaptationSettings::default;
        let lora = AdaptationSettings { lora_r: Some(4), ..d() };
        d().validate().unwrap();
        AdaptationSettings { lora_alpha: Some(8.0), save_adapter: true, ..lora.clone() }.validate().unwrap();
        for (settings, problem) in [
            (AdaptationSettings { layer_decay: 1.5, ..d() }, "--layer_decay 1.5"),
            (AdaptationSettings { lora_r: Some(0), ..d() }, "--lora_r 0"),
            (AdaptationSettings { lora_dropout: 1.0, ..lora.clone() }, "--lora_dropout 1"),
            (AdaptationSettings { lora_target_modules: vec![], ..lora }, "names no layer"),
            (AdaptationSettings { lora_alpha: Some(8.0), ..d() }, "`--lora_alpha` has no effect"),
            (AdaptationSettings { save_adapter: true, ..d() }, "`--save_adapter` has no effect"),
        ] {
            let error = settings.validate().unwrap_err();
            assert!(error.to_string().contains(problem) && error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn first_values_fill_their_range_and_follow_from_seed_and_name() {
        let values = first_values(42, "a", 4000, 16);
        let (mean, largest) =
            (values.iter().sum::<f32>() / 4000.0, values.iter().fold(0.0_f32, |largest, v| largest.max(v.abs())));
        assert!(mean.abs() < 0.01 && largest <= 0.25 && largest > 0.249, "{mean} {largest}");
        assert_eq!(values, first_values(42, "a", 4000, 16));
        assert_ne!(values, first_values(43, "a", 4000, 16));
        assert_ne!(values, first_values(42, "b", 4000, 16));
    }
}
