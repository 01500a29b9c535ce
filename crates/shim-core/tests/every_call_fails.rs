//! Every system call of the store and of a process on it fails once, in turn: nothing panics, nothing that was
//! done before is lost, no relative is touched, and the same request again succeeds.
//!
//! `ANABRANCH_EVERY_CALL=1` tries every call with every error; without it, some of them, chosen by
//! `ANABRANCH_SEED`. Release builds have no calls that fail on demand.
#![cfg(debug_assertions)]
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use shim_core::{Errno, Result};
use store::failing::{self, EVERY_KIND, Kind};
use store::home::Home;
use store::layer::{Layer, seal};
use store::sys;
use support::{CREATE, Place, Process, RDWR};

const BLOCK: usize = 8192;
/// Without being asked for all, one call of so many is tried.
const ONE_OF: u64 = 23;

type Files = BTreeMap<&'static str, Vec<u8>>;

fn page(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK]
}

/// What one branch holds, and the process on it.
struct Branch {
    process: Option<Process>,
    files: Files,
}

struct World {
    place: Place,
    main: Branch,
    child: Branch,
}

/// One request: tried again as a whole when a call in it failed.
type Step = (&'static str, fn(&World, bool) -> Result<()>);

fn at(world: &World) -> &Process {
    world.main.process.as_ref().unwrap()
}

fn write(process: &Process, file: &str, block: u64, byte: u8) -> Result<()> {
    let fd = process.open(file, RDWR)?;
    let written = process.pwrite(fd, &page(byte), block * BLOCK as u64);
    process.close(fd);
    written
}

fn sync(process: &Process, file: &str) -> Result<()> {
    let fd = process.open(file, RDWR)?;
    let synced = process.fsync(fd);
    process.close(fd);
    synced
}

/// What was done by the try that failed is no error of the next.
fn unless(errno: Errno, again: bool, result: Result<()>) -> Result<()> {
    match result {
        Err(other) if again && other == errno => Ok(()),
        other => other,
    }
}

fn seal_all(world: &World, branch: &str) -> Result<()> {
    let manifest = world.place.home.manifest(branch)?;
    for entry in &manifest.entries[..manifest.entries.len() - 1] {
        let layer = Layer::open(world.place.home.layers(), entry.layer)?;
        seal::sync_layer(&layer, None)?;
        seal::build_index(&layer, &|_| true)?;
    }
    Ok(())
}

fn cut(world: &World, child: &str) -> Result<()> {
    if world.place.home.branches()?.iter().any(|name| name == child) {
        return Ok(());
    }
    let gate = at(world).tracker.gate();
    let prepared = world.place.home.prepare_cut("main", Some(gate.top_slot()))?;
    let closed = gate.close(std::time::Duration::from_secs(5)).map_err(|_| Errno(libc::EBUSY))?;
    closed.switch().map_err(|_| Errno(libc::EBUSY))?;
    let manifest = world.place.home.child_manifest(&prepared, Vec::new())?;
    world.place.try_publish(child, &manifest)
}

fn merge(world: &World) -> Result<()> {
    let home = &world.place.home;
    let manifest = home.manifest("main")?;
    let counts = home.reference_counts();
    let own: Vec<u64> = manifest.entries[..manifest.entries.len() - 1]
        .iter()
        .map(|entry| entry.layer)
        .filter(|layer| counts[layer] == 1)
        .collect();
    if own.len() < 2 || !home.lease_unshared(&own) {
        return Ok(());
    }
    let target = home.reserve_layer(store::layer::group_of(manifest.top().layer));
    let gate = at(world).tracker.gate();
    let named = store::merge::merge(home.layers(), &own, target, false, &|_| true, &mut |_| Ok(()))
        .and_then(|_| gate.merging(|| home.name_merged("main", &own, target)));
    match named {
        Ok(true) => home.remove_merged(&own),
        other => {
            let manifest = home.manifest("main")?;
            if !manifest.entries.iter().any(|entry| entry.layer == target) {
                home.end_lease(target)?;
            }
            home.end_leases(&own)?;
            other.map(drop)
        }
    }
}

const STEPS: &[Step] = &[
    ("overwrite", |world, _| write(at(world), "base/5/1", 1, 11)),
    ("extend", |world, _| write(at(world), "base/5/1", 4, 12)),
    ("sync", |world, _| sync(at(world), "base/5/1")),
    ("create", |world, again| {
        unless(Errno::EXIST, again, at(world).open("base/5/3", CREATE).map(|fd| at(world).close(fd)))
    }),
    ("fill", |world, _| write(at(world), "base/5/3", 0, 13)),
    ("whole", |world, _| {
        let fd = at(world).open("base/5/pg_filenode.map", RDWR)?;
        let written = at(world).pwrite(fd, &[14; 512], 0);
        at(world).close(fd);
        written
    }),
    ("cut for nothing", |world, _| cut(world, "nothing")),
    ("remove nothing", |world, _| world.place.home.remove("nothing")),
    ("overwrite again", |world, _| write(at(world), "base/5/1", 2, 15)),
    ("cut short", |world, _| at(world).truncate("base/5/2", BLOCK as u64)),
    ("cut for nothing again", |world, _| cut(world, "nothing")),
    ("remove nothing again", |world, _| world.place.home.remove("nothing")),
    ("sync again", |world, _| sync(at(world), "base/5/1")),
    ("seal", |world, _| seal_all(world, "main")),
    ("remove a file", |world, again| unless(Errno::NOENT, again, at(world).unlink("base/5/4"))),
    ("make a directory", |world, again| unless(Errno::EXIST, again, at(world).mkdir("base/9"))),
    ("rename", |world, again| {
        if again {
            let _ = at(world).unlink("base/5/map.tmp");
        }
        at(world).write_file("base/5/map.tmp", &[16; 512])?;
        at(world).rename("base/5/map.tmp", "base/5/pg_filenode.map")
    }),
    ("merge", |world, _| merge(world)),
    ("read", |world, _| at(world).content("base/5/1").map(drop)),
    ("list", |world, _| at(world).list("base/5").map(drop)),
    ("sync at the end", |world, _| sync(at(world), "base/5/3")),
];

impl World {
    fn new() -> World {
        let place = Place::new();
        let start: Vec<(&'static str, Vec<u8>)> = vec![
            ("base/5/1", page(1).repeat(4)),
            ("base/5/2", page(2).repeat(3)),
            ("base/5/4", page(4)),
            ("base/5/pg_filenode.map", vec![5; 512]),
        ];
        place.root("main", &start);
        let files: Files = start.into_iter().collect();
        let main = place.attach("main");
        place.cut("main", Some(main.tracker.gate()), "child");
        let child = place.attach("child");
        write(&child, "base/5/1", 0, 9).unwrap();
        write(&main, "base/5/1", 0, 10).unwrap();
        let mut world = World {
            place,
            main: Branch { process: Some(main), files: files.clone() },
            child: Branch { process: Some(child), files },
        };
        world.child.files.get_mut("base/5/1").unwrap()[..BLOCK].fill(9);
        world.main.files = World::expected(&world.main.files);
        world
    }

    /// What the steps leave.
    fn expected(before: &Files) -> Files {
        let mut files = before.clone();
        let one = [10, 11, 15, 1, 12].map(page).concat();
        files.insert("base/5/1", one);
        files.get_mut("base/5/2").unwrap().truncate(BLOCK);
        files.insert("base/5/3", page(13));
        files.remove("base/5/4");
        files.insert("base/5/pg_filenode.map", vec![16; 512]);
        files
    }

    fn check(branch: &Branch, what: &str) {
        let process = branch.process.as_ref().unwrap();
        for (file, content) in &branch.files {
            let got = process.content(file).unwrap_or_else(|errno| panic!("{what}: {file}: {errno}"));
            assert!(got == *content, "{what}: {file} has {} bytes that are not its own", got.len());
        }
        for file in ["base/5/1", "base/5/2", "base/5/3", "base/5/4"] {
            assert_eq!(process.exists(file), branch.files.contains_key(file), "{what}: {file}");
        }
    }

    /// Every process ends; the next begin with nothing but the disk.
    fn restart(&mut self) {
        for (name, branch) in [("main", &mut self.main), ("child", &mut self.child)] {
            branch.process.take().unwrap().tracker.release();
            branch.process = Some(self.place.attach(name));
        }
    }
}

/// How a run with one failing call went.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The call was not reached.
    Over,
    /// It was.
    Failed(&'static str),
}

fn run(nth: u64, kinds: u32, errno: i32) -> Outcome {
    let mut world = World::new();
    let mut outcome = Outcome::Over;
    let thread = sys::gettid();
    failing::arm(nth, kinds, errno, false, Some(thread));
    let mut lost = false;
    for (name, step) in STEPS {
        let done = step(&world, false);
        let failed = failing::failed() > 0;
        if failed && outcome == Outcome::Over {
            outcome = Outcome::Failed(name);
            failing::disarm();
            World::check(&world.child, "the child");
        }
        let Err(found) = done else { continue };
        assert!(failed, "{name}: {found}, and no call had failed");
        // A disk that loses what it was told to keep may not be believed again.
        lost |= kinds == Kind::Sync as u32;
        if lost {
            world.restart();
        }
        match step(&world, true) {
            Ok(()) => {}
            Err(again) if lost && again == Errno(errno) => return after_a_lost_sync(&world, errno, name),
            Err(again) => panic!("{name}: {again} at the second try, after call {nth} failed with {errno}"),
        }
    }
    failing::disarm();
    World::check(&world.main, "main");
    World::check(&world.child, "the child");
    world.restart();
    World::check(&world.main, "main after a restart");
    World::check(&world.child, "the child after a restart");
    // What failures left behind goes when the home is opened the next time.
    let (home, _) = Home::open(&world.place.path).unwrap();
    let named: std::collections::BTreeSet<u64> = ["main", "child"]
        .iter()
        .flat_map(|name| home.manifest(name).unwrap().entries)
        .map(|entry| entry.layer)
        .collect();
    let there: std::collections::BTreeSet<u64> = home.layers_there().unwrap().into_iter().collect();
    assert_eq!(there, named);
    World::check(&world.main, "main after all");
    outcome
}

/// A sealed layer whose sync failed never counts as durable: every later sync says so, and what can be read is right.
fn after_a_lost_sync(world: &World, errno: i32, name: &'static str) -> Outcome {
    for _ in 0..2 {
        assert_eq!(sync(at(world), "base/5/2"), Err(Errno(errno)), "{name}: a lost write was forgotten");
    }
    World::check(&world.child, "the child");
    let one = at(world).content("base/5/1").unwrap();
    assert_eq!((one[0], one[BLOCK]), (10, 11));
    Outcome::Failed(name)
}

#[test]
fn every_call_fails_once() {
    failing::attach_here().unwrap();
    let all = std::env::var_os("ANABRANCH_EVERY_CALL").is_some();
    let seed = std::env::var("ANABRANCH_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("ANABRANCH_SEED={seed}");
    let step = if all { 1 } else { ONE_OF };
    let errors: [(Kind, &[i32]); 7] = [
        (Kind::Open, &[libc::EMFILE, libc::EIO]),
        (Kind::Read, &[libc::EIO]),
        (Kind::Write, &[libc::ENOSPC, libc::EIO]),
        (Kind::Space, &[libc::ENOSPC]),
        (Kind::Sync, &[libc::EIO, libc::ENOSPC]),
        (Kind::Name, &[libc::ENOSPC, libc::EIO]),
        (Kind::Attribute, &[libc::ENOSPC]),
    ];
    for (kind, errnos) in errors {
        for errno in errnos {
            let mut by_step: BTreeMap<&str, u32> = BTreeMap::new();
            let mut nth = 1 + seed % step;
            while let Outcome::Failed(name) = run(nth, kind as u32, *errno) {
                *by_step.entry(name).or_default() += 1;
                nth += step;
            }
            println!("{kind:?} with {errno}: {by_step:?}");
            assert!(!all || !by_step.is_empty());
        }
    }
    // And the run itself is right where nothing fails.
    assert_eq!(run(u64::MAX >> 2, EVERY_KIND, libc::EIO), Outcome::Over);
}
