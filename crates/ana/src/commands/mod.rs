//! The commands, one file each.

mod audit;
mod auth;
mod backup;
mod branch;
mod ca;
mod completions;
mod compute_args;
mod database;
mod doctor;
mod down;
mod endpoint;
mod env;
mod export;
mod logs;
mod metrics;
mod postgres;
mod principal;
mod project;
mod psql;
mod quickstart;
mod role;
mod scrub;
mod serve;
mod service;
mod status;
mod token;
mod up;
mod url;

use std::future::Future;

use clap::{CommandFactory, Parser, Subcommand};

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
    Doctor(doctor::Args),
    Serve(serve::Args),
    #[command(subcommand)]
    Project(project::Command),
    #[command(subcommand)]
    Branch(branch::Command),
    #[command(subcommand)]
    Token(token::Command),
    #[command(subcommand)]
    Principal(principal::Command),
    #[command(subcommand)]
    Auth(auth::Command),
    #[command(subcommand)]
    Role(role::Command),
    #[command(subcommand)]
    Database(database::Command),
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Call the API with the grammar of the vendor's `postgres` commands
    #[command(subcommand)]
    Postgres(postgres::Command),
    Url(url::Args),
    Env(env::Args),
    Ca(ca::Args),
    Psql(psql::Args),
    Export(export::Args),
    Backup(backup::Args),
    Logs(logs::Args),
    Metrics(metrics::Args),
    #[command(subcommand)]
    Audit(audit::Command),
    #[command(subcommand)]
    Service(service::Command),
    Completions(completions::Args),
}

impl Arguments {
    /// What was written on the command line; ends the program where it makes no sense.
    pub fn read() -> Arguments {
        Arguments::try_parse().unwrap_or_else(|error| {
            let lenient = Arguments::command().ignore_errors(true).try_get_matches();
            if lenient.is_ok_and(|matches| matches.subcommand_name() == Some("postgres")) {
                postgres::explain(&error);
            }
            error.exit()
        })
    }

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
            Command::Doctor(args) => wait_for(doctor::run(global, args)),
            Command::Project(command) => wait_for(project::run(global, command)),
            Command::Branch(command) => wait_for(branch::run(global, command)),
            Command::Token(command) => wait_for(token::run(global, command)),
            Command::Principal(command) => wait_for(principal::run(global, command)),
            Command::Auth(command) => wait_for(auth::run(global, command)),
            Command::Role(command) => wait_for(role::run(global, command)),
            Command::Database(command) => wait_for(database::run(global, command)),
            Command::Endpoint(command) => wait_for(endpoint::run(global, command)),
            Command::Postgres(command) => wait_for(postgres::run(global, command)),
            Command::Ca(args) => wait_for(ca::run(global, args)),
            Command::Logs(args) => wait_for(logs::run(global, args)),
            Command::Metrics(args) => wait_for(metrics::run(global, args)),
            Command::Audit(command) => wait_for(audit::run(global, command)),
            Command::Service(command) => service::run(global, command),
            Command::Url(args) => wait_for(url::run(global, args)),
            Command::Env(args) => wait_for(env::run(global, args)),
            Command::Psql(args) => psql::run(global, args),
            Command::Export(args) => wait_for(export::run(global, args)),
            Command::Backup(args) => backup::run(global, args),
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

    use super::Arguments;

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }
}
