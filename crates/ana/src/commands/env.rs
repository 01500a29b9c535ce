use serde_json::{Map, Value};

use super::branch::branch_id;
use crate::connection::{self, Wish};
use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Print variables for a shell that lead psql and drivers to a branch, without a password in them
///
/// The password goes into a file that only you can read, PGPASSFILE. It is good for an hour; the next
/// `ana env` writes a new one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: set -a; eval \"$(ana env dev)\"; set +a; psql")]
pub struct Args {
    /// Branch
    branch: String,
    /// Role to log in as; for another than yours there is no PGPASSFILE [default: yours]
    #[arg(long)]
    role: Option<String>,
    /// Database [default: databricks_postgres]
    #[arg(long)]
    database: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let wish = Wish { role: args.role, database: args.database, password: true };
    let mut connection = connection::of_branch(&client, &project, &branch_id(&args.branch), wish).await?;
    let passfile = connection::passfile(&connection)?;
    connection.password = None;
    let mut variables = connection::variables(&connection);
    variables.extend(passfile.map(|file| ("PGPASSFILE", file)));
    variables.push(("DATABASE_URL", connection::uri(&connection)));
    if args.json {
        let object: Map<String, Value> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        return output::json(&object);
    }
    output::data(connection::environment(&variables));
    Ok(())
}
