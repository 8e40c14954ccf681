//! The flags of `embertune train` that say what of the model is trained, and how fast.

use clap::{ArgAction, Args};
use embertune::train::AdaptationSettings;

use super::boolean;

/// Frozen parts, learning rates by layer, low-rank adapters.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "What is trained")]
pub struct AdaptationArgs {
    /// Train low-rank adapters (LoRA) of this inner width instead of the weights; 16, say. The model is saved with them merged
    #[arg(long, alias = "lora_rank", value_name = "N")]
    pub lora_r: Option<usize>,

    /// What adapters are scaled by, before it is divided by their width [default: --lora_r, a scale of 1]
    #[arg(long, value_name = "X")]
    pub lora_alpha: Option<f64>,

    /// Share of the adapters' inputs that is dropped
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub lora_dropout: f32,

    /// Linear layers that get adapters, by the ends of their names: query value, say
    #[arg(long, alias = "target_modules", value_name = "NAME", value_delimiter = ',', num_args = 1.., default_value = "all-linear")]
    pub lora_target_modules: Vec<String>,

    /// Divide by the root of the width instead, which wide adapters want (rsLoRA)
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set)]
    pub use_rslora: bool,

    /// Also write the adapters, unmerged, to `adapter` in the output folder, for PEFT
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set)]
    pub save_adapter: bool,

    /// Keep the lowest N layers, and the embeddings below them, as they are; saves their share of time and memory
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub freeze_layers: usize,

    /// Compute the frozen layers once for each text, before the first step, and keep their outputs in memory: less time from the second
    /// epoch on. Nothing is dropped in these layers then
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set)]
    pub cache_frozen_layers: bool,

    /// Keep the embedding tables and their LayerNorm as they are
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set)]
    pub freeze_embeddings: bool,

    /// Keep the table of positions as it is
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", default_value_t = false,
          value_name = "True|False", action = ArgAction::Set)]
    pub fix_position_embedding: bool,

    /// Multiply the learning rate by this for each layer below the top; 0.9, say
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub layer_decay: f64,
}

impl AdaptationArgs {
    /// The library's settings.
    pub fn settings(&self) -> AdaptationSettings {
        AdaptationSettings {
            freeze_embeddings: self.freeze_embeddings,
            freeze_layers: self.freeze_layers,
            cache_frozen_layers: self.cache_frozen_layers,
            fix_position_embedding: self.fix_position_embedding,
            layer_decay: self.layer_decay,
            lora_r: self.lora_r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            lora_target_modules: self.lora_target_modules.clone(),
            use_rslora: self.use_rslora,
            save_adapter: self.save_adapter,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        adaptation: AdaptationArgs,
    }

    fn parse(flags: &str) -> AdaptationSettings {
        let argv = std::iter::once("train").chain(flags.split_whitespace());
        Alone::try_parse_from(argv).unwrap().adaptation.settings()
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        assert_eq!(parse(""), AdaptationSettings::default());
    }

    #[test]
    fn flags_of_flag_embedding_are_other_spellings() {
        assert_eq!(
            parse("--lora_rank 8 --target_modules query value"),
            parse("--lora_r 8 --lora_target_modules query,value")
        );
    }
}
