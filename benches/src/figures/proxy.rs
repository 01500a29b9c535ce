//! TPC-B and select-only over TLS: through the daemon's door, on PostgreSQL itself, and through pgbouncer.
//!
//! A branch does not listen on TCP, so what is compared with is a plain server with the settings of the
//! branch: the price of the preload library is part of the difference (`throughput` shows it alone).
//! pgbouncer stands in front of that same plain server.

use std::time::Duration;

use super::connect::check_encryption;
use super::{LOAD_CLIENTS, distinct, in_turns, rate_row};
use crate::bench::Bench;
use crate::failure::Result;
use crate::ground;
use crate::load::{self, Job, Kind};
use crate::plain::{Plain, Setup, Shared};
use crate::pooler::Pooler;
use crate::raw::{Line, Proxied};
use crate::session::Target;
use crate::site::Site;
use crate::statistics::summary;
use crate::table::Table;

const DIRECT: &str = "PostgreSQL itself";
const DOOR: &str = "through the door";
const POOLER: &str = "through pgbouncer";
const BRANCH: &str = "busy";
const SIZE_CU: u32 = 4;

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    let daemon = bench.daemon()?;
    let scale = bench.plan.scale;
    eprintln!("proxy: making the branch, scale {scale}");
    daemon.create_root(BRANCH)?;
    // As much of the machine as the plain server has.
    daemon.resize(BRANCH, SIZE_CU)?;
    let session = bench.connect(&daemon.wake(BRANCH)?)?;
    load::fill(&session, scale)?;
    let shared = Shared::of(&session)?;
    eprintln!("proxy: making the plain server");
    let setup = Setup::As(daemon.data_dir(BRANCH)?);
    let plain = Plain::encrypted(&bench.ground, "plain", &bench.server, &setup, &shared)?;
    let beside = bench.connect(&plain.tls_target())?;
    check_encryption(&beside)?;
    plain.verify(&beside, &setup, &shared)?;
    load::fill(&beside, scale)?;
    let pooler = Pooler::start(&bench.ground, &plain)?;
    if pooler.is_none() {
        eprintln!("proxy: there is no pgbouncer on this machine; that variant is left out");
    }
    let mut names = vec![DIRECT.to_owned(), DOOR.to_owned()];
    names.extend(pooler.iter().map(|pooler| format!("{POOLER} {}", pooler.version())));
    let target_of = |name: &str| match (name, &pooler) {
        (DIRECT, _) => Ok(plain.tls_target()),
        // Its token is good for an hour only.
        (DOOR, _) | (_, None) => daemon.wake(BRANCH),
        (_, Some(pooler)) => Ok(pooler.target()),
    };
    for name in &names {
        eprintln!("proxy: warming {name}");
        run(bench, name, &target_of(name)?, Kind::Select, LOAD_CLIENTS, bench.plan.warm_up)?;
        run(bench, name, &target_of(name)?, Kind::Tpcb, LOAD_CLIENTS, bench.plan.warm_up)?;
    }
    for round in 0..bench.plan.rounds {
        for (kind, length) in [(Kind::Tpcb, bench.plan.tpcb), (Kind::Select, bench.plan.select)] {
            for clients in [1, LOAD_CLIENTS] {
                let piece = |place: usize, length| {
                    let name = &names[place];
                    run(bench, name, &target_of(name)?, kind, clients, length)
                };
                for line in in_turns(names.len(), round, length, piece, Proxied::and)? {
                    let line = Proxied { round, ..line };
                    eprintln!(
                        "proxy: round {round}, {} with {clients} clients {}: {:.0}/s",
                        line.load, line.variant, line.per_second
                    );
                    bench.keep(Line::Proxied(line))?;
                }
            }
        }
    }
    Ok(())
}

/// One run, from a checkpoint; what it leaves to be written is written before the next one begins.
fn run(
    bench: &Bench,
    variant: &str,
    target: &Target,
    kind: Kind,
    clients: u32,
    length: Duration,
) -> Result<Proxied> {
    ground::check()?;
    let session = bench.connect(target)?;
    session.run("CHECKPOINT")?;
    let scale = bench.plan.scale;
    let job = Job { target, kind, clients, scale, length: Some(length), latencies: false };
    let outcome = bench.generator.run(&job)?;
    session.run("CHECKPOINT")?;
    Ok(Proxied {
        round: 0,
        load: kind.name().to_owned(),
        clients,
        variant: variant.to_owned(),
        scale,
        seconds: length.as_secs_f64(),
        transactions: outcome.transactions,
        per_second: outcome.per_second,
    })
}

/// One table: rates, and each round's ratio to the direct way in the same round.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all: Vec<&Proxied> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Proxied(run) => Some(run),
            _ => None,
        })
        .collect();
    let columns =
        ["load", "way", "runs", "median, 1/s", "min–max, 1/s", "ratio to direct", "min–max of ratios"];
    let mut table = Table::new("Throughput over TLS", &columns);
    for (load, clients) in distinct(all.iter().map(|run| (run.load.as_str(), run.clients))) {
        let group: Vec<&Proxied> =
            all.iter().copied().filter(|run| run.load == load && run.clients == clients).collect();
        for variant in distinct(group.iter().map(|run| run.variant.as_str())) {
            let of = || group.iter().filter(|run| run.variant == variant);
            let Some(rate) = summary(of().map(|run| run.per_second)) else { continue };
            let ratios = summary(of().filter_map(|run| ratio(run, &group)));
            table.row(rate_row(load, clients, variant, &rate, ratios.as_ref()));
        }
    }
    if !all.iter().any(|run| run.variant.starts_with(POOLER)) {
        table.note("pgbouncer is missing: it was not installed where this was measured.");
    }
    table.note(
        "A ratio is taken within a round, in which the ways take turns every few seconds; shown is the median \
         of the rounds. Goals through the door: TPC-B ≥ 0.90, select-only ≥ 0.85, and above pgbouncer. Direct \
         is a plain server with the branch's settings.",
    );
    vec![table]
}

/// Against the direct way in the same round.
fn ratio(run: &Proxied, group: &[&Proxied]) -> Option<f64> {
    let direct = group.iter().find(|other| other.variant == DIRECT && other.round == run.round)?;
    (direct.per_second > 0.0).then(|| run.per_second / direct.per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round_and_a_missing_pooler_is_told() {
        let line = |round, variant: &str, per_second| {
            Line::Proxied(Proxied {
                round,
                load: "tpcb".to_owned(),
                clients: 4,
                variant: variant.to_owned(),
                scale: 1,
                seconds: 1.0,
                transactions: 10,
                per_second,
            })
        };
        let mut lines = vec![
            line(0, DIRECT, 1000.0),
            line(0, DOOR, 900.0),
            line(1, DOOR, 1900.0),
            line(1, DIRECT, 2000.0),
        ];
        let text = tables(&lines)[0].to_string();
        let expected = "| TPC-B, 4 clients | through the door | 2 | 1400 | 900–1900 | 0.925 | 0.900–0.950 |";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("pgbouncer is missing"), "{text}");
        lines.push(line(0, "through pgbouncer 1.18.0", 800.0));
        let text = tables(&lines)[0].to_string();
        assert!(!text.contains("is missing"), "{text}");
        assert!(text.contains("| through pgbouncer 1.18.0 | 1 | 800 |"), "{text}");
    }
}
