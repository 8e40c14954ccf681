//! The command line: one file per command, each flag with its documentation and its parsing in one place.
//!
//! Flags are spelled as in the original Python scripts (`--model_name_or_path`); [`spelling`] lets in the kebab-case
//! spelling of each as well.

use clap::{CommandFactory, Parser, Subcommand};

pub mod adaptation;
pub mod audit;
pub mod boolean;
pub mod compare;
pub mod config;
pub mod convert;
pub mod embed;
pub mod embedding;
pub mod evaluate;
pub mod loss;
pub mod mine;
pub mod model;
pub mod optimizer;
pub mod ranks;
pub mod refused;
pub mod report;
pub mod rounds;
pub mod score;
pub mod spelling;
pub mod split;
pub mod test_sets;
pub mod train;
pub mod tune;

pub use adaptation::AdaptationArgs;
pub use audit::AuditArgs;
pub use compare::CompareArgs;
pub use convert::ConvertArgs;
pub use embed::EmbedArgs;
pub use embedding::{EmbeddingArgs, VectorCacheArgs};
pub use evaluate::EvaluateArgs;
pub use loss::LossArgs;
pub use mine::MineArgs;
pub use model::{MachineArgs, ModelArgs, ModelChangeArgs};
pub use optimizer::OptimizerArgs;
pub use ranks::RankArgs;
pub use report::ReportArgs;
pub use rounds::RoundArgs;
pub use score::ScoreArgs;
pub use split::SplitArgs;
pub use test_sets::TestSetArgs;
pub use train::TrainArgs;
pub use tune::TuneArgs;

/// Make a text-embedding model better on your own data: mine hard negatives, fine-tune, evaluate before and after
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "The usual order: `audit` the data, `evaluate` the base model, `mine` negatives for the training rows, `train`, `compare` \
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
    /// Say what is wrong with training data before it is trained on, and repair what is wrong beyond doubt
    #[command(after_help = audit::EXAMPLES)]
    Audit(Box<AuditArgs>),
    /// Do it all: audit, split, baseline, mining, training, verdict, report; the same command goes on after an interruption
    #[command(after_help = tune::EXAMPLES)]
    Tune(Box<TuneArgs>),
    /// Find hard negatives: passages that the model ranks high for a query although they do not answer it
    #[command(visible_alias = "mine_hard_neg", after_help = mine::EXAMPLES)]
    Mine(Box<MineArgs>),
    /// Let a cross-encoder score the passages of rows: a teacher for distillation, and a judge of hard negatives
    #[command(after_help = score::EXAMPLES)]
    Score(Box<ScoreArgs>),
    /// Fine-tune a model on queries with positives and negatives
    #[command(visible_alias = "finetune", after_help = train::EXAMPLES)]
    Train(Box<TrainArgs>),
    /// Measure how well a model finds the positives of held-out queries in a pool of passages
    #[command(after_help = evaluate::EXAMPLES)]
    Evaluate(Box<EvaluateArgs>),
    /// Say whether a tuned model is better than its base, by how much, how surely, and for which queries
    #[command(after_help = compare::EXAMPLES)]
    Compare(Box<CompareArgs>),
    /// Make a page of a run that opens from the disk: verdict, metrics, curves, the queries that changed, settings
    #[command(after_help = report::EXAMPLES)]
    Report(Box<ReportArgs>),
    /// Turn texts into vectors
    #[command(after_help = embed::EXAMPLES)]
    Embed(Box<EmbedArgs>),
    /// Turn rows of any form into rows of another: JSON lines, JSON lists, CSV, TSV, BEIR folders, Parquet
    #[command(after_help = convert::EXAMPLES)]
    Convert(Box<ConvertArgs>),
    /// Split rows into train, dev and test, so that nothing that is trained on gives away what is tested
    #[command(after_help = split::EXAMPLES)]
    Split(Box<SplitArgs>),
    /// Print the reference of all commands as Markdown (the source of docs/cli.md)
    #[command(hide = true, name = "gen_docs")]
    GenDocs {
        /// Print what becomes of the arguments of transformers instead (the source of docs/guide/arguments.md)
        #[arg(long)]
        arguments: bool,
    },
}

impl Cli {
    /// The command line. `mine` needs no model where words rank the candidates or vectors are there already.
    pub fn definition() -> clap::Command {
        let no_model = ["query_vectors", "passage_vectors", "ranking"];
        Cli::command().mut_subcommands(|command| {
            let name = command.get_name().to_string();
            let command = if config::COMMANDS.contains(&&*name) { command.arg(config::flag()) } else { command };
            match &*name {
                "mine" => command
                    .mut_arg("model_name_or_path", |model| model.required(false).required_unless_present_any(no_model)),
                _ => command,
            }
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
