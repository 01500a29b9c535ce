//! Where the written end of the WAL may lie when a branch is cut: on borders of records, pages and
//! segments, inside a record, at rest. Each child recovers to exactly the end of the last whole
//! record, and never touches a WAL segment that it shares with its parent.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use compute::engine::{ComputeState, CutInfo, StopMode};
use e2e::lab::{Lab, PASSWORD, key, run, text};
use pgdata::Lsn;
use pgdata::class::wal_segment;
use pgdata::wal::{PAGE, segment_name};
use tokio_postgres::Client;

/// Our clusters' WAL segments.
const SEGMENT: u64 = 4 << 20;

/// Keeps the background from writing WAL of its own, as far as PostgreSQL can be told to.
const QUIET: [(&str, &str); 4] = [
    ("autovacuum", "off"),
    ("checkpoint_timeout", "1h"),
    ("max_wal_size", "4GB"),
    ("wal_writer_delay", "10s"),
];

/// A parent with a table of rows 1 to `rows`, each committed durably.
struct Scene {
    lab: Lab,
    main: Client,
    settings: Vec<(&'static str, &'static str)>,
    rows: i64,
    cuts: u32,
}

impl Scene {
    async fn new(more: &[(&'static str, &'static str)]) -> Scene {
        let lab = Lab::new();
        lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
        let settings: Vec<_> = QUIET.iter().chain(more).copied().collect();
        lab.start_with("main", &settings);
        let main = lab.connect("main").await;
        run(&main, "create table t(i bigint primary key); checkpoint").await;
        Scene { lab, main, settings, rows: 0, cuts: 0 }
    }

    /// Commits one more row durably.
    async fn insert(&mut self) {
        self.rows += 1;
        run(&self.main, &format!("insert into t values ({})", self.rows)).await;
    }

    async fn start(&mut self) {
        self.lab.start_with("main", &self.settings);
        self.main = self.lab.connect("main").await;
    }

    async fn lsn(&self, function: &str) -> u64 {
        text(&self.main, &format!("select {function}")).await.parse::<Lsn>().unwrap().0
    }

    /// Writes a durable record that ends `before` bytes before the next border of `unit` bytes, and
    /// returns its end. `None` where something else wrote WAL in between.
    async fn record_up_to(&self, unit: u64, before: u64) -> Option<u64> {
        let start = self.lsn("pg_current_wal_insert_lsn()").await;
        let end = (start + before + 2000).next_multiple_of(unit) - before;
        // Every page begins with a header, a longer one at the start of a segment.
        let header = |page: u64| if page.is_multiple_of(SEGMENT) { 40 } else { 24 };
        let pages = (start / PAGE + 1)..=((end - 1) / PAGE);
        let headers: u64 = pages.map(|page| header(page * PAGE)).sum();
        // Of the record's own bytes: header 24, data header 5, message header 24, prefix 2.
        let length = end - start - headers - 55;
        let made = self.message(length, true).await;
        (made == end).then_some(end)
    }

    /// Writes one record with `length` bytes in it; returns its end.
    async fn message(&self, length: u64, flush: bool) -> u64 {
        let call = format!("pg_logical_emit_message(false, 'x', repeat('x', {length}), {flush})");
        self.lsn(&call).await
    }

    /// Cuts the parent, without looking at the child yet.
    fn cut(&mut self) -> (String, CutInfo) {
        self.cuts += 1;
        let child = format!("child-{}", self.cuts);
        let info = self.lab.engine.create_child(&key("main"), &key(&child)).unwrap();
        self.check_segments("main", &child, &info);
        (child, info)
    }

