use super::{Place, about_endpoint};
use crate::commands::branch::branch_id;
use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// End a branch's compute now, whatever it does; the next connection wakes it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let branch = branch_id(&args.place.branch);
    client
        .suspend_endpoint(&project, &branch, &args.place.endpoint)
        .await
        .map_err(|error| about_endpoint(error, &project, &branch, &args.place.endpoint))?;
    output::talk(format!("suspended branch {branch}; its next connection wakes it"));
    Ok(())
}
