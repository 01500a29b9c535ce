use client::{Compute, Status};

use crate::context::Global;
use crate::failure::{Exit, Failure};
use crate::output;

/// Show the daemon and what runs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let status = match client.status().await {
        Err(client::Error::NotRunning { .. }) => return not_running(global, args.json),
        other => other?,
    };
    if args.json {
        return output::json(&status);
    }
    show(&status);
    Ok(())
}

fn not_running(global: &Global, json: bool) -> Result<(), Failure> {
    if json {
        output::json(&serde_json::json!({"running": false, "home": global.home()?}))?;
    } else {
        output::data(format!("daemon    not running (home {})", global.home()?.display()));
    }
    Err(Failure::new(Exit::Outside, "the daemon is not running").with_hint("start it with: ana up"))
}

fn show(status: &Status) {
    output::data(format!("daemon    running, version {}, pid {}", status.version, status.pid));
    output::data(format!("home      {} (owner {})", status.home, status.owner));
    output::data(format!("server    PostgreSQL {} in {}", status.postgres.version, status.postgres.dir));
    if let Some(http) = &status.http {
        output::data(format!("http      http://{http}"));
    }
    for warning in &status.warnings {
        output::data(format!("warning   {warning}"));
    }
    if status.computes.is_empty() {
        output::data("\nno branches yet");
        return;
    }
    output::data("");
    output::table(
        &["PROJECT", "BRANCH", "COMPUTE", "PID", "ADDRESS"],
        &status.computes.iter().map(row).collect::<Vec<_>>(),
    );
}

fn row(compute: &Compute) -> Vec<String> {
    let address = match (&compute.host, compute.port) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        _ => "-".to_owned(),
    };
    vec![
        compute.project.clone(),
        compute.branch.clone(),
        compute.state.clone(),
        compute.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        address,
    ]
}
