//! The flags of `embertune embed`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use embertune::data::TextForm;
use embertune::embed::files::ValueType;
use embertune::text::Role;

use super::{EmbeddingArgs, MachineArgs, ModelArgs, RankArgs};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  # One vector per line of the file, as a NumPy array [n_lines, dim]
  embertune embed --model_name_or_path ./tuned --input_file passages.txt --output_file passages.npy

  # A query from standard input, with the model's prompt for queries
  echo 'how do I split a pdf' | embertune embed --model_name_or_path ./tuned --role query --output_file q.safetensors";

/// Arguments of `embed`.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Data")]
pub struct EmbedArgs {
    /// Texts, one per line; `-` for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub input_file: PathBuf,

    /// What a line is: the text itself, or a JSON object with a field `text` (and maybe `title`) or `query`
    /// [default: jsonl if the input's name ends in .jsonl, .json or .ndjson, else lines]
    #[arg(long, value_name = "FORM")]
    pub input_format: Option<InputFormat>,

    /// Where to write the vectors: a name ending in .npy or .safetensors (one tensor `embeddings`)
    #[arg(long, value_name = "FILE")]
    pub output_file: PathBuf,

    /// What the values are written as; f16 takes half the space of f32, int8 a quarter. `mine --passage_vectors` reads all of them
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub value_type: ValueTypeArg,

    /// What the texts are: decides which of the model's prompts goes in front of them
    #[arg(long, value_name = "ROLE", default_value = "passage")]
    pub role: RoleArg,

    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub embedding: EmbeddingArgs,

    #[command(flatten)]
    pub machine: MachineArgs,

    #[command(flatten)]
    pub ranks: RankArgs,
}

/// `--input_format`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum InputFormat {
    /// Each line is a text
    Lines,
    /// Each line is a JSON object
    Jsonl,
}

impl From<InputFormat> for TextForm {
    fn from(format: InputFormat) -> TextForm {
        match format {
            InputFormat::Lines => TextForm::Lines,
            InputFormat::Jsonl => TextForm::JsonLines,
        }
    }
}

/// `--value_type`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ValueTypeArg {
    /// As computed
    F32,
    /// 11 bits of precision
    F16,
    /// 8 bits of precision; .safetensors alone
    Bf16,
    /// A byte per value, and a number per vector in a tensor `scales` that they are multiplied by; .safetensors alone
    Int8,
}

impl From<ValueTypeArg> for ValueType {
    fn from(values: ValueTypeArg) -> ValueType {
        match values {
            ValueTypeArg::F32 => ValueType::F32,
            ValueTypeArg::F16 => ValueType::F16,
            ValueTypeArg::Bf16 => ValueType::Bf16,
            ValueTypeArg::Int8 => ValueType::Int8,
        }
    }
}

/// `--role`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleArg {
    /// What somebody asks
    Query,
    /// What is searched
    Passage,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Role {
        match role {
            RoleArg::Query => Role::Query,
            RoleArg::Passage => Role::Passage,
        }
    }
}
