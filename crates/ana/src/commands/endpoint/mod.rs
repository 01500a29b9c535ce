//! Endpoints: the addresses of branches, and the computes behind them.

mod suspend;
mod wake;

use crate::context::Global;
use crate::failure::Failure;

/// Wake and suspend the computes of branches
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Suspend(suspend::Args),
    Wake(wake::Args),
}

/// An endpoint of a branch.
#[derive(Debug, clap::Args)]
struct Place {
    /// Branch
    branch: String,
    /// Endpoint of the branch
    #[arg(long, default_value = "primary", value_name = "ENDPOINT")]
    endpoint: String,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Suspend(args) => suspend::run(global, args).await,
        Command::Wake(args) => wake::run(global, args).await,
    }
}
