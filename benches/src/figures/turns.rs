//! Many clients at once through a daemon, each to a branch of its own, with room for few: how long each
//! waits its turn.

use std::time::Instant;

use tokio::task::JoinSet;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::bench::Bench;
use crate::failure::{Context, Result};
use crate::files;
use crate::ground;
use crate::raw::{Line, Turns};
use crate::session::{self, Target, milliseconds};
use crate::site::Site;
use crate::statistics::summary;
use crate::table::Table;

const PARENT: &str = "turns";

/// Memory for computes while the clients come: eight of the default size, as they are reckoned before they
/// were measured.
const MEMORY_MIB: u64 = 8 * 160;

/// As long as it takes: it is what is measured. The driver waits for ever once its socket is connected.
const PATIENCE: &str = "1h";

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    files::raise_limit();
    let more = [format!("--memory={MEMORY_MIB}MiB"), format!("--patience={PATIENCE}")];
    let daemon = bench.daemon_with(&more)?;
    daemon.create_root(PARENT)?;
    eprintln!("turns: making {} branches", bench.plan.turns);
    let mut targets = Vec::new();
    for number in 0..bench.plan.turns {
        ground::check()?;
        let branch = format!("turn-{number}");
        daemon.create(PARENT, &branch)?;
        targets.push(daemon.wake(&branch)?);
    }
    eprintln!("turns: {} clients at once, {MEMORY_MIB} MiB for computes", targets.len());
    let rows_ms = bench.runtime().block_on(all_at_once(targets))?;
    bench.keep(Line::Turns(Turns { memory_mib: MEMORY_MIB, rows_ms }))
}

/// Each client connects, gets its row and goes. Milliseconds from the common start to each row.
async fn all_at_once(targets: Vec<Target>) -> Result<Vec<f64>> {
    let tls = session::tls()?;
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for target in targets {
        clients.spawn(one(target, tls.clone(), begin));
    }
    let mut rows = Vec::new();
    while let Some(outcome) = clients.join_next().await {
        rows.push(outcome.context("a client that waited")?.context("a client that waited")?);
    }
    Ok(rows)
}

async fn one(
    target: Target,
    tls: MakeRustlsConnect,
    begin: Instant,
) -> std::result::Result<f64, tokio_postgres::Error> {
    let client = session::connect(&target, tls).await?;
    client.simple_query("SELECT 1").await?;
    Ok(milliseconds(begin.elapsed()))
}

/// One table.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let columns = [
        "clients, a branch each",
        "memory for computes, MiB",
        "median wait, s",
        "p95, s",
        "longest, s",
        "clients each second",
    ];
    let mut table = Table::new("Many clients at once on a small host", &columns);
    for line in lines {
        let Line::Turns(run) = line else { continue };
        let Some(rows) = summary(run.rows_ms.iter().map(|ms| ms / 1000.0)) else { continue };
        table.row([
            rows.count.to_string(),
            run.memory_mib.to_string(),
            format!("{:.1}", rows.median),
            format!("{:.1}", rows.p95),
            format!("{:.1}", rows.max),
            format!("{:.1}", rows.count as f64 / rows.max),
        ]);
    }
    table.note("All come at once; each waits its turn while it connects, gets a row and goes.");
    vec![table]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_its_row() {
        let line = Line::Turns(Turns { memory_mib: 1280, rows_ms: vec![1000.0, 2000.0] });
        let text = tables(&[line])[0].to_string();
        assert!(text.contains("| 2 | 1280 | 1.5 | 2.0 | 2.0 | 1.0 |"), "{text}");
        assert!(tables(&[])[0].is_empty());
    }
}
