use serde_json::{Value, json};

use super::{about_endpoint, size, state, suspension};
use crate::commands::branch::branch_id;
use crate::commands::compute_args::{ComputeArgs, parse_pair};
use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Change the size, suspension or settings of a branch's endpoint
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana endpoint update dev --cu 0.5-4 --suspend 5m --set work_mem=64MB")]
pub struct Args {
    /// Branch
    branch: String,
    /// Endpoint of the branch
    #[arg(long, default_value = "primary", value_name = "ENDPOINT")]
    endpoint: String,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Refuse connections
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
    /// Take connections again
    #[arg(long)]
    enable: bool,
    /// Set a PostgreSQL setting, from the next start of the compute on; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    set: Vec<(String, String)>,
    /// Take a PostgreSQL setting back; may be repeated
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let branch = branch_id(&args.branch);
    let failed = |error| about_endpoint(error, &project, &branch, &args.endpoint);
    let (mut spec, mut mask): (Value, Vec<String>) = (json!({}), Vec::new());
    args.compute.add_to(&mut spec, &mut mask, "spec", "spec.suspension");
    if args.disable || args.enable {
        spec["disabled"] = json!(args.disable);
        mask.push("spec.disabled".to_owned());
    }
    if !(args.set.is_empty() && args.unset.is_empty()) {
        let current = client.endpoint(&project, &branch, &args.endpoint).await.map_err(failed)?;
        let mut settings = current.status.settings.pg_settings;
        settings.retain(|name, _| !args.unset.contains(name));
        settings.extend(args.set.iter().cloned());
        spec["settings"] = json!({"pg_settings": settings});
        mask.push("spec.settings.pg_settings".to_owned());
    }
    if mask.is_empty() {
        return Err(Failure::refused("nothing to change was given")
            .with_hint("for example: ana endpoint update dev --cu 0.5-4 --suspend 5m"));
    }
    let mask: Vec<&str> = mask.iter().map(String::as_str).collect();
    let endpoint =
        client.update_endpoint(&project, &branch, &args.endpoint, &mask, spec).await.map_err(failed)?;
    if args.json {
        return output::json(&endpoint);
    }
    output::talk(format!(
        "changed endpoint {} of branch {branch}: {}, {}, suspends {}",
        endpoint.endpoint_id,
        size(&endpoint),
        state(&endpoint),
        suspension(&endpoint)
    ));
    Ok(())
}
