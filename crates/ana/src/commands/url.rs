use super::branch::branch_id;
use crate::connection;
use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// Print a connection string that psql and drivers accept as it is
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Branch
    branch: String,
    /// Leave the password out
    #[arg(long)]
    no_password: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let id = branch_id(&args.branch);
    let connection = client
        .connection(&project, &id, !args.no_password)
        .await
        .map_err(|error| about(error, &project, &id))?;
    if args.json {
        return output::json(&connection);
    }
    output::data(connection::uri(&connection));
    Ok(())
}
