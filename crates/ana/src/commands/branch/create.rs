use std::time::Instant;

use client::{Branch, Expiry, NewBranch};
use jiff::Timestamp;

use super::branch_id;
use crate::context::Global;
use crate::duration;
use crate::failure::{Failure, about};
use crate::output;

/// Branches made by people vanish after a week unless they say otherwise: forgotten ones cost space.
const USUAL_TTL: u64 = 7 * 86_400;

/// Make a branch
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana branch create feature/Loyalty_Tier --ttl 7d")]
pub struct Args {
    /// Name; `feature/Loyalty_Tier` becomes `feature-loyalty-tier`
    name: String,
    /// Branch to start from [default: the project's default branch]
    #[arg(long, value_name = "BRANCH")]
    from: Option<String>,
    /// Vanish after this long, e.g. 1h, 7d [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, group = "expiry")]
    ttl: Option<u64>,
    /// Vanish at this time, e.g. 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time, group = "expiry")]
    expires_at: Option<Timestamp>,
    /// Never vanish
    #[arg(long, group = "expiry")]
    no_expiry: bool,
    /// Refuse deletion until the protection is removed; never vanishes
    #[arg(long, conflicts_with_all = ["ttl", "expires_at"])]
    protected: bool,
    /// Do not wait until the branch answers a query
    #[arg(long)]
    no_wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let begin = Instant::now();
    let client = global.client()?;
    let project = global.project(&client).await?;
    let id = branch_id(&args.name);
    let new = NewBranch {
        project: project.clone(),
        given_name: (id != args.name).then(|| args.name.clone()),
        id,
        source: args.from.as_deref().map(branch_id),
        expiry: expiry(&args),
        is_protected: args.protected,
    };
    // What may be missing here is the parent, or the project.
    let parent = new.source.as_deref().unwrap_or_default();
    let branch = client.create_branch(&new).await.map_err(|error| about(error, &project, parent))?;
    let durable = begin.elapsed();
    if !args.no_wait {
        client.wake(&project, &branch.branch_id).await?;
    }
    if args.json {
        return output::json(&branch);
    }
    let from = branch.status.source_branch.as_deref().and_then(|name| name.rsplit('/').next());
    let answers = if args.no_wait {
        String::new()
    } else {
        format!(", first query after {}", output::took(begin.elapsed()))
    };
    output::talk(format!(
        "created branch {} from {} in {}{answers}",
        branch.branch_id,
        from.unwrap_or("?"),
        output::took(durable)
    ));
    output::talk(expiry_line(&branch));
    output::talk(format!("connect: ana psql {0}    or: psql \"$(ana url {0})\"", branch.branch_id));
    Ok(())
}

fn expiry(args: &Args) -> Expiry {
    match (args.ttl, args.expires_at) {
        (Some(seconds), _) => Expiry::Seconds(seconds),
        (None, Some(time)) => Expiry::At(time.to_string()),
        (None, None) if args.no_expiry || args.protected => Expiry::Never,
        (None, None) => Expiry::Seconds(USUAL_TTL),
    }
}

fn expiry_line(branch: &Branch) -> String {
    match &branch.status.expire_time {
        Some(time) => format!(
            "expires {} ({}); --ttl, --expires-at or --no-expiry choose otherwise",
            output::relative(time, Timestamp::now()),
            output::absolute(time)
        ),
        None => "does not expire".to_owned(),
    }
}

pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no time; write for example 2030-01-31T12:00:00Z"))
}
