//! `ana endpoint …`, one file a subcommand.

mod list;
mod show;
mod suspend;
mod update;
mod wake;

use client::Endpoint;

use super::compute_args::show_cu;
use crate::context::Global;
use crate::failure::{Failure, about};

/// Look at and set up the computes of branches
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(list::Args),
    Show(show::Args),
    Update(update::Args),
    Suspend(suspend::Args),
    Wake(wake::Args),
}

/// An endpoint of a branch.
#[derive(Debug, clap::Args)]
struct Place {
    /// Branch
    branch: String,
    /// Endpoint of the branch
    #[arg(long, default_value = "primary", value_name = "ENDPOINT")]
    endpoint: String,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(global, args).await,
        Command::Show(args) => show::run(global, args).await,
        Command::Update(args) => update::run(global, args).await,
        Command::Suspend(args) => suspend::run(global, args).await,
        Command::Wake(args) => wake::run(global, args).await,
    }
}

/// The failure of a call about an endpoint, with the names that the person knows it by.
fn about_endpoint(error: client::Error, project: &str, branch: &str, endpoint: &str) -> Failure {
    if error.is_not_found() && error.to_string().starts_with("endpoint") {
        return Failure::refused(format!("branch {branch} has no endpoint \"{endpoint}\""))
            .with_hint(format!("see them with: ana endpoint list --branch {branch} --project {project}"));
    }
    about(error, project, branch)
}

/// `active`, `idle`, `disabled`.
fn state(endpoint: &Endpoint) -> String {
    if endpoint.status.disabled {
        return "disabled".to_owned();
    }
    endpoint.status.current_state.to_lowercase()
}

fn address(endpoint: &Endpoint) -> String {
    let port = endpoint.anabranch.as_ref().map(|own| own.port).unwrap_or_default();
    format!("{}:{port}", endpoint.status.hosts.host)
}

fn size(endpoint: &Endpoint) -> String {
    show_cu(endpoint.status.autoscaling_limit_min_cu, endpoint.status.autoscaling_limit_max_cu)
}

/// `after 5 minutes`, `never`.
fn suspension(endpoint: &Endpoint) -> String {
    let seconds = endpoint
        .status
        .suspend_timeout_duration
        .as_deref()
        .and_then(|text| text.strip_suffix('s')?.parse::<f64>().ok());
    match seconds {
        Some(seconds) => {
            let span = jiff::SignedDuration::try_from_secs_f64(seconds).unwrap_or_default();
            format!("after {}", crate::output::span(span))
        }
        None => "never".to_owned(),
    }
}
