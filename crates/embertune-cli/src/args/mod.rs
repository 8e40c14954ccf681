//! The command line: one file per command, each flag with its documentation and its parsing in one place.
//!
//! Flags are spelled as in the original Python scripts (`--model_name_or_path`); [`spelling`] lets in the kebab-case
//! spelling of each as well.

use clap::{CommandFactory, Parser, Subcommand};

pub mod boolean;
pub mod compare;
pub mod convert;
pub mod embed;
pub mod evaluate;
pub mod loss;
pub mod mine;
pub mod model;
pub mod refused;
pub mod spelling;
pub mod split;
pub mod test_sets;
pub mod train;

pub use compare::CompareArgs;
pub use convert::ConvertArgs;
pub use embed::EmbedArgs;
pub use evaluate::EvaluateArgs;
pub use loss::LossArgs;
pub use mine::MineArgs;
pub use model::{MachineArgs, ModelArgs, ModelChangeArgs};
pub use split::SplitArgs;
pub use test_sets::TestSetArgs;
pub use train::TrainArgs;

/// Make a text-embedding model better on your own data: mine hard negatives, fine-tune, evaluate before and after
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "The usual order: `evaluate` the base model, `mine` negatives for the training rows, `train`, `compare` \
                  the two.\nEvery flag has two spellings: --model_name_or_path and --model-name-or-path are the same.\n\
                  See `embertune <COMMAND> --help` for examples."
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find hard negatives: passages that the model ranks high for a query although they do not answer it
    #[command(visible_alias = "mine_hard_neg", after_help = mine::EXAMPLES)]
    Mine(Box<MineArgs>),
    /// Fine-tune a model on queries with positives and negatives
    #[command(visible_alias = "finetune", after_help = train::EXAMPLES)]
    Train(Box<TrainArgs>),
    /// Measure how well a model finds the positives of held-out queries in a pool of passages
    #[command(after_help = evaluate::EXAMPLES)]
    Evaluate(Box<EvaluateArgs>),
    /// Say whether a tuned model is better than its base, by how much, how surely, and for which queries
    #[command(after_help = compare::EXAMPLES)]
    Compare(Box<CompareArgs>),
    /// Turn texts into vectors
    #[command(after_help = embed::EXAMPLES)]
    Embed(EmbedArgs),
    /// Turn rows of any form into rows of another: JSON lines, JSON lists, CSV, TSV, BEIR folders, Parquet
    #[command(after_help = convert::EXAMPLES)]
    Convert(ConvertArgs),
    /// Split rows into train, dev and test, so that nothing that is trained on gives away what is tested
    #[command(after_help = split::EXAMPLES)]
    Split(SplitArgs),
    /// Print the reference of all commands as Markdown (the source of docs/cli.md)
    #[command(hide = true, name = "gen_docs")]
    GenDocs,
}

impl Cli {
    /// The command line. `mine` needs no model where words rank the candidates or vectors are there already.
    pub fn definition() -> clap::Command {
        Cli::command().mut_subcommand("mine", |mine| {
            mine.mut_arg("model_name_or_path", |model| {
                model.required(false).required_unless_present_any(["query_vectors", "passage_vectors", "ranking"])
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::definition().debug_assert();
    }

    #[test]
    fn every_flag_is_spelled_with_underscores_and_documented() {
        for command in Cli::definition().get_subcommands() {
            for flag in command.get_arguments().filter(|argument| !argument.is_positional()) {
                let name = flag.get_long().unwrap();
                assert!(!name.contains('-'), "`{name}` would not be reached: argv is underscored before parsing");
                assert!(flag.get_help().is_some(), "`{name}` has no help");
            }
        }
    }
}
