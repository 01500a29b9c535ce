//! TPC-B and select-only on branches and on plain PostgreSQL.
//!
//! Five variants, side by side, all of the same build on the same disk with the same `shared_buffers` and
//! checksums, and but for the last the same `max_wal_size`:
//! `plain` (its defaults for WAL recycling, zeroing and segment size), `plain, our settings`
//! (without the preload library, so that the price of the settings shows), `root` (a branch never
//! cut), `child` (a branch of another one, whose data lies below) and `plain, own max_wal_size` (every
//! default, so that the price of our shorter distance between checkpoints shows).

use std::path::PathBuf;
use std::time::Duration;

use super::{LOAD_CLIENTS, distinct, in_turns, rate_row};
use crate::bench::Bench;
use crate::disk::DiskUse;
use crate::failure::Result;
use crate::ground;
use crate::home::Home;
use crate::load::{self, Job, Kind};
use crate::plain::{Plain, Setup, Shared};
use crate::process_time::{MachineTime, ServerTime};
use crate::raw::{Line, Throughput};
use crate::session::Target;
use crate::site::Site;
use crate::statistics::{median, summary};
use crate::table::Table;

const PLAIN: &str = "plain";
const OURS: &str = "plain, our settings";
const ROOT: &str = "root";
const CHILD: &str = "child";
const STOCK: &str = "plain, own max_wal_size";

struct Variant {
    name: &'static str,
    target: Target,
    data_dir: PathBuf,
}

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    let home = bench.home()?;
    let (root, shared) = make_root(bench, &home)?;
    let child = make_child(bench, &home)?;
    let plain = make_plain(bench, "plain", &Setup::Defaults, &shared)?;
    let ours = make_plain(bench, "ours", &Setup::As(home.data_dir("root")), &shared)?;
    let stock = make_plain(bench, "stock", &Setup::Stock, &shared)?;
    let variants = [
        Variant { name: PLAIN, target: plain.target(), data_dir: plain.data_dir() },
        Variant { name: OURS, target: ours.target(), data_dir: ours.data_dir() },
        Variant { name: ROOT, target: root, data_dir: home.data_dir("root") },
        Variant { name: CHILD, target: child, data_dir: home.data_dir("child") },
        Variant { name: STOCK, target: stock.target(), data_dir: stock.data_dir() },
    ];
    for variant in &variants {
        eprintln!("throughput: warming {}", variant.name);
        run(bench, variant, Kind::Select, LOAD_CLIENTS, bench.plan.warm_up)?;
        run(bench, variant, Kind::Tpcb, LOAD_CLIENTS, bench.plan.warm_up)?;
    }
    for round in 0..bench.plan.rounds {
        for (kind, length) in [(Kind::Tpcb, bench.plan.tpcb), (Kind::Select, bench.plan.select)] {
            if kind == Kind::Select {
                variants.iter().try_for_each(|variant| read_all(bench, variant))?;
            }
            for clients in [1, LOAD_CLIENTS] {
                let piece = |place: usize, length| run(bench, &variants[place], kind, clients, length);
                for line in in_turns(variants.len(), round, length, piece, Throughput::and)? {
                    let line = Throughput { round, ..line };
                    eprintln!(
                        "throughput: round {round}, {} with {clients} clients on {}: {:.0}/s",
                        line.load, line.variant, line.per_second
                    );
                    bench.keep(Line::Throughput(line))?;
                }
            }
        }
    }
    Ok(())
}

/// Reads table and index once, so that a select-only run finds them in memory whatever the machine has
/// taken from its page cache since the last one.
fn read_all(bench: &Bench, variant: &Variant) -> Result<()> {
    let session = bench.connect(&variant.target)?;
    session.run("SELECT count(bid) FROM pgbench_accounts")?;
    session.run("SET enable_seqscan = off; SELECT count(aid) FROM pgbench_accounts")
}

fn make_root(bench: &Bench, home: &Home) -> Result<(Target, Shared)> {
    eprintln!("throughput: making the root, scale {}", bench.plan.scale);
    let target = home.create_root("root")?;
    let session = bench.connect(&target)?;
    load::fill(&session, bench.plan.scale)?;
    Ok((target, Shared::of(&session)?))
}

/// A branch of a parent of its own, so that the root stays one that was never cut.
fn make_child(bench: &Bench, home: &Home) -> Result<Target> {
    eprintln!("throughput: making the child");
    load::fill(&bench.connect(&home.create_root("below")?)?, bench.plan.scale)?;
    home.create("below", "child")?;
    home.stop("below")?;
    home.start("child")
}

fn make_plain(bench: &Bench, name: &str, setup: &Setup, shared: &Shared) -> Result<Plain> {
    eprintln!("throughput: making {name}");
    let plain = Plain::new(&bench.ground, name, &bench.server, setup, shared)?;
    let session = bench.connect(&plain.target())?;
    plain.verify(&session, setup, shared)?;
    load::fill(&session, bench.plan.scale)?;
    Ok(plain)
}

