//! Connecting to a compute that is awake, with TLS and a token, against connecting to PostgreSQL itself,
//! with TLS and a password.

use super::{cells, distinct};
use crate::bench::Bench;
use crate::failure::{Failure, Result};
use crate::ground;
use crate::load;
use crate::plain::{Plain, Setup, Shared};
use crate::raw::{Connect, Line};
use crate::session::{Session, Target, first_row};
use crate::site::Site;
use crate::statistics::{median, summary};
use crate::table::Table;

const DIRECT: &str = "PostgreSQL itself";
const DOOR: &str = "through the door";

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    let daemon = bench.daemon()?;
    eprintln!("connect: making both sides");
    let door = daemon.create_root("awake")?;
    // Kept for the whole time, so that the compute does not fall asleep.
    let session = bench.connect(&door)?;
    load::fill(&session, 1)?;
    let shared = Shared::of(&session)?;
    let plain = Plain::encrypted(&bench.ground, "plain", &bench.server, &Setup::Defaults, &shared)?;
    let direct = plain.tls_target();
    let beside = bench.connect(&direct)?;
    check_encryption(&beside)?;
    load::fill(&beside, 1)?;
    for round in 0..bench.plan.rounds {
        eprintln!("connect: round {round}");
        let sides: [(&str, Target); 2] = [(DIRECT, direct.clone()), (DOOR, daemon.wake("awake")?)];
        for number in 0..bench.plan.connects {
            for turn in 0..sides.len() {
                let (way, target) = &sides[(turn + number as usize) % sides.len()];
                ground::check()?;
                let times = first_row(bench.runtime(), target)?;
                bench.keep(Line::Connect(Connect {
                    round,
                    way: (*way).to_owned(),
                    connect_ms: times.connect_ms,
                    query_ms: times.query_ms,
                }))?;
            }
        }
    }
    Ok(())
}

/// Fails where a direct session is not encrypted: it would not be a comparison.
pub fn check_encryption(session: &Session) -> Result<()> {
    match session.text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")?.as_str() {
        "t" => Ok(()),
        other => Err(Failure(format!("the plain server's session is not encrypted: {other}"))),
    }
}

/// One table.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all: Vec<&Connect> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Connect(connect) => Some(connect),
            _ => None,
        })
        .collect();
    let columns = ["to", "connections", "median, ms", "p99, ms", "min–max, ms", "first query, ms"];
    let mut table = Table::new("Connecting, with TLS", &columns);
    for way in distinct(all.iter().map(|one| one.way.as_str())) {
        let Some(summary) = summary(of(&all, way).map(|one| one.connect_ms)) else { continue };
        let query = format!("{:.1}", median(of(&all, way).map(|one| one.query_ms)));
        table.row([way.to_owned()].into_iter().chain(cells(&summary)).chain([query]));
    }
    let middle = |way| median(of(&all, way).map(|one| one.connect_ms));
    table.note(format!(
        "Until the server is ready for a query. Difference of the medians: {:+.1} ms (goal ≤ 5 ms).",
        middle(DOOR) - middle(DIRECT)
    ));
    vec![table]
}

fn of<'a>(all: &'a [&Connect], way: &'a str) -> impl Iterator<Item = &'a Connect> {
    all.iter().copied().filter(move |one| one.way == way)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_have_a_row() {
        let line = |way: &str, connect_ms| {
            Line::Connect(Connect { round: 0, way: way.to_owned(), connect_ms, query_ms: 0.5 })
        };
        let text = tables(&[line(DIRECT, 9.0), line(DOOR, 12.0)])[0].to_string();
        assert!(text.contains("| through the door | 1 | 12.0 | 12.0 | 12.0–12.0 | 0.5 |"), "{text}");
        assert!(text.contains("Difference of the medians: +3.0 ms"), "{text}");
    }
}
