use clap::ValueEnum;

use super::branch::branch_id;
use crate::connection::{self, Wish};
use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Print a connection string that psql and drivers accept as it is
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Branch
    branch: String,
    /// Role to log in as; the password of another than yours is left out [default: yours]
    #[arg(long)]
    role: Option<String>,
    /// Database [default: databricks_postgres]
    #[arg(long)]
    database: Option<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Format::Uri)]
    format: Format,
    /// Leave the password out; the one inside is good for an hour
    #[arg(long)]
    no_password: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// postgresql://…
    Uri,
    /// Variables for a shell
    Env,
    /// jdbc:postgresql://…
    Jdbc,
    /// Key-value pairs, as libpq takes them
    Dsn,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let wish = Wish { role: args.role, database: args.database, password: !args.no_password };
    let connection = connection::of_branch(&client, &project, &branch_id(&args.branch), wish).await?;
    if args.json {
        return output::json(&connection);
    }
    output::data(match args.format {
        Format::Uri => connection::uri(&connection),
        Format::Env => connection::environment(&connection::variables(&connection)),
        Format::Jdbc => connection::jdbc(&connection),
        Format::Dsn => connection::dsn(&connection),
    });
    Ok(())
}
