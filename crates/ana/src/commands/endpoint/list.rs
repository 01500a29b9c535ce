use super::{address, size, state, suspension};
use crate::commands::branch::branch_id;
use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// List endpoints
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana endpoint list --branch dev")]
pub struct Args {
    /// Only those of this branch
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let branches = match args.branch.as_deref().map(branch_id) {
        Some(branch) => vec![branch],
        None => {
            let all = client.branches(&project).await.map_err(|error| about(error, &project, ""))?;
            all.into_iter().map(|branch| branch.branch_id).collect()
        }
    };
    let mut all = Vec::new();
    for branch in branches {
        let found = client.endpoints(&project, &branch).await;
        all.extend(found.map_err(|error| about(error, &project, &branch))?);
    }
    if args.json {
        return output::json(&all);
    }
    let branch = |parent: &str| parent.rsplit('/').next().unwrap_or_default().to_owned();
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|endpoint| {
            vec![
                branch(&endpoint.parent),
                endpoint.endpoint_id.clone(),
                state(endpoint),
                address(endpoint),
                size(endpoint),
                suspension(endpoint),
            ]
        })
        .collect();
    output::table(&["BRANCH", "ENDPOINT", "STATE", "ADDRESS", "SIZE", "SUSPENDS"], &rows);
    Ok(())
}
