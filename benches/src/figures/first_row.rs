//! Time from create to the first row on the child, and a plain server's start as the floor.

use std::time::{Duration, Instant};

use super::{LOAD_CLIENTS, cells, distinct, state};
use crate::bench::Bench;
use crate::failure::{Failure, Result};
use crate::ground;
use crate::load::{self, Job, Kind};
use crate::plain::{Plain, Setup, Shared};
use crate::raw::{CutFacts, FirstRow, Line, PlainStart};
use crate::session::{Session, Target, first_row, milliseconds};
use crate::site::Site;
use crate::statistics::{median, summary};
use crate::table::Table;

const PARENT: &str = "parent";
/// WAL that an idle child may have to replay.
const LITTLE_WAL: u64 = 1 << 20;
/// Between two branches under load.
const PAUSE: Duration = Duration::from_millis(500);

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    let site = bench.site()?;
    eprintln!("first row: making the parent, scale {}", bench.plan.scale);
    let target = site.create_root(PARENT)?;
    let session = bench.connect(&target)?;
    load::fill(&session, bench.plan.scale)?;
    let plain = Plain::new(&bench.ground, "plain", &bench.server, &Setup::Defaults, &Shared::of(&session)?)?;
    load::fill(&bench.connect(&plain.target())?, bench.plan.scale)?;
    for round in 0..bench.plan.rounds {
        // Who begins changes with the round.
        if round % 2 == 0 {
            plain_starts(bench, &plain, round)?;
        }
        eprintln!("first row: idle, round {round}");
        children(bench, &*site, &session, None, round)?;
        if round % 2 == 1 {
            plain_starts(bench, &plain, round)?;
        }
        eprintln!("first row: under load, round {round}");
        children(bench, &*site, &session, Some(&target), round)?;
    }
    Ok(())
}

fn plain_starts(bench: &Bench, plain: &Plain, round: u32) -> Result<()> {
    for _ in 0..bench.plan.first_rows {
        ground::check()?;
        plain.stop()?;
        let begin = Instant::now();
        plain.start()?;
        let start_ms = milliseconds(begin.elapsed());
        let times = first_row(bench.runtime(), &plain.target())?;
        let total_ms = milliseconds(begin.elapsed());
        let (connect_ms, query_ms) = (times.connect_ms, times.query_ms);
        bench.keep(Line::PlainStart(PlainStart { round, start_ms, connect_ms, query_ms, total_ms }))?;
    }
    Ok(())
}

/// Children of an idle parent just after a checkpoint, or of one with a load on `loaded`.
fn children(
    bench: &Bench,
    site: &dyn Site,
    session: &Session,
    loaded: Option<&Target>,
    round: u32,
) -> Result<()> {
    let clients = if loaded.is_some() { LOAD_CLIENTS } else { 0 };
    let scale = bench.plan.scale;
    let mut running = None;
    if let Some(target) = loaded {
        let job = Job { target, kind: Kind::Tpcb, clients, scale, length: None, latencies: false };
        running = Some(bench.generator.start(&job)?);
        std::thread::sleep(bench.plan.warm_up);
    }
    for number in 0..bench.plan.first_rows {
        ground::check()?;
        match &mut running {
            Some(running) => {
                running.check()?;
                std::thread::sleep(PAUSE);
            }
            None => session.run("CHECKPOINT")?,
        }
        let line = one_child(bench, site, &format!("f{clients}-{round}-{number}"), clients, round)?;
        if clients == 0 && line.cut.is_some_and(|cut| cut.wal_bytes > LITTLE_WAL) {
            return Err(Failure(format!("an idle parent wrote more than 1 MB of WAL: {:?}", line.cut)));
        }
        bench.keep(Line::FirstRow(line))?;
    }
    Ok(())
}

