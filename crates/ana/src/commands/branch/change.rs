//! Small changes to a branch: default, protection, expiry.

use client::{Branch, Client};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{branch_id, create};
use crate::context::Global;
use crate::duration;
use crate::failure::{Failure, about};
use crate::output;

/// Make a branch the one that others start from by default
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana branch set-default staging")]
pub struct SetDefault {
    /// Name
    name: String,
}

/// Refuse deletion and reset of a branch, and deletion of its project
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana branch protect production")]
pub struct Protect {
    /// Name
    name: String,
}

/// Allow deletion and reset of a branch again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana branch unprotect production")]
pub struct Unprotect {
    /// Name
    name: String,
}

/// Say when a branch vanishes
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana branch expire dev --ttl 7d")]
pub struct Expire {
    /// Name
    name: String,
    /// Vanish so long from now, e.g. 1h, 7d
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, group = "expiry")]
    ttl: Option<u64>,
    /// Vanish at this time, e.g. 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = create::parse_time, group = "expiry")]
    expires_at: Option<Timestamp>,
    /// Never vanish
    #[arg(long, group = "expiry")]
    no_expiry: bool,
}

pub async fn set_default(global: &Global, args: SetDefault) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let id = branch_id(&args.name);
    let spec = json!({"default_branch": format!("projects/{project}/branches/{id}")});
    client
        .update_project(&project, &["spec.default_branch"], spec)
        .await
        .map_err(|error| about(error, &project, &id))?;
    output::talk(format!("branch {id} is now the default branch of project {project}"));
    Ok(())
}

pub async fn protect(global: &Global, args: Protect) -> Result<(), Failure> {
    let changed = change(global, &args.name, &["spec.is_protected"], json!({"is_protected": true})).await;
    let branch = changed.map_err(|failure| match failure.message.contains("expiration") {
        true => failure.with_hint(format!("remove it first: ana branch expire {} --no-expiry", args.name)),
        false => failure,
    })?;
    output::talk(format!("branch {} is protected", branch.branch_id));
    Ok(())
}

pub async fn unprotect(global: &Global, args: Unprotect) -> Result<(), Failure> {
    let spec = json!({"is_protected": false});
    let branch = change(global, &args.name, &["spec.is_protected"], spec).await?;
    output::talk(format!("branch {} is no longer protected", branch.branch_id));
    Ok(())
}

pub async fn expire(global: &Global, args: Expire) -> Result<(), Failure> {
    let spec = match (args.ttl, args.expires_at) {
        (Some(seconds), _) => json!({"ttl": format!("{seconds}s")}),
        (None, Some(time)) => json!({"expire_time": time.to_string()}),
        (None, None) if args.no_expiry => json!({"no_expiry": true}),
        (None, None) => {
            return Err(Failure::refused("it was not said when the branch is to vanish")
                .with_hint("give one of --ttl, --expires-at and --no-expiry"));
        }
    };
    let branch = change(global, &args.name, &["spec.expiration"], spec).await?;
    output::talk(match &branch.status.expire_time {
        Some(time) => format!(
            "branch {} expires {} ({})",
            branch.branch_id,
            output::relative(time, Timestamp::now()),
            output::absolute(time)
        ),
        None => format!("branch {} does not expire", branch.branch_id),
    });
    Ok(())
}

async fn change(global: &Global, name: &str, mask: &[&str], spec: Value) -> Result<Branch, Failure> {
    let client: Client = global.client()?;
    let project = global.project(&client).await?;
    let id = branch_id(name);
    client.update_branch(&project, &id, mask, spec).await.map_err(|error| about(error, &project, &id))
}
