use std::os::unix::process::CommandExt;
use std::process::Command;

use client::Connection;

use super::branch::branch_id;
use super::wait_for;
use crate::context::Global;
use crate::failure::{Exit, Failure, about};
use crate::sql;

/// Open a SQL session on a branch
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Branch
    branch: String,
    /// Arguments for psql
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let connection = wait_for(async {
        let client = global.client()?;
        let project = global.project(&client).await?;
        let id = branch_id(&args.branch);
        client.connection(&project, &id, true).await.map_err(|error| about(error, &project, &id))
    })?;
    if find_on_path("psql") {
        return Err(become_psql(&connection, &args.args));
    }
    match args.args.as_slice() {
        [] => wait_for(sql::read_and_run(&connection)),
        [flag, statement] if flag == "-c" || flag == "--command" => {
            wait_for(sql::run(&connection, statement))
        }
        _ => Err(Failure::refused("there is no psql on PATH, and ana's own client only knows -c STATEMENT")
            .with_hint("install the PostgreSQL client programs")),
    }
}

/// Only returns if psql could not be started. Secrets go through the environment: everybody can
/// read a process's arguments, only its user the environment.
fn become_psql(connection: &Connection, args: &[String]) -> Failure {
    let mut psql = Command::new("psql");
    psql.args(args)
        .env("PGHOST", &connection.host)
        .env("PGPORT", connection.port.to_string())
        .env("PGUSER", &connection.role)
        .env("PGDATABASE", &connection.database);
    // Left over from another session these would lead psql elsewhere.
    for name in ["PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGPASSFILE", "PGSSLMODE"] {
        psql.env_remove(name);
    }
    if let Some(password) = &connection.password {
        psql.env("PGPASSWORD", password);
    }
    let error = psql.exec();
    Failure::new(Exit::Outside, format!("cannot start psql: {error}"))
}

fn find_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
