//! Every file-system call of a compute, traced: none names a layered path of the data directory, none
//! changes a sealed layer.
//!
//! What the preload library does not see (a function it does not interpose, a call that the C library
//! makes inside itself) would show up here.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod trace;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use compute::engine::{BranchKey, StopMode};
use compute::initdb::WAL_SEGMENT_MIB;
use compute::server::Server;
use e2e::lab::{Lab, key, run, text};
use e2e::processes::signal;
use store::manifest::Manifest;
use tokio_postgres::Client;
use trace::{Fault, Place, Summary};

/// A server whose `postgres` runs under `strace`, for one branch.
struct Traced {
    server: Server,
    output: PathBuf,
    key: BranchKey,
}

impl Traced {
    fn new(lab: &Lab, name: &str) -> Traced {
        let bin_dir = lab.path.join(format!("traced-{name}"));
        let output = bin_dir.join("trace");
        std::fs::create_dir(&bin_dir).unwrap();
        let home = lab.path.join("home").canonicalize().unwrap();
        // The library takes its variables away from every program it is loaded into, the shell below
        // included, so the tracer gives them to the server again.
        let variables = [
            ("LD_PRELOAD", shim_image::install(&lab.path.join("run")).unwrap().display().to_string()),
            ("ANABRANCH_SHIM_BRANCH", home.join("branches").join(name).display().to_string()),
            ("ANABRANCH_SHIM_LAYERS", home.join("layers").display().to_string()),
            ("ANABRANCH_SHIM_WAL_SEGMENT", (WAL_SEGMENT_MIB << 20).to_string()),
        ];
        let mut script = "#!/bin/sh\nexec strace".to_owned();
        for (name, value) in variables {
            script += &format!(" -E '{name}={value}'");
        }
        let options = trace::options().join(" ");
        let postgres = lab.server.program("postgres");
        script += &format!(" {options} -o '{}' '{}' \"$@\"\n", output.display(), postgres.display());
        let program = bin_dir.join("postgres");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let server = Server { bin_dir, ..lab.server.clone() };
        Traced { server, output, key: key(name) }
    }

