//! Twenty cuts under a TPC-B load that keeps evicting, checkpointing and switching WAL segments.

use std::time::Duration;

use e2e::lab::{Lab, key, run, text};
use e2e::tpcb;

const SCALE: i32 = 5;
const CLIENTS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn every_child_is_whole_and_the_parent_loses_nothing() {
    let lab = Lab::new();
    lab.engine.create_root(&key("main"), &lab.server, e2e::lab::PASSWORD).unwrap();
    let settings = [
        ("shared_buffers", "16MB"),
        ("checkpoint_timeout", "30s"),
        ("max_wal_size", "64MB"),
        ("bgwriter_delay", "10ms"),
    ];
    lab.start_with("main", &settings);
    let main = lab.connect("main").await;
    tpcb::fill(&main, SCALE).await;
    run(&main, "checkpoint").await;
    let load = tpcb::start(&lab.engine.socket_dir(&key("main")), CLIENTS, SCALE, 0).await;
    let mut children = Vec::new();
    for number in 0..20 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let child = format!("child-{number}");
        let before = load.acknowledged();
        let cut =
            tokio::task::block_in_place(|| lab.engine.create_child(&key("main"), &key(&child))).unwrap();
        let after = load.sent();
        assert!(cut.redo_lsn <= cut.end_lsn);
        println!(
            "{child}: closed {} us, drain {} us, {} to {}",
            cut.closed_us, cut.drain_us, cut.redo_lsn, cut.end_lsn
        );
        children.push((child, before, after));
        lab.engine.maintain().unwrap();
    }
    let acknowledged = load.acknowledged();
    let sent = load.sent();
    let latencies = load.stop().await;
    println!("{} transactions", latencies.len());
    for (child, before, after) in &children {
        lab.start_with(child, &settings);
        let client = lab.connect(child).await;
        tpcb::check(&client, before, after).await;
        // A write on the child shows nowhere else.
        run(&client, "update branches set bbalance = bbalance + 1000000").await;
        drop(client);
        lab.stop(child);
    }
    let top: Vec<u64> = sent.iter().map(|sent| sent + 1).collect();
    tpcb::check(&main, &acknowledged, &top).await;
    assert_eq!(text(&main, "select count(*) from branches where bbalance >= 1000000").await, "0");
    // And after a restart that recovers from WAL.
    lab.engine.stop(&key("main"), compute::engine::StopMode::Kill).unwrap();
    lab.start_with("main", &settings);
    tpcb::check(&lab.connect("main").await, &acknowledged, &top).await;
    for (child, before, after) in &children {
        let _ = (before, after);
        lab.engine.delete(&key(child)).unwrap();
    }
    assert_eq!(lab.engine.keys().unwrap(), [key("main")]);
}
