use client::{Compute, Host, Status};
use jiff::SignedDuration;

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
    if let Some(url) = url(status) {
        output::data(format!("http      {url}"));
    }
    for warning in &status.warnings {
        output::data(format!("warning   {warning}"));
    }
    output::data(format!("host      {}", host(&status.host)));
    if status.computes.is_empty() {
        output::data("\nno branches yet");
        return;
    }
    output::data("");
    let mut projects: Vec<&str> = status.computes.iter().map(|compute| compute.project.as_str()).collect();
    projects.dedup();
    let mut rows = Vec::new();
    for project in projects {
        let computes: Vec<&Compute> =
            status.computes.iter().filter(|compute| compute.project == project).collect();
        rows.push(vec![project.to_owned()]);
        rows.extend(tree(&computes).into_iter().map(|(label, compute)| row(label, compute)));
    }
    output::table(&["BRANCH", "STATE", "CU", "CONNECTIONS", "IDLE", "SUSPENDS", "MEMORY", "ADDRESS"], &rows);
}

/// Address of the HTTP API; a daemon that does not say how it is spoken to is an older one.
fn url(status: &Status) -> Option<String> {
    let scheme = status.http_scheme.as_deref().unwrap_or("http");
    status.http.as_ref().map(|address| format!("{scheme}://{address}"))
}

fn host(host: &Host) -> String {
    let waiting = match host.computes_waiting {
        0 => String::new(),
        number => format!(", {number} waiting for room"),
    };
    format!(
        "{} awake{waiting}; memory for computes {} of {}; sizes: {}; isolation: {}",
        host.computes,
        output::bytes(host.memory_reckoned_bytes),
        output::bytes(host.memory_limit_bytes),
        host.sizes,
        host.isolation,
    )
}

/// Computes of a project in order of descent, each with a drawing of where its branch left.
fn tree<'a>(computes: &[&'a Compute]) -> Vec<(String, &'a Compute)> {
    let parent = |compute: &Compute| {
        let parent = compute.parent.as_deref()?;
        computes.iter().find(|other| other.branch == parent).map(|other| other.branch.clone())
    };
    let mut lines = Vec::new();
    descend(computes, &parent, None, "", &mut lines);
    lines
}

fn descend<'a>(
    computes: &[&'a Compute],
    parent: &impl Fn(&Compute) -> Option<String>,
    of: Option<&str>,
    indent: &str,
    lines: &mut Vec<(String, &'a Compute)>,
) {
    let children: Vec<_> = computes.iter().filter(|compute| parent(compute).as_deref() == of).collect();
    for (place, child) in children.iter().enumerate() {
        let last = place + 1 == children.len();
        lines.push((format!("{indent}{} {}", if last { "└─" } else { "├─" }, child.branch), child));
        let below = format!("{indent}{}  ", if last { " " } else { "│" });
        descend(computes, parent, Some(&child.branch), &below, lines);
    }
}

fn row(label: String, compute: &Compute) -> Vec<String> {
    let none = || "-".to_owned();
    let address = match (&compute.host, compute.port) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        _ => none(),
    };
    let span = |seconds: u64| output::span(SignedDuration::from_secs(seconds as i64));
    let connections = match compute.connections_waiting {
        0 => compute.connections.to_string(),
        waiting => format!("{} + {waiting} waiting", compute.connections),
    };
    let suspends = match (&compute.kept_awake_by, compute.suspends_in_seconds, compute.idle_seconds) {
        (Some(reason), _, _) => format!("kept by {reason}"),
        (None, Some(seconds), _) => format!("in {}", span(seconds)),
        (None, None, Some(_)) => "never".to_owned(),
        (None, None, None) => none(),
    };
    let state = if compute.disabled { format!("{}, disabled", compute.state) } else { compute.state.clone() };
    vec![
        label,
        state,
        cu(compute),
        connections,
        compute.idle_seconds.map_or_else(none, span),
        suspends,
        compute.memory_bytes.map_or_else(none, output::bytes),
        address,
    ]
}

/// The size now and its range: `0.5 of 0.5-4`; `- of 0.5-4` of one that runs without a limit.
fn cu(compute: &Compute) -> String {
    let range = if compute.min_cu == compute.max_cu {
        compute.max_cu.to_string()
    } else {
        format!("{}-{}", compute.min_cu, compute.max_cu)
    };
    match (compute.cu, compute.pid) {
        (Some(cu), _) if compute.min_cu != compute.max_cu => format!("{cu} of {range}"),
        (None, Some(_)) => format!("- of {range}"),
        _ => range,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(branch: &str, parent: Option<&str>) -> Compute {
        Compute { branch: branch.into(), parent: parent.map(Into::into), ..Compute::default() }
    }

    #[test]
    fn a_project_is_drawn_as_a_tree() {
        let computes = [
            compute("production", None),
            compute("a", Some("production")),
            compute("a1", Some("a")),
            compute("b", Some("production")),
            compute("orphan", Some("gone")),
        ];
        let computes: Vec<&Compute> = computes.iter().collect();
        let labels: Vec<String> = tree(&computes).into_iter().map(|(label, _)| label).collect();
        assert_eq!(labels, ["├─ production", "│  ├─ a", "│  │  └─ a1", "│  └─ b", "└─ orphan"]);
    }

    #[test]
    fn the_address_says_whether_it_is_encrypted() {
        let mut status = Status { http: Some("127.0.0.1:8432".into()), ..Status::default() };
        assert_eq!(url(&status).as_deref(), Some("http://127.0.0.1:8432"));
        status.http_scheme = Some("https".into());
        assert_eq!(url(&status).as_deref(), Some("https://127.0.0.1:8432"));
    }

    #[test]
    fn a_row_says_what_will_happen() {
        let mut compute = compute("dev", None);
        (compute.state, compute.min_cu, compute.max_cu) = ("awake".into(), 0.5, 4.0);
        (compute.cu, compute.connections, compute.connections_waiting) = (Some(1.0), 2, 1);
        (compute.idle_seconds, compute.suspends_in_seconds) = (Some(30), Some(270));
        assert_eq!(
            row("dev".into(), &compute),
            ["dev", "awake", "1 of 0.5-4", "2 + 1 waiting", "30 seconds", "in 5 minutes", "-", "-"]
        );
        compute.kept_awake_by = Some("replication".into());
        assert_eq!(row("dev".into(), &compute)[5], "kept by replication");
        (compute.kept_awake_by, compute.suspends_in_seconds) = (None, None);
        assert_eq!(row("dev".into(), &compute)[5], "never");
        let asleep = Compute {
            state: "asleep".into(),
            disabled: true,
            max_cu: 2.0,
            min_cu: 2.0,
            ..Compute::default()
        };
        assert_eq!(row("x".into(), &asleep)[1..6], ["asleep, disabled", "2", "0", "-", "-"]);
    }
}
