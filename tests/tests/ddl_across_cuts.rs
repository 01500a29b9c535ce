//! Cuts while every kind of statement that makes, rewrites, empties and removes files is running.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use compute::engine::{BOOTSTRAP_ROLE, StopMode};
use compute::os;
use e2e::lab::{Lab, PASSWORD, key, run, text};
use e2e::tpcb::check_pages;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

const CUTS: usize = 7;
/// Between two rounds of the same work: without it checkpoints would only sync new files.
const PAUSE: Duration = Duration::from_millis(20);
const SETTINGS: [(&str, &str); 4] = [
    ("shared_buffers", "16MB"),
    ("checkpoint_timeout", "30s"),
    ("max_wal_size", "64MB"),
    ("bgwriter_delay", "10ms"),
];

/// All money is in `ledger` or parked in a table that exists for a moment only.
async fn fill(client: &Client) {
    run(
        client,
        "create table ledger(id int primary key, amount bigint);
         insert into ledger select i, 10000 from generate_series(0, 99) i;
         create function total() returns numeric language plpgsql as $$
           declare name regclass; sum numeric; part numeric;
           begin
             select sum(amount) into sum from ledger;
             for name in select oid::regclass from pg_class
                         where relname like 'parked%' and relkind = 'r' loop
               execute format('select coalesce(sum(amount), 0) from %s', name) into part;
               sum := sum + part;
             end loop;
             return sum;
           end $$;
         create table balanced(id int primary key, amount bigint, rewritten int, filler text);
         insert into balanced select i, 0, i, repeat(md5(i::text), 6) from generate_series(0, 3999) i;
         create index on balanced(amount);
         create materialized view sums as select count(*) n, sum(amount) s from balanced;
         create unique index on sums(n);
         create table shrinking(i int primary key, v text);
         create sequence numbers;
         create table events(number bigint default nextval('numbers'),
                             identity bigint generated always as identity);
         create table documents(large oid, digest text);
         create unlogged table passing(i bigint generated always as identity primary key, v text)",
    )
    .await;
    run(client, "create database source").await;
}

async fn fill_source(client: &Client) {
    run(
        client,
        "create table seed(i int primary key, v text);
         insert into seed select i, repeat('s', 200) from generate_series(1, 1000) i;
         create unlogged table passing(i int primary key); insert into passing values (1)",
    )
    .await;
}

/// Makes tables, rewrites them, gets rid of them in every way, and rolls all of it back.
async fn tables(client: &Client, n: usize) {
    let (id, parked) = (n % 100, format!("parked_{}", n % 7));
    run(
        client,
        &format!(
            "begin; create table {parked}(amount bigint, note text);
         alter table {parked} alter note set storage external;
         update ledger set amount = amount - 7 where id = {id};
         insert into {parked} values (3, repeat('x', 3000)), (4, repeat('y', 9000)); commit"
        ),
    )
    .await;
    run(client, &format!("alter table {parked} alter amount type numeric")).await;
    run(client, &format!("alter table {parked} add column extra uuid default gen_random_uuid()")).await;
    run(client, &format!("create index on {parked}(extra)")).await;
    run(
        client,
        "begin; create table never(i int primary key); insert into never select generate_series(1, 2000);
                 drop table ledger; rollback",
    )
    .await;
    let back =
        format!("update ledger set amount = amount + (select sum(amount) from {parked}) where id = {id}");
    match n % 3 {
        0 => run(client, &format!("begin; {back}; drop table {parked}; commit")).await,
        1 => {
            run(client, &format!("begin; {back}; truncate {parked}; commit")).await;
            run(client, &format!("drop table {parked}")).await;
        }
        _ => {
            run(client, &format!("begin; {back}; delete from {parked}; commit")).await;
            run(client, &format!("vacuum {parked}")).await;
            run(client, &format!("drop table {parked}")).await;
        }
    }
}

/// Writes a table anew in all the ways there are, its sum being 0 at all times.
async fn rewrites(client: &Client, n: usize) {
    run(
        client,
        &format!(
            "begin; update balanced set amount = amount + {n} where id = {};
         update balanced set amount = amount - {n}
         where id = {}; commit",
            n * 7 % 4000,
            (n * 7 + 2000) % 4000
        ),
    )
    .await;
    let statements: &[&str] = match n % 9 {
        0 => &["vacuum full balanced"],
        1 => &["cluster balanced using balanced_pkey"],
        2 => &["create index concurrently extra on balanced(filler, id)", "drop index concurrently extra"],
        3 => &["create index extra on balanced(filler, amount)", "drop index extra"],
        4 => &["reindex table concurrently balanced", "reindex index balanced_pkey"],
        5 => &[
            "alter table balanced alter rewritten type bigint",
            "alter table balanced alter rewritten type int",
        ],
        6 => &["refresh materialized view sums", "refresh materialized view concurrently sums"],
        7 => &[
            "insert into shrinking select i, repeat('v', 300) from generate_series(1, 3000) i",
            "delete from shrinking where i > 10",
            "vacuum shrinking",
            "delete from shrinking",
            "vacuum (truncate) shrinking",
        ],
        _ => &["alter table shrinking set unlogged", "alter table shrinking set logged"],
    };
    for statement in statements {
        run(client, statement).await;
    }
}

