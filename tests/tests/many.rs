//! What must not depend on how many branches there are: the daemon's rounds, the depth of stacks; and that the
//! space said to be a branch's own is what its removal frees.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use compute::engine::{StopMode, Usage};
use e2e::files::disk_usage;
use e2e::lab::{Lab, PASSWORD, key, run, text};

/// Keeps servers from writing anything that nobody asked for.
const QUIET: [(&str, &str); 4] = [
    ("autovacuum", "off"),
    ("checkpoint_timeout", "1h"),
    ("max_wal_size", "4GB"),
    ("bgwriter_lru_maxpages", "0"),
];

fn quiet_main() -> Lab {
    let lab = Lab::new();
    lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
    lab.start_with("main", &QUIET);
    lab
}

#[test]
fn a_round_of_maintenance_leaves_branches_at_rest_alone() {
    let mut lab = quiet_main();
    let look = |lab: &Lab| {
        lab.engine.maintain().unwrap();
        lab.engine.branches_to_look_at()
    };
    for child in ["a", "b", "c", "d"] {
        lab.engine.create_child(&key("main"), &key(child)).unwrap();
    }
    assert_eq!(lab.engine.branches_to_look_at(), 5);
    assert_eq!(look(&lab), 1, "only main runs");
    lab.start("a");
    assert_eq!(look(&lab), 2);
    lab.stop("a");
    assert_eq!(lab.engine.branches_to_look_at(), 2, "it was just stopped");
    assert_eq!(look(&lab), 1);
    lab.engine.create_child(&key("b"), &key("e")).unwrap();
    assert_eq!(look(&lab), 1);
    assert_eq!(lab.engine.with_processes().unwrap().into_iter().collect::<Vec<_>>(), [key("main")]);
    lab.engine.stop(&key("main"), StopMode::Kill).unwrap();
    assert_eq!(look(&lab), 0);
    assert!(lab.engine.with_processes().unwrap().is_empty());
    lab.engine.delete(&key("e")).unwrap();
    lab.start("b");
    lab.reopen();
    assert_eq!(lab.engine.branches_to_look_at(), 5, "what an earlier daemon left is not known");
    assert_eq!(look(&lab), 1, "b runs still");
    lab.stop("b");
    assert_eq!(look(&lab), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn children_of_a_parent_that_nobody_writes_to_have_its_layers_in_common() {
    let lab = quiet_main();
    let cut = |child: &str| lab.engine.create_child(&key("main"), &key(child)).unwrap();
    let below = |branch: &str| {
        let mut layers = lab.layers(branch);
        layers.pop();
        layers
    };
    let main = lab.connect("main").await;
    run(&main, "create table t as select generate_series(1, 1000) i; checkpoint").await;
    cut("c0");
    cut("c1");
    let depth = lab.layers("main").len();
    for child in ["c2", "c3", "c4"] {
        cut(child);
        assert_eq!(below(child), below("c0"), "{child}");
    }
    assert_eq!(lab.layers("main").len(), depth);
    run(&main, "insert into t values (0); checkpoint").await;
    cut("c5");
    assert_eq!(below("c5").len(), below("c4").len() + 1, "what was written since is in one layer more");
    run(&main, "insert into t values (-1)").await;
    drop(main);
    lab.stop("main");
    cut("c6");
    let depth = lab.layers("main").len();
    cut("c7");
    assert_eq!((lab.layers("main").len(), below("c7")), (depth, below("c6")));
    for (child, rows) in [("c4", "1000"), ("c5", "1001"), ("c7", "1002")] {
        lab.start(child);
        let client = lab.connect(child).await;
        assert_eq!(text(&client, "select count(*) from t").await, rows, "{child}");
        run(&client, "delete from t").await;
    }
    lab.start_with("main", &QUIET);
    let main = lab.connect("main").await;
    assert_eq!(text(&main, "select count(*) from t").await, "1002");
    run(&main, "insert into t values (-2); checkpoint").await;
    cut("c8");
    lab.start("c8");
    assert_eq!(text(&lab.connect("c8").await, "select count(*) from t").await, "1003");
}

/// Length of all files of an exported branch but WAL and what lies in its own directory.
fn length_of(exported: &Path, own: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(exported).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() == "pg_wal" || own.join(entry.file_name()).is_file() {
            continue;
        }
        let facts = entry.metadata().unwrap();
        let inside = || length_of(&entry.path(), Path::new("/nonexistent"));
        sum += if facts.is_dir() { inside() } else { facts.len() };
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_a_branchs_own_is_what_its_removal_frees() {
    let lab = quiet_main();
    let usage = |branch: &str| lab.engine.usage(&key(branch)).unwrap();
    let cut = |parent: &str, child: &str| {
        lab.engine.create_child(&key(parent), &key(child)).unwrap();
    };
    let main = lab.connect("main").await;
    run(&main, "create database doomed template template0").await;
    run(&main, "create table t as select i, repeat('x', 500) from generate_series(1, 20000) i").await;
    cut("main", "idle");
    assert!(!lab.shared_segments("idle").is_empty(), "no WAL is shared");
    cut("idle", "grandchild");
    cut("main", "busy");
    lab.start_with("busy", &QUIET);
    let busy = lab.connect("busy").await;
    run(&busy, "drop database doomed").await;
    run(&busy, "create table own as select * from t; truncate t; checkpoint").await;
    cut("busy", "leaf");
    run(&busy, "drop table own").await;
    drop(busy);
    // A running one is looked at, too.
    assert!(usage("busy").own_bytes > 0);
    lab.stop("busy");
    cut("busy", "late");
    let shared_log = |usage: Usage, branch: &str| {
        let layers: u64 = lab.layers(branch).iter().map(|layer| disk_usage(layer)).sum();
        (usage.own_bytes + usage.shared_bytes).checked_sub(layers).unwrap()
    };
    lab.engine.maintain().unwrap();
    let before = usage("idle");
    assert!(before.shared_bytes > 0 && shared_log(before, "idle") > 0, "{before:?}");
    // The parent gives its part of the log up: those that have it too keep it.
    run(&main, "checkpoint").await;
    drop(main);
    lab.engine.maintain().unwrap();
    lab.stop("main");
    lab.engine.maintain().unwrap();

    for branch in ["main", "idle", "grandchild", "busy", "leaf", "late"] {
        let target = lab.path.join(format!("export-{branch}"));
        assert_eq!(usage(branch), usage(branch));
        // This recovers the branch first, where it was never started.
        lab.engine.export(&key(branch), &target, &mut |_, _| {}).unwrap();
        let said = usage(branch).logical_bytes;
        assert_eq!(said, length_of(&target, &lab.data_directory(branch)), "{branch}");
    }
    for branch in ["busy", "late", "grandchild", "idle", "leaf", "main"] {
        lab.engine.maintain().unwrap();
        let said = usage(branch);
        let (own, layers) = (lab.branch_directory(branch), lab.layers(branch));
        let all = disk_usage(&own) + layers.iter().map(|layer| disk_usage(layer)).sum::<u64>();
        let groups = (said.own_bytes + said.shared_bytes).checked_sub(all);
        assert!(groups.is_some_and(|groups| groups <= 2 * 4096), "{branch}: {said:?}, on disk {all}");
        let before = disk_usage(&lab.home());
        lab.engine.delete(&key(branch)).unwrap();
        let freed = before - disk_usage(&lab.home());
        assert_eq!(said.own_bytes, freed, "{branch}: {said:?}");
    }
    assert_eq!(lab.engine.shared_layer_bytes(), 0);
}
