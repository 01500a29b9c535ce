use super::Place;
use crate::context::Global;
use crate::failure::{Failure, about};
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
    let branch = &args.place.branch;
    client
        .suspend_endpoint(&project, branch, &args.place.endpoint)
        .await
        .map_err(|error| about(error, &project, branch))?;
    output::talk(format!("suspended branch {branch}; its next connection wakes it"));
    Ok(())
}
