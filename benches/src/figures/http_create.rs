//! Create over HTTP with a token against what the store alone takes, side by side on the same disk.

use std::time::{Duration, Instant};

use super::{cells, distinct};
use crate::bench::Bench;
use crate::failure::Result;
use crate::ground;
use crate::load;
use crate::raw::{HttpCreate, Line};
use crate::session::milliseconds;
use crate::site::Site;
use crate::statistics::{median, summary};
use crate::table::Table;

const STORE: &str = "store";
const HTTP: &str = "HTTP";
const PARENT: &str = "parent";
/// Between two branches.
const PAUSE: Duration = Duration::from_millis(100);

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    let home = bench.home()?;
    let mut daemon = bench.daemon()?;
    daemon.over_http()?;
    let sides: [(&str, &dyn Site); 2] = [(STORE, &home), (HTTP, &daemon)];
    let mut sessions = Vec::new();
    for (way, site) in sides {
        eprintln!("create over HTTP: making the parent of the {way}");
        let session = bench.connect(&site.create_root(PARENT)?)?;
        load::fill(&session, 1)?;
        session.run("CHECKPOINT")?;
        sessions.push(session);
    }
    for round in 0..bench.plan.rounds {
        eprintln!("create over HTTP: round {round}");
        for number in 0..bench.plan.creates {
            for turn in 0..sides.len() {
                // Who begins changes each time.
                let (way, site) = sides[(turn + number as usize) % sides.len()];
                ground::check()?;
                std::thread::sleep(PAUSE);
                let child = format!("h{round}-{number}");
                let begin = Instant::now();
                site.create(PARENT, &child)?;
                let create_ms = milliseconds(begin.elapsed());
                site.delete(&child)?;
                bench.keep(Line::HttpCreate(HttpCreate { round, way: way.to_owned(), create_ms }))?;
            }
        }
    }
    Ok(())
}

/// One table.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all: Vec<&HttpCreate> = lines
        .iter()
        .filter_map(|line| match line {
            Line::HttpCreate(create) => Some(create),
            _ => None,
        })
        .collect();
    let columns = ["way", "creates", "median, ms", "p99, ms", "min–max, ms"];
    let mut table = Table::new("Branch create over HTTP", &columns);
    for way in distinct(all.iter().map(|one| one.way.as_str())) {
        let Some(summary) = summary(times(&all, way)) else { continue };
        table.row([way.to_owned()].into_iter().chain(cells(&summary)));
    }
    table.note(format!(
        "Difference of the medians: {:.1} ms (goal ≤ 15 ms).",
        median(times(&all, HTTP)) - median(times(&all, STORE))
    ));
    vec![table]
}

fn times(all: &[&HttpCreate], way: &str) -> impl Iterator<Item = f64> {
    all.iter().filter(move |one| one.way == way).map(|one| one.create_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_compared() {
        let line =
            |way: &str, create_ms| Line::HttpCreate(HttpCreate { round: 0, way: way.to_owned(), create_ms });
        let text = tables(&[line(STORE, 5.0), line(HTTP, 11.5), line(STORE, 7.0)])[0].to_string();
        assert!(text.contains("| store | 2 | 6.0 | 7.0 | 5.0–7.0 |"), "{text}");
        assert!(text.contains("Difference of the medians: 5.5 ms"), "{text}");
    }
}
