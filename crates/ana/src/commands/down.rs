use std::time::{Duration, Instant};

use crate::context::Global;
use crate::failure::{Exit, Failure};
use crate::output::{self, Progress};

/// End the daemon and its computes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Let the computes run on; the next daemon takes them over
    #[arg(long)]
    keep_computes: bool,
}

/// PostgreSQL writes a checkpoint before it ends, which may take long on a slow disk.
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    stop(global, args.keep_computes).await
}

/// Ends the daemon and waits until it is gone.
pub async fn stop(global: &Global, keep_computes: bool) -> Result<(), Failure> {
    let client = global.local_client()?;
    let status = match client.status().await {
        Err(client::Error::NotRunning { .. }) => {
            output::talk("the daemon is not running");
            return Ok(());
        }
        other => other?,
    };
    client.shutdown(keep_computes).await?;
    let mut progress = Progress::new();
    let begin = Instant::now();
    while is_alive(status.pid) {
        if begin.elapsed() > PATIENCE {
            return Err(Failure::new(
                Exit::TimedOut,
                format!("the daemon (pid {}) does not end", status.pid),
            )
            .with_hint(format!("see {}/daemon.log", status.home)));
        }
        if begin.elapsed() > Duration::from_secs(1) {
            progress.show("waiting for PostgreSQL to end …");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(progress);
    if !keep_computes {
        // The daemon had given up the right to do so.
        compute::limits::remove_groups(&global.home()?);
    }
    output::talk(if keep_computes {
        "daemon stopped; computes run on"
    } else {
        "daemon and computes stopped"
    });
    Ok(())
}

/// A process that has ended but was not reaped yet counts as gone.
fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}
