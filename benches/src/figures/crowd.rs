//! Many branches created, woken and asked at once: when each of them has answered.

use std::time::Instant;

use tokio::runtime::Handle;

use crate::bench::Bench;
use crate::daemon::Daemon;
use crate::failure::{Failure, Result};
use crate::ground;
use crate::load;
use crate::raw::{Crowd, Line};
use crate::session::{first_row, milliseconds};
use crate::site::Site;
use crate::statistics::{Summary, summary};
use crate::table::Table;

const PARENT: &str = "crowd";

/// Milliseconds from the common start.
struct Times {
    create_ms: f64,
    first_row_ms: f64,
}

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    let mut daemon = bench.daemon()?;
    daemon.over_http()?;
    eprintln!("crowd: making the parent");
    let session = bench.connect(&daemon.create_root(PARENT)?)?;
    load::fill(&session, 1)?;
    let branches = bench.plan.crowd;
    for round in 0..bench.plan.rounds {
        eprintln!("crowd: round {round}");
        ground::check()?;
        session.run("CHECKPOINT")?;
        let names: Vec<String> = (0..branches).map(|number| format!("m{round}-{number}")).collect();
        for times in at_once(&daemon, bench.runtime(), &names)? {
            let Times { create_ms, first_row_ms } = times;
            bench.keep(Line::Crowd(Crowd { round, branches, create_ms, first_row_ms }))?;
        }
        for name in &names {
            daemon.delete(name)?;
        }
    }
    Ok(())
}

fn at_once(daemon: &Daemon, runtime: &Handle, names: &[String]) -> Result<Vec<Times>> {
    let begin = Instant::now();
    let one = |name: &str| -> Result<Times> {
        daemon.create(PARENT, name)?;
        let create_ms = milliseconds(begin.elapsed());
        first_row(runtime, &daemon.wake(name)?)?;
        Ok(Times { create_ms, first_row_ms: milliseconds(begin.elapsed()) })
    };
    let one = &one;
    std::thread::scope(|scope| {
        let running: Vec<_> = names.iter().map(|name| scope.spawn(move || one(name))).collect();
        let ended = running.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(Failure("a thread of the crowd panicked".to_owned())))
        });
        ended.collect()
    })
}

/// One table.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all: Vec<&Crowd> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Crowd(crowd) => Some(crowd),
            _ => None,
        })
        .collect();
    let branches = all.iter().map(|one| one.branches).max().unwrap_or(0);
    let columns = ["step done", "branches", "median, ms", "p95, ms", "min–max, ms"];
    let mut table = Table::new(format!("{branches} branches created, woken and asked at once"), &columns);
    let created = summary(all.iter().map(|one| one.create_ms));
    let answered = summary(all.iter().map(|one| one.first_row_ms));
    for (step, summary) in [("created", created), ("first row", answered)] {
        if let Some(summary) = summary {
            table.row(row(step, &summary));
        }
    }
    table.note("From the common start. Goal: p95 of the first row ≤ 1500 ms with 16 branches.");
    vec![table]
}

fn row(step: &str, summary: &Summary) -> [String; 5] {
    [
        step.to_owned(),
        summary.count.to_string(),
        format!("{:.0}", summary.median),
        format!("{:.0}", summary.p95),
        format!("{:.0}–{:.0}", summary.min, summary.max),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_steps_have_a_row() {
        let line = |first_row_ms| {
            Line::Crowd(Crowd { round: 0, branches: 16, create_ms: first_row_ms / 2.0, first_row_ms })
        };
        let text = tables(&[line(400.0), line(600.0), line(1000.0)])[0].to_string();
        assert!(text.contains("### 16 branches created"), "{text}");
        assert!(text.contains("| first row | 3 | 600 | 1000 | 400–1000 |"), "{text}");
        assert!(text.contains("| created | 3 | 300 | 500 | 200–500 |"), "{text}");
        assert!(tables(&[])[0].is_empty());
    }
}
