//! `ana`: branches for PostgreSQL.

mod commands;
mod connection;
mod context;
mod daemon;
mod duration;
mod failure;
mod home;
mod login;
mod output;
mod sql;
mod system;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = commands::Arguments::read();
    match arguments.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::talk(failure.render());
            ExitCode::from(failure.exit as u8)
        }
    }
}