fn one_child(bench: &Bench, site: &dyn Site, child: &str, clients: u32, round: u32) -> Result<FirstRow> {
    let begin = Instant::now();
    site.create(PARENT, child)?;
    let created = Instant::now();
    let target = site.wake(child)?;
    let started = Instant::now();
    let times = first_row(bench.runtime(), &target)?;
    let line = FirstRow {
        round,
        clients,
        scale: bench.plan.scale,
        through: site.through().to_owned(),
        create_ms: milliseconds(created - begin),
        start_ms: milliseconds(started - created),
        connect_ms: times.connect_ms,
        query_ms: times.query_ms,
        total_ms: milliseconds(begin.elapsed()),
        cut: site.cut(child)?,
    };
    site.delete(child)?;
    Ok(line)
}

/// One table.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let columns = [
        "what",
        "samples",
        "median, ms",
        "p99, ms",
        "min–max, ms",
        "create",
        "start",
        "connect",
        "query",
        "WAL to replay, MB",
    ];
    let mut table = Table::new("Create until first row on the child", &columns);
    let children: Vec<&FirstRow> = lines
        .iter()
        .filter_map(|line| match line {
            Line::FirstRow(row) => Some(row),
            _ => None,
        })
        .collect();
    for (way, clients) in distinct(children.iter().map(|row| (row.through.as_str(), row.clients))) {
        let of: Vec<&&FirstRow> =
            children.iter().filter(|row| row.through == way && row.clients == clients).collect();
        let step = |take: fn(&FirstRow) -> f64| format!("{:.1}", median(of.iter().map(|row| take(row))));
        let Some(total) = summary(of.iter().map(|row| row.total_ms)) else { continue };
        let cuts: Vec<CutFacts> = of.iter().filter_map(|row| row.cut).collect();
        let wal = summary(cuts.iter().map(|cut| cut.wal_bytes as f64 / 1e6));
        let steps = [
            step(|row| row.create_ms),
            step(|row| row.start_ms),
            step(|row| row.connect_ms),
            step(|row| row.query_ms),
            wal.map_or("–".to_owned(), |wal| format!("{:.1} (max {:.1})", wal.median, wal.max)),
        ];
        let head = [format!("child through the {way}, parent {}", state(clients))];
        table.row(head.into_iter().chain(cells(&total)).chain(steps));
    }
    add_floor(&mut table, lines);
    table.note("Steps are medians. Goals: idle ≤ 150 ms, under load ≤ 800 ms median.");
    vec![table]
}

fn add_floor(table: &mut Table, lines: &[Line]) {
    let plain: Vec<&PlainStart> = lines
        .iter()
        .filter_map(|line| match line {
            Line::PlainStart(start) => Some(start),
            _ => None,
        })
        .collect();
    let step = |take: fn(&PlainStart) -> f64| format!("{:.1}", median(plain.iter().map(|start| take(start))));
    if let Some(total) = summary(plain.iter().map(|start| start.total_ms)) {
        let steps = [
            "–".to_owned(),
            step(|start| start.start_ms),
            step(|start| start.connect_ms),
            step(|start| start.query_ms),
            "0".to_owned(),
        ];
        let head = ["plain server after a clean stop".to_owned()];
        table.row(head.into_iter().chain(cells(&total)).chain(steps));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_loaded_and_floor_have_a_row_each() {
        let row = |clients, total_ms| {
            Line::FirstRow(FirstRow {
                round: 0,
                clients,
                scale: 1,
                through: "engine".to_owned(),
                create_ms: 10.0,
                start_ms: 60.0,
                connect_ms: 8.0,
                query_ms: 2.0,
                total_ms,
                cut: Some(CutFacts { closed_us: 1, drain_us: 1, wal_bytes: 2_000_000 }),
            })
        };
        let plain = Line::PlainStart(PlainStart {
            round: 0,
            start_ms: 30.0,
            connect_ms: 7.0,
            query_ms: 1.0,
            total_ms: 38.0,
        });
        let text = tables(&[row(0, 80.0), row(0, 90.0), row(4, 300.0), plain])[0].to_string();
        assert!(
            text.contains("parent idle | 2 | 85.0 | 90.0 | 80.0–90.0 | 10.0 | 60.0 | 8.0 | 2.0 | 2.0"),
            "{text}"
        );
        assert!(text.contains("parent TPC-B, 4 clients | 1 | 300.0"), "{text}");
        assert!(text.contains("plain server after a clean stop | 1 | 38.0"), "{text}");
    }
}
