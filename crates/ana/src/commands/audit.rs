use client::{AuditEntry, AuditFilter};
use jiff::{SignedDuration, Timestamp};

use crate::context::Global;
use crate::duration;
use crate::failure::Failure;
use crate::output;

/// See who changed what
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(List),
}

/// List changes, newest first
#[derive(Debug, clap::Args)]
pub struct List {
    /// Not earlier than this: a time, or so long ago (e.g. 2h)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,
    /// By this principal only
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// This action only (e.g. branch.create), or all of a kind (e.g. branch)
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::List(args) = command;
    let filter = AuditFilter {
        since: args.since.map(|time| time.to_string()),
        principal: args.principal,
        action: args.action,
    };
    let entries = global.client()?.audit(&filter, args.limit).await?;
    if args.json {
        return output::json(&entries);
    }
    let rows: Vec<_> = entries.iter().map(row).collect();
    output::table(&["TIME", "PRINCIPAL", "ACTION", "TARGET", "RESULT", "DETAIL"], &rows);
    Ok(())
}

fn row(entry: &AuditEntry) -> Vec<String> {
    let principal = match entry.principal_kind.as_str() {
        "human" => entry.principal.clone(),
        kind => format!("{} ({kind})", entry.principal),
    };
    vec![
        output::absolute(&entry.time),
        principal,
        entry.action.clone(),
        entry.target.clone(),
        entry.result.clone(),
        entry.detail.clone(),
    ]
}

fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let seconds = duration::parse(text)
        .map_err(|_| format!("\"{text}\" is neither a time (2030-01-31T12:00:00Z) nor a duration (2h)"))?;
    let ago = SignedDuration::from_secs(seconds as i64);
    Timestamp::now().checked_sub(ago).map_err(|_| format!("\"{text}\" is too long ago"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations() {
        assert_eq!(parse_since("2030-01-31T12:00:00Z").unwrap().as_second(), 1_896_091_200);
        let hour_ago = parse_since("1h").unwrap();
        assert!(hour_ago < Timestamp::now() && hour_ago > Timestamp::now() - SignedDuration::from_hours(2));
        assert!(parse_since("yesterday").unwrap_err().contains("neither"));
    }
}