    fn start(&self, lab: &Lab) {
        let options = compute::engine::StartOptions {
            // Evictions while sorting and loading, temporary files, background writing.
            settings: [
                ("shared_buffers", "2MB"),
                ("work_mem", "64kB"),
                ("maintenance_work_mem", "1MB"),
                ("autovacuum_naptime", "1s"),
                ("bgwriter_delay", "10ms"),
                ("max_prepared_transactions", "4"),
                ("max_parallel_workers_per_gather", "2"),
                ("parallel_setup_cost", "0"),
                ("min_parallel_table_scan_size", "0"),
                ("allow_in_place_tablespaces", "on"),
                ("restart_after_crash", "on"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            ..Default::default()
        };
        lab.engine.start(&self.key, &self.server, &options).unwrap();
    }
}

/// The files of a trace, one per process, with what they hold.
fn traces(output: &Path) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(output.parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let own = paths.filter(|path| path.file_stem() == output.file_name() && path != output);
    own.map(|path| (path.clone(), String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()))
        .collect()
}

/// Checks all that was done, once the tracer has written all of it.
fn collect(place: &Place, output: &Path) -> Summary {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut total = Summary { ended: true, ..Summary::default() };
        traces(output).iter().for_each(|(_, text)| total.add(place.check(text)));
        if total.ended && total.calls > 0 {
            return total;
        }
        assert!(Instant::now() < deadline, "the tracer does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The layers of a branch below its top: sealed since `since`.
fn sealed_layers(lab: &Lab, name: &str, since: f64) -> Vec<(PathBuf, f64)> {
    let home = lab.path.join("home").canonicalize().unwrap();
    let manifest = std::fs::read(home.join("branches").join(name).join("manifest")).unwrap();
    let entries = Manifest::decode(&manifest).unwrap().entries;
    let below = &entries[..entries.len() - 1];
    let path = |layer| {
        let name = store::layer::directory_name(layer);
        home.join("layers").join(name.to_str().unwrap()).join("f")
    };
    below.iter().map(|entry| (path(entry.layer), since)).collect()
}

fn place(lab: &Lab, name: &str, sealed: Vec<(PathBuf, f64)>) -> Place {
    let home = lab.path.join("home").canonicalize().unwrap();
    let branch = home.join("branches").join(name);
    Place {
        data_directory: branch.join("pgdata"),
        layers: home.join("layers"),
        private: branch.join("private"),
        sealed,
    }
}

/// Statements one by one: not all of them may stand in a transaction.
async fn run_each(client: &Client, statements: &str) {
    for statement in statements.split(';') {
        run(client, statement).await;
    }
}

/// Connects again after a crash of the server, which first recovers.
async fn reconnect(lab: &Lab, branch: &str) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(lab.engine.socket_dir(&key(branch))).port(5432).dbname("postgres");
    config.user(compute::engine::BOOTSTRAP_ROLE).password(e2e::lab::PASSWORD);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match config.connect(tokio_postgres::NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Gives autovacuum something to do and waits until it has.
async fn await_autovacuum(client: &Client) {
    run(client, "update t set w = 'dead'").await;
    let done = "select count(*) from pg_stat_all_tables where autovacuum_count + autoanalyze_count > 0";
    let deadline = Instant::now() + Duration::from_secs(60);
    while text(client, done).await == "0" {
        assert!(Instant::now() < deadline, "autovacuum did nothing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

const LOAD: &str = "
    create table t(i int, v text, w text);
    insert into t select i, md5(i::text), repeat('x', 200) from generate_series(1, 20000) i;
    alter table t add primary key (i);
    create index on t(v);
    create index on t using gin (to_tsvector('simple', v));
    create unlogged table u as select * from t limit 1000;
    create temporary table tmp as select * from t;
    update tmp set w = 'y' where i % 3 = 0;
    select count(*) from (select * from t a order by v, w) s;
    select count(*) from t a join t b on a.v = b.v;
    create materialized view m as select i % 100 as k, count(*) from t group by 1;
    refresh materialized view m;
    create table toasted(b text);
    insert into toasted select string_agg(md5(i::text), '') from generate_series(1, 5000) i;
    truncate u;
    delete from t where i % 2 = 0;
    vacuum full t;
    cluster t using t_pkey;
    create sequence s; select nextval('s');
    create schema other; create table other.t as select 1;
    drop schema other cascade;
    create tablespace inside location ''; create table elsewhere(i int) tablespace inside;
    insert into elsewhere values (1);
    alter system set log_min_duration_statement = '10s';
    select pg_reload_conf();
    select pg_relation_size('t'), pg_database_size('postgres'), pg_stat_file('base/1/PG_VERSION'),
           count(*) from pg_ls_dir('base');
    select pg_read_binary_file('global/pg_control') is not null, count(*) from pg_ls_waldir();
    select * from pg_control_checkpoint();
    select pg_switch_wal();
    begin; insert into t values (0); prepare transaction 'kept';
    checkpoint";

#[tokio::test(flavor = "multi_thread")]
async fn no_call_of_a_compute_names_a_layered_path_or_changes_a_sealed_layer() {
    let lab = Lab::new();
    if trace::is_forbidden() {
        return;
    }
    let traced = Traced::new(&lab, "main");
    lab.engine.create_root(&key("main"), &lab.server, e2e::lab::PASSWORD).unwrap();
    let mut sealed = sealed_layers(&lab, "main", now());
    traced.start(&lab);
    let main = lab.connect("main").await;
    run_each(&main, LOAD).await;
    run(&main, "create database copied template template0 strategy file_copy").await;
    run(&main, "create database logged template template0 strategy wal_log").await;
    run(&lab.connect_to("main", "copied").await, "create table c as select 1").await;

    // A cut while others write, who then go on with the descriptors that they have.
    let writer = lab.connect("main").await;
    let writing = tokio::spawn(async move {
        for round in 0..30 {
            let rows = "select i, 'again', 'z' from generate_series(1, 500) i";
            run(&writer, &format!("insert into t {rows} on conflict (i) do update set v = 'again {round}'"))
                .await;
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    tokio::task::block_in_place(|| lab.engine.create_child(&key("main"), &key("child"))).unwrap();
    sealed.extend(sealed_layers(&lab, "main", now()));
    writing.await.unwrap();
    run_each(&main, "insert into toasted select repeat(md5('x'), 1000); checkpoint; vacuum t").await;
    run_each(&main, "rollback prepared 'kept'; drop database copied; drop database logged").await;
    run_each(&main, "drop table elsewhere; drop tablespace inside; drop table toasted").await;

    // A backend dies: all others go, and the postmaster recovers from WAL.
    let victim: i32 = text(&main, "select pg_backend_pid()").await.parse().unwrap();
    signal(victim, libc::SIGKILL);
    drop(main);
    let main = reconnect(&lab, "main").await;
    assert_eq!(text(&main, "select count(*) from t where v like 'again%'").await, "500");
    await_autovacuum(&main).await;
    drop(main);

    let child_trace = Traced::new(&lab, "child");
    let child_sealed = sealed_layers(&lab, "child", now());
    child_trace.start(&lab);
    let child = lab.connect("child").await;
    run(&child, "update t set w = 'child' where i % 5 = 0; create table of_child as select * from t").await;
    run(&child, "commit prepared 'kept'").await;
    run_each(&child, "create index on t(w); vacuum t; checkpoint").await;
    drop(child);

    lab.stop("child");
    lab.engine.stop(&key("main"), StopMode::Fast).unwrap();
    for (traced, sealed, tops) in [(&traced, sealed, 2), (&child_trace, child_sealed, 1)] {
        let summary = collect(&place(&lab, traced.key.as_str(), sealed), &traced.output);
        println!("{}: {} calls, {} redirected", traced.key, summary.calls, summary.redirected);
        let shown: Vec<_> = summary.faults.iter().take(20).collect();
        assert!(shown.is_empty(), "{} faults, the first: {shown:#?}", summary.faults.len());
        assert!(summary.redirected > 1000 && summary.native > 50, "too little was traced: {summary:?}");
        assert_eq!(summary.written.len(), tops, "layers written to: {:?}", summary.written);
    }
}

/// The same trace and checks over programs that the store knows nothing of.
#[test]
fn a_call_around_the_store_is_seen() {
    let lab = Lab::new();
    if trace::is_forbidden() {
        return;
    }
    lab.engine.create_root(&key("main"), &lab.server, e2e::lab::PASSWORD).unwrap();
    let sealed = sealed_layers(&lab, "main", now());
    let place = place(&lab, "main", sealed);
    let into_layer = format!("echo more >>{}/PG_VERSION", place.sealed[0].0.display());
    for (script, fault) in [
        ("cat base/1/1259", Some(Fault::Escaped)),
        ("mkdir base", Some(Fault::Escaped)),
        ("ls -d ./global/../global", Some(Fault::Escaped)),
        (&into_layer, Some(Fault::Sealed)),
        ("cat pg_wal/* postgresql.conf >log", None),
    ] {
        let output = lab.path.join("around");
        let mut command = Command::new("strace");
        command.args(trace::options()).arg("-o").arg(&output).args(["sh", "-c", script]);
        command.current_dir(&place.data_directory).stderr(Stdio::null()).status().unwrap();
        let summary = collect(&place, &output);
        assert_eq!(summary.faults.first().map(|(fault, _)| *fault), fault, "{script}: {summary:?}");
        for (path, _) in traces(&output) {
            std::fs::remove_file(path).unwrap();
        }
    }
}
