//! Relations beyond the 1 GB border of PostgreSQL's files, and the room of large files that are
//! dropped.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Instant;

use compute::engine::StopMode;
use e2e::files::disk_usage;
use e2e::lab::{Lab, PASSWORD, key, run, text};
use tokio_postgres::Client;

/// Pages of a relation's first file.
const BORDER: u64 = 1 << 17;

/// The WAL of the load is not to be the measure of this test.
const SETTINGS: [(&str, &str); 4] = [
    ("shared_buffers", "64MB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
];

/// Adds rows `from` to `to`, each on a page of its own: what else fits on a page is left free.
async fn add(client: &Client, from: u64, to: u64, mark: &str) {
    let sql = format!("insert into big select i, repeat('{mark}', 100) from generate_series({from}, {to}) i");
    run(client, &sql).await;
}

/// Number, sum and marks of all rows, and that each lies on the page of its number.
async fn rows(client: &Client) -> String {
    let sql = "select count(*) || ' ' || sum(i) || ' ' || count(*) filter (where v like 'main%') || ' ' ||
                      bool_and((ctid::text::point)[0] = i - 1) from big";
    text(client, sql).await
}

fn expected(count: u64, of_main: u64) -> String {
    format!("{count} {} {of_main} true", count * (count + 1) / 2)
}

async fn pages(client: &Client) -> u64 {
    text(client, "select pg_relation_size('big') / 8192").await.parse().unwrap()
}

async fn check_heap(client: &Client) {
    run(client, "create extension if not exists amcheck").await;
    // The pages around the border, and the ends.
    for (from, to) in [(0, 100), (BORDER - 100, BORDER - 1), (BORDER, BORDER + 100)] {
        let last = pages(client).await - 1;
        if from <= last {
            let to = to.min(last);
            let sql =
                format!("select count(*) from verify_heapam('big', startblock => {from}, endblock => {to})");
            assert_eq!(text(client, &sql).await, "0", "pages {from} to {to}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relation_across_the_border_of_its_files() {
    let lab = Lab::new();
    lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
    lab.start_with("main", &SETTINGS);
    let main = lab.connect("main").await;
    // A row and the room kept free fill a page, but little of it goes through the WAL.
    run(&main, "create table big(i bigint, v text) with (fillfactor = 10)").await;
    run(&main, "alter table big alter v set storage plain").await;
    let begin = Instant::now();
    add(&main, 1, BORDER - 500, "main").await;
    run(&main, "checkpoint").await;
    println!("filled in {:?}", begin.elapsed());
    assert_eq!(pages(&main).await, BORDER - 500);

    // The child grows over the border on its own, and so does the parent.
    lab.engine.create_child(&key("main"), &key("below")).unwrap();
    lab.start_with("below", &SETTINGS);
    let below = lab.connect("below").await;
    add(&below, BORDER - 499, BORDER + 1000, "below").await;
    add(&main, BORDER - 499, BORDER + 2000, "main").await;
    assert_eq!(pages(&below).await, BORDER + 1000);
    check_heap(&below).await;

    // A cut of both files; the parent then gives up the second one and the end of the first.
    lab.engine.create_child(&key("main"), &key("above")).unwrap();
    lab.start_with("above", &SETTINGS);
    let above = lab.connect("above").await;
    run(&main, &format!("delete from big where i > {}", BORDER - 1000)).await;
    run(&main, "vacuum big").await;
    assert_eq!(pages(&main).await, BORDER - 1000);
    assert_eq!(rows(&main).await, expected(BORDER - 1000, BORDER - 1000));
    assert_eq!(rows(&above).await, expected(BORDER + 2000, BORDER + 2000));
    add(&above, BORDER + 2001, BORDER + 3000, "above").await;

    // Grown again, the parent must not find old pages in the place of new ones.
    add(&main, BORDER - 999, BORDER + 50, "again").await;
    run(&main, "checkpoint").await;
    lab.engine.create_child(&key("main"), &key("again")).unwrap();
    drop((main, below, above));
    for name in ["main", "below", "above"] {
        lab.engine.stop(&key(name), StopMode::Kill).unwrap();
    }
    for (name, count, of_main) in [
        ("main", BORDER + 50, BORDER - 1000),
        ("below", BORDER + 1000, BORDER - 500),
        ("above", BORDER + 3000, BORDER + 2000),
        ("again", BORDER + 50, BORDER - 1000),
    ] {
        lab.start_with(name, &SETTINGS);
        let client = lab.connect(name).await;
        assert_eq!(pages(&client).await, count, "{name}");
        assert_eq!(rows(&client).await, expected(count, of_main), "{name}");
        check_heap(&client).await;
        drop(client);
        lab.stop(name);
    }
    println!("all in {:?}", begin.elapsed());
}

/// PostgreSQL grows a table that is copied into by more pages than it fills, without writing them: what
/// was cut off there must not show again.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_shrank_and_grew_shows_no_old_rows() {
    // Buffers enough for it to grow by many pages at once.
    let settings = [("shared_buffers", "32MB")];
    let lab = Lab::new();
    lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
    // Before the starts: a confined compute reaches what stood beside the home then.
    let file = lab.path.join("rows");
    let lines: String = (0..1500).map(|i| format!("{}\t{}\n", 100_000 + i, "new".repeat(300))).collect();
    std::fs::write(&file, lines).unwrap();
    lab.start_with("main", &settings);
    let main = lab.connect("main").await;
    let fill = "create table t(i int, v text);
                insert into t select i, repeat('old', 300) from generate_series(1, 9000) i";
    run(&main, fill).await;
    run(&main, "checkpoint").await;
    lab.engine.create_child(&key("main"), &key("dev")).unwrap();
    lab.start_with("dev", &settings);
    let copy = format!("copy t from '{}'", file.display());
    for (name, left) in [("main", 3000), ("dev", 5000)] {
        let client = lab.connect(name).await;
        run(&client, &format!("delete from t where i > {left}")).await;
        run(&client, "vacuum t").await;
        let size = "select pg_relation_size('t') / 8192";
        let small: u64 = text(&client, size).await.parse().unwrap();
        run(&client, &copy).await;
        run(&client, "checkpoint").await;
        let large: u64 = text(&client, size).await.parse().unwrap();
        let filled: u64 =
            text(&client, "select max((ctid::text::point)[0]::int) + 1 from t").await.parse().unwrap();
        assert!(
            small < filled && filled < large,
            "{name}: {small} pages, then {large}, {filled} of them filled"
        );
    }
    lab.engine.create_child(&key("main"), &key("later")).unwrap();
    lab.start("later");
    for round in ["at once", "after a restart"] {
        for (name, left) in [("main", 3000), ("dev", 5000), ("later", 3000)] {
            let client = lab.connect(name).await;
            // Read from the files, not from buffers.
            run(&client, "create extension if not exists pg_buffercache").await;
            run(&client, "checkpoint; select count(pg_buffercache_evict(bufferid)) from pg_buffercache")
                .await;
            let count = "select count(*) filter (where v like 'old%') || ' ' ||
                                count(*) filter (where v like 'new%') from t";
            assert_eq!(text(&client, count).await, format!("{left} 1500"), "{name} {round}");
            e2e::tpcb::check_pages(&client).await;
            drop(client);
            lab.stop(name);
            lab.start_with(name, &settings);
        }
    }
}

/// Files in the trash of a branch's layers.
fn trash(lab: &Lab, branch: &str) -> Vec<PathBuf> {
    let directories = lab.layers(branch).into_iter().filter_map(|layer| layer.join("trash").read_dir().ok());
    directories.flatten().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_go_to_the_trash_and_are_freed_by_maintenance() {
    const SIZE: u64 = 96 << 20;
    let fill = |name: &str| {
        format!(
            "create table {name}(i bigint, v text) with (fillfactor = 10);
             alter table {name} alter v set storage plain;
             insert into {name} select i, repeat('drop', 100) from generate_series(1, {}) i",
            SIZE / 8192
        )
    };
    let lab = Lab::new();
    lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
    lab.start_with("main", &SETTINGS);
    let main = lab.connect("main").await;
    let layers = lab.home().join("layers");
    run(&main, "checkpoint").await;
    let before = disk_usage(&layers);
    for (drop_it, name) in [("drop table", "dropped"), ("truncate", "truncated")] {
        run(&main, &fill(name)).await;
        run(&main, "checkpoint").await;
        // Somebody else has it open.
        let reader = lab.connect("main").await;
        assert_eq!(text(&reader, &format!("select count(*) from {name}")).await, (SIZE / 8192).to_string());
        assert!(disk_usage(&layers) > before + SIZE);
        run(&main, &format!("{drop_it} {name}")).await;
        run(&main, "checkpoint").await;
        let found = trash(&lab, "main");
        assert_eq!(found.len(), 1, "{drop_it}: {found:?}");
        assert!(found[0].metadata().unwrap().len() >= SIZE);
        lab.engine.maintain().unwrap();
        assert_eq!(trash(&lab, "main"), [] as [PathBuf; 0], "{drop_it}");
        let left = disk_usage(&layers).saturating_sub(before);
        assert!(left < 4 << 20, "{drop_it}: {left} bytes are left");
    }
    // What was cut lives on in the child, whatever becomes of it in the parent.
    run(&main, &fill("shared")).await;
    lab.branch("main", "dev");
    run(&main, "drop table shared; checkpoint").await;
    lab.engine.maintain().unwrap();
    let dev = lab.connect("dev").await;
    let count = "select count(*) || ' ' || sum(i) from shared";
    let all = format!("{} {}", SIZE / 8192, (SIZE / 8192) * (SIZE / 8192 + 1) / 2);
    assert_eq!(text(&dev, count).await, all);
    // Every page of the child's own copy is rewritten, then it is dropped there, too.
    for sql in ["update shared set i = i", "vacuum shared", "checkpoint", "drop table shared", "checkpoint"] {
        run(&dev, sql).await;
    }
    assert_eq!(trash(&lab, "dev").len(), 1);
    lab.engine.maintain().unwrap();
    assert_eq!(trash(&lab, "dev"), [] as [PathBuf; 0]);
    drop((main, dev));
    lab.engine.delete(&key("dev")).unwrap();
    lab.engine.maintain().unwrap();
    let main = lab.connect("main").await;
    assert_eq!(text(&main, "select count(*) from pg_class where relname = 'shared'").await, "0");
}
