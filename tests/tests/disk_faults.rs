//! The disk of a running server fails: full, without descriptors, losing a sync. Acknowledged transactions stay,
//! relatives do not notice, and a cut of such a branch succeeds or leaves nothing.
//!
//! `ANABRANCH_DISK_FAULTS` rounds of each kind (few, to be quick). Debug builds only, with a preload library of its own.
#![cfg(debug_assertions)]

use std::ffi::CString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use compute::engine::{ComputeState, Engine, Error, StopMode};
use e2e::lab::{Lab, PASSWORD, key, run, text, try_connect_with};
use e2e::processes::Random;
use e2e::tpcb;
use store::failing::{self, EVERY_KIND, Kind};
use store::sys;

const SCALE: i32 = 1;
const CLIENTS: usize = 3;
const SETTINGS: [(&str, &str); 4] = [
    ("shared_buffers", "4MB"),
    ("checkpoint_timeout", "30s"),
    ("max_wal_size", "32MB"),
    ("bgwriter_delay", "10ms"),
];

fn rounds() -> u64 {
    std::env::var("ANABRANCH_DISK_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// The test `name` of this file in a process of its own, whose servers' disks fail on demand.
fn in_a_process_of_its_own(name: &str) {
    let library = e2e::planted::library(Path::new(env!("CARGO_TARGET_TMPDIR")));
    // Found and written to by the user that this process becomes.
    let place = std::env::temp_dir().join(format!("ana-failing-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&place, permissions).unwrap();
    let output = Command::new("/proc/self/exe")
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(failing::VARIABLE, place.join("block"))
        .env("ANABRANCH_TEST_LIBRARY", library)
        .output()
        .unwrap();
    let _ = std::fs::remove_dir_all(&place);
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    println!("{}", said[0]);
    assert!(output.status.success() && said[0].contains("1 passed"), "{}\n{}", said[0], said[1]);
}

struct Stage {
    lab: Lab,
    random: Random,
    /// Each client's last number that was acknowledged, and the last that was sent.
    least: Vec<u64>,
    most: Vec<u64>,
}

impl Stage {
    /// A parent under its child, both with data. Nobody's disk fails yet.
    async fn new() -> Stage {
        let library = std::env::var_os("ANABRANCH_TEST_LIBRARY").unwrap();
        let lab = Lab::with_library(Path::new(&library));
        let block = std::env::var_os(failing::VARIABLE).unwrap().into_encoded_bytes();
        failing::attach(&CString::new(block).unwrap()).unwrap();
        failing::disarm();
        lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
        lab.start_with("main", &SETTINGS);
        tpcb::fill(&lab.connect("main").await, SCALE).await;
        lab.engine.create_child(&key("main"), &key("relative")).unwrap();
        lab.engine.maintain().unwrap();
        Stage { lab, random: Random::new(), least: vec![0; CLIENTS], most: vec![0; CLIENTS] }
    }

    /// Has the server's disk fail under load; what was promised is noted. Whether a call did fail.
    async fn fail(&mut self, arm: impl FnOnce(&mut Random), for_ms: u64) -> u32 {
        let from = tpcb::level(&self.lab.connect("main").await, CLIENTS).await;
        let load = tpcb::start(&self.lab.engine.socket_dir(&key("main")), CLIENTS, SCALE, from).await;
        tokio::time::sleep(Duration::from_millis(100 + self.random.below(200))).await;
        arm(&mut self.random);
        tokio::time::sleep(Duration::from_millis(for_ms)).await;
        let failed = failing::failed();
        failing::disarm();
        (self.least, self.most) = load.bounds().await;
        failed
    }

    /// The server as it is after its trouble: it runs again or is started.
    async fn check(&self) {
        self.settle().await;
        tpcb::check(&self.lab.reconnect("main").await, &self.least, &self.most).await;
    }

    /// Waits until the server has ended or takes connections.
    async fn settle(&self) {
        let begin = std::time::Instant::now();
        while let ComputeState::Running { .. } | ComputeState::Orphans { .. } = self.state() {
            if self.lab.engine.state(&key("main")).is_ok() && self.try_connect().await {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "the server neither works nor ends");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.lab.start_with("main", &SETTINGS);
    }

    fn state(&self) -> ComputeState {
        self.lab.engine.state(&key("main")).unwrap()
    }

    async fn try_connect(&self) -> bool {
        let sockets = self.lab.engine.socket_dir(&key("main"));
        match try_connect_with(&sockets, "postgres", PASSWORD).await {
            Ok(client) => client.simple_query("select 1").await.is_ok(),
            Err(_) => false,
        }
    }

    /// A cut taken now holds what it must.
    async fn cut(&self, name: &str) {
        tokio::task::block_in_place(|| self.lab.engine.create_child(&key("main"), &key(name))).unwrap();
        self.lab.start_with(name, &SETTINGS);
        tpcb::check(&self.lab.connect(name).await, &self.least, &self.most).await;
        self.lab.engine.delete(&key(name)).unwrap();
    }

    /// The child that has nothing to do with all this.
    async fn check_relative(&self) {
        self.lab.start_with("relative", &SETTINGS);
        let relative = self.lab.connect("relative").await;
        assert_eq!(text(&relative, "select count(*) from history").await, "0");
        tpcb::check_pages(&relative).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other tests start it in a process of its own, whose disks fail"]
async fn full() {
    let mut stage = Stage::new().await;
    let mut failed = 0;
    for round in 0..rounds() {
        let kinds = Kind::Write as u32 | Kind::Space as u32 | Kind::Name as u32;
        failed += stage.fail(|_| failing::arm(1, kinds, libc::ENOSPC, true, None), 300).await;
        stage.check().await;
        stage.cut(&format!("child-{round}")).await;
    }
    assert!(failed > 0);
    stage.check_relative().await;
}

#[test]
fn a_disk_that_is_full_for_a_while() {
    in_a_process_of_its_own("full");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other tests start it in a process of its own, whose disks fail"]
async fn single_calls() {
    let mut stage = Stage::new().await;
    let errors = [
        (Kind::Sync, libc::EIO),
        (Kind::Write, libc::EIO),
        (Kind::Open, libc::EMFILE),
        (Kind::Read, libc::EIO),
        (Kind::Name, libc::EIO),
        (Kind::Space, libc::EIO),
    ];
    let mut failed = 0;
    for round in 0..rounds() {
        for (number, (kind, errno)) in errors.iter().enumerate() {
            let arm =
                |random: &mut Random| failing::arm(1 + random.below(60), *kind as u32, *errno, false, None);
            failed += stage.fail(arm, 400).await;
            stage.check().await;
            stage.cut(&format!("child-{round}-{number}")).await;
        }
    }
    assert!(failed > 0);
    stage.check_relative().await;
}

#[test]
fn single_calls_of_a_server_that_fail() {
    in_a_process_of_its_own("single_calls");
}

/// The engine's own calls fail in the middle of a cut, one after the other.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other tests start it in a process of its own, whose disks fail"]
async fn cuts() {
    let stage = Stage::new().await;
    let main = stage.lab.connect("main").await;
    run(&main, "create table counted as select 1 i").await;
    let step = if std::env::var_os("ANABRANCH_DISK_FAULTS").is_some() { 1 } else { 7 };
    let (mut nth, mut refused) = (1, 0);
    loop {
        run(&main, "update counted set i = i + 1").await;
        let count = text(&main, "select i from counted").await;
        let cut = |engine: &Engine| engine.create_child(&key("main"), &key("child"));
        let (first, failed) = tokio::task::block_in_place(|| {
            failing::arm(nth, EVERY_KIND, libc::EIO, false, Some(sys::gettid()));
            let first = cut(&stage.lab.engine);
            let failed = failing::failed() > 0;
            failing::disarm();
            (first, failed)
        });
        if let Err(error) = &first {
            assert!(matches!(
                error,
                Error::Io { .. } | Error::Damaged(_) | Error::Refused(..) | Error::Postgres(_)
            ));
            assert!(error.to_string().contains("branch") || error.to_string().contains('/'), "{error}");
            refused += 1;
        }
        assert_eq!(text(&main, "select i from counted").await, count, "the parent goes on");
        tokio::task::block_in_place(|| cut(&stage.lab.engine)).unwrap_or_else(|error| {
            panic!("the second try after call {nth} had failed ({first:?}): {error}")
        });
        stage.lab.start_with("child", &SETTINGS);
        let child = stage.lab.connect("child").await;
        assert_eq!(text(&child, "select i from counted").await, count);
        drop(child);
        stage.lab.engine.delete(&key("child")).unwrap();
        if !failed {
            break;
        }
        nth += step;
    }
    println!("{nth} calls, {refused} cuts refused");
    assert!(refused > 3);
    stage.lab.engine.stop(&key("main"), StopMode::Kill).unwrap();
    stage.lab.start_with("main", &SETTINGS);
    tpcb::check_pages(&stage.lab.connect("main").await).await;
    stage.check_relative().await;
}

#[test]
fn calls_of_a_cut_that_fail() {
    in_a_process_of_its_own("cuts");
}