    /// A child has the segments from redo to the end of its WAL and no other; all but the last are
    /// the parent's own files.
    fn check_segments(&self, parent: &str, child: &str, info: &CutInfo) {
        let (first, last) = (info.redo_lsn.0 / SEGMENT, (info.end_lsn.0 - 1).max(info.redo_lsn.0) / SEGMENT);
        let (of_parent, of_child) = (self.segments(parent), self.segments(child));
        let expected: Vec<u64> = (first..=last).collect();
        assert_eq!(of_child.keys().copied().collect::<Vec<_>>(), expected, "{child}: {info:?}");
        for (number, inode) in &of_child {
            let shared = of_parent[number] == *inode;
            assert_eq!(shared, *number < last, "{child}: segment {number} is shared: {shared}, {info:?}");
        }
    }

    /// Numbers and inodes of a branch's WAL segments.
    fn segments(&self, branch: &str) -> BTreeMap<u64, u64> {
        let directory = self.lab.data_directory(branch).join("pg_wal");
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        let number = |entry: &std::fs::DirEntry| {
            wal_segment(&[b"pg_wal/", entry.file_name().as_encoded_bytes()].concat(), SEGMENT)
        };
        // Of the file: a child has what it shares behind a link.
        let inode = |entry: &std::fs::DirEntry| std::fs::metadata(entry.path()).unwrap().ino();
        entries.filter_map(|entry| Some((number(&entry)?, inode(&entry)))).collect()
    }

    /// Starts a child, which must hold rows 1 to `rows`, lets it and the parent write over several
    /// segments, crashes it, and deletes it.
    async fn check(&mut self, child: &str, rows: i64) {
        let shared = self.lab.shared_segments("main");
        if matches!(self.lab.engine.state(&key("main")).unwrap(), ComputeState::Running { .. }) {
            self.insert().await;
        }
        self.lab.start_with(child, &QUIET);
        let client = self.lab.connect(child).await;
        let expected = format!("{rows} {rows}");
        let sql = "select count(*) || ' ' || coalesce(max(i), 0) from t";
        assert_eq!(text(&client, sql).await, expected, "{child} does not hold what was cut");
        run(&client, "insert into t select -i from generate_series(1, 5000) i").await;
        run(&client, "select pg_logical_emit_message(false, 'y', repeat('y', 9000000), true)").await;
        run(&client, "select pg_switch_wal(); checkpoint; insert into t values (-5001)").await;
        drop(client);
        assert_eq!(self.lab.shared_segments("main"), shared, "{child} wrote to its parent's WAL");
        self.lab.engine.stop(&key(child), StopMode::Kill).unwrap();
        self.lab.start_with(child, &QUIET);
        let client = self.lab.connect(child).await;
        let sql = "select count(*) filter (where i > 0) || ' ' || count(*) filter (where i < 0) from t";
        assert_eq!(text(&client, sql).await, format!("{rows} 5001"), "{child}");
        drop(client);
        assert_eq!(self.lab.shared_segments("main"), shared, "{child} wrote to its parent's WAL");
        self.lab.engine.delete(&key(child)).unwrap();
    }

