use jiff::Timestamp;
use serde_json::json;

use super::branch_id;
use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// Show a branch
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana branch show dev")]
pub struct Args {
    /// Name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let id = branch_id(&args.name);
    let branch = client.branch(&project, &id).await.map_err(|error| about(error, &project, &id))?;
    let endpoints = client.endpoints(&project, &id).await?;
    let usage = client.usage(&project, &id).await?;
    if args.json {
        return output::json(&json!({"branch": branch, "endpoints": endpoints, "usage": usage}));
    }
    let now = Timestamp::now();
    let status = &branch.status;
    let both = |time: &str| format!("{} ({})", output::relative(time, now), output::absolute(time));
    output::data(format!("branch     {}", branch.branch_id));
    output::data(format!("uid        {}", branch.uid));
    output::data(format!("project    {project}"));
    output::data(format!("state      {}", status.current_state.to_lowercase()));
    if let Some(damage) = branch.anabranch.as_ref().and_then(|own| own.damage.as_deref()) {
        output::data(format!("damaged    {damage}"));
    }
    if let Some(source) = &status.source_branch {
        let fate = branch.anabranch.as_ref().and_then(|own| own.source_fate.as_deref());
        let fate = fate.map(|fate| format!(" ({fate})")).unwrap_or_default();
        let lsn = status.source_branch_lsn.as_deref().unwrap_or("?");
        output::data(format!("parent     {}{fate} at {lsn}", source.rsplit('/').next().unwrap_or(source)));
    }
    output::data(format!("created    {}", both(&branch.create_time)));
    output::data(format!(
        "expires    {}",
        status.expire_time.as_deref().map_or_else(|| "never".to_owned(), both)
    ));
    output::data(format!("protected  {}", if status.is_protected { "yes" } else { "no" }));
    output::data(format!(
        "size       {} of its own, {} shared, {} of files",
        output::bytes(usage.own_bytes),
        output::bytes(usage.shared_bytes),
        output::bytes(usage.logical_bytes)
    ));
    for endpoint in endpoints {
        let port = endpoint.anabranch.map(|own| own.port).unwrap_or_default();
        output::data(format!(
            "endpoint   {} {}:{port} ({})",
            endpoint.endpoint_id,
            endpoint.status.hosts.host,
            endpoint.status.current_state.to_lowercase()
        ));
    }
    Ok(())
}