/// A whole database comes and goes.
async fn database(client: &Client, n: usize, strategy: &str) {
    let name = format!("copy_by_{strategy}_{}", n % 3);
    run(client, &format!("create database {name} template source strategy {strategy}")).await;
    run(client, &format!("drop database {name}")).await;
}

/// Files that no child may inherit.
async fn passing(client: &Client, n: usize) {
    run(client, "set work_mem = '64kB'; set temp_buffers = '800kB'").await;
    run(
        client,
        "create temp table scratch as select i, md5(i::text) v from generate_series(1, 20000) i;
         create index on scratch(v); truncate scratch; drop table scratch",
    )
    .await;
    run(client, "insert into passing(v) select repeat('p', 500) from generate_series(1, 500)").await;
    if n.is_multiple_of(5) {
        run(client, "truncate passing restart identity").await;
    }
    let sorted =
        "select count(*) from (select md5(i::text) h from generate_series(1, 30000) i order by h offset 1) s";
    assert_eq!(text(client, sorted).await, "29999");
    let hashed = "select count(*) from (select md5(i::text) h from generate_series(1, 20000) i group by h) s";
    assert_eq!(text(client, hashed).await, "20000");
}

/// Large objects, each with a digest, and sequences.
async fn objects(client: &Client, n: usize) {
    run(
        client,
        "insert into documents select lo_from_bytea(0, b), md5(b)
         from (select decode(repeat(md5(random()::text), 400), 'hex') b from generate_series(1, 3)) source",
    )
    .await;
    run(
        client,
        "begin; select lo_put(large, 2000, repeat('z', 3000)::bytea) from documents;
         update documents set digest = md5(lo_get(large)); commit",
    )
    .await;
    if n.is_multiple_of(4) {
        run(client, "with gone as (delete from documents returning large) select lo_unlink(large) from gone")
            .await;
        run(client, "vacuum pg_largeobject").await;
    }
    run(client, &format!("alter sequence numbers cache {}", n % 5 + 1)).await;
    run(client, "insert into events select from generate_series(1, 50)").await;
}

type Round<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Repeats one kind of work until told to stop; returns how often.
fn repeat(
    client: Client,
    stop: &Arc<AtomicBool>,
    work: for<'a> fn(&'a Client, usize) -> Round<'a>,
) -> JoinHandle<usize> {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Ordering::SeqCst) {
            work(&client, n).await;
            tokio::time::sleep(PAUSE).await;
            n += 1;
        }
        n
    })
}

/// Every relation of the database has its file, and every page is sound.
async fn check_database(client: &Client, what: &str) {
    let missing = "select string_agg(relname, ', ') from pg_class
                   where relkind in ('r', 'i', 't', 'm', 'S') and relpersistence <> 't'
                     and (pg_stat_file(pg_relation_filepath(oid), true)).size is null";
    assert_eq!(text(client, missing).await, "", "{what}: relations without a file");
    check_pages(client).await;
}

/// What holds in every database that went through [`fill`] and the work above, at any moment.
async fn check_invariants(client: &Client, what: &str) {
    for (sql, expected) in [
        ("select total()", "1000000"),
        ("select count(*) || ' ' || sum(amount) from balanced", "4000 0"),
        ("select n || ' ' || s from sums", "4000 0"),
        ("select count(*) from documents where md5(lo_get(large)) is distinct from digest", "0"),
        ("select (select count(*) from pg_largeobject_metadata) - (select count(*) from documents)", "0"),
        ("select count(*) - count(distinct number) from events", "0"),
        ("select count(*) from pg_class where relname = 'never'", "0"),
    ] {
        assert_eq!(text(client, sql).await, expected, "{what}: {sql}");
    }
    let most = "select coalesce(max(number), 0) || ' ' || coalesce(max(identity), 0) from events";
    let before = text(client, most).await;
    run(client, "insert into events default values").await;
    let after = text(client, most).await;
    for (before, after) in before.split(' ').zip(after.split(' ')) {
        assert!(before.parse::<i64>().unwrap() < after.parse().unwrap(), "{what}: {before}, then {after}");
    }
}

