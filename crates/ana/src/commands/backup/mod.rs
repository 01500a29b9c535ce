//! Backups: made by the daemon, checked and restored without one.

mod create;
mod restore;
mod show;
mod verify;

use std::path::PathBuf;

use super::wait_for;
use crate::context::Global;
use crate::failure::Failure;

/// Back up everything while it runs: all projects, branches and keys
///
/// Into a directory, preferably of another disk; what it has from an earlier backup is not copied
/// again. It then contains the keys and passwords of this home.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Directory; new, empty, or with an earlier backup of this home
    #[arg(required = true)]
    dir: Option<PathBuf>,
    /// Print what the backup came to as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Restore(restore::Args),
    Verify(verify::Args),
    Show(show::Args),
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    match (args.command, args.dir) {
        (Some(Command::Restore(args)), _) => restore::run(global, args),
        (Some(Command::Verify(args)), _) => verify::run(args),
        (Some(Command::Show(args)), _) => show::run(args),
        (None, Some(dir)) => wait_for(create::run(global, dir, args.json)),
        (None, None) => Err(Failure::refused("no directory was given").with_hint("ana backup DIR")),
    }
}
