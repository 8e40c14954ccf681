//! The flags that all commands share: the model, what to change about it, and the machine.

use clap::Args;
use embertune::Result;
use embertune::device::{Emulation, Precision};
use embertune::model::{Overrides, pooling_named};

use super::boolean;
use crate::device::Choice;

/// The model and how to use it.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Model")]
pub struct ModelArgs {
    /// Folder of the model, or its name on the Hugging Face hub
    #[arg(long, alias = "model_name", value_name = "FOLDER|NAME")]
    pub model_name_or_path: String,

    #[command(flatten)]
    pub changes: ModelChangeArgs,
}

/// What to change about a model.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Model")]
pub struct ModelChangeArgs {
    /// How the tokens of a text become one vector: cls, mean, max, mean_sqrt_len_tokens, weightedmean or lasttoken
    /// [default: what the model's folder says]
    ///
    /// A folder without modules.json does not say: the bge models use cls; e5, gte, stella and the models of
    /// sentence-transformers use mean. Unlike in the original scripts, cls is not assumed.
    #[arg(long, alias = "sentence_pooling_method", value_parser = pooling, value_name = "POOLING")]
    pub pooling: Option<String>,

    /// Whether vectors are scaled to length 1, so that dot products are cosines [default: what the model's folder says]
    #[arg(long, value_parser = boolean::parse, num_args = 0..=1, default_missing_value = "true", value_name = "True|False")]
    pub normalized: Option<bool>,

    /// Longest text in tokens; longer ones are cut [default: what the model's folder says]
    #[arg(long, value_name = "TOKENS")]
    pub max_seq_length: Option<usize>,

    /// Text put in front of every query; "" for none [default: what the model's folder says]
    #[arg(long, value_name = "TEXT")]
    pub query_instruction_for_retrieval: Option<String>,

    /// Text put in front of every passage; "" for none [default: what the model's folder says]
    #[arg(long, value_name = "TEXT")]
    pub passage_instruction_for_retrieval: Option<String>,
}

impl ModelChangeArgs {
    /// What these flags change about the model.
    ///
    /// # Errors
    /// An unknown pooling, which the parser has refused already.
    pub fn overrides(&self) -> Result<Overrides> {
        Ok(Overrides {
            pooling: self.pooling.as_deref().map(pooling_named).transpose()?,
            normalize: self.normalized,
            query_prompt: self.query_instruction_for_retrieval.clone(),
            passage_prompt: self.passage_instruction_for_retrieval.clone(),
            max_seq_length: self.max_seq_length,
        })
    }
}

/// The machine.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Number of threads; results do not depend on it [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// What computes: auto (a GPU where this build supports one and it works, else the CPU), cpu, cuda, rocm, vulkan or metal;
    /// cuda:1 is the second GPU
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Auto)]
    pub device: Choice,

    /// How matrix products are computed: auto (bf16 where the CPU multiplies it natively, else f32; f32 on a GPU), fp32 or
    /// bf16. Weights, sums and everything else are f32 with each
    #[arg(long, value_name = "PRECISION", default_value_t = Precision::Auto)]
    pub precision: Precision,

    /// With --precision bf16, compute its numbers on a CPU or GPU that does not multiply bf16, slowly
    #[arg(long)]
    pub allow_emulation: bool,
}

impl MachineArgs {
    /// What to do where the device does not multiply bf16.
    pub fn emulation(&self) -> Emulation {
        if self.allow_emulation { Emulation::Allowed } else { Emulation::Refused }
    }
}

fn pooling(name: &str) -> std::result::Result<String, String> {
    match pooling_named(name) {
        Ok(_) => Ok(name.to_string()),
        Err(error) => Err(error.hint().unwrap_or_default().to_string()),
    }
}
