use super::branch_id;
use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// Take back the deletion of a branch whose data is still there
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana branch undelete dev")]
pub struct Args {
    /// Name
    name: String,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let id = branch_id(&args.name);
    client.undelete_branch(&project, &id).await.map_err(|error| match about(error, &project, &id) {
        failure if failure.message.starts_with("there is no branch") => {
            Failure::refused(format!("no deleted branch \"{id}\" of project {project} can come back"))
        }
        failure => failure,
    })?;
    output::talk(format!("branch {id} is back"));
    Ok(())
}
