//! What idle clients cost the daemon: its resident memory with one of them and with very many.

use std::time::Duration;

use tokio_postgres::Client;

use crate::bench::Bench;
use crate::failure::{Context, Failure, Result};
use crate::files;
use crate::ground;
use crate::raw::{Idle, Line};
use crate::session::{self, Target};
use crate::site::Site;
use crate::statistics::summary;
use crate::table::Table;

/// As many clients of one branch; an endpoint of this size takes them.
const CLIENTS: u32 = 500;
const SIZE_CU: u32 = 4;
/// Clients on their way in at once.
const BATCH: usize = 16;
/// For what a login needed to be given back.
const SETTLE: Duration = Duration::from_secs(2);

const MIB: f64 = (1 << 20) as f64;

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    files::raise_limit();
    let daemon = bench.daemon()?;
    let branches = bench.plan.idle.div_ceil(CLIENTS).max(1);
    let each = bench.plan.idle / branches;
    let mut names = Vec::new();
    for number in 0..branches {
        let name = format!("idle-{number}");
        daemon.create_root(&name)?;
        daemon.resize(&name, SIZE_CU)?;
        // A size that bounds connections counts from the next start.
        daemon.suspend(&name)?;
        names.push(name);
    }
    for round in 0..bench.plan.rounds {
        eprintln!("idle: round {round}");
        let targets: Vec<Target> = names.iter().map(|name| daemon.wake(name)).collect::<Result<_>>()?;
        // All branches awake, so that only the clients differ.
        let mut clients = connect(bench, &targets, 1)?;
        std::thread::sleep(SETTLE);
        let before_bytes = resident(daemon.pid())?;
        clients.extend(connect(bench, &targets, each - 1)?);
        std::thread::sleep(SETTLE);
        let with_bytes = resident(daemon.pid())?;
        let count = clients.iter().filter(|client| !client.is_closed()).count();
        if count != clients.len() {
            return Err(Failure(format!("{count} of {} idle clients are left", clients.len())));
        }
        drop(clients);
        std::thread::sleep(SETTLE);
        let after_bytes = resident(daemon.pid())?;
        let clients = branches * (each - 1);
        bench.keep(Line::Idle(Idle { round, clients, before_bytes, with_bytes, after_bytes }))?;
    }
    Ok(())
}

/// So many clients of each branch.
fn connect(bench: &Bench, targets: &[Target], each: u32) -> Result<Vec<Client>> {
    let tls = session::tls()?;
    let mut clients = Vec::new();
    for target in targets {
        for batch in vec![target; each as usize].chunks(BATCH) {
            ground::check()?;
            let starting: Vec<_> = batch
                .iter()
                .map(|target| {
                    let (target, tls) = ((*target).clone(), tls.clone());
                    bench.runtime().spawn(async move { session::connect(&target, tls).await })
                })
                .collect();
            for start in starting {
                let connected = bench.runtime().block_on(start).context("an idle client")?;
                clients.push(connected.context(format!("client {} of {}", clients.len(), target.host))?);
            }
        }
    }
    Ok(clients)
}

/// Resident memory of a process.
fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).context(format!("reading {path}"))?;
    resident_in(&text).ok_or_else(|| Failure(format!("{path} tells no resident memory")))
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// One table.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let columns =
        ["idle clients", "one each, MiB", "with all, MiB", "more, MiB", "more each, KiB", "after, MiB"];
    let mut table = Table::new("Memory of the daemon with idle clients", &columns);
    let mut more = Vec::new();
    for line in lines {
        let Line::Idle(idle) = line else { continue };
        let growth = idle.with_bytes as f64 - idle.before_bytes as f64;
        more.push(growth / MIB);
        table.row([
            idle.clients.to_string(),
            format!("{:.1}", idle.before_bytes as f64 / MIB),
            format!("{:.1}", idle.with_bytes as f64 / MIB),
            format!("{:.1}", growth / MIB),
            format!("{:.1}", growth / 1024.0 / f64::from(idle.clients.max(1))),
            format!("{:.1}", idle.after_bytes as f64 / MIB),
        ]);
    }
    let most = summary(more).map_or(0.0, |more| more.max);
    table.note(format!(
        "Resident memory; one row a round. Most growth: {most:.1} MiB (goal ≤ 100 MiB for 2,000 clients)."
    ));
    vec![table]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_in_all_and_for_each() {
        let mib = |count: u64| count << 20;
        let idle = Idle {
            round: 0,
            clients: 1024,
            before_bytes: mib(20),
            with_bytes: mib(60),
            after_bytes: mib(25),
        };
        let text = tables(&[Line::Idle(idle)])[0].to_string();
        assert!(text.contains("| 1024 | 20.0 | 60.0 | 40.0 | 40.0 | 25.0 |"), "{text}");
        assert_eq!(resident_in("VmSize:\t 9 kB\nVmRSS:\t     12 kB\n"), Some(12 << 10));
        assert_eq!(resident_in(""), None);
    }
}
