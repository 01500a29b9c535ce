use jiff::Timestamp;

use super::{about_endpoint, address, size, state, suspension};
use crate::commands::branch::branch_id;
use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Show the endpoint of a branch
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana endpoint show dev")]
pub struct Args {
    /// Branch
    branch: String,
    /// Endpoint of the branch
    #[arg(long, default_value = "primary", value_name = "ENDPOINT")]
    endpoint: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let branch = branch_id(&args.branch);
    let endpoint = client
        .endpoint(&project, &branch, &args.endpoint)
        .await
        .map_err(|error| about_endpoint(error, &project, &branch, &args.endpoint))?;
    if args.json {
        return output::json(&endpoint);
    }
    let last = endpoint.status.last_active_time.as_deref();
    output::data(format!("endpoint   {}", endpoint.endpoint_id));
    output::data(format!("uid        {}", endpoint.uid));
    output::data(format!("branch     {branch} of project {project}"));
    output::data(format!("state      {}", state(&endpoint)));
    output::data(format!("address    {}", address(&endpoint)));
    output::data(format!("size       {}", size(&endpoint)));
    output::data(format!("suspends   {}", suspension(&endpoint)));
    if let Some(time) = last {
        output::data(format!("last used  {}", output::relative(time, Timestamp::now())));
    }
    for (name, value) in &endpoint.status.settings.pg_settings {
        output::data(format!("setting    {name} = {value}"));
    }
    Ok(())
}