/// One run, from a checkpoint; what it leaves to be written is written before the next one begins.
fn run(bench: &Bench, variant: &Variant, kind: Kind, clients: u32, length: Duration) -> Result<Throughput> {
    ground::check()?;
    let session = bench.connect(&variant.target)?;
    session.run("CHECKPOINT")?;
    let scale = bench.plan.scale;
    let job = Job { target: &variant.target, kind, clients, scale, length: Some(length), latencies: false };
    let before = ServerTime::of(&variant.data_dir)?;
    let disk_before = DiskUse::of(&variant.data_dir)?;
    let machine_before = MachineTime::now()?;
    let outcome = bench.generator.run(&job)?;
    let disk = DiskUse::of(&variant.data_dir)?.zip(disk_before).map(|(after, before)| after.since(before));
    let stolen_share = MachineTime::now()?.stolen_since(machine_before);
    session.run("CHECKPOINT")?;
    let after = ServerTime::settled(&variant.data_dir, before.processes)?;
    Ok(Throughput {
        round: 0,
        load: kind.name().to_owned(),
        clients,
        variant: variant.name.to_owned(),
        scale,
        seconds: length.as_secs_f64(),
        transactions: outcome.transactions,
        per_second: outcome.per_second,
        server_cpu_seconds: after.seconds - before.seconds,
        disk_read_bytes: disk.map_or(0, |disk| disk.read),
        disk_written_bytes: disk.map_or(0, |disk| disk.written),
        stolen_share,
    })
}

/// One table: rates, and each round's ratio to plain in the same round.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all: Vec<&Throughput> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Throughput(run) => Some(run),
            _ => None,
        })
        .collect();
    let columns = [
        "load",
        "variant",
        "runs",
        "median, 1/s",
        "min–max, 1/s",
        "ratio to plain",
        "min–max of ratios",
        "server CPU, µs each",
        "ratio to plain",
        "disk read, MB",
        "disk written, MB",
        "stolen, %",
    ];
    let mut table = Table::new("Throughput against plain PostgreSQL", &columns);
    for (load, clients) in distinct(all.iter().map(|run| (run.load.as_str(), run.clients))) {
        let group: Vec<&Throughput> =
            all.iter().copied().filter(|run| run.load == load && run.clients == clients).collect();
        for variant in distinct(group.iter().map(|run| run.variant.as_str())) {
            let of = || group.iter().filter(|run| run.variant == variant);
            let Some(rate) = summary(of().map(|run| run.per_second)) else { continue };
            let ratios = summary(of().filter_map(|run| ratio(run, &group, |run| run.per_second)));
            let cost = median(of().map(|run| cost_of(run)));
            let costs = summary(of().filter_map(|run| ratio(run, &group, cost_of)));
            let rates = rate_row(load, clients, variant, &rate, ratios.as_ref());
            let costs = costs.map_or("–".to_owned(), |costs| format!("{:.3}", costs.median));
            let mib = |bytes: Option<f64>| format!("{:.0}", bytes.unwrap_or(0.0) / f64::from(1 << 20));
            let read = mib(summary(of().map(|run| run.disk_read_bytes as f64)).map(|all| all.median));
            let written = mib(summary(of().map(|run| run.disk_written_bytes as f64)).map(|all| all.median));
            let stolen = median(of().map(|run| run.stolen_share * 100.0));
            let rest = [format!("{cost:.1}"), costs, read, written, format!("{stolen:.0}")];
            table.row(rates.into_iter().chain(rest));
        }
    }
    table.note(
        "A ratio is taken within a round, in which the variants take turns every few seconds; shown is the \
         median of the rounds. Stolen: processor time that the host gave to others. Goals: TPC-B ≥ 0.95, \
         select-only ≥ 0.97.",
    );
    vec![table]
}

/// Against plain in the same round.
fn ratio(run: &Throughput, group: &[&Throughput], value: fn(&Throughput) -> f64) -> Option<f64> {
    let plain = group.iter().find(|other| other.variant == PLAIN && other.round == run.round)?;
    (value(plain) > 0.0).then(|| value(run) / value(plain))
}

/// Processor time of the server for each transaction, microseconds.
fn cost_of(run: &Throughput) -> f64 {
    run.server_cpu_seconds * 1e6 / run.transactions.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let line = |round, variant: &str, per_second| {
            Line::Throughput(Throughput {
                round,
                load: "tpcb".to_owned(),
                clients: 4,
                variant: variant.to_owned(),
                scale: 1,
                seconds: 1.0,
                transactions: 10,
                per_second,
                server_cpu_seconds: 0.002,
                disk_read_bytes: 3 << 20,
                disk_written_bytes: 5 << 20,
                stolen_share: 0.02,
            })
        };
        let lines = [
            line(0, PLAIN, 1000.0),
            line(0, ROOT, 900.0),
            line(1, ROOT, 2000.0),
            line(1, PLAIN, 2000.0),
            line(2, PLAIN, 500.0),
            line(2, ROOT, 480.0),
        ];
        let text = tables(&lines)[0].to_string();
        let expected = "| TPC-B, 4 clients | root | 3 | 900 | 480–2000 | 0.960 | 0.900–1.000 | 200.0 | 1.000 | 3 | 5 | 2 |";
        assert!(text.contains(expected), "{text}");
    }
}
