//! What many branches cost: each step with ten of them and with very many, what the daemon takes while
//! nothing happens, many computes awake at once, and clients that create, use and drop branches.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::distinct;
use crate::bench::Bench;
use crate::daemon::Daemon;
use crate::daemon_facts::Facts;
use crate::failure::{Context, Failure, Result};
use crate::files;
use crate::ground;
use crate::load;
use crate::raw::{Line, Many};
use crate::session::{Session, first_row, milliseconds};
use crate::site::Site;
use crate::statistics::summary;
use crate::table::Table;

const PARENT: &str = "many";
/// Branches that there are before the many.
const FEW: u32 = 10;
/// Clients that make the many.
const MAKERS: u32 = 4;
/// Clients that create and delete without pause.
const DROPPERS: u32 = 16;
/// Clients that create, connect to, write to and drop branches.
const USERS: u32 = 50;
const MIB: f64 = (1 << 20) as f64;

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    files::raise_limit();
    let mut daemon = bench.daemon()?;
    daemon.over_http()?;
    let session = bench.connect(&daemon.create_root(PARENT)?)?;
    load::fill(&session, 1)?;
    drop(session);
    make(&daemon, 0..FEW)?;
    steps(bench, &mut daemon, FEW)?;
    let many = bench.plan.many.max(FEW + 1);
    eprintln!("many: making {many} branches");
    let begin = Instant::now();
    make(&daemon, FEW..many)?;
    let each = milliseconds(begin.elapsed()) / f64::from(many - FEW);
    keep(bench, many, "create, four clients, one after another each", "ms", vec![each])?;
    steps(bench, &mut daemon, many)?;
    write(bench, &daemon, many)?;
    awake(bench, &daemon, many)?;
    idleness(bench, &daemon, many, " with computes awake")?;
    for branch in 0..bench.plan.many_awake.min(many) {
        daemon.suspend(&name(branch))?;
    }
    churn(bench, &daemon, many, DROPPERS, "create and delete, 16 clients", |_| Ok(()))?;
    let runtime = bench.runtime();
    churn(bench, &daemon, many, USERS, "create, use and delete, 50 clients", |branch| {
        let target = daemon.wake(branch)?;
        first_row(runtime, &target)?;
        Session::connect(runtime, &target)?.run("UPDATE pgbench_branches SET bbalance = bbalance + 1")
    })
}

fn name(number: u32) -> String {
    format!("b{number}")
}

fn make(daemon: &Daemon, numbers: std::ops::Range<u32>) -> Result<()> {
    let next = AtomicU32::new(numbers.start);
    together(MAKERS, |_| {
        loop {
            ground::check()?;
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return Ok(());
            }
            if number.is_multiple_of(500) {
                eprintln!("many: {number} branches");
            }
            daemon.create(PARENT, &name(number))?;
        }
    })
}

/// Runs `work` in so many threads; the first failure is the outcome.
fn together(count: u32, work: impl Fn(u32) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        let joined = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(Failure("a client's thread panicked".to_owned())))
        });
        joined.fold(Ok(()), Result::and)
    })
}

fn keep(bench: &Bench, branches: u32, what: &str, unit: &str, values: Vec<f64>) -> Result<()> {
    if let Some(summary) = summary(values.iter().copied()) {
        eprintln!("many: {branches} branches: {what}: {:.2} {unit} (p99 {:.2})", summary.median, summary.p99);
    }
    bench.keep(Line::Many(Many { branches, what: what.to_owned(), unit: unit.to_owned(), values }))
}

fn timed(count: u32, mut step: impl FnMut(u32) -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for number in 0..count {
        ground::check()?;
        let begin = Instant::now();
        step(number)?;
        times.push(milliseconds(begin.elapsed()));
    }
    Ok(times)
}

