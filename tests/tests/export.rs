//! The way out: an exported branch is a plain data directory for stock PostgreSQL.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use compute::engine::{Error, StopMode};
use compute::process::{self, SpawnSpec};
use e2e::files::{assert_same, digests};
use e2e::lab::{Lab, connect_at, key, run, text};
use e2e::tpcb;
use tokio_postgres::Client;

/// Stock PostgreSQL on an exported directory: no preload library, no forced settings. Ends when
/// dropped.
struct Stock {
    data: PathBuf,
    sockets: PathBuf,
}

impl Stock {
    fn start(lab: &Lab, data: &Path) -> Stock {
        let sockets = data.with_extension("s");
        std::fs::create_dir_all(&sockets).unwrap();
        let settings = [
            ("listen_addresses", ""),
            ("unix_socket_directories", sockets.to_str().unwrap()),
            ("dynamic_shared_memory_type", "mmap"),
        ];
        let spec = SpawnSpec {
            server: lab.server.clone(),
            data_dir: data.to_owned(),
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            env: Vec::new(),
            log: sockets.join("log"),
            run_as: None,
            confinement: None,
            limit: Duration::from_secs(120),
        };
        process::spawn(&spec).unwrap();
        Stock { data: data.to_owned(), sockets }
    }

    async fn connect_to(&self, database: &str) -> Client {
        connect_at(&self.sockets, database).await
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        process::kill_all(&self.data).unwrap();
        process::remove_stale_shared_memory(&self.data).unwrap();
    }
}

fn export(lab: &Lab, branch: &str, name: &str) -> PathBuf {
    let directory = lab.path.join(name);
    let mut last = (0, 0);
    lab.engine
        .export(&key(branch), &directory, &mut |done, total| {
            assert!(last.0 <= done && done <= total);
            last = (done, total);
        })
        .unwrap();
    assert!(last.0 == last.1 && last.1 > 1 << 20, "{last:?}");
    directory
}

