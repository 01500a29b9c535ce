use jiff::Timestamp;

use super::branch_id;
use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// Delete a branch
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana branch delete dev")]
pub struct Args {
    /// Name
    name: String,
    /// Delete the branches made from it as well
    #[arg(long)]
    cascade: bool,
    /// Free the data at once; it cannot come back
    #[arg(long)]
    purge: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let id = branch_id(&args.name);
    client
        .delete_branch(&project, &id, args.cascade, args.purge)
        .await
        .map_err(|error| about(error, &project, &id))?;
    if args.purge {
        output::talk(format!("deleted branch {id}; its data is freed"));
        return Ok(());
    }
    let deleted = client.deleted_branches(&project).await?;
    let purge = deleted.iter().rev().find(|branch| branch.branch_id == id);
    match purge.and_then(|branch| branch.status.purge_time.as_deref()) {
        Some(time) => output::talk(format!(
            "deleted branch {id}; its data is freed {}, until then: ana branch undelete {id}",
            output::relative(time, Timestamp::now())
        )),
        None => output::talk(format!("deleted branch {id}")),
    }
    Ok(())
}
