use std::os::unix::process::CommandExt;
use std::process::Command;

use client::Connection;

use super::branch::branch_id;
use super::wait_for;
use crate::connection::{self, Wish};
use crate::context::Global;
use crate::failure::{Exit, Failure, about};
use crate::sql;

/// Open a SQL session on a branch
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Branch
    branch: String,
    /// Database [default: databricks_postgres]
    #[arg(long)]
    database: Option<String>,
    /// As PostgreSQL's superuser, past the front door; only for the owner, and recorded
    #[arg(long)]
    superuser: bool,
    /// Arguments for psql
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let connection = wait_for(connect_to(global, &args))?;
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

async fn connect_to(global: &Global, args: &Args) -> Result<Connection, Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let id = branch_id(&args.branch);
    if args.superuser {
        let access = client.superuser(&project, &id).await.map_err(|error| about(error, &project, &id))?;
        return Ok(Connection {
            host: access.socket_dir,
            port: 5432,
            role: access.role,
            database: args.database.clone().unwrap_or(access.database),
            password: Some(access.password),
            ..Connection::default()
        });
    }
    let wish = Wish { database: args.database.clone(), password: true, ..Wish::default() };
    connection::of_branch(&client, &project, &id, wish).await
}

/// Only returns if psql could not be started. Secrets go through the environment: everybody can
/// read a process's arguments, only its user the environment.
fn become_psql(connection: &Connection, args: &[String]) -> Failure {
    let mut psql = Command::new("psql");
    // Left over from another session these would lead psql elsewhere, or make it doubt the server.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(leads_elsewhere) {
            psql.env_remove(name);
        }
    }
    psql.args(args).envs(connection::variables(connection));
    let error = psql.exec();
    Failure::new(Exit::Outside, format!("cannot start psql: {error}"))
}

/// Whether libpq takes a connection's properties from this variable.
fn leads_elsewhere(name: &str) -> bool {
    let about_connections = [
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGDATABASE",
        "PGPASS",
        "PGSERVICE",
        "PGSSL",
        "PGREQUIRE",
        "PGCHANNELBINDING",
        "PGTARGETSESSIONATTRS",
        "PGLOADBALANCEHOSTS",
        "PGGSS",
        "PGKRBSRVNAME",
        "PGMINPROTOCOL",
        "PGMAXPROTOCOL",
    ];
    about_connections.iter().any(|prefix| name.starts_with(prefix))
}

fn find_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_lead_elsewhere() {
        for name in ["PGHOST", "PGHOSTADDR", "PGPASSFILE", "PGSERVICEFILE", "PGSSLMODE", "PGSSLROOTCERT"] {
            assert!(leads_elsewhere(name), "{name}");
        }
        for name in ["PGOPTIONS", "PGCLIENTENCODING", "PGTZ", "PATH"] {
            assert!(!leads_elsewhere(name), "{name}");
        }
    }
}
