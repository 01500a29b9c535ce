//! Branches share files and yet never see each other's writes; removed ones give their space back.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use compute::engine::StopMode;
use e2e::files::{assert_same, digests, disk_usage};
use e2e::lab::{Lab, key, run, text};
use e2e::tpcb;
use tokio_postgres::Client;

/// One number for all rows of the tables of [`fill`].
const ROWS: &str = "select (select count(*) || ':' || sum(hashtext(i || v)) from wide) || ' ' ||
                    (select count(*) || ':' || sum(hashtext(i || v)) from narrow)";

async fn fill(client: &Client) {
    run(
        client,
        "create table wide(i int primary key, v text);
         insert into wide select i, repeat(md5(i::text), 8) from generate_series(1, 20000) i;
         create table narrow(i int, v text); create index on narrow(v);
         insert into narrow select i, md5(i::text) from generate_series(1, 20000) i;
         create table doomed as select i, repeat('x', 500) from generate_series(1, 5000) i",
    )
    .await;
}

/// Changes nearly every page, file and name there is.
async fn write_heavily(client: &Client, mark: &str) {
    run(client, &format!("update wide set v = '{mark}' || v")).await;
    run(
        client,
        &format!("delete from narrow where i % 3 = 0; update narrow set v = '{mark}' where i % 5 = 0"),
    )
    .await;
    run(client, "create table if not exists doomed(i int, v text)").await;
    run(client, "truncate doomed; insert into doomed select 1, 'y' from generate_series(1, 2000)").await;
    run(client, "checkpoint").await;
    run(client, "vacuum full narrow").await;
    run(client, "vacuum (freeze) wide").await;
    run(client, "drop table doomed").await;
    run(client, &format!("create table only_{mark} as select generate_series(1, 5000)")).await;
    run(client, "create database more strategy file_copy").await;
    run(client, "reindex table wide").await;
    run(client, "checkpoint").await;
    run(client, "drop database more").await;
}

/// Everything that a branch reads: its layers and its own directory.
fn everything_of(lab: &Lab, branch: &str) -> BTreeMap<PathBuf, String> {
    let mut found = digests(&lab.branch_directory(branch));
    lab.layers(branch).iter().for_each(|layer| found.extend(digests(layer)));
    found
}

