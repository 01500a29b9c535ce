//! What a size does: a query's time by the size of its compute, and what a parent's clients notice of
//! children that scan.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use compute::limits::Limits;

use super::{LOAD_CLIENTS, distinct};
use crate::bench::Bench;
use crate::failure::{Failure, Result};
use crate::ground;
use crate::home::Home;
use crate::load::{self, Job, Kind};
use crate::plan::rotated;
use crate::raw::{Line, Neighbours, Sized};
use crate::session::{Session, Target, milliseconds};
use crate::site::Site;
use crate::statistics::{median, summary};
use crate::table::Table;

const WORKER: &str = "sized";
const PARENT: &str = "parent";
const CHILDREN: u32 = 4;
const SMALL: f64 = 0.5;
const LARGE: f64 = 2.0;

/// Two processes work on it, so that two units are worth more than one.
const WORK: &str = "SELECT count(*) FROM work WHERE md5(i::text || 'x') < '8'";

/// As the daemon gives them: a processor for each unit, and to what goes before others four times the
/// share.
fn limits(cu: f64, favoured: bool) -> Limits {
    let weight = 100.0 * cu * if favoured { 100.0 } else { 1.0 };
    Limits { cpus: cu, memory: (cu * (2u64 << 30) as f64) as u64, weight: weight.min(10_000.0) as u32 }
}

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    let means = bench.ground.limiter().means();
    if !means.is_enforced() {
        eprintln!("sizes: not measured: this machine gives no control groups to this user");
        return Ok(());
    }
    queries(bench)?;
    neighbours(bench)
}

fn queries(bench: &Bench) -> Result<()> {
    let home = bench.sized_home()?;
    let session = start_sized(bench, &home, WORKER, limits(LARGE, false))?.1;
    let rows = bench.plan.work_rows;
    session.run(&format!("CREATE TABLE work AS SELECT generate_series(1, {rows}) AS i"))?;
    // On its own: several statements at once are one transaction.
    session.run("VACUUM (FREEZE, ANALYZE) work")?;
    session.run(
        "SET max_parallel_workers_per_gather = 1; \
         SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; \
         SET jit = off",
    )?;
    session.number(WORK)?;
    for round in 0..bench.plan.rounds {
        for place in rotated(2, round) {
            ground::check()?;
            let cu = [SMALL, LARGE][place];
            eprintln!("sizes: a query at {cu} units, round {round}");
            home.resize(WORKER, limits(cu, false))?;
            let begin = Instant::now();
            session.number(WORK)?;
            let query_ms = milliseconds(begin.elapsed());
            bench.keep(Line::Sized(Sized { round, cu, query_ms }))?;
        }
    }
    Ok(())
}

/// A new cluster that runs with a size.
fn start_sized(bench: &Bench, home: &Home, name: &str, limits: Limits) -> Result<(Target, Session)> {
    home.create_root(name)?;
    home.stop(name)?;
    home.resize(name, limits)?;
    let target = home.start(name)?;
    let session = bench.connect(&target)?;
    Ok((target, session))
}

fn neighbours(bench: &Bench) -> Result<()> {
    let home = bench.sized_home()?;
    eprintln!("sizes: making the parent, scale {}", bench.plan.scale);
    let (target, session) = start_sized(bench, &home, PARENT, limits(LARGE, true))?;
    load::fill(&session, bench.plan.scale)?;
    let mut children = Vec::new();
    for number in 0..CHILDREN {
        let child = format!("scan-{number}");
        home.create(PARENT, &child)?;
        home.resize(&child, limits(1.0, false))?;
        children.push(home.start(&child)?);
    }
    for round in 0..bench.plan.rounds {
        for place in rotated(4, round) {
            ground::check()?;
            let kind = if place < 2 { Kind::Tpcb } else { Kind::Select };
            let scanning = if place % 2 == 0 { &children[..0] } else { &children[..] };
            eprintln!("sizes: {}, {} children scan, round {round}", kind.name(), scanning.len());
            session.run("CHECKPOINT")?;
            one_run(bench, &target, kind, scanning, round)?;
        }
    }
    Ok(())
}

