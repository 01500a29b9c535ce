//! `ana branch …`, one file a subcommand.

mod change;
mod create;
mod delete;
mod list;
mod show;
mod undelete;

use control::names::normalise;

use crate::context::Global;
use crate::failure::Failure;

/// Make, list, change and delete branches
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Create(create::Args),
    List(list::Args),
    Show(show::Args),
    Delete(delete::Args),
    Undelete(undelete::Args),
    SetDefault(change::SetDefault),
    Protect(change::Protect),
    Unprotect(change::Unprotect),
    Expire(change::Expire),
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create::run(global, args).await,
        Command::List(args) => list::run(global, args).await,
        Command::Show(args) => show::run(global, args).await,
        Command::Delete(args) => delete::run(global, args).await,
        Command::Undelete(args) => undelete::run(global, args).await,
        Command::SetDefault(args) => change::set_default(global, args).await,
        Command::Protect(args) => change::protect(global, args).await,
        Command::Unprotect(args) => change::unprotect(global, args).await,
        Command::Expire(args) => change::expire(global, args).await,
    }
}

/// The identifier of a branch as a person names it.
pub fn branch_id(name: &str) -> String {
    normalise(name)
}
