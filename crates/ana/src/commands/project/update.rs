use serde_json::{Value, json};

use crate::commands::branch::branch_id;
use crate::commands::compute_args::{ComputeArgs, parse_pair};
use crate::context::Global;
use crate::duration;
use crate::failure::{Failure, about};
use crate::output;

/// Change what a project is called and what its branches begin with
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: ana project update --display-name \"The shop\" --cu 0.5-4 --suspend 5m")]
pub struct Args {
    /// Name; the current project where absent
    name: Option<String>,
    /// What people see
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// Branch that others start from by default
    #[arg(long, value_name = "BRANCH")]
    default_branch: Option<String>,
    /// Keep the past for this long, 2d to 35d
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    history: Option<u64>,
    /// What new endpoints begin with
    #[command(flatten)]
    compute: ComputeArgs,
    /// Label; may be repeated, and all together take the place of those before
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    tag: Vec<(String, String)>,
    /// Remove all labels
    #[arg(long, conflicts_with = "tag")]
    no_tags: bool,
    /// Let roles log in with passwords of their own
    #[arg(long, conflicts_with = "no_native_login")]
    native_login: bool,
    /// Let nobody log in with a password of PostgreSQL
    #[arg(long)]
    no_native_login: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => global.project(&client).await?,
    };
    let (spec, mask) = changes(&name, &args);
    if mask.is_empty() {
        return Err(Failure::refused("nothing to change was given")
            .with_hint("for example: ana project update --display-name \"The shop\""));
    }
    let mask: Vec<&str> = mask.iter().map(String::as_str).collect();
    let branch = args.default_branch.as_deref().map(branch_id).unwrap_or_default();
    let project =
        client.update_project(&name, &mask, spec).await.map_err(|error| about(error, &name, &branch))?;
    if args.json {
        return output::json(&project);
    }
    output::talk(format!("changed project {}", project.project_id));
    Ok(())
}

/// The spec with what is to change, and the mask that says so.
fn changes(project: &str, args: &Args) -> (Value, Vec<String>) {
    let (mut spec, mut mask) = (json!({}), Vec::new());
    let mut set = |field: &str, value: Value| {
        spec[field] = value;
        mask.push(format!("spec.{field}"));
    };
    if let Some(name) = &args.display_name {
        set("display_name", json!(name));
    }
    if let Some(branch) = args.default_branch.as_deref().map(branch_id) {
        set("default_branch", json!(format!("projects/{project}/branches/{branch}")));
    }
    if let Some(seconds) = args.history {
        set("history_retention_duration", json!(format!("{seconds}s")));
    }
    if !args.tag.is_empty() || args.no_tags {
        let tags = args.tag.iter().map(|(key, value)| json!({"key": key, "value": value}));
        set("custom_tags", tags.collect());
    }
    if args.native_login || args.no_native_login {
        set("enable_pg_native_login", json!(args.native_login));
    }
    let mut defaults = json!({});
    let prefix = "spec.default_endpoint_settings";
    args.compute.add_to(&mut defaults, &mut mask, prefix, &format!("{prefix}.suspension"));
    if defaults != json!({}) {
        spec["default_endpoint_settings"] = defaults;
    }
    (spec, mask)
}