fn one_run(bench: &Bench, parent: &Target, kind: Kind, children: &[Target], round: u32) -> Result<()> {
    let length = if kind == Kind::Tpcb { bench.plan.tpcb } else { bench.plan.select };
    let sessions = children.iter().map(|child| bench.connect(child)).collect::<Result<Vec<_>>>()?;
    let (stop, scans) = (AtomicBool::new(false), AtomicU64::new(0));
    let scan = |session: &Session| -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            session.text("SELECT sum(abalance) FROM pgbench_accounts")?;
            scans.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let outcome = std::thread::scope(|scope| {
        let scanners: Vec<_> = sessions.iter().map(|session| scope.spawn(|| scan(session))).collect();
        let job = Job {
            target: parent,
            kind,
            clients: LOAD_CLIENTS,
            scale: bench.plan.scale,
            length: Some(length),
            latencies: true,
        };
        let outcome = bench.generator.run(&job);
        stop.store(true, Ordering::Relaxed);
        for scanner in scanners {
            scanner.join().map_err(|_| Failure("a scan ended early".to_owned()))??;
        }
        outcome
    })?;
    let seen = summary(outcome.latencies.iter().copied());
    let Some(seen) = seen else { return Err(Failure("the load kept no latencies".to_owned())) };
    bench.keep(Line::Neighbours(Neighbours {
        round,
        load: kind.name().to_owned(),
        clients: LOAD_CLIENTS,
        children: children.len() as u32,
        scans: scans.into_inner(),
        seconds: length.as_secs_f64(),
        transactions: outcome.transactions,
        median_ms: seen.median,
        p99_ms: seen.p99,
        max_ms: seen.max,
    }))
}

/// Two tables: a query by size, and a parent with and without its children's scans.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    vec![by_size(lines), beside_children(lines)]
}

fn by_size(lines: &[Line]) -> Table {
    let columns = ["round", "at 0.5 units, ms", "at 2 units, ms", "ratio"];
    let mut table = Table::new("A query of two processes, by size", &columns);
    let find = |round, cu: f64| {
        lines.iter().find_map(|line| match line {
            Line::Sized(run) if run.round == round && run.cu == cu => Some(run.query_ms),
            _ => None,
        })
    };
    let mut ratios = Vec::new();
    let mut round = 0;
    while let (Some(small), Some(large)) = (find(round, SMALL), find(round, LARGE)) {
        ratios.push(small / large);
        table.row([
            round.to_string(),
            format!("{small:.0}"),
            format!("{large:.0}"),
            format!("{:.2}", small / large),
        ]);
        round += 1;
    }
    table.note(format!("Median ratio {:.2}; goal ≥ 3.", median(ratios)));
    table
}

fn beside_children(lines: &[Line]) -> Table {
    let columns = [
        "load on the parent",
        "round",
        "p99 alone, ms",
        "p99 while 4 children scan, ms",
        "ratio",
        "median, ratio",
        "transactions, ratio",
        "scans",
    ];
    let mut table =
        Table::new("A favoured parent of 2 units beside 4 children of 1 unit that scan", &columns);
    let runs: Vec<&Neighbours> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Neighbours(run) => Some(run),
            _ => None,
        })
        .collect();
    for load in distinct(runs.iter().map(|run| run.load.clone())) {
        let find = |round, alone: bool| {
            runs.iter().find(|run| run.load == load && run.round == round && (run.children == 0) == alone)
        };
        let mut ratios = Vec::new();
        let mut round = 0;
        while let (Some(alone), Some(beside)) = (find(round, true), find(round, false)) {
            let ratio = beside.p99_ms / alone.p99_ms;
            ratios.push(ratio);
            table.row([
                format!("{load}, {} clients", alone.clients),
                round.to_string(),
                format!("{:.2}", alone.p99_ms),
                format!("{:.2}", beside.p99_ms),
                format!("{ratio:.2}"),
                format!("{:.2}", beside.median_ms / alone.median_ms),
                format!("{:.3}", beside.transactions as f64 / alone.transactions.max(1) as f64),
                beside.scans.to_string(),
            ]);
            round += 1;
        }
        table.note(format!("{load}: median ratio of p99 {:.2}; goal ≤ 1.2.", median(ratios)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_paired_with_itself() {
        let sized = |round, cu, query_ms| Line::Sized(Sized { round, cu, query_ms });
        let seen = |children, p99_ms| {
            Line::Neighbours(Neighbours {
                round: 0,
                load: "tpcb".to_owned(),
                clients: 4,
                children,
                scans: 7,
                seconds: 1.0,
                transactions: 1000,
                median_ms: 1.0,
                p99_ms,
                max_ms: 9.0,
            })
        };
        let lines = [
            sized(0, LARGE, 100.0),
            sized(0, SMALL, 400.0),
            sized(1, SMALL, 300.0),
            sized(1, LARGE, 100.0),
            seen(4, 3.0),
            seen(0, 2.0),
        ];
        let [query, parent] = &tables(&lines)[..] else { panic!() };
        assert!(query.to_string().contains("Median ratio 3.50; goal"), "{query}");
        assert!(parent.to_string().contains("| tpcb, 4 clients | 0 | 2.00 | 3.00 | 1.50 |"), "{parent}");
    }
}
