//! Many branches used at once through a daemon: a few that are made for it, and more than the host has
//! room for.

use std::time::Instant;

use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use crate::bench::Bench;
use crate::daemon::Daemon;
use crate::failure::{Context, Failure, Result};
use crate::files;
use crate::ground;
use crate::raw::{Crowd, Line, Together};
use crate::session::{Session, Target, milliseconds};
use crate::site::Site;
use crate::statistics::summary;
use crate::table::Table;

const PARENT: &str = "crowd";

/// Branches created, woken and asked at once.
const TOGETHER: u32 = 16;

/// Memory for computes while a crowd comes: eight of the default size, as they are reckoned before they
/// were measured.
const MEMORY_MIB: u64 = 8 * 160;

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    files::raise_limit();
    let Some(daemon) = bench.daemon(&[])? else {
        eprintln!("crowd: not measured: computes take turns in a daemon, and none was named (--daemon)");
        return Ok(());
    };
    daemon.create_root(PARENT)?;
    for round in 0..bench.plan.rounds {
        ground::check()?;
        eprintln!("crowd: {TOGETHER} branches at once, round {round}");
        let rows_ms = together(bench, &daemon, round)?;
        bench.keep(Line::Together(Together { round, rows_ms }))?;
    }
    drop(daemon);

    let more = [format!("--memory={MEMORY_MIB}MiB"), "--patience=1h".to_owned()];
    let Some(daemon) = bench.daemon(&more)? else { return Ok(()) };
    daemon.create_root(PARENT)?;
    let mut targets = Vec::new();
    for number in 0..bench.plan.crowd {
        ground::check()?;
        let branch = format!("crowd-{number}");
        daemon.create(PARENT, &branch)?;
        targets.push(daemon.wake(&branch)?);
    }
    eprintln!("crowd: {} clients at once, {MEMORY_MIB} MiB for computes", targets.len());
    let rows_ms = crowd(bench, targets)?;
    bench.keep(Line::Crowd(Crowd { memory_mib: MEMORY_MIB, rows_ms }))
}

fn together(bench: &Bench, daemon: &Daemon, round: u32) -> Result<Vec<f64>> {
    let names: Vec<String> = (0..TOGETHER).map(|number| format!("t{round}-{number}")).collect();
    let (runtime, begin) = (bench.runtime(), Instant::now());
    let first_row = |name: &String| -> Result<f64> {
        daemon.create(PARENT, name)?;
        Session::connect(runtime, &daemon.wake(name)?)?.number("SELECT 1")?;
        Ok(milliseconds(begin.elapsed()))
    };
    let rows: Vec<Result<f64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = names.iter().map(|name| scope.spawn(|| first_row(name))).collect();
        let ended = |_| Err(Failure("a thread ended early".to_owned()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(ended)).collect()
    });
    // After the run: removing branches is not what is measured.
    names.iter().try_for_each(|name| daemon.delete(name))?;
    rows.into_iter().collect()
}

/// Each client connects, gets its row and goes.
fn crowd(bench: &Bench, targets: Vec<Target>) -> Result<Vec<f64>> {
    bench.runtime().block_on(async {
        let begin = Instant::now();
        let mut clients = JoinSet::new();
        for target in targets {
            clients.spawn(async move {
                let mut config = target.config();
                // As long as it takes: it is what is measured.
                config.connect_timeout(std::time::Duration::from_secs(3600));
                let (client, connection) = config.connect(NoTls).await?;
                let connection = tokio::spawn(connection);
                client.simple_query("SELECT 1").await?;
                let row = milliseconds(begin.elapsed());
                drop(client);
                let _ = connection.await;
                Ok::<f64, tokio_postgres::Error>(row)
            });
        }
        let mut rows = Vec::new();
        while let Some(outcome) = clients.join_next().await {
            rows.push(outcome.context("a client of the crowd")?.context("a client of the crowd")?);
        }
        Ok(rows)
    })
}

/// Two tables: branches made for it, and a crowd.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    vec![made_together(lines), crowds(lines)]
}

fn made_together(lines: &[Line]) -> Table {
    let columns = ["round", "branches", "median, ms", "p95, ms", "max, ms"];
    let mut table = Table::new("Branches created, woken and asked for a row at once", &columns);
    for line in lines {
        let Line::Together(run) = line else { continue };
        let Some(rows) = summary(run.rows_ms.iter().copied()) else { continue };
        table.row([
            run.round.to_string(),
            rows.count.to_string(),
            format!("{:.0}", rows.median),
            format!("{:.0}", rows.p95),
            format!("{:.0}", rows.max),
        ]);
    }
    table.note("From the first call to each branch's first row. Goal: 16 in ≤ 1500 ms p95.");
    table
}

fn crowds(lines: &[Line]) -> Table {
    let columns = [
        "clients, a branch each",
        "memory for computes, MiB",
        "median wait, s",
        "p95, s",
        "longest, s",
        "clients each second",
    ];
    let mut table = Table::new("A crowd on a small host", &columns);
    for line in lines {
        let Line::Crowd(run) = line else { continue };
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
    table.note("All come at once; each waits its turn inside the handshake.");
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_its_row() {
        let lines = [
            Line::Together(Together { round: 0, rows_ms: (1..=16).map(|n| f64::from(n) * 100.0).collect() }),
            Line::Crowd(Crowd { memory_mib: 1280, rows_ms: vec![1000.0, 2000.0] }),
        ];
        let [together, crowd] = &tables(&lines)[..] else { panic!() };
        assert!(together.to_string().contains("| 0 | 16 | 850 | 1600 | 1600 |"), "{together}");
        assert!(crowd.to_string().contains("| 2 | 1280 | 1.5 | 2.0 | 2.0 | 1.0 |"), "{crowd}");
    }
}
