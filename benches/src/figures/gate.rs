//! How long writers are held back by cuts, and what clients notice of a cut each second.

use std::time::{Duration, Instant};

use super::LOAD_CLIENTS;
use crate::bench::Bench;
use crate::failure::{Failure, Result};
use crate::ground;
use crate::load::{self, Job, Kind};
use crate::plan::rotated;
use crate::raw::{Clients, Cut, Line};
use crate::session::{Target, milliseconds};
use crate::site::Site;
use crate::statistics::{Summary, median, summary};
use crate::table::Table;

const PARENT: &str = "gate";
const INTERVAL: Duration = Duration::from_secs(1);

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    // The cutter's clock is the engine's: whoever asks for the cut does not matter.
    let home = bench.home()?;
    eprintln!("gate: making the parent, scale {}", bench.plan.scale);
    let target = home.create_root(PARENT)?;
    let session = bench.connect(&target)?;
    load::fill(&session, bench.plan.scale)?;
    bench.generator.run(&job(bench, &target, bench.plan.warm_up))?;
    for round in 0..bench.plan.rounds {
        for place in rotated(2, round) {
            ground::check()?;
            let with_cuts = place == 0;
            eprintln!("gate: {}, round {round}", if with_cuts { "a cut each second" } else { "no cuts" });
            session.run("CHECKPOINT")?;
            one_run(bench, &home, &target, round, with_cuts)?;
        }
    }
    Ok(())
}

fn job<'a>(bench: &Bench, target: &'a Target, length: Duration) -> Job<'a> {
    let (kind, clients, scale) = (Kind::Tpcb, LOAD_CLIENTS, bench.plan.scale);
    Job { target, kind, clients, scale, length: Some(length), latencies: true }
}

fn one_run(bench: &Bench, site: &dyn Site, target: &Target, round: u32, with_cuts: bool) -> Result<()> {
    let length = bench.plan.gate;
    let running = bench.generator.start(&job(bench, target, length))?;
    let begin = Instant::now();
    let mut children = Vec::new();
    if with_cuts {
        // The last one well before the load ends.
        while begin.elapsed() + INTERVAL * 3 / 2 < length {
            std::thread::sleep(INTERVAL);
            children.push(one_cut(bench, site, round, children.len())?);
        }
    }
    let outcome = running.finish()?;
    let latencies = summary(outcome.latencies.iter().copied());
    let Some(seen) = latencies else { return Err(Failure("the load kept no latencies".to_owned())) };
    bench.keep(Line::Clients(Clients {
        round,
        clients: LOAD_CLIENTS,
        cuts: children.len() as u32,
        seconds: length.as_secs_f64(),
        transactions: outcome.transactions,
        median_ms: seen.median,
        p99_ms: seen.p99,
        p999_ms: seen.p999,
        max_ms: seen.max,
    }))?;
    // After the run: removing branches is not what is measured.
    children.iter().try_for_each(|child| site.delete(child))
}

fn one_cut(bench: &Bench, site: &dyn Site, round: u32, number: usize) -> Result<String> {
    let child = format!("g{round}-{number}");
    let begin = Instant::now();
    site.create(PARENT, &child)?;
    let create_ms = milliseconds(begin.elapsed());
    let cut = site.cut(&child)?.ok_or_else(|| Failure("a cut without a record".to_owned()))?;
    bench.keep(Line::Cut(Cut { round, clients: LOAD_CLIENTS, create_ms, cut }))?;
    Ok(child)
}

/// Two tables: the cutter's clock and the clients' view.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    vec![cutter(lines), clients(lines)]
}

fn cutter(lines: &[Line]) -> Table {
    let cuts: Vec<&Cut> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Cut(cut) => Some(cut),
            _ => None,
        })
        .collect();
    let columns = ["cutter's clock", "cuts", "median, ms", "p99, ms", "max, ms"];
    let mut table = Table::new("Gate closed under TPC-B, 4 clients", &columns);
    let mut add = |what: &str, microseconds: fn(&Cut) -> u64| {
        let Some(all) = summary(cuts.iter().map(|cut| microseconds(cut) as f64 / 1000.0)) else { return };
        let row = [
            what.to_owned(),
            all.count.to_string(),
            format!("{:.2}", all.median),
            format!("{:.2}", all.p99),
            format!("{:.2}", all.max),
        ];
        table.row(row);
    };
    add("closed to open", |cut| cut.cut.closed_us);
    add("of these, drain", |cut| cut.cut.drain_us);
    add("of these, the cut itself", |cut| cut.cut.closed_us.saturating_sub(cut.cut.drain_us));
    add("create as a whole", |cut| (cut.create_ms * 1000.0) as u64);
    table.note("Goal: closed ≤ 5 ms p99, drain reported apart.");
    table
}

fn clients(lines: &[Line]) -> Table {
    let columns = [
        "round",
        "p99.9 with a cut each second, ms",
        "p99.9 without, ms",
        "difference, ms",
        "max with, ms",
        "max without, ms",
        "transactions, with / without",
    ];
    let mut table = Table::new("Clients' latency with a cut each second", &columns);
    let find = |round, with_cuts: bool| {
        lines.iter().find_map(|line| match line {
            Line::Clients(seen) if seen.round == round && (seen.cuts > 0) == with_cuts => Some(seen),
            _ => None,
        })
    };
    let mut differences = Vec::new();
    let mut round = 0;
    while let (Some(with), Some(without)) = (find(round, true), find(round, false)) {
        let difference = with.p999_ms - without.p999_ms;
        differences.push(difference);
        table.row([
            round.to_string(),
            format!("{:.1}", with.p999_ms),
            format!("{:.1}", without.p999_ms),
            format!("{difference:+.1}"),
            format!("{:.1}", with.max_ms),
            format!("{:.1}", without.max_ms),
            format!("{:.3}", with.transactions as f64 / without.transactions.max(1) as f64),
        ]);
        round += 1;
    }
    if let Some(Summary { min, max, .. }) = summary(differences.iter().copied()) {
        let middle = median(differences);
        table.note(format!(
            "Median difference {middle:+.1} ms ({min:+.1} to {max:+.1}); goal ≤ control + 10 ms."
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::CutFacts;

    #[test]
    fn rounds_are_paired_with_their_own_control() {
        let seen = |round, cuts, p999_ms| {
            Line::Clients(Clients {
                round,
                clients: 4,
                cuts,
                seconds: 4.0,
                transactions: 1000,
                median_ms: 1.0,
                p99_ms: 2.0,
                p999_ms,
                max_ms: 50.0,
            })
        };
        let cut = CutFacts { closed_us: 900, drain_us: 300, wal_bytes: 0 };
        let cut = Line::Cut(Cut { round: 0, clients: 4, create_ms: 20.0, cut });
        let lines = [seen(0, 3, 9.0), seen(0, 0, 5.0), seen(1, 0, 6.0), seen(1, 3, 8.0), cut];
        let [cutter, clients] = &tables(&lines)[..] else { panic!() };
        let text = clients.to_string();
        assert!(text.contains("| 0 | 9.0 | 5.0 | +4.0 |"), "{text}");
        assert!(text.contains("Median difference +3.0 ms (+2.0 to +4.0)"), "{text}");
        assert!(cutter.to_string().contains("| of these, the cut itself | 1 | 0.60 |"), "{cutter}");
    }
}