/// Every table's rows, one line each, in any order of the rows.
async fn row_digests(client: &Client) -> String {
    run(
        client,
        "create or replace function pg_temp.digest_of(name regclass) returns text language plpgsql as
         $$ declare found text; begin
              execute format('select count(*) || '':'' ||
                                     coalesce(md5(string_agg(row, '''' order by row)), '''')
                              from (select t::text as row from %s t) rows', name) into found;
              return found;
            end $$",
    )
    .await;
    text(
        client,
        "select string_agg(relname || ' ' || pg_temp.digest_of(oid::regclass), E'\\n' order by relname)
         from pg_class
         where relkind in ('r', 'm') and relpersistence = 'p' and relnamespace = 'public'::regnamespace",
    )
    .await
}

async fn fill(client: &Client) {
    run(
        client,
        "create table wide(i int primary key, v text);
         insert into wide select i, repeat(md5(i::text), 10) from generate_series(1, 10000) i;
         create table toasted(v text); alter table toasted alter v set storage external;
         insert into toasted select repeat(md5(i::text), 1000) from generate_series(1, 20) i;
         create unlogged table passing as select generate_series(1, 100) i;
         create materialized view summary as select count(*) from wide;
         create sequence numbers; select nextval('numbers');
         create table empty(i int); create table truncated as select generate_series(1, 10000) i",
    )
    .await;
    run(client, "create database second").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_postgres_starts_on_the_export_of_any_branch() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    fill(&main).await;
    run(&lab.connect_to("main", "second").await, "create table t as select generate_series(1, 500) i").await;
    lab.branch("main", "dev");
    let dev = lab.connect("dev").await;
    run(&dev, "update wide set v = 'dev' where i % 7 = 0; delete from truncated where i > 100").await;
    run(&dev, "vacuum truncated").await;
    run(&dev, "create table only_dev as select generate_series(1, 100) i; drop table empty").await;
    lab.branch("dev", "leaf");
    let leaf = lab.connect("leaf").await;
    run(&leaf, "insert into truncated select generate_series(20000, 25000); truncate only_dev").await;
    run(&leaf, "checkpoint; update wide set v = 'leaf' where i % 11 = 0; select nextval('numbers')").await;
    let expected = [row_digests(&main).await, row_digests(&dev).await, row_digests(&leaf).await];
    drop((dev, leaf));
    // One from a running branch, one from a stopped, one from a crashed one.
    lab.stop("dev");
    lab.engine.stop(&key("leaf"), StopMode::Kill).unwrap();
    for (name, expected) in ["main", "dev", "leaf"].iter().zip(&expected) {
        let directory = export(&lab, name, &format!("export-of-{name}"));
        let stock = Stock::start(&lab, &directory);
        let client = stock.connect_to("postgres").await;
        assert_eq!(&row_digests(&client).await, expected, "{name}");
        tpcb::check_pages(&client).await;
        run(&client, "insert into passing values (1); create table more(i int)").await;
        assert_eq!(text(&client, "select nextval('numbers') > 1").await, "t", "{name}");
        assert_eq!(text(&client, "show data_checksums").await, "on");
        let second = stock.connect_to("second").await;
        assert_eq!(text(&second, "select sum(i) from t").await, "125250");
        tpcb::check_pages(&second).await;
        // Nothing of ours is in it, and nothing that it does comes back.
        let known = ["PG_VERSION", "base", "global", "pg_wal"];
        known.iter().for_each(|name| assert!(directory.join(name).exists(), "{name}"));
        let ours = digests(&directory).into_keys().find(|path| path.to_string_lossy().contains(".wh."));
        assert_eq!(ours, None);
        drop((client, second, stock));
        std::fs::remove_dir_all(&directory).unwrap();
    }
    assert_eq!(row_digests(&main).await, expected[0]);
    assert_eq!(lab.engine.keys().unwrap(), [key("dev"), key("leaf"), key("main")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_under_load_is_one_moment() {
    const CLIENTS: usize = 3;
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    tpcb::fill(&main, 1).await;
    lab.branch("main", "dev");
    let load = tpcb::start(&lab.engine.socket_dir(&key("dev")), CLIENTS, 1, 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = load.acknowledged();
    let directory = tokio::task::block_in_place(|| export(&lab, "dev", "export"));
    let after = load.sent();
    load.stop().await;
    assert!(before.iter().all(|number| *number > 0), "{before:?}");
    let stock = Stock::start(&lab, &directory);
    tpcb::check(&stock.connect_to("postgres").await, &before, &after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused_and_a_failure_leaves_nothing() {
    let lab = Lab::with_main();
    let directory = lab.path.join("used");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("precious"), "data").unwrap();
    let before = digests(&directory);
    let layers = std::fs::read_dir(lab.home().join("layers")).unwrap().count();
    let refused = lab.engine.export(&key("main"), &directory, &mut |_, _| ()).unwrap_err();
    assert!(matches!(refused, Error::Refused(..)), "{refused}");
    assert!(refused.to_string().contains("is not empty"), "{refused}");
    assert_same(&before, &digests(&directory));
    // A plain file is no place either.
    let error = lab.engine.export(&key("main"), &directory.join("precious"), &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("precious"), "{error}");
    assert_same(&before, &digests(&directory));
    let absent = lab.engine.export(&key("absent"), &lab.path.join("new"), &mut |_, _| ()).unwrap_err();
    assert!(matches!(absent, Error::NotFound(_)), "{absent}");
    assert!(!lab.path.join("new").exists());
    assert_eq!(lab.engine.keys().unwrap(), [key("main")]);
    // One cut was made for the plain file, which left the parent a layer; the refusals made none.
    assert!(std::fs::read_dir(lab.home().join("layers")).unwrap().count() <= layers + 1);
    // An empty directory will do.
    let empty = lab.path.join("empty");
    std::fs::create_dir(&empty).unwrap();
    lab.engine.export(&key("main"), &empty, &mut |_, _| ()).unwrap();
    let stock = Stock::start(&lab, &empty);
    assert_eq!(text(&stock.connect_to("postgres").await, "select 1").await, "1");
}