fn sealed_layers_of(lab: &Lab, branch: &str) -> BTreeMap<PathBuf, String> {
    let layers = lab.layers(branch);
    layers[..layers.len() - 1].iter().flat_map(|layer| digests(layer)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_parent_changes_by_what_its_descendants_write() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    fill(&main).await;
    let rows = text(&main, ROWS).await;
    lab.branch("main", "first");
    run(&main, "create table later as select generate_series(1, 1000) i").await;
    lab.branch("main", "second");
    lab.branch("first", "grandchild");
    drop(main);
    lab.stop("main");
    // Sealed layers have their index now, and nothing in the background touches them any more.
    lab.engine.maintain().unwrap();
    let before = everything_of(&lab, "main");
    for name in ["first", "second", "grandchild"] {
        let client = lab.connect(name).await;
        assert_eq!(text(&client, ROWS).await, rows, "{name}");
        write_heavily(&client, name).await;
        assert_ne!(text(&client, ROWS).await, rows);
    }
    assert_same(&before, &everything_of(&lab, "main"));
    // Each sees its own and nobody else's.
    let tables = "select string_agg(relname, ' ' order by relname) from pg_class
                  where relname ~ '^(only_|later|doomed)'";
    for (name, expected) in
        [("first", "only_first"), ("second", "later only_second"), ("grandchild", "only_grandchild")]
    {
        lab.engine.stop(&key(name), StopMode::Kill).unwrap();
        lab.start(name);
        let client = lab.connect(name).await;
        assert_eq!(text(&client, tables).await, expected, "{name}");
        let own = format!("select count(*) from wide where v like '{name}%'");
        assert_eq!(text(&client, &own).await, "20000", "{name}");
        tpcb::check_pages(&client).await;
        drop(client);
        lab.stop(name);
    }
    lab.engine.maintain().unwrap();
    assert_same(&before, &everything_of(&lab, "main"));
    lab.start("main");
    let main = lab.connect("main").await;
    assert_eq!(text(&main, ROWS).await, rows);
    assert_eq!(text(&main, tables).await, "doomed later");
    tpcb::check_pages(&main).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_layers_never_change_while_all_branches_write() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    fill(&main).await;
    lab.branch("main", "first");
    lab.branch("first", "second");
    lab.engine.maintain().unwrap();
    let names = ["main", "first", "second"];
    let mut before = BTreeMap::new();
    names.iter().for_each(|name| before.extend(sealed_layers_of(&lab, name)));
    assert!(before.len() > 1000, "{} paths", before.len());
    let mut writers = Vec::new();
    for name in names {
        let client = lab.connect(name).await;
        writers.push(tokio::spawn(async move { write_heavily(&client, name).await }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let sealed: BTreeMap<_, _> = names.iter().flat_map(|name| sealed_layers_of(&lab, name)).collect();
    assert_same(&before, &sealed);
    for name in names {
        let client = lab.connect(name).await;
        let others = format!("select count(*) from wide where v not like '{name}%'");
        assert_eq!(text(&client, &others).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn descendants_of_a_removed_branch_keep_their_data() {
    let mut lab = Lab::with_main();
    let main = lab.connect("main").await;
    fill(&main).await;
    lab.branch("main", "middle");
    let middle = lab.connect("middle").await;
    run(
        &middle,
        "update wide set v = 'middle'; create table only_middle as select generate_series(1, 1000) i",
    )
    .await;
    let rows = text(&middle, ROWS).await;
    lab.branch("middle", "running");
    lab.branch("middle", "stopped");
    lab.stop("stopped");
    lab.engine.create_child(&key("middle"), &key("fresh")).unwrap();
    drop(middle);
    let of_middle = lab.layers("middle");
    lab.engine.delete(&key("middle")).unwrap();
    assert!(!lab.branch_directory("middle").exists());
    // The middle one's open layer is gone, those below are its children's.
    assert!(!of_middle.last().unwrap().exists());
    lab.layers("running").iter().for_each(|layer| assert!(layer.exists()));
    let running = lab.connect("running").await;
    run(&running, "insert into only_middle values (0)").await;
    drop(running);
    lab.engine.maintain().unwrap();
    lab.stop("running");
    // Also after the next daemon has swept the home.
    lab.reopen();
    for (name, count) in [("running", "1001"), ("stopped", "1000"), ("fresh", "1000")] {
        lab.start(name);
        let client = lab.connect(name).await;
        assert_eq!(text(&client, ROWS).await, rows, "{name}");
        assert_eq!(text(&client, "select count(*) from only_middle").await, count, "{name}");
        tpcb::check_pages(&client).await;
    }
    // The root may go, too.
    drop(main);
    lab.engine.delete(&key("main")).unwrap();
    for name in ["running", "fresh"] {
        lab.engine.stop(&key(name), StopMode::Kill).unwrap();
        lab.start(name);
        let client = lab.connect(name).await;
        assert_eq!(text(&client, ROWS).await, rows, "{name}");
        write_heavily(&client, name).await;
    }
    for name in ["running", "stopped", "fresh"] {
        lab.engine.delete(&key(name)).unwrap();
    }
    assert_eq!(std::fs::read_dir(lab.home().join("layers")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(lab.home().join("branches")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_space_of_removed_branches_comes_back() {
    /// What a cut may leave with its parent: one more empty layer and a longer manifest.
    const PER_CUT: u64 = 32 << 10;
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    fill(&main).await;
    drop(main);
    lab.stop("main");
    lab.engine.maintain().unwrap();
    let before = disk_usage(&lab.home());
    for (parent, child) in [("main", "first"), ("main", "second"), ("first", "third"), ("third", "fourth")] {
        lab.branch(parent, child);
        write_heavily(&lab.connect(child).await, child).await;
    }
    lab.engine.maintain().unwrap();
    let most = disk_usage(&lab.home());
    assert!(most > before + (40 << 20), "{before} to {most}");
    // A branch in the middle of a stack gives back what its children do not read.
    lab.engine.delete(&key("first")).unwrap();
    assert!(disk_usage(&lab.home()) < most);
    for name in ["second", "third", "fourth"] {
        let usage = lab.engine.usage(&key(name)).unwrap();
        let used = disk_usage(&lab.home());
        lab.engine.delete(&key(name)).unwrap();
        let freed = used - disk_usage(&lab.home());
        // WAL segments that others link to as well are its own, but stay.
        assert!(freed > usage.own_bytes / 2 && freed <= usage.own_bytes, "{name}: {freed} of {usage:?}");
    }
    lab.engine.maintain().unwrap();
    let after = disk_usage(&lab.home());
    let left = after.saturating_sub(before);
    println!("{before} bytes, at most {most}, then {after}");
    assert!(left <= 2 * PER_CUT, "{left} bytes are left of two cuts");
    lab.start("main");
    assert_eq!(text(&lab.connect("main").await, "select count(*) from wide").await, "20000");
}
