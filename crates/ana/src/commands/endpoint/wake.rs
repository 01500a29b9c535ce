use std::time::Duration;

use super::{Place, about_endpoint};
use crate::commands::branch::branch_id;
use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Start a branch's compute and wait until it answers
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let branch = branch_id(&args.place.branch);
    let wake = client
        .wake_endpoint(&project, &branch, &args.place.endpoint)
        .await
        .map_err(|error| about_endpoint(error, &project, &branch, &args.place.endpoint))?;
    let took = Duration::try_from_secs_f64(wake.duration_ms / 1000.0).unwrap_or_default();
    output::talk(format!("branch {branch} answers, after {}", output::took(took)));
    Ok(())
}
