use client::RoleChange;

use super::Place;
use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Change what a role may do
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana role update app --createdb true --superuser false")]
pub struct Args {
    /// Name or identifier
    role: String,
    /// Membership in databricks_superuser
    #[arg(long, value_name = "BOOL")]
    superuser: Option<bool>,
    /// Whether it may make databases
    #[arg(long, value_name = "BOOL")]
    createdb: Option<bool>,
    /// Whether it may make roles
    #[arg(long, value_name = "BOOL")]
    createrole: Option<bool>,
    /// Whether row-level security does not apply to it
    #[arg(long, value_name = "BOOL")]
    bypassrls: Option<bool>,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let change = RoleChange {
        bypassrls: args.bypassrls,
        createdb: args.createdb,
        createrole: args.createrole,
        superuser: args.superuser,
    };
    let nothing =
        [args.bypassrls, args.createdb, args.createrole, args.superuser].iter().all(Option::is_none);
    if nothing {
        return Err(Failure::refused("nothing to change")
            .with_hint("say what, for example: ana role update app --createdb true"));
    }
    let branch = args.place.find(global).await?;
    let role = branch.role(&args.role).await?;
    let role = branch.client.update_role(&branch.project, &branch.id, &role.role_id, change).await?;
    if args.json {
        return output::json(&role);
    }
    output::talk(format!("changed role {} on branch {}", role.status.postgres_role, branch.id));
    Ok(())
}
