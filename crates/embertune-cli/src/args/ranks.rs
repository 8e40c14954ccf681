//! Processes that work together, as `mpirun` or `srun` starts them.

use std::time::Duration;

use clap::Args;

/// The ranks of a command.
#[derive(Args, Debug)]
#[command(rename_all = "snake_case", next_help_heading = "Machine")]
pub struct RankArgs {
    /// Of several ranks (docs/guide/cluster.md): how long one may send nothing while others wait for it, before that ends the run
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..), default_value_t = 1800)]
    rank_timeout: u64,
}

impl RankArgs {
    /// How long other ranks wait for one.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.rank_timeout)
    }
}
