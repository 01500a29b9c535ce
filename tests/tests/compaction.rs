//! A branch that is cut again and again stays as shallow as a new one, whatever it is doing meanwhile.

use std::time::Duration;

use compute::engine::{ScrubEvent, StopMode};
use e2e::lab::{Lab, PASSWORD, connect_at, key, run, text};
use e2e::tpcb;

const SCALE: i32 = 2;
const CLIENTS: usize = 3;
const CUTS: usize = 60;

fn layers(lab: &Lab, branch: &str) -> Vec<u64> {
    let home = lab.path.join("home/branches").join(branch);
    let manifest = store::manifest::Manifest::decode(&std::fs::read(home.join("manifest")).unwrap()).unwrap();
    manifest.entries.iter().map(|entry| entry.layer).collect()
}

/// Everything there is to merge is merged. How many layers went.
fn compact(lab: &Lab) -> usize {
    lab.engine.maintain().unwrap();
    let before = layers(lab, "main").len();
    while lab.engine.compact_next().unwrap() {}
    before - layers(lab, "main").len()
}

/// Layers on disk, of whatever branch.
fn layers_there(lab: &Lab) -> usize {
    let groups = std::fs::read_dir(lab.path.join("home/layers")).unwrap();
    groups.map(|group| std::fs::read_dir(group.unwrap().path()).unwrap().count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_and_merges_under_load_lose_nothing() {
    let lab = Lab::new();
    lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
    let settings = [("shared_buffers", "4MB"), ("max_wal_size", "64MB"), ("bgwriter_delay", "10ms")];
    lab.start_with("main", &settings);
    let main = lab.connect("main").await;
    tpcb::fill(&main, SCALE).await;
    let load = tpcb::start(&lab.engine.socket_dir(&key("main")), CLIENTS, SCALE, 0).await;
    let (mut merged, mut deepest, mut kept) = (0, 0, None);
    for number in 0..CUTS {
        let child = format!("child-{number}");
        let before = load.acknowledged();
        tokio::task::block_in_place(|| lab.engine.create_child(&key("main"), &key(&child))).unwrap();
        if number == CUTS / 2 {
            kept = Some((child, before, load.sent()));
        } else {
            lab.engine.delete(&key(&child)).unwrap();
        }
        run(&main, "create table t(i int); insert into t select generate_series(1, 1000); drop table t")
            .await;
        if number % 5 == 4 {
            merged += tokio::task::block_in_place(|| compact(&lab));
        }
        deepest = deepest.max(layers(&lab, "main").len());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (acknowledged, sent) = (load.acknowledged(), load.sent());
    load.stop().await;
    let top: Vec<u64> = sent.iter().map(|sent| sent + 1).collect();
    tpcb::check(&main, &acknowledged, &top).await;
    assert!(merged > CUTS / 2, "{merged} layers went");
    assert!(deepest < 30, "{deepest} layers at once");

    // The child that stayed has what there was at its cut, through layers that are not merged away.
    let (child, before, after) = kept.unwrap();
    lab.start_with(&child, &settings);
    let client = lab.connect(&child).await;
    tpcb::check(&client, &before, &after).await;
    tpcb::check_pages(&client).await;
    drop(client);
    lab.engine.delete(&key(&child)).unwrap();
    tokio::task::block_in_place(|| compact(&lab));
    assert!(layers(&lab, "main").len() <= 12, "{:?}", layers(&lab, "main"));
    assert_eq!(layers_there(&lab), layers(&lab, "main").len(), "every layer that is there is named");
    let mut found = Vec::new();
    lab.engine
        .scrub(&mut |event| {
            if let ScrubEvent::Found(finding) = event {
                found.push(format!("{finding:?}"));
            }
            true
        })
        .unwrap();
    assert!(found.is_empty(), "{found:#?}");

    // From the disk alone, and after a crash.
    for mode in [StopMode::Kill, StopMode::Fast] {
        lab.engine.stop(&key("main"), mode).unwrap();
        lab.start_with("main", &settings);
        let main = lab.connect("main").await;
        tpcb::check(&main, &acknowledged, &top).await;
        tpcb::check_pages(&main).await;
    }
}

/// A parent's layers become the only child's own when the parent goes.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_parent_leaves_behind_is_merged_into_its_heir() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t as select generate_series(1, 10000) i, 'old' v; checkpoint").await;
    for number in 0..5 {
        let child = format!("nothing-{number}");
        lab.engine.create_child(&key("main"), &key(&child)).unwrap();
        lab.engine.delete(&key(&child)).unwrap();
        run(&main, &format!("update t set v = 'new' where i % 5 = {number}; checkpoint")).await;
    }
    for sql in ["create table gone(i int)", "drop table gone", "vacuum full t"] {
        run(&main, sql).await;
    }
    lab.branch("main", "heir");
    drop(main);
    lab.engine.delete(&key("main")).unwrap();
    lab.engine.maintain().unwrap();
    let before = layers(&lab, "heir").len();
    let sum = "select count(*) || ' ' || count(*) filter (where v = 'new') from t";
    let client = connect_at(&lab.engine.socket_dir(&key("heir")), "postgres").await;
    // Opened before and read after.
    assert_eq!(text(&client, sum).await, "10000 10000");
    assert!(lab.engine.compact(&key("heir")).unwrap().is_some());
    assert!(layers(&lab, "heir").len() < before);
    run(&client, "discard all").await;
    assert_eq!(text(&client, sum).await, "10000 10000");
    assert_eq!(layers_there(&lab), layers(&lab, "heir").len());
    drop(client);
    lab.engine.stop(&key("heir"), StopMode::Kill).unwrap();
    lab.start("heir");
    let client = lab.connect("heir").await;
    assert_eq!(text(&client, sum).await, "10000 10000");
    tpcb::check_pages(&client).await;
}

/// The export reads layers that nobody else may replace.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_and_merges_at_the_same_time() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t as select generate_series(1, 50000) i").await;
    for number in 0..6 {
        let child = format!("nothing-{number}");
        lab.engine.create_child(&key("main"), &key(&child)).unwrap();
        lab.engine.delete(&key(&child)).unwrap();
        run(&main, "update t set i = i + 1 where i % 7 = 0").await;
    }
    lab.engine.maintain().unwrap();
    let target = lab.path.join("out");
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let export = scope.spawn(|| lab.engine.export(&key("main"), &target, &mut |_, _| {}));
            while !export.is_finished() {
                lab.engine.compact(&key("main")).unwrap();
            }
            export.join().unwrap().unwrap();
        });
    });
    assert!(target.join("global/pg_control").exists());
    assert_eq!(text(&main, "select count(*) from t").await, "50000");
}