/// Each step on its own, with so many branches there.
fn steps(bench: &Bench, daemon: &mut Daemon, branches: u32) -> Result<()> {
    let count = bench.plan.many_steps;
    let step = |number: u32| format!("step{branches}-{number}");
    keep(bench, branches, "create", "ms", timed(count, |number| daemon.create(PARENT, &step(number)))?)?;
    let show = |number: u32| daemon.show(&name(number * 7 % branches));
    keep(bench, branches, "show", "ms", timed(count, show)?)?;
    let page = |_| match daemon.first_page(PARENT)? {
        0 => Err(Failure("a page without branches".to_owned())),
        _ => Ok(()),
    };
    keep(bench, branches, "list, first page of 100", "ms", timed(count, page)?)?;
    let all = |_| match daemon.list(PARENT)? {
        // Those, the steps' own and the root.
        found if found == (branches + count + 1) as usize => Ok(()),
        found => Err(Failure(format!("{found} branches are listed of {}", branches + count + 1))),
    };
    keep(bench, branches, "list, all pages", "ms", timed(3, all)?)?;
    let delete = |number: u32| daemon.delete(&step(number));
    keep(bench, branches, "delete with its data", "ms", timed(count, delete)?)?;
    idleness(bench, daemon, branches, "")?;
    let (mut answers, mut rows) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let target = daemon.wake(&name(0))?;
        let begin = daemon.restart()?;
        answers.push(milliseconds(begin.elapsed()));
        while let Err(failure) = first_row(bench.runtime(), &target) {
            if begin.elapsed() > Duration::from_secs(600) {
                return Err(failure);
            }
        }
        rows.push(milliseconds(begin.elapsed()));
    }
    keep(bench, branches, "restart until the first answer", "ms", answers)?;
    keep(bench, branches, "restart until the first row of a sleeping branch", "ms", rows)
}

/// What the daemon takes while nobody asks for anything.
fn idleness(bench: &Bench, daemon: &Daemon, branches: u32, when: &str) -> Result<()> {
    let pause = bench.plan.many_pause;
    let before = Facts::of(daemon.pid())?;
    std::thread::sleep(pause);
    let after = Facts::of(daemon.pid())?;
    let share = (after.cpu_seconds - before.cpu_seconds) / pause.as_secs_f64() * 100.0;
    let fact = |what: &str, unit, value| keep(bench, branches, &format!("{what}{when}"), unit, vec![value]);
    fact("daemon at rest: processor", "%", share)?;
    fact("daemon: resident memory", "MiB", after.resident_bytes as f64 / MIB)?;
    fact("daemon: descriptors", "", after.descriptors as f64)?;
    fact("daemon: threads", "", after.threads as f64)
}

/// Connects to many branches, one after the other, and writes to each.
fn write(bench: &Bench, daemon: &Daemon, branches: u32) -> Result<()> {
    let count = bench.plan.many_written.min(branches);
    let times = timed(count, |number| {
        let branch = name(number);
        let session = bench.connect(&daemon.wake(&branch)?)?;
        session.run("UPDATE pgbench_accounts SET abalance = aid WHERE aid % 1000 = 1")?;
        drop(session);
        daemon.suspend(&branch)
    })?;
    keep(bench, branches, "wake, write, suspend", "ms", times)
}

/// Many computes awake at once, and nobody does anything.
fn awake(bench: &Bench, daemon: &Daemon, branches: u32) -> Result<()> {
    let count = bench.plan.many_awake.min(branches);
    let mut sessions = Vec::new();
    let times = timed(count, |number| {
        sessions.push(bench.connect(&daemon.wake(&name(number))?)?);
        Ok(())
    })?;
    keep(bench, branches, "wake, computes stay awake", "ms", times)?;
    let mut memory = 0;
    let mut running = 0;
    for number in 0..count {
        let postmaster = compute::process::postmaster_of(&daemon.data_dir(&name(number))?);
        if let Some(pid) = postmaster.context("looking for a postmaster")? {
            memory += compute::process::memory_of(pid);
            running += 1;
        }
    }
    drop(sessions);
    keep(bench, branches, "computes awake at once", "", vec![f64::from(running)])?;
    keep(bench, branches, "their memory together (PSS)", "MiB", vec![memory as f64 / MIB])
}

