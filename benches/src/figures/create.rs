//! Time to create a branch, at three sizes, idle and under load.

use std::time::{Duration, Instant};

use super::{LOAD_CLIENTS, cells, distinct, state};
use crate::bench::Bench;
use crate::failure::Result;
use crate::ground;
use crate::load::{self, Job, Kind};
use crate::plan::{BYTES_PER_SCALE, Size, rotated};
use crate::raw::{Create, Line};
use crate::session::{Target, milliseconds};
use crate::site::Site;
use crate::statistics::{median, summary};
use crate::table::Table;

/// Between two branches of one parent.
const PAUSE: Duration = Duration::from_millis(100);

/// A database to branch.
struct Parent {
    size: Size,
    name: String,
    target: Target,
    scale: i32,
    cuts: u32,
}

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    let site = bench.site()?;
    let sizes = bench.plan.sizes.clone();
    let mut parents: Vec<Parent> =
        sizes.into_iter().map(|size| make_parent(bench, &*site, size)).collect::<Result<_>>()?;
    for clients in [0, LOAD_CLIENTS] {
        for round in 0..bench.plan.rounds {
            for place in rotated(parents.len(), round) {
                eprintln!("create: {}, {}, round {round}", state(clients), parents[place].size.label);
                measure_round(bench, &*site, &mut parents[place], clients, round)?;
            }
        }
    }
    Ok(())
}

fn make_parent(bench: &Bench, site: &dyn Site, size: Size) -> Result<Parent> {
    ground::check()?;
    eprintln!("create: making {}", size.label);
    // The tables of the load are the data, up to the load's usual scale; the rest lies beside them.
    let scale = (size.bytes / BYTES_PER_SCALE).clamp(1, bench.plan.scale as u64) as i32;
    let name = format!("size-{}", size.bytes >> 20);
    let target = site.create_root(&name)?;
    let session = bench.connect(&target)?;
    load::fill(&session, scale)?;
    let rest = size.bytes.saturating_sub(scale as u64 * BYTES_PER_SCALE);
    if rest > 0 && scale == bench.plan.scale {
        load::fill_ballast(&session, rest)?;
    }
    Ok(Parent { size, name, target, scale, cuts: 0 })
}

fn measure_round(
    bench: &Bench,
    site: &dyn Site,
    parent: &mut Parent,
    clients: u32,
    round: u32,
) -> Result<()> {
    let session = bench.connect(&parent.target)?;
    session.run("CHECKPOINT")?;
    let data_bytes = session.number("SELECT sum(pg_database_size(oid))::bigint FROM pg_database")?;
    let job = Job {
        target: &parent.target,
        kind: Kind::Tpcb,
        clients,
        scale: parent.scale,
        length: None,
        latencies: false,
    };
    let mut running = match clients {
        0 => None,
        _ => Some(bench.generator.start(&job)?),
    };
    if running.is_some() {
        std::thread::sleep(bench.plan.warm_up);
    }
    for number in 0..bench.plan.creates {
        ground::check()?;
        std::thread::sleep(PAUSE);
        let child = format!("c{clients}-{round}-{number}-{}", parent.name);
        let begin = Instant::now();
        site.create(&parent.name, &child)?;
        let create_ms = milliseconds(begin.elapsed());
        if let Some(running) = &mut running {
            running.check()?;
        }
        bench.keep(Line::Create(Create {
            round,
            size: parent.size.label.to_owned(),
            data_bytes,
            clients,
            scale: parent.scale,
            through: site.through().to_owned(),
            create_ms,
            cuts_before: parent.cuts,
            cut: site.cut(&child)?,
        }))?;
        parent.cuts += 1;
        site.delete(&child)?;
    }
    Ok(())
}

/// One table for each way of creating.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all: Vec<&Create> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Create(create) => Some(create),
            _ => None,
        })
        .collect();
    let ways = distinct(all.iter().map(|create| create.through.as_str()));
    ways.into_iter().map(|way| table(way, all.iter().copied().filter(|one| one.through == way))).collect()
}

fn table<'a>(way: &str, all: impl Iterator<Item = &'a Create>) -> Table {
    let all: Vec<&Create> = all.collect();
    let columns = ["database", "state", "data, MB", "creates", "median, ms", "p99, ms", "min–max, ms"];
    let mut table = Table::new(format!("Branch create (through the {way})"), &columns);
    for clients in distinct(all.iter().map(|one| one.clients)) {
        let mut medians = Vec::new();
        for size in distinct(all.iter().map(|one| one.size.as_str())) {
            let of = || all.iter().filter(|one| one.clients == clients && one.size == size);
            let Some(summary) = summary(of().map(|one| one.create_ms)) else { continue };
            let data = median(of().map(|one| one.data_bytes as f64 / 1e6));
            medians.push(summary.median);
            let head = [size.to_owned(), state(clients), format!("{data:.0}")];
            table.row(head.into_iter().chain(cells(&summary)));
        }
        let largest = medians.iter().copied().fold(f64::MIN, f64::max);
        let smallest = medians.iter().copied().fold(f64::MAX, f64::min);
        if medians.len() > 1 {
            table.note(format!(
                "{}: slowest median / fastest median = {:.2} (goal ≤ 1.2); goal for the median ≤ 50 ms.",
                state(clients),
                largest / smallest
            ));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_compared_across_sizes_in_each_state() {
        let line = |size: &str, clients, create_ms| {
            Line::Create(Create {
                round: 0,
                size: size.to_owned(),
                data_bytes: 20_000_000,
                clients,
                scale: 1,
                through: "engine".to_owned(),
                create_ms,
                cuts_before: 0,
                cut: None,
            })
        };
        let lines = [line("a", 0, 10.0), line("b", 0, 14.0), line("a", 0, 10.0), line("a", 4, 30.0)];
        let tables = tables(&lines);
        assert_eq!(tables.len(), 1);
        let text = tables[0].to_string();
        assert!(text.contains("| a | idle | 20 | 2 | 10.0 | 10.0 | 10.0–10.0 |"), "{text}");
        assert!(text.contains("| a | TPC-B, 4 clients | 20 | 1 | 30.0 |"), "{text}");
        assert!(text.contains("idle: slowest median / fastest median = 1.40"), "{text}");
        assert!(!text.contains("TPC-B, 4 clients: slowest"), "{text}");
    }
}