    /// Cuts and checks.
    async fn cut_and_check(&mut self) -> CutInfo {
        let rows = self.rows;
        let (child, info) = self.cut();
        self.check(&child, rows).await;
        assert!(self.lab.shared_segments("main").is_empty());
        info
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_record_ends_at_or_near_a_border() {
    let mut scene = Scene::new(&[]).await;
    let places = [
        (PAGE, 0),
        (PAGE, 8),
        (PAGE, 24),
        (PAGE, 40),
        (SEGMENT, 0),
        (SEGMENT, 8),
        (SEGMENT, PAGE),
        (SEGMENT, PAGE - 32),
        (SEGMENT, SEGMENT - 48),
    ];
    for (unit, before) in places {
        let mut exact = false;
        for _ in 0..5 {
            scene.insert().await;
            let Some(end) = scene.record_up_to(unit, before).await else { continue };
            let info = scene.cut_and_check().await;
            exact = info.end_lsn.0 == end;
            if exact {
                break;
            }
        }
        assert!(exact, "no cut {before} bytes before a border of {unit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_record_crosses_a_border() {
    let mut scene = Scene::new(&[]).await;
    // Too little room even for the header of the commit record that follows; then for its body.
    for (unit, before) in [(PAGE, 8), (PAGE, 32), (SEGMENT, 8), (SEGMENT, 40)] {
        let mut crossed = false;
        for _ in 0..5 {
            let Some(end) = scene.record_up_to(unit, before).await else { continue };
            scene.insert().await;
            let info = scene.cut_and_check().await;
            crossed = info.end_lsn.0 > end + before;
            if crossed {
                break;
            }
        }
        assert!(crossed, "no record across a border of {unit}");
    }
    // Records longer than a segment.
    for length in [5_000_000, 13_000_000] {
        scene.insert().await;
        let end = scene.message(length, true).await;
        let info = scene.cut_and_check().await;
        assert!(info.end_lsn.0 >= end);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_segment_switch_or_a_checkpoint() {
    let mut scene = Scene::new(&[]).await;
    scene.insert().await;
    run(&scene.main, "select pg_switch_wal()").await;
    scene.cut_and_check().await;
    run(&scene.main, "select pg_switch_wal(); select pg_switch_wal()").await;
    scene.cut_and_check().await;
    run(&scene.main, "select pg_switch_wal()").await;
    scene.insert().await;
    scene.cut_and_check().await;
    run(&scene.main, "checkpoint").await;
    let info = scene.cut_and_check().await;
    assert!(info.end_lsn.0 - info.redo_lsn.0 < PAGE, "{info:?}");
    run(&scene.main, "checkpoint; select pg_switch_wal()").await;
    scene.cut_and_check().await;
    run(&scene.main, "select pg_switch_wal(); checkpoint").await;
    scene.cut_and_check().await;
    // Late in a segment a checkpoint makes the next one in advance: full size, nothing in it.
    let end = loop {
        if let Some(end) = scene.record_up_to(SEGMENT, 8 * PAGE).await {
            break end;
        }
    };
    run(&scene.main, "checkpoint").await;
    assert!(scene.segments("main").contains_key(&(end / SEGMENT + 1)), "no segment was made in advance");
    scene.insert().await;
    scene.cut_and_check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_written_end_lies_inside_a_record() {
    let mut scene = Scene::new(&[("wal_buffers", "64kB"), ("wal_writer_flush_after", "0")]).await;
    for length in [300_000, 3_000_000, 9_000_000] {
        scene.insert().await;
        let start = scene.lsn("pg_current_wal_insert_lsn()").await;
        let end = scene.message(length, false).await;
        let rows = scene.rows;
        let (child, info) = scene.cut();
        let written = scene.lsn("pg_current_wal_lsn()").await;
        assert!(start < written && written < end, "the record was written whole");
        assert!(info.end_lsn.0 <= start, "{info:?} has half a record, which begins at {:X}", start);
        scene.check(&child, rows).await;
    }
    // Killed there, the parent marks the record as given up and goes on after it.
    scene.insert().await;
    let end = scene.message(6_000_000, false).await;
    scene.lab.engine.stop(&key("main"), StopMode::Kill).unwrap();
    scene.start().await;
    assert!(scene.lsn("pg_current_wal_insert_lsn()").await < end);
    scene.cut_and_check().await;
    scene.insert().await;
    scene.cut_and_check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_at_rest() {
    let mut scene = Scene::new(&[]).await;
    scene.insert().await;
    // Nothing was written since the start, not even by the parent itself.
    scene.lab.stop("main");
    scene.lab.start_with("main", &scene.settings);
    let (first, info) = scene.cut();
    let (second, again) = scene.cut();
    assert_eq!(info.end_lsn, again.end_lsn);
    scene.main = scene.lab.connect("main").await;
    scene.check(&first, 1).await;
    scene.insert().await;
    let (third, _) = scene.cut();
    scene.lab.engine.delete(&key(&third)).unwrap();
    scene.check(&second, 1).await;
    // Stopped.
    scene.lab.stop("main");
    scene.cut_and_check().await;
    scene.cut_and_check().await;
    scene.start().await;
    // Stopped when its WAL filled a segment to the last byte.
    let border = loop {
        if let Some(border) = scene.record_up_to(SEGMENT, 0).await {
            break border;
        }
    };
    scene.lab.stop("main");
    let info = scene.cut_and_check().await;
    assert_eq!(info.redo_lsn.0 / SEGMENT, border / SEGMENT);
    // Killed: it is recovered first, and then cut, at rest.
    scene.start().await;
    scene.insert().await;
    scene.lab.engine.stop(&key("main"), StopMode::Kill).unwrap();
    let rows = scene.rows;
    let (child, _) = scene.cut();
    scene.start().await;
    scene.check(&child, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_cut_before_its_first_start_and_right_after_it() {
    let mut scene = Scene::new(&[]).await;
    for _ in 0..3 {
        scene.insert().await;
        run(&scene.main, "select pg_switch_wal()").await;
    }
    let (child, _) = scene.cut();
    let engine = &scene.lab.engine;
    let unstarted = engine.create_child(&key(&child), &key("unstarted")).unwrap();
    scene.check_segments(&child, "unstarted", &unstarted);
    scene.lab.start(&child);
    let started = engine.create_child(&key(&child), &key("started")).unwrap();
    scene.check_segments(&child, "started", &started);
    let rows = "select count(*) || ' ' || max(i) from t";
    for name in ["unstarted", "started"] {
        scene.lab.start(name);
        let client = scene.lab.connect(name).await;
        assert_eq!(text(&client, rows).await, "3 3", "{name}");
        run(&client, "insert into t values (4)").await;
    }
    let client = scene.lab.connect(&child).await;
    assert_eq!(text(&client, rows).await, "3 3");
    run(&client, "insert into t values (5)").await;
    drop(client);
    for name in ["main", &child, "unstarted", "started"] {
        scene.lab.engine.stop(&key(name), StopMode::Kill).unwrap();
        scene.lab.start(name);
    }
    for (name, expected) in [("main", "3 3"), (&child[..], "4 5"), ("unstarted", "4 4"), ("started", "4 4")] {
        assert_eq!(text(&scene.lab.connect(name).await, rows).await, expected, "{name}");
    }
}

/// Maintenance puts old segments ahead of the writer: what a child may link to must not be among
/// them, and what lies in them from before must not be taken for WAL.
#[tokio::test(flavor = "multi_thread")]
async fn segments_that_held_older_wal() {
    let mut scene = Scene::new(&[]).await;
    let used_ahead = |scene: &Scene, end: u64| {
        let of_main = scene.lab.data_directory("main").join("pg_wal");
        let next = of_main.join(segment_name(1, end / SEGMENT + 1, SEGMENT));
        std::fs::read(next).is_ok_and(|bytes| bytes[..PAGE as usize].iter().any(|byte| *byte != 0))
    };
    let mut reused = 0;
    for (unit, before) in [(PAGE, 8), (SEGMENT, 0), (SEGMENT, SEGMENT - 48)] {
        scene.message(9_000_000, true).await;
        let (held, _) = scene.cut();
        let rows = scene.rows;
        let shared = scene.lab.shared_segments("main");
        assert!(shared.len() >= 2, "{shared:?}");
        for _ in 0..2 {
            scene.lab.engine.maintain().unwrap();
            scene.message(20_000_000, true).await;
            run(&scene.main, "checkpoint").await;
        }
        scene.lab.engine.maintain().unwrap();
        // On into the segments that were put there.
        scene.message(14_000_000, true).await;
        scene.insert().await;
        if let Some(end) = scene.record_up_to(unit, before).await {
            reused += u32::from(used_ahead(&scene, end));
        }
        let rows_now = scene.rows;
        let (child, _) = scene.cut();
        scene.check(&child, rows_now).await;
        // The parent's own recovery ends where old bytes begin.
        run(&scene.main, "checkpoint").await;
        scene.insert().await;
        scene.lab.engine.stop(&key("main"), StopMode::Kill).unwrap();
        scene.start().await;
        let (count, all) = (text(&scene.main, "select count(*) from t").await, scene.rows.to_string());
        assert_eq!(count, all);
        for (name, (_, digest)) in &shared {
            let path = scene.lab.data_directory(&held).join("pg_wal").join(name);
            assert_eq!(&e2e::files::digest(&path), digest, "{held}: segment {name}");
        }
        scene.lab.start_with(&held, &QUIET);
        let client = scene.lab.connect(&held).await;
        assert_eq!(text(&client, "select count(*) from t").await, rows.to_string(), "{held}");
        drop(client);
        scene.lab.engine.delete(&key(&held)).unwrap();
    }
    assert!(reused > 0, "no segment was used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_commits_leave_a_prefix() {
    const WRITERS: i64 = 4;
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t(writer int, i bigint, primary key (writer, i))").await;
    let stop = Arc::new(AtomicBool::new(false));
    let durable: Vec<Arc<AtomicI64>> = (0..WRITERS).map(|_| Arc::default()).collect();
    let mut writers = Vec::new();
    for (writer, durable) in durable.iter().enumerate() {
        let (client, stop, durable) = (lab.connect("main").await, Arc::clone(&stop), Arc::clone(durable));
        writers.push(tokio::spawn(async move {
            for i in 1.. {
                if stop.load(Ordering::SeqCst) {
                    return i - 1;
                }
                // Every twentieth commit waits for the disk, and with it all before.
                let wait = i % 20 == 0;
                let mode = if wait { "on" } else { "off" };
                let sql = format!("set synchronous_commit = {mode}; insert into t values ({writer}, {i})");
                run(&client, &sql).await;
                if wait {
                    durable.store(i, Ordering::SeqCst);
                }
            }
            unreachable!("the loop has no other end");
        }));
    }
    let mut cuts = Vec::new();
    for number in 0..8 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let child = format!("child-{number}");
        let least: Vec<i64> = durable.iter().map(|durable| durable.load(Ordering::SeqCst)).collect();
        tokio::task::block_in_place(|| lab.engine.create_child(&key("main"), &key(&child))).unwrap();
        cuts.push((child, least));
    }
    stop.store(true, Ordering::SeqCst);
    let mut last = Vec::new();
    for writer in writers {
        last.push(writer.await.unwrap());
    }
    assert!(last.iter().all(|last| *last > 20), "{last:?}");
    for (child, least) in cuts {
        lab.start(&child);
        let client = lab.connect(&child).await;
        for (writer, (least, last)) in least.iter().zip(&last).enumerate() {
            let sql = format!("select count(*) || ' ' || coalesce(max(i), 0) from t where writer = {writer}");
            let row = text(&client, &sql).await;
            let (count, most) = row.split_once(' ').unwrap();
            assert_eq!(count, most, "{child}: writer {writer} has gaps");
            let most: i64 = most.parse().unwrap();
            assert!(*least <= most && most <= *last, "{child}: {most} not within {least} to {last}");
        }
        drop(client);
        lab.stop(&child);
    }
}

/// Each of these faults makes one of the tests above fail.
#[cfg(debug_assertions)]
mod planted {
    use store::fault::{Fault, must_be_noticed};

    #[test]
    fn an_end_before_the_last_record() {
        let why = "does not hold what was cut";
        must_be_noticed(Fault::EndEarly, "the_last_record_crosses_a_border", why);
    }

    #[test]
    fn an_end_behind_the_last_whole_record() {
        must_be_noticed(Fault::EndLate, "the_written_end_lies_inside_a_record", "has half a record");
    }

    #[test]
    fn a_last_segment_that_the_parent_goes_on_writing() {
        must_be_noticed(Fault::TailShared, "the_last_record_crosses_a_border", "is shared: true");
    }
}