/// Clients that make and drop branches of their own for a while.
fn churn(
    bench: &Bench,
    daemon: &Daemon,
    branches: u32,
    clients: u32,
    what: &str,
    using: impl Fn(&str) -> Result<()> + Sync,
) -> Result<()> {
    eprintln!("many: {what}");
    let (length, failed) = (bench.plan.many_churn, AtomicBool::new(false));
    let before = Facts::of(daemon.pid())?;
    let begin = Instant::now();
    let times = std::sync::Mutex::new((Vec::new(), Vec::new()));
    together(clients, |client| {
        let mut number = 0;
        while begin.elapsed() < length && !failed.load(Ordering::Relaxed) {
            ground::check()?;
            let branch = format!("c{clients}-{client}-{number}");
            number += 1;
            let started = Instant::now();
            let done = daemon.create(PARENT, &branch).and_then(|()| {
                let created = milliseconds(started.elapsed());
                using(&branch)?;
                daemon.delete(&branch)?;
                Ok((created, milliseconds(started.elapsed())))
            });
            failed.fetch_or(done.is_err(), Ordering::Relaxed);
            let (created, whole) = done?;
            let mut times = times.lock().map_err(|_| Failure("a client's thread panicked".to_owned()))?;
            times.0.push(created);
            times.1.push(whole);
        }
        Ok(())
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let (created, whole) =
        times.into_inner().map_err(|_| Failure("a client's thread panicked".to_owned()))?;
    let rate = whole.len() as f64 / seconds;
    let after = Facts::of(daemon.pid())?;
    keep(bench, branches, &format!("{what}: each second"), "1/s", vec![rate])?;
    keep(bench, branches, &format!("{what}: the create"), "ms", created)?;
    keep(bench, branches, &format!("{what}: all of it"), "ms", whole)?;
    let more = (after.resident_bytes as f64 - before.resident_bytes as f64) / MIB;
    keep(bench, branches, &format!("{what}: more memory of the daemon"), "MiB", vec![more])?;
    let more = after.descriptors as f64 - before.descriptors as f64;
    keep(bench, branches, &format!("{what}: more descriptors"), "", vec![more])
}

/// One table: what was measured with few and with many branches side by side.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all: Vec<&Many> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Many(many) => Some(many),
            _ => None,
        })
        .collect();
    let mut table =
        Table::new("Many branches", &["what", "branches", "samples", "median", "p99", "min–max", "unit"]);
    for what in distinct(all.iter().map(|one| one.what.as_str())) {
        for branches in distinct(all.iter().map(|one| one.branches)) {
            let of = all.iter().filter(|one| one.what == what && one.branches == branches);
            let Some(summary) = summary(of.clone().flat_map(|one| one.values.iter().copied())) else {
                continue;
            };
            let unit = of.clone().next().map_or("", |one| one.unit.as_str());
            table.row([
                what.to_owned(),
                branches.to_string(),
                summary.count.to_string(),
                format!("{:.1}", summary.median),
                format!("{:.1}", summary.p99),
                format!("{:.1}–{:.1}", summary.min, summary.max),
                unit.to_owned(),
            ]);
        }
    }
    table.note("Through the daemon's HTTP API. Goals: the same at any number of branches; 10 creates and deletes a second; 8 GiB for 200 idle computes.");
    vec![table]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_stand_below_each_other() {
        let line = |branches, values: &[f64]| {
            let (what, unit) = ("create".to_owned(), "ms".to_owned());
            Line::Many(Many { branches, what, unit, values: values.to_vec() })
        };
        let text = tables(&[line(10, &[1.0, 2.0, 3.0]), line(10_000, &[4.0])])[0].to_string();
        assert!(text.contains("| create | 10 | 3 | 2.0 | 3.0 | 1.0–3.0 | ms |"), "{text}");
        assert!(text.contains("| create | 10000 | 1 | 4.0 |"), "{text}");
        assert!(tables(&[])[0].is_empty());
    }
}
