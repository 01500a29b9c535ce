//! The commands, one file each.

mod branch;
mod ca;
mod completions;
mod down;
mod export;
mod project;
mod psql;
mod quickstart;
mod serve;
mod status;
mod up;
mod url;

use std::future::Future;

use clap::{Parser, Subcommand};

use crate::context::Global;
use crate::failure::{Exit, Failure};

/// Branches for PostgreSQL: copy a running database in milliseconds, at any size.
#[derive(Debug, Parser)]
#[command(name = "ana", version, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(quickstart::Args),
    Up(up::Args),
    Down(down::Args),
    Status(status::Args),
    Serve(serve::Args),
    #[command(subcommand)]
    Project(project::Command),
    #[command(subcommand)]
    Branch(branch::Command),
    Url(url::Args),
    Ca(ca::Args),
    Psql(psql::Args),
    Export(export::Args),
    Completions(completions::Args),
}

impl Arguments {
    /// Does what was asked for.
    pub fn run(self) -> Result<(), Failure> {
        let global = &self.global;
        match self.command {
            Command::Serve(args) => serve::run(global, args),
            Command::Completions(args) => completions::run(args),
            Command::Quickstart(args) => wait_for(quickstart::run(global, args)),
            Command::Up(args) => wait_for(up::run(global, args)),
            Command::Down(args) => wait_for(down::run(global, args)),
            Command::Status(args) => wait_for(status::run(global, args)),
            Command::Project(command) => wait_for(project::run(global, command)),
            Command::Branch(command) => wait_for(branch::run(global, command)),
            Command::Ca(args) => wait_for(ca::run(global, args)),
            Command::Url(args) => wait_for(url::run(global, args)),
            Command::Psql(args) => psql::run(global, args),
            Command::Export(args) => wait_for(export::run(global, args)),
        }
    }
}

/// Runs a command that talks to the daemon.
fn wait_for<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Outside, format!("cannot start: {error}")))?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        super::Arguments::command().debug_assert();
    }
}