async fn check_child(lab: &Lab, name: &str) {
    lab.start_with(name, &SETTINGS);
    let client = lab.connect(name).await;
    // Neither temporary relations nor the files of sorts came along. A database whose drop was cut in two is invalid, and may have lost its directory already.
    let temporary =
        "select count(*) from pg_database d, pg_ls_dir('base/' || d.oid, d.datconnlimit = -2, false) f
                     where f ~ '^t[0-9]+_'";
    assert_eq!(text(&client, temporary).await, "0", "{name}");
    assert_eq!(text(&client, "select count(*) from pg_ls_tmpdir()").await, "0", "{name}");
    assert_eq!(text(&client, "select count(*) from passing").await, "0", "{name}");
    run(&client, "insert into passing(v) select 'new' from generate_series(1, 1000)").await;
    let by_index = "set enable_seqscan = off; select count(*) from passing where i between 1 and 1000";
    assert_eq!(text(&client, by_index).await, "1000", "{name}");
    run(&client, "reset enable_seqscan").await;
    check_invariants(&client, name).await;
    check_database(&client, name).await;
    check_copies(lab, &client, name).await;
    tidy(&client).await;
    // It works on as its parent did.
    let kind = name.bytes().map(usize::from).sum::<usize>();
    rewrites(&client, kind).await;
    if kind.is_multiple_of(3) {
        database(&client, kind, "file_copy").await;
        database(&client, kind, "wal_log").await;
    }
    tables(&client, 0).await;
    passing(&lab.connect(name).await, 0).await;
    objects(&client, 0).await;
    check_invariants(&client, name).await;
    drop(client);
    lab.stop(name);
}

