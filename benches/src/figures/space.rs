//! Disk space of a fresh branch after its first connection.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{LOAD_CLIENTS, distinct, state};
use crate::bench::Bench;
use crate::failure::{Context, Result};
use crate::ground;
use crate::home::{Home, key};
use crate::load::{self, Job, Kind};
use crate::raw::{Line, Space};
use crate::session::first_row;
use crate::site::Site;
use crate::statistics::summary;
use crate::table::Table;

const PARENT: &str = "weighed";

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    let home = bench.home()?;
    eprintln!("space: making the parent, scale {}", bench.plan.scale);
    let target = home.create_root(PARENT)?;
    let session = bench.connect(&target)?;
    load::fill(&session, bench.plan.scale)?;
    let (kind, clients, scale) = (Kind::Tpcb, LOAD_CLIENTS, bench.plan.scale);
    let job = Job { target: &target, kind, clients, scale, length: None, latencies: false };
    for round in 0..bench.plan.rounds {
        eprintln!("space: round {round}");
        for number in 0..bench.plan.spaces {
            session.run("CHECKPOINT")?;
            weigh(bench, &home, 0, round, number)?;
        }
        let mut running = bench.generator.start(&job)?;
        std::thread::sleep(bench.plan.warm_up);
        for number in 0..bench.plan.spaces {
            running.check()?;
            weigh(bench, &home, clients, round, number)?;
        }
    }
    Ok(())
}

fn weigh(bench: &Bench, home: &Home, clients: u32, round: u32, number: u32) -> Result<()> {
    ground::check()?;
    let child = format!("w{clients}-{round}-{number}");
    home.create(PARENT, &child)?;
    let wal = || {
        let (own, shared) =
            (weight(&home.data_dir(&child).join("pg_wal"))?, weight(&home.directory(&child).join("wal"))?);
        Result::Ok(Weight { own: own.own + shared.own, linked: own.linked + shared.linked })
    };
    let before = wal()?;
    first_row(bench.runtime(), &home.wake(&child)?)?;
    let after = wal()?;
    let directory = weight(&home.directory(&child))?;
    let usage = home.engine().usage(&key(&child)?)?;
    bench.keep(Line::Space(Space {
        round,
        clients,
        directory_bytes: (directory.own + directory.linked) - (after.own + after.linked),
        layer_bytes: usage.own_bytes.saturating_sub(directory.own + directory.linked),
        prefix_bytes: before.own,
        linked_bytes: before.linked,
        own_wal_bytes: after.own.saturating_sub(before.own),
        engine_own_bytes: usage.own_bytes,
    }))?;
    home.delete(&child)
}

/// Disk space of a tree: files with one name, and files that others have names for too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Weight {
    own: u64,
    linked: u64,
}

fn weight(path: &Path) -> Result<Weight> {
    let what = || format!("weighing {}", path.display());
    let facts = match std::fs::symlink_metadata(path) {
        // A running server makes and removes files.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Weight::default()),
        other => other.context(what())?,
    };
    let bytes = facts.blocks() * 512;
    if !facts.is_dir() {
        let shared = facts.nlink() > 1;
        return Ok(if shared { Weight { own: 0, linked: bytes } } else { Weight { own: bytes, linked: 0 } });
    }
    let mut sum = Weight { own: bytes, linked: 0 };
    for entry in std::fs::read_dir(path).context(what())? {
        let inside = weight(&entry.context(what())?.path())?;
        sum = Weight { own: sum.own + inside.own, linked: sum.linked + inside.linked };
    }
    Ok(sum)
}

/// One table.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all: Vec<&Space> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Space(space) => Some(space),
            _ => None,
        })
        .collect();
    let columns = [
        "parent",
        "branches",
        "in all without the prefix, KiB",
        "directory",
        "layer",
        "own WAL",
        "WAL prefix, own",
        "WAL prefix, linked",
    ];
    let mut table = Table::new("Fresh branch after its first connection", &columns);
    for clients in distinct(all.iter().map(|space| space.clients)) {
        let of = || all.iter().filter(|space| space.clients == clients);
        let cell = |take: fn(&Space) -> u64| {
            let kib = summary(of().map(|space| take(space) as f64 / 1024.0));
            kib.map_or_else(String::new, |kib| format!("{:.0} ({:.0}–{:.0})", kib.median, kib.min, kib.max))
        };
        table.row([
            state(clients),
            of().count().to_string(),
            cell(|space| space.directory_bytes + space.layer_bytes + space.own_wal_bytes),
            cell(|space| space.directory_bytes),
            cell(|space| space.layer_bytes),
            cell(|space| space.own_wal_bytes),
            cell(|space| space.prefix_bytes),
            cell(|space| space.linked_bytes),
        ]);
    }
    table.note(
        "KiB of disk space, median (min–max). Goal: ≤ 512 KiB over an idle, checkpointed parent, its \
         prefix included; over a busy one plus the prefix.",
    );
    vec![table]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_weighed_apart() {
        let root = std::env::temp_dir().join(format!("ana-bench-weight-{}", std::process::id()));
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::fs::write(root.join("a"), vec![1; 100_000]).unwrap();
        std::fs::write(root.join("in/b"), vec![1; 50_000]).unwrap();
        let alone = weight(&root).unwrap();
        assert!(alone.own >= 150_000 && alone.linked == 0, "{alone:?}");
        std::fs::hard_link(root.join("a"), root.join("c")).unwrap();
        let linked = weight(&root.join("a")).unwrap();
        assert!(linked.own == 0 && linked.linked >= 100_000, "{linked:?}");
        std::fs::remove_dir_all(root).unwrap();
    }
}
