//! What a child takes over from its parent, and what it must not.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use compute::engine::{BOOTSTRAP_ROLE, ComputeState, StartOptions, StopMode};
use e2e::lab::{Lab, PASSWORD, key, run, text};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn lab_with(settings: &[(&str, &str)]) -> Lab {
    let lab = Lab::new();
    lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
    lab.start_with("main", settings);
    lab
}

async fn show(client: &Client, setting: &str) -> String {
    text(client, &format!("show {setting}")).await
}

/// Asks until the answer is the expected one.
async fn await_text(client: &Client, sql: &str, expected: &str) {
    let begin = Instant::now();
    loop {
        let found = text(client, sql).await;
        if found == expected {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{sql}: {found}, not {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Statement by statement: some may not stand in a transaction block.
async fn each(client: &Client, sql: &str) {
    for statement in sql.split(';') {
        run(client, statement).await;
    }
}

async fn sqlstate(client: &Client, sql: &str) -> SqlState {
    client.batch_execute(sql).await.unwrap_err().code().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_of_two_databases() {
    const GIDS: &str =
        "select string_agg(gid || ' in ' || database, ', ' order by gid) from pg_prepared_xacts";
    let lab = lab_with(&[("max_prepared_transactions", "10")]).await;
    let main = lab.connect("main").await;
    run(&main, "create database second").await;
    let second = lab.connect_to("main", "second").await;
    for (client, name) in [(&main, "one"), (&second, "two")] {
        run(client, "create table t(i int primary key, v text); insert into t values (1, 'before')").await;
        // One that the checkpoint puts into a file of its own, one that only the WAL has.
        let file = format!("begin; insert into t values (2, 'file'); prepare transaction '{name}-file'");
        run(client, &file).await;
        run(client, "checkpoint").await;
        let wal = format!("begin; update t set v = 'wal' where i = 1; prepare transaction '{name}-wal'");
        run(client, &wal).await;
    }
    let all = "one-file in postgres, one-wal in postgres, two-file in second, two-wal in second";
    assert_eq!(text(&main, GIDS).await, all);
    // The child has room for them even when asked for less.
    lab.engine.create_child(&key("main"), &key("dev")).unwrap();
    lab.start_with("dev", &[("max_prepared_transactions", "0")]);
    let (dev, dev_second) = (lab.connect("dev").await, lab.connect_to("dev", "second").await);
    assert_eq!(show(&dev, "max_prepared_transactions").await, "10");
    assert_eq!(text(&dev, GIDS).await, all);
    for client in [&dev, &dev_second] {
        assert_eq!(text(client, "select string_agg(v, ',') from t").await, "before");
        // They hold their locks.
        let blocked = "set lock_timeout = '50ms'; update t set v = 'x' where i = 1";
        assert_eq!(sqlstate(client, blocked).await, SqlState::LOCK_NOT_AVAILABLE);
    }
    run(&dev, "commit prepared 'one-file'").await;
    run(&dev, "commit prepared 'one-wal'").await;
    run(&dev_second, "rollback prepared 'two-file'").await;
    let rows = "select string_agg(i || v, ',' order by i) from t";
    assert_eq!(text(&dev, rows).await, "1wal,2file");
    assert_eq!(text(&dev_second, rows).await, "1before");
    assert_eq!(text(&main, GIDS).await, all);
    assert_eq!(text(&main, rows).await, "1before");
    each(&main, "rollback prepared 'one-wal'; checkpoint").await;
    drop((dev, dev_second, main, second));
    // What was decided stays decided, and what was not stays open.
    for (name, gids, first_rows) in [
        ("dev", "two-wal in second", "1wal,2file"),
        ("main", "one-file in postgres, two-file in second, two-wal in second", "1before"),
    ] {
        lab.engine.stop(&key(name), StopMode::Kill).unwrap();
        lab.start_with(name, &[("max_prepared_transactions", "10")]);
        let client = lab.connect(name).await;
        assert_eq!(text(&client, GIDS).await, gids, "{name}");
        assert_eq!(text(&client, rows).await, first_rows, "{name}");
    }
    run(&lab.connect_to("dev", "second").await, "commit prepared 'two-wal'").await;
    run(&lab.connect("main").await, "commit prepared 'one-file'").await;
    assert_eq!(text(&lab.connect_to("dev", "second").await, rows).await, "1wal");
    assert_eq!(text(&lab.connect("main").await, rows).await, "1before,2file");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_recovery_needs_are_never_lowered() {
    let lab = lab_with(&[("max_prepared_transactions", "7"), ("track_commit_timestamp", "on")]).await;
    let main = lab.connect("main").await;
    run(&main, "create table t(i int); insert into t values (1)").await;
    each(&main, "alter system set max_connections = 150; alter system set max_locks_per_transaction = 80")
        .await;
    drop(main);
    lab.stop("main");
    lab.start_with("main", &[("max_prepared_transactions", "7"), ("track_commit_timestamp", "on")]);
    lab.branch("main", "dev");
    let dev = lab.connect("dev").await;
    for (setting, value) in [
        ("max_prepared_transactions", "7"),
        ("max_connections", "150"),
        ("max_locks_per_transaction", "80"),
        ("track_commit_timestamp", "on"),
    ] {
        assert_eq!(show(&dev, setting).await, value, "{setting}");
    }
    // Commit times came with the rows, and go on.
    let time = "select count(*) from t
                where pg_xact_commit_timestamp(xmin) between now() - interval '1 hour' and now()";
    assert_eq!(text(&dev, time).await, "1");
    run(&dev, "insert into t values (2)").await;
    assert_eq!(text(&dev, time).await, "2");
    // Lowered by hand, here and in a grandchild: raised again, and higher stays higher.
    each(&dev, "alter system set max_prepared_transactions = 3; alter system set max_connections = 60").await;
    run(&dev, "alter system set max_locks_per_transaction = 100").await;
    run(&dev, "alter system set track_commit_timestamp = off").await;
    drop(dev);
    lab.engine.stop(&key("dev"), StopMode::Kill).unwrap();
    lab.start("dev");
    lab.branch("dev", "grandchild");
    for name in ["dev", "grandchild"] {
        let client = lab.connect(name).await;
        assert_eq!(show(&client, "max_prepared_transactions").await, "7", "{name}");
        assert_eq!(show(&client, "max_connections").await, "150", "{name}");
        assert_eq!(show(&client, "max_locks_per_transaction").await, "100", "{name}");
        assert_eq!(text(&client, time).await, "2", "{name}");
    }
    // A parent that has itself been started with less gives less, where nothing needs more.
    lab.stop("main");
    lab.start_with("main", &[("max_prepared_transactions", "2")]);
    assert_eq!(show(&lab.connect("main").await, "max_prepared_transactions").await, "2");
    lab.branch("main", "later");
    assert_eq!(text(&lab.connect("later").await, "select count(*) from t").await, "1");
}

/// Replication origins live through recovery, each in a place that this setting limits.
#[tokio::test(flavor = "multi_thread")]
async fn room_for_origins_and_preloaded_libraries_come_along() {
    let lab = lab_with(&[("max_replication_slots", "20"), ("track_commit_timestamp", "on")]).await;
    let main = lab.connect("main").await;
    run(&main, "alter system set shared_preload_libraries = 'pg_stat_statements'").await;
    for number in 0..15 {
        run(&main, &format!("select pg_replication_origin_create('o{number}')")).await;
        run(&main, &format!("select pg_replication_origin_advance('o{number}', '0/{number}FF')")).await;
    }
    run(&main, "checkpoint").await;
    let origins = "select count(*) from pg_replication_origin_status";
    assert_eq!(text(&main, origins).await, "15");
    lab.branch("main", "dev");
    let dev = lab.connect("dev").await;
    assert_eq!(text(&dev, origins).await, "15");
    assert_eq!(show(&dev, "max_replication_slots").await, "20");
    assert_eq!(show(&dev, "track_commit_timestamp").await, "on");
    assert_eq!(show(&dev, "shared_preload_libraries").await, "pg_stat_statements");
    run(&dev, "select pg_replication_origin_drop('o0')").await;
    run(&dev, "alter system set shared_preload_libraries = 'auto_explain'").await;
    drop(dev);
    lab.engine.stop(&key("dev"), StopMode::Kill).unwrap();
    lab.start_with("dev", &[("max_replication_slots", "1")]);
    let dev = lab.connect("dev").await;
    assert_eq!(text(&dev, origins).await, "14");
    assert_eq!(show(&dev, "shared_preload_libraries").await, "auto_explain,pg_stat_statements");
    assert_eq!(text(&main, origins).await, "15");
}

#[tokio::test(flavor = "multi_thread")]
async fn replication_slots_stay_with_the_parent() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t(i int); create publication p for table t").await;
    run(&main, "select pg_create_logical_replication_slot('logical', 'pgoutput')").await;
    run(&main, "select pg_create_physical_replication_slot('physical', true)").await;
    run(&main, "insert into t select generate_series(1, 100)").await;
    lab.branch("main", "dev");
    let dev = lab.connect("dev").await;
    assert_eq!(text(&dev, "select count(*) from pg_replication_slots").await, "0", "slots were inherited");
    // Neither names nor positions are taken.
    run(&dev, "select pg_create_logical_replication_slot('logical', 'pgoutput')").await;
    run(&dev, "insert into t values (0)").await;
    let changes = "select count(*) from pg_logical_slot_get_binary_changes('logical', null, null, \
                   'proto_version', '1', 'publication_names', 'p') where get_byte(data, 0) = ascii('I')";
    assert_eq!(text(&dev, changes).await, "1");
    run(&dev, "select pg_drop_replication_slot('logical')").await;
    // The parent's slots are there, and keep its WAL although we remove old segments.
    for _ in 0..3 {
        run(&main, "insert into t values (-1); select pg_switch_wal(); checkpoint").await;
    }
    lab.engine.maintain().unwrap();
    drop(main);
    lab.stop("main");
    lab.start("main");
    let main = lab.connect("main").await;
    assert_eq!(text(&main, "select count(*) from pg_replication_slots").await, "2");
    assert_eq!(text(&main, changes).await, "103");
    run(&main, "select pg_drop_replication_slot('physical'); checkpoint").await;
    let oldest = || {
        let files = std::fs::read_dir(lab.data_directory("main").join("pg_wal")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.len() == 24).min().unwrap()
    };
    let before = oldest();
    run(&main, "select pg_switch_wal(); checkpoint; checkpoint").await;
    run(&main, "select pg_replication_slot_advance('logical', pg_current_wal_lsn()); checkpoint").await;
    lab.engine.maintain().unwrap();
    assert!(oldest() > before, "{before} is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_came_with_the_data_is_dead_and_can_be_dropped() {
    const WORKERS: &str =
        "select count(*) from pg_stat_activity where backend_type like 'logical replication%'";
    const APPLIERS: &str = "select count(*) from pg_stat_subscription where pid is not null";
    const SLOT: &str = "select count(*) || ' ' || count(*) filter (where active) from pg_replication_slots";
    let lab = Lab::with_main();
    lab.engine.create_root(&key("publisher"), &lab.server, PASSWORD).unwrap();
    lab.start("publisher");
    let (main, publisher) = (lab.connect("main").await, lab.connect("publisher").await);
    run(&publisher, "create table t(i int primary key); create publication p for table t").await;
    run(&publisher, "insert into t select generate_series(1, 100)").await;
    run(&main, "create table t(i int primary key)").await;
    let socket = lab.engine.socket_dir(&key("publisher"));
    run(
        &main,
        &format!(
        "create subscription s connection 'host={} user={BOOTSTRAP_ROLE} password={PASSWORD} dbname=postgres'
         publication p",
        socket.display()
    ),
    )
    .await;
    await_text(&main, "select count(*) from t", "100").await;
    await_text(&publisher, SLOT, "1 1").await;
    // A subscription commits without waiting for the disk; a cut holds what a later commit waited for.
    run(&main, "create table flushed()").await;

    lab.engine.create_child(&key("main"), &key("dev")).unwrap();
    // Branched before its first start, a child is recovered: also then nothing of it may run.
    lab.engine.create_child(&key("main"), &key("passed")).unwrap();
    lab.engine.create_child(&key("passed"), &key("grandchild")).unwrap();
    assert_eq!(lab.engine.state(&key("passed")).unwrap(), ComputeState::Stopped);
    let log = std::fs::read_to_string(lab.engine.log_path(&key("passed"))).unwrap();
    assert!(
        log.contains("database system is ready") && !log.contains("logical replication apply worker"),
        "logical replication runs in the child: {log}"
    );
    let options = StartOptions { first_start: true, settings: Vec::new() };
    lab.engine.start(&key("dev"), &lab.server, &options).unwrap();
    let dev = lab.connect("dev").await;
    run(&publisher, "insert into t values (101)").await;
    await_text(&main, "select count(*) from t", "101").await;
    assert_eq!(text(&dev, WORKERS).await, "0", "logical replication runs in the child");
    assert_eq!(text(&dev, "select subenabled from pg_subscription").await, "t");
    // What the control plane does.
    run(&dev, "update pg_subscription set subenabled = false, subslotname = null").await;
    drop(dev);
    lab.stop("dev");
    lab.start("dev");
    let dev = lab.connect("dev").await;
    run(&publisher, "insert into t values (102)").await;
    await_text(&main, "select count(*) from t", "102").await;
    assert_eq!(text(&dev, APPLIERS).await, "0");
    assert_eq!(text(&dev, "select count(*) from t").await, "100");
    run(&dev, "drop subscription s").await;
    assert_eq!(text(&publisher, SLOT).await, "1 1");
    assert_eq!(text(&main, "select subenabled || ' ' || subslotname from pg_subscription").await, "true s");
    // The parent goes on where it was, also after a crash: nothing twice, nothing missing.
    run(&publisher, "insert into t values (103)").await;
    await_text(&main, "select count(*) from t", "103").await;
    drop(main);
    lab.engine.stop(&key("main"), StopMode::Kill).unwrap();
    run(&publisher, "insert into t values (104)").await;
    lab.start("main");
    let main = lab.connect("main").await;
    await_text(&main, "select count(*) from t", "104").await;
    assert_eq!(text(&dev, "select count(*) from t").await, "100");
    run(&main, "drop subscription s").await;
    assert_eq!(text(&publisher, SLOT).await, "0 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_of_a_publisher_keeps_its_publication_without_slots() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t(i int primary key); create publication p for table t").await;
    run(&main, "insert into t values (1)").await;
    lab.branch("main", "dev");
    lab.engine.create_root(&key("other"), &lab.server, PASSWORD).unwrap();
    lab.start("other");
    let (dev, other) = (lab.connect("dev").await, lab.connect("other").await);
    run(&other, "create table t(i int primary key)").await;
    let socket = lab.engine.socket_dir(&key("dev"));
    run(
        &other,
        &format!(
        "create subscription s connection 'host={} user={BOOTSTRAP_ROLE} password={PASSWORD} dbname=postgres'
         publication p",
        socket.display()
    ),
    )
    .await;
    run(&dev, "insert into t values (2)").await;
    run(&main, "insert into t values (3)").await;
    await_text(&other, "select string_agg(i::text, ',' order by i) from t", "1,2").await;
    assert_eq!(text(&main, "select count(*) from pg_replication_slots").await, "0");
    run(&other, "drop subscription s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_is_copied_once_and_then_separate() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    each(&main, "alter system set work_mem = '7MB'; select pg_reload_conf()").await;
    let hba = |name: &str| lab.data_directory(name).join("pg_hba.conf");
    let mut rules = std::fs::read_to_string(hba("main")).unwrap();
    rules.push_str("# a line of the parent's\n");
    std::fs::write(hba("main"), &rules).unwrap();
    lab.branch("main", "dev");
    let dev = lab.connect("dev").await;
    assert_eq!(show(&dev, "work_mem").await, "7MB");
    assert_eq!(std::fs::read_to_string(hba("dev")).unwrap(), rules);
    each(
        &dev,
        "alter system set work_mem = '9MB'; alter system set random_page_cost = 2; select pg_reload_conf()",
    )
    .await;
    each(
        &main,
        "alter system set work_mem = '5MB'; alter system set seq_page_cost = 3; select pg_reload_conf()",
    )
    .await;
    std::fs::write(hba("dev"), format!("{rules}# a line of the child's\n")).unwrap();
    let values = "select string_agg(setting, ' ' order by name) from pg_settings \
                  where name in ('work_mem', 'random_page_cost', 'seq_page_cost')";
    await_text(&dev, values, "2 1 9216").await;
    await_text(&main, values, "4 3 5120").await;
    drop((main, dev));
    for (name, expected) in [("main", "4 3 5120"), ("dev", "2 1 9216")] {
        lab.stop(name);
        lab.start(name);
        assert_eq!(text(&lab.connect(name).await, values).await, expected, "{name}");
    }
    assert_eq!(std::fs::read_to_string(hba("main")).unwrap(), rules);
    // Roles and passwords are data.
    let dev = lab.connect("dev").await;
    run(&dev, "create role only_dev; alter database postgres set lock_timeout = '1s'").await;
    let main = lab.connect("main").await;
    assert_eq!(text(&main, "select count(*) from pg_roles where rolname = 'only_dev'").await, "0");
    assert_eq!(show(&main, "lock_timeout").await, "0");
}

/// Settings that tie a server to others would stop a child's commits or write into a foreign archive.
#[tokio::test(flavor = "multi_thread")]
async fn ties_to_other_servers_and_unsafe_settings_have_no_effect() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t(i int)").await;
    for setting in [
        "synchronous_standby_names = 'nobody'",
        "archive_mode = on",
        "archive_command = '/bin/false'",
        "restore_command = '/bin/false'",
        "primary_conninfo = 'host=/nonexistent'",
        "primary_slot_name = 'nobody'",
        "external_pid_file = '/nonexistent/pid'",
        "listen_addresses = '*'",
        "unix_socket_directories = '/nonexistent'",
        "hba_file = '/nonexistent'",
        "fsync = off",
        "full_page_writes = off",
        "wal_level = minimal",
        "wal_recycle = on",
        "wal_init_zero = on",
        "wal_keep_size = 0",
        "wal_sync_method = open_sync",
        "recovery_init_sync_method = fsync",
        "summarize_wal = on",
        "dynamic_shared_memory_type = posix",
        "logging_collector = on",
    ] {
        run(&main, &format!("alter system set {setting}")).await;
    }
    run(&main, "select pg_reload_conf()").await;
    drop(main);
    lab.stop("main");
    let unsafe_options = [("fsync", "off"), ("wal_recycle", "on"), ("LISTEN_ADDRESSES", "*"), ("port", "1")];
    lab.start_with("main", &unsafe_options);
    lab.engine.create_child(&key("main"), &key("dev")).unwrap();
    lab.start_with("dev", &unsafe_options);
    for name in ["main", "dev"] {
        let client = lab.connect(name).await;
        for (setting, value) in [
            ("synchronous_standby_names", ""),
            ("archive_mode", "off"),
            ("archive_command", "(disabled)"),
            ("archive_library", ""),
            ("restore_command", ""),
            ("primary_conninfo", ""),
            ("primary_slot_name", ""),
            ("external_pid_file", ""),
            ("listen_addresses", ""),
            ("port", "5432"),
            ("unix_socket_permissions", "0700"),
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("wal_level", "logical"),
            ("wal_recycle", "off"),
            ("wal_init_zero", "off"),
            ("wal_keep_size", "2147483647MB"),
            ("wal_sync_method", "fdatasync"),
            ("recovery_init_sync_method", "syncfs"),
            ("summarize_wal", "off"),
            ("dynamic_shared_memory_type", "mmap"),
            ("logging_collector", "off"),
            ("data_checksums", "on"),
            ("wal_segment_size", "4MB"),
        ] {
            assert_eq!(show(&client, setting).await, value, "{name}: {setting}");
        }
        let data = lab.data_directory(name);
        assert_eq!(show(&client, "data_directory").await, data.to_str().unwrap());
        assert_eq!(show(&client, "hba_file").await, data.join("pg_hba.conf").to_str().unwrap());
        assert_eq!(
            show(&client, "unix_socket_directories").await,
            lab.engine.socket_dir(&key(name)).to_str().unwrap()
        );
        // A commit that waited for a standby would wait for ever.
        let commit = run(&client, "insert into t values (1)");
        tokio::time::timeout(PATIENCE, commit).await.unwrap();
        // Not changed while it runs either.
        each(&client, "alter system set fsync = off; alter system set synchronous_standby_names = '*'").await;
        run(&client, "select pg_reload_conf(); select pg_sleep(0.2)").await;
        assert_eq!(show(&client, "fsync").await, "on");
        assert_eq!(show(&client, "synchronous_standby_names").await, "");
    }
    let dev = lab.connect("dev").await;
    for (setting, value) in
        [("autovacuum_freeze_max_age", "1500000000"), ("autovacuum_multixact_freeze_max_age", "1500000000")]
    {
        assert_eq!(show(&dev, setting).await, value, "{setting}");
    }
    assert_eq!(show(&lab.connect("main").await, "autovacuum_freeze_max_age").await, "200000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_timeline_and_checksums_are_the_parents() {
    const IDENTITY: &str =
        "select system_identifier || ' ' || timeline_id from pg_control_system(), pg_control_checkpoint()";
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t as select i, repeat('x', 100) v from generate_series(1, 10000) i").await;
    lab.branch("main", "dev");
    lab.branch("dev", "grandchild");
    let identity = text(&main, IDENTITY).await;
    assert!(identity.ends_with(" 1"), "{identity}");
    let database = "select oid from pg_database where datname = 'postgres'";
    for name in ["dev", "grandchild"] {
        let client = lab.connect(name).await;
        assert_eq!(text(&client, IDENTITY).await, identity, "{name}");
        assert_eq!(text(&client, database).await, text(&main, database).await);
        assert_eq!(text(&client, "select pg_is_in_recovery()").await, "f");
        run(&client, "update t set v = 'y'").await;
        assert_eq!(show(&client, "data_checksums").await, "on", "{name}");
        assert_eq!(text(&client, "select sum(checksum_failures) from pg_stat_database").await, "0", "{name}");
    }
    // Checksums are really looked at: a flipped bit in the child's page is found there, and only there.
    let dev = lab.connect("dev").await;
    run(&dev, "checkpoint").await;
    let path = text(&dev, "select pg_relation_filepath('t')").await;
    drop(dev);
    lab.stop("dev");
    let layer = lab.layers("dev").into_iter().rev().find(|layer| layer.join("f").join(&path).exists());
    let file = layer.unwrap().join("f").join(&path);
    let damage = std::fs::File::options().read(true).write(true).open(&file).unwrap();
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&damage, &mut byte, 5000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&damage, &[byte[0] ^ 1], 5000).unwrap();
    lab.start("dev");
    let dev = lab.connect("dev").await;
    assert_eq!(sqlstate(&dev, "select count(v) from t").await, SqlState::DATA_CORRUPTED);
    assert_eq!(text(&main, "select count(v) from t").await, "10000");
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_come_from_a_clean_parent_only() {
    const COUNT: &str = "select n_tup_ins from pg_stat_user_tables where relname = 't'";
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t(i int); insert into t select generate_series(1, 1000)").await;
    await_text(&main, COUNT, "1000").await;
    lab.branch("main", "crashed");
    assert_eq!(text(&lab.connect("crashed").await, COUNT).await, "0");
    drop(main);
    lab.stop("main");
    lab.branch("main", "clean");
    let clean = lab.connect("clean").await;
    assert_eq!(text(&clean, COUNT).await, "1000");
    run(&clean, "insert into t values (0)").await;
    await_text(&clean, COUNT, "1001").await;
    drop(clean);
    lab.stop("clean");
    lab.start("clean");
    assert_eq!(text(&lab.connect("clean").await, COUNT).await, "1001");
    lab.start("main");
    assert_eq!(text(&lab.connect("main").await, COUNT).await, "1000");
}

/// Each of these faults makes one of the tests above fail.
#[cfg(debug_assertions)]
mod planted {
    use store::fault::{Fault, must_be_noticed};

    #[test]
    fn slots_that_a_child_gets() {
        let test = "replication_slots_stay_with_the_parent";
        must_be_noticed(Fault::SlotsInherited, test, "slots were inherited");
    }

    #[test]
    fn workers_that_run_at_a_childs_first_start() {
        let test = "a_subscription_that_came_with_the_data_is_dead_and_can_be_dropped";
        must_be_noticed(Fault::WorkersAtFirstStart, test, "logical replication runs in the child");
    }

    #[test]
    fn an_archive_that_a_child_writes_to() {
        let test = "ties_to_other_servers_and_unsafe_settings_have_no_effect";
        must_be_noticed(Fault::ArchiveInherited, test, "dev: archive_mode");
    }
}
