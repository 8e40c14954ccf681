//! The flags of rounds: negatives that are mined again while a run goes on.

use clap::Args;
use embertune::mine::Preset;
use embertune::train::{RemineEvery, TrainSettings};

/// Mining while it trains.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Mining")]
pub struct RoundArgs {
    /// Mine the negatives of all rows again with the model as it is, after every epoch (epoch) or every so many steps, among the
    /// candidates of --candidate_pool [default: never]
    ///
    /// Without --candidate_pool the candidates are all positives and negatives of the rows. The rows of each round are kept in the output
    /// folder, as mined-<step>.jsonl.
    #[arg(long, value_name = "epoch|STEPS")]
    pub remine_every: Option<RemineEvery>,

    /// By which rules: a preset of `mine`, which are nv-retriever, sentence-transformers and original
    #[arg(long, value_name = "PRESET", default_value_t = TrainSettings::default().remine_preset)]
    pub remine_preset: Preset,

    /// Negatives per row [default: the preset's]
    #[arg(long, value_name = "N")]
    pub remine_negatives: Option<usize>,
}