/// What was half-way at the cut can be finished: indexes being built, money parked.
async fn tidy(client: &Client) {
    run(
        client,
        "do $$
         declare name regclass;
         begin
           for name in select oid::regclass from pg_class
                       where relkind = 'i' and (relname = 'extra' or relname ~ '_cc(new|old)') loop
             execute format('drop index %s', name);
           end loop;
           for name in select oid::regclass from pg_class where relname like 'parked%' and relkind = 'r' loop
             execute format('update ledger set amount = amount + (select coalesce(sum(amount), 0) from %s)
                             where id = 0', name);
             execute format('drop table %s', name);
           end loop;
         end $$",
    )
    .await;
}

/// Databases that were being made are not there or whole; those being dropped are whole or invalid.
async fn check_copies(lab: &Lab, client: &Client, what: &str) {
    let list =
        "select string_agg(datname || ' ' || datconnlimit, ',') from pg_database where datname like 'copy%'";
    let copies = text(client, list).await;
    for copy in copies.split(',').filter(|copy| !copy.is_empty()) {
        let (database, limit) = copy.split_once(' ').unwrap();
        if limit == "-2" {
            println!("{what}: {database} is invalid");
        } else {
            let copied = lab.connect_to(what, database).await;
            assert_eq!(text(&copied, "select count(*) || ' ' || sum(i) from seed").await, "1000 500500");
            check_database(&copied, what).await;
        }
        run(client, &format!("drop database {database} with (force)")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_child_is_consistent_and_no_statement_of_the_parent_fails() {
    let lab = Lab::new();
    lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
    lab.start_with("main", &SETTINGS);
    let main = lab.connect("main").await;
    fill(&main).await;
    fill_source(&lab.connect_to("main", "source").await).await;
    // A session whose temporary table is there in every cut.
    let session = lab.connect("main").await;
    run(&session, "create temp table held as select generate_series(1, 10000) i").await;
    let stop = Arc::default();
    let work = [
        repeat(lab.connect("main").await, &stop, |client, n| Box::pin(tables(client, n))),
        repeat(lab.connect("main").await, &stop, |client, n| Box::pin(rewrites(client, n))),
        repeat(lab.connect("main").await, &stop, |client, n| Box::pin(database(client, n, "file_copy"))),
        repeat(lab.connect("main").await, &stop, |client, n| Box::pin(database(client, n, "wal_log"))),
        repeat(lab.connect("main").await, &stop, |client, n| Box::pin(passing(client, n))),
        repeat(lab.connect("main").await, &stop, |client, n| Box::pin(objects(client, n))),
    ];
    let mut unchecked = Vec::new();
    for number in 0..CUTS {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let child = format!("child-{number}");
        let cut =
            tokio::task::block_in_place(|| lab.engine.create_child(&key("main"), &key(&child))).unwrap();
        println!("{child}: closed {} us, drain {} us", cut.closed_us, cut.drain_us);
        // Some at once, while layers are being sealed and the parent writes; some later.
        if number % 5 == 2 {
            check_child(&lab, &child).await;
        } else {
            unchecked.push(child);
        }
    }
    stop.store(true, Ordering::SeqCst);
    let names = ["tables", "rewrites", "databases by file", "databases by WAL", "passing", "objects"];
    for (name, work) in names.iter().zip(work) {
        let rounds = work.await.unwrap();
        println!("{name}: {rounds} rounds");
        assert!(rounds > 0, "{name}");
    }
    assert_eq!(text(&session, "select sum(i) from held").await, "50005000");
    check_invariants(&main, "main").await;
    check_database(&main, "main").await;
    drop((main, session));
    lab.engine.stop(&key("main"), StopMode::Kill).unwrap();
    lab.start_with("main", &SETTINGS);
    let main = lab.connect("main").await;
    check_invariants(&main, "main").await;
    check_database(&main, "main").await;
    lab.engine.create_child(&key(&unchecked[0]), &key("grandchild")).unwrap();
    unchecked.push("grandchild".to_owned());
    for child in &unchecked {
        check_child(&lab, child).await;
        lab.engine.delete(&key(child)).unwrap();
    }
    check_invariants(&main, "main").await;
}

/// Why a connection is refused.
async fn refusal(socket_dir: &Path, database: &str) -> String {
    let mut config = Config::new();
    config.host_path(socket_dir).user(BOOTSTRAP_ROLE).password(PASSWORD).dbname(database);
    let error = config.connect(NoTls).await.err().unwrap();
    error.as_db_error().unwrap().message().to_owned()
}

/// DROP DATABASE first makes the database invalid for good, then waits for all processes, then removes
/// its files. A stopped process holds it up in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_being_dropped_can_be_dropped() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create database doomed").await;
    run(&lab.connect_to("main", "doomed").await, "create table t as select generate_series(1, 1000) i").await;
    let (bystander, watcher) = (lab.connect("main").await, lab.connect("main").await);
    let pid: i32 = text(&bystander, "select pg_backend_pid()").await.parse().unwrap();
    assert!(os::kill(pid, libc::SIGSTOP).unwrap());
    let dropping = tokio::spawn(async move {
        run(&main, "drop database doomed").await;
        main
    });
    let limit = "select datconnlimit from pg_database where datname = 'doomed'";
    let waiting = "select count(*) from pg_stat_activity where query like 'drop database%' and \
                   wait_event = 'ProcSignalBarrier' and pid <> pg_backend_pid()";
    let begin = Instant::now();
    while text(&watcher, waiting).await == "0" {
        assert!(begin.elapsed() < Duration::from_secs(60), "DROP DATABASE does not wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::task::block_in_place(|| lab.engine.create_child(&key("main"), &key("dev"))).unwrap();
    assert!(os::kill(pid, libc::SIGCONT).unwrap());
    let main = dropping.await.unwrap();
    assert_eq!(text(&main, limit).await, "");
    lab.start("dev");
    let dev = lab.connect("dev").await;
    assert_eq!(text(&dev, limit).await, "-2");
    let error = refusal(&lab.engine.socket_dir(&key("dev")), "doomed").await;
    assert!(error.contains("cannot connect to invalid database"), "{error}");
    run(&dev, "drop database doomed").await;
    run(&dev, "create database doomed").await;
    run(&lab.connect_to("dev", "doomed").await, "create table t(i int)").await;
    check_pages(&dev).await;
}

/// A symbolic link would let parent and child write the same files; a directory in place will not.
#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_lie_inside_or_are_refused() {
    let lab = Lab::with_main();
    let outside = lab.path.join("outside");
    std::fs::create_dir(&outside).unwrap();
    // A confined compute reaches what stood beside the home when it started.
    lab.stop("main");
    lab.start("main");
    let main = lab.connect("main").await;
    let sql = format!("create tablespace outside location '{}'", outside.display());
    let error = main.batch_execute(&sql).await.unwrap_err();
    let message = error.as_db_error().unwrap().message();
    assert!(message.contains("could not create symbolic link"), "{message}");
    run(&main, "set allow_in_place_tablespaces = on").await;
    run(&main, "create tablespace inside location ''").await;
    run(&main, "create table t(i int primary key using index tablespace inside) tablespace inside").await;
    run(&main, "insert into t select generate_series(1, 10000)").await;
    lab.branch("main", "dev");
    let dev = lab.connect("dev").await;
    run(&dev, "delete from t where i > 5000").await;
    run(&dev, "vacuum full t").await;
    run(&main, "insert into t select generate_series(10001, 20000)").await;
    drop((main, dev));
    for (name, count) in [("main", "20000"), ("dev", "5000")] {
        lab.engine.stop(&key(name), StopMode::Kill).unwrap();
        lab.start(name);
        let client = lab.connect(name).await;
        assert_eq!(text(&client, "select count(*) from t").await, count, "{name}");
        check_pages(&client).await;
        run(&client, "alter table t set tablespace pg_default; alter index t_pkey set tablespace pg_default")
            .await;
        run(&client, "drop tablespace inside").await;
        assert_eq!(text(&client, "select count(*) from t").await, count, "{name}");
    }
}
