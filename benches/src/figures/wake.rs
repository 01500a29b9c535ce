//! From connecting to a suspended endpoint to its first row, PostgreSQL's start included; and a plain
//! server's start with its first row as the floor.

use std::time::Instant;

use super::{cells, distinct};
use crate::bench::Bench;
use crate::failure::Result;
use crate::ground;
use crate::load;
use crate::plain::{Plain, Setup, Shared};
use crate::raw::{Line, Wake};
use crate::session::{first_row, milliseconds};
use crate::site::Site;
use crate::statistics::summary;
use crate::table::Table;

const PARENT: &str = "sleeper";
const CHILD: &str = "child";
const ROOT_WAY: &str = "endpoint of a root branch";
const CHILD_WAY: &str = "endpoint of a child";
const PLAIN_WAY: &str = "plain server, started and asked";

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    let daemon = bench.daemon()?;
    eprintln!("wake: making the branches and a plain server");
    let session = bench.connect(&daemon.create_root(PARENT)?)?;
    load::fill(&session, 1)?;
    let shared = Shared::of(&session)?;
    drop(session);
    daemon.create(PARENT, CHILD)?;
    // Its very first start is measured elsewhere.
    first_row(bench.runtime(), &daemon.wake(CHILD)?)?;
    let plain = Plain::new(&bench.ground, "plain", &bench.server, &Setup::Defaults, &shared)?;
    load::fill(&bench.connect(&plain.target())?, 1)?;
    for round in 0..bench.plan.rounds {
        eprintln!("wake: round {round}");
        for _ in 0..bench.plan.wakes {
            for (way, branch) in [(ROOT_WAY, PARENT), (CHILD_WAY, CHILD)] {
                ground::check()?;
                let target = daemon.wake(branch)?;
                daemon.suspend(branch)?;
                let begin = Instant::now();
                first_row(bench.runtime(), &target)?;
                keep(bench, round, way, begin)?;
            }
            plain.stop()?;
            let begin = Instant::now();
            plain.start()?;
            first_row(bench.runtime(), &plain.target())?;
            keep(bench, round, PLAIN_WAY, begin)?;
        }
    }
    Ok(())
}

fn keep(bench: &Bench, round: u32, way: &str, begin: Instant) -> Result<()> {
    let total_ms = milliseconds(begin.elapsed());
    bench.keep(Line::Wake(Wake { round, way: way.to_owned(), total_ms }))
}

/// One table.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all: Vec<&Wake> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Wake(wake) => Some(wake),
            _ => None,
        })
        .collect();
    let columns = ["what slept", "wakes", "median, ms", "p99, ms", "min–max, ms"];
    let mut table = Table::new("Connect to first row, asleep before", &columns);
    for way in distinct(all.iter().map(|one| one.way.as_str())) {
        let of = all.iter().filter(|one| one.way == way);
        let Some(summary) = summary(of.map(|one| one.total_ms)) else { continue };
        table.row([way.to_owned()].into_iter().chain(cells(&summary)));
    }
    table.note("PostgreSQL's start, TLS and login included. Goals: ≤ 60 ms median, ≤ 150 ms p99.");
    vec![table]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_a_row() {
        let line = |way: &str, total_ms| Line::Wake(Wake { round: 0, way: way.to_owned(), total_ms });
        let text =
            tables(&[line(ROOT_WAY, 50.0), line(PLAIN_WAY, 30.0), line(ROOT_WAY, 70.0)])[0].to_string();
        assert!(text.contains("| endpoint of a root branch | 2 | 60.0 | 70.0 | 50.0–70.0 |"), "{text}");
        assert!(text.contains("| plain server, started and asked | 1 | 30.0 |"), "{text}");
    }
}
