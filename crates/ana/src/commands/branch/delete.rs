use super::branch_id;
use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Delete a branch
#[derive(Debug, clap::Args)]
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
    client.delete_branch(&project, &id, args.cascade, args.purge).await?;
    let end = if args.purge { "its data is freed" } else { "its data is kept for the grace time" };
    output::talk(format!("deleted branch {id}; {end}"));
    Ok(())
}
