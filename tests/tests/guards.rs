//! What keeps a branch from being misread, and keeps its door shut.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use compute::engine::{Engine, Error, StartOptions, StopMode};
use compute::process::{self, SpawnSpec};
use e2e::lab::{Lab, PASSWORD, key, run, text};
use e2e::processes::servers;
use e2e::tpcb;
use tokio_postgres::{Client, NoTls};

/// Everything that a shell sees in the real directory of a branch.
fn names(path: &Path) -> BTreeSet<String> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Runs a program of the server without the preload library; its exit and what it said.
fn stock(lab: &Lab, program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("timeout")
        .arg("60")
        .arg(lab.server.bin_dir.join(program))
        .args(arguments)
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert_ne!(output.status.code(), Some(124), "{program} ran on: {}", String::from_utf8_lossy(&said));
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

async fn refused(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_preload_library_stops_at_once() {
    let lab = Lab::with_main();
    run(&lab.connect("main").await, "create table t as select generate_series(1, 1000) i").await;
    lab.stop("main");
    let data = lab.data_directory("main");
    let before = names(&data);
    let sockets = lab.path.join("stock");
    fs::create_dir_all(&sockets).unwrap();
    let (data_text, directories) =
        (data.to_str().unwrap(), format!("unix_socket_directories={}", sockets.display()));
    let plain = ["-D", data_text, "-c", "listen_addresses=", "-c", &directories];
    let (started, said) = stock(&lab, "postgres", &["--single", "-D", data_text, "postgres"]);
    assert!(!started, "a server without the preload library started: {said}");
    let (started, said) = stock(&lab, "postgres", &plain);
    assert!(!started);
    assert!(said.contains("is not a valid data directory") || said.contains("pg_control"), "{said}");
    let (started, said) = stock(&lab, "pg_ctl", &["start", "-w", "-t", "20", "-D", data_text]);
    assert!(!started, "{said}");
    let (made, said) = stock(&lab, "initdb", &["-D", data_text]);
    assert!(!made && said.contains("exists but is not empty"), "{said}");
    assert!(servers(&lab, "main").is_empty());
    assert_eq!(names(&data), before, "something was written");
    // Nor beside a running compute; that one does not notice.
    lab.start("main");
    let main = lab.connect("main").await;
    assert!(!stock(&lab, "postgres", &plain).0);
    assert_eq!(text(&main, "select sum(i) from t").await, "500500");
}

#[cfg(debug_assertions)]
#[test]
fn planted_a_directory_that_stock_postgres_starts_on() {
    let test = "a_server_without_the_preload_library_stops_at_once";
    let why = "a server without the preload library started";
    store::fault::must_be_noticed(store::fault::Fault::SkeletonReadable, test, why);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_reader_finds_nothing_instead_of_placeholders() {
    let lab = Lab::with_main();
    run(&lab.connect("main").await, "create table t as select generate_series(1, 1000) i; checkpoint").await;
    lab.branch("main", "child");
    run(&lab.connect("child").await, "select sum(i) from t").await;
    for branch in ["main", "child"] {
        let data = lab.data_directory(branch);
        let seen = names(&data);
        let layered = [
            "base",
            "global",
            "pg_xact",
            "pg_multixact",
            "pg_commit_ts",
            "pg_twophase",
            "pg_tblspc",
            "PG_VERSION",
        ];
        for name in layered {
            assert!(!seen.contains(name), "{branch}: {seen:?}");
        }
        let error = fs::read(data.join("global/pg_control")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        // What is there is the truth: WAL that any program may copy.
        let first = names(&data.join("pg_wal")).into_iter().find(|name| name.len() == 24).unwrap();
        let page = fs::read(data.join("pg_wal").join(first)).unwrap();
        assert_eq!(page[..2], 0xD116_u16.to_le_bytes(), "the first page of a segment of version 17");
    }
}

/// What the engine gives to `postgres`, to be spoilt by a test.
fn spec(lab: &Lab, branch: &str) -> SpawnSpec {
    let shim = shim_image::install(&lab.path.join("run")).unwrap();
    let sockets = lab.path.join("own");
    fs::create_dir_all(&sockets).unwrap();
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    SpawnSpec {
        server: lab.server.clone(),
        data_dir: lab.data_directory(branch),
        settings: vec![
            setting("listen_addresses", ""),
            setting("unix_socket_directories", sockets.to_str().unwrap()),
            setting("dynamic_shared_memory_type", "mmap"),
        ],
        env: vec![
            ("LD_PRELOAD".into(), shim.into()),
            ("ANABRANCH_SHIM_BRANCH".into(), lab.branch_directory(branch).into()),
            ("ANABRANCH_SHIM_LAYERS".into(), lab.home().join("layers").into()),
            ("ANABRANCH_SHIM_WAL_SEGMENT".into(), "4194304".into()),
        ],
        log: lab.path.join("own.log"),
        run_as: None,
        confinement: None,
        limit: Duration::from_secs(60),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preload_library_that_cannot_attach_aborts_the_server() {
    let lab = Lab::with_main();
    run(&lab.connect("main").await, "create table t as select generate_series(1, 1000) i").await;
    lab.stop("main");
    // As it is, it works.
    process::spawn(&spec(&lab, "main")).unwrap();
    process::stop_fast(&lab.data_directory("main"), Duration::from_secs(60)).unwrap();

    let directory = lab.branch_directory("main");
    let gate = directory.join("gate");
    let whole = fs::read(&gate).unwrap();
    let aborts = |what: &str, spec: &SpawnSpec, why: &str| {
        let error = process::spawn(spec).expect_err(what);
        let text = error.to_string();
        let message = format!("anabranch: the storage library could not attach: {why}");
        assert!(text.contains(&message), "{what}: {text}");
        assert!(text.contains("SIGABRT") || text.contains("signal: 6"), "{what}: {text}");
        println!("{what}: {text}");
    };
    fs::remove_file(&gate).unwrap();
    let missing = |path: &Path| format!("cannot map {}: No such file or directory", path.display());
    let damaged = |path: &Path| format!("{} is damaged or of another version", path.display());
    aborts("no gate", &spec(&lab, "main"), &missing(&gate));
    fs::write(&gate, &whole[..100]).unwrap();
    aborts("a gate cut short", &spec(&lab, "main"), &damaged(&gate));
    let mut other = whole.clone();
    other[0] ^= 1;
    fs::write(&gate, &other).unwrap();
    aborts("not a gate", &spec(&lab, "main"), &damaged(&gate));
    let mut other = whole.clone();
    other[8] ^= 0x40;
    fs::write(&gate, &other).unwrap();
    aborts("a gate of another version", &spec(&lab, "main"), &damaged(&gate));
    fs::write(&gate, &whole).unwrap();

    let manifest = directory.join("manifest");
    let good = fs::read(&manifest).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(&manifest, &bad).unwrap();
    aborts("a damaged manifest", &spec(&lab, "main"), &damaged(&manifest));
    fs::remove_file(&manifest).unwrap();
    aborts("no manifest", &spec(&lab, "main"), &missing(&manifest));
    fs::write(&manifest, &good).unwrap();
    let private = directory.join("private");
    fs::rename(&private, lab.path.join("private")).unwrap();
    aborts("no private directory", &spec(&lab, "main"), &missing(&private));
    fs::rename(lab.path.join("private"), &private).unwrap();

    let with = |name: &str, value: Option<PathBuf>| {
        let mut spec = spec(&lab, "main");
        spec.env.retain(|(other, _)| other != name);
        spec.env.extend(value.map(|value| (name.into(), value.into())));
        spec
    };
    let nowhere = lab.path.join("nowhere");
    let absent = missing(&nowhere);
    aborts("no such layers", &with("ANABRANCH_SHIM_LAYERS", Some(nowhere.clone())), &absent);
    aborts("layers not named", &with("ANABRANCH_SHIM_LAYERS", None), "ANABRANCH_SHIM_LAYERS is not set");
    let segment = "ANABRANCH_SHIM_WAL_SEGMENT";
    aborts("no segment size", &with(segment, None), "ANABRANCH_SHIM_WAL_SEGMENT is not a number of bytes");
    aborts("no such branch", &with("ANABRANCH_SHIM_BRANCH", Some(nowhere)), &absent);

    // A directory of layers that is not this branch's, and a library that is not one: the server
    // finds no data, and says so.
    let empty = lab.path.join("empty");
    fs::create_dir_all(&empty).unwrap();
    for spec in [
        with("ANABRANCH_SHIM_LAYERS", Some(empty)),
        with("LD_PRELOAD", Some(lab.path.join("no-such.so"))),
        with("ANABRANCH_SHIM_BRANCH", None),
    ] {
        println!("{}", process::spawn(&spec).unwrap_err());
    }
    assert!(servers(&lab, "main").is_empty());

    // The same through the engine: an error that names the branch and the reason.
    let start = |engine: &Engine| engine.start(&key("main"), &lab.server, &StartOptions::default());
    let failed = |what: &str, result: Result<i32, Error>, why: &str| {
        let text = result.expect_err(what).to_string();
        assert!(text.contains("main") && text.contains(why), "{what}: {text}");
        println!("{what}: {text}");
    };
    fs::rename(directory.join("private"), lab.path.join("private")).unwrap();
    fs::write(directory.join("private"), "").unwrap();
    failed("no private directory", start(&lab.engine), "private");
    fs::remove_file(directory.join("private")).unwrap();
    fs::rename(lab.path.join("private"), directory.join("private")).unwrap();
    fs::write(&manifest, &bad).unwrap();
    failed("a damaged manifest", start(&lab.engine), "manifest");
    fs::write(&manifest, &good).unwrap();
    let bottom = lab.layers("main")[0].clone();
    fs::rename(&bottom, lab.path.join("bottom")).unwrap();
    failed(
        "no bottom layer",
        start(&lab.engine),
        bottom.file_name().unwrap().to_str().unwrap().trim_start_matches('0'),
    );
    fs::rename(lab.path.join("bottom"), &bottom).unwrap();
    let without = Engine::open(&lab.home(), &lab.path.join("no-such.so"), &lab.path.join("s")).unwrap();
    failed("no preload library", start(&without), "");
    drop(without);
    lab.start("main");
    assert_eq!(text(&lab.connect("main").await, "select sum(i) from t").await, "500500");
}

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_elsewhere_are_refused_and_those_inside_branch_like_the_rest() {
    let lab = Lab::with_main();
    let outside = lab.path.join("outside");
    fs::create_dir_all(&outside).unwrap();
    // A confined compute reaches what stood beside the home when it started.
    lab.stop("main");
    lab.start("main");
    let main = lab.connect("main").await;
    let why = refused(&main, &format!("create tablespace elsewhere location '{}'", outside.display())).await;
    assert!(
        why.contains("could not create symbolic link") && why.contains("Operation not permitted"),
        "{why}"
    );
    assert_eq!(text(&main, "select count(*) from pg_tablespace where spcname = 'elsewhere'").await, "0");

    run(&main, "set allow_in_place_tablespaces = on").await;
    run(&main, "create tablespace inside location ''").await;
    run(&main, "create table t tablespace inside as select i, 'main' v from generate_series(1, 5000) i")
        .await;
    run(&main, "create index on t (i) tablespace inside; checkpoint").await;
    run(&main, "update t set v = 'late' where i <= 10").await;
    let path = text(&main, "select pg_relation_filepath('t')").await;
    assert!(path.starts_with("pg_tblspc/"), "{path}");
    let count =
        "select count(*) filter (where v = 'main') || ' ' || count(*) filter (where v = 'late') from t";
    lab.branch("main", "child");
    let child = lab.connect("child").await;
    assert_eq!(text(&child, count).await, "4990 10");
    run(&child, "update t set v = 'child'; create table more tablespace inside as select 1; checkpoint")
        .await;
    run(&main, "update t set v = 'main' where i <= 10; checkpoint").await;
    assert_eq!(text(&child, count).await, "0 0");
    assert_eq!(text(&main, count).await, "5000 0");
    tpcb::check_pages(&child).await;
    run(&child, "drop table t, more").await;
    run(&child, "drop tablespace inside").await;
    // A recovery that meets all of this again.
    for branch in ["main", "child"] {
        lab.engine.stop(&key(branch), StopMode::Kill).unwrap();
        lab.start(branch);
    }
    let main = lab.connect("main").await;
    assert_eq!(text(&main, count).await, "5000 0");
    tpcb::check_pages(&main).await;
    run(&main, "drop table t").await;
    run(&main, "drop tablespace inside").await;
    let child = lab.connect("child").await;
    assert_eq!(text(&child, "select count(*) from pg_tablespace where spcname = 'inside'").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_the_server_starts_gets_nothing_of_ours() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create temp table said(line text)").await;
    run(&main, "copy said from program 'env'").await;
    let environment = text(&main, "select string_agg(line, chr(10)) from said").await;
    assert!(environment.contains("PATH="), "{environment}");
    for name in ["LD_PRELOAD", "ANABRANCH", "shim"] {
        assert!(!environment.contains(name), "{environment}");
    }
    assert!(!environment.contains(PASSWORD), "{environment}");
    // It is not on the store: it sees WAL, and no placeholders.
    run(
        &main,
        "truncate said; copy said from program 'ls; ls pg_wal; grep -c shim- /proc/self/maps || true'",
    )
    .await;
    let listed = text(&main, "select string_agg(line, ' ') from said").await;
    assert!(listed.contains("pg_wal 0") || listed.contains(" 0000000100000000"), "{listed}");
    assert!(!listed.contains("base") && !listed.contains("global"), "{listed}");
    assert!(listed.ends_with(" 0"), "{listed}");
    // Nor does anybody find the password in the arguments or the environment of the server's processes.
    let mut postmasters = 0;
    for process in servers(&lab, "main") {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
            let shown = String::from_utf8_lossy(&bytes);
            assert!(!shown.contains(PASSWORD), "{file}: {shown}");
            // Its children write their titles over what they had from it.
            postmasters += usize::from(file == "environ" && shown.contains("PATH="));
        }
    }
    assert!(postmasters > 0, "no environment was read");
}

/// Inodes of the sockets that a compute's processes hold.
fn sockets(lab: &Lab, branch: &str) -> BTreeSet<String> {
    let mut inodes = BTreeSet::new();
    for process in servers(lab, branch) {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", process.pid)) else { continue };
        for descriptor in descriptors.flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
            inodes.extend(inode.map(str::to_owned));
        }
    }
    inodes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compute_listens_on_no_network_whatever_its_configuration_says() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "alter system set listen_addresses = '*'").await;
    run(&main, "alter system set port = 54329").await;
    run(&main, "alter system set unix_socket_directories = '/tmp'").await;
    run(&main, "alter system set unix_socket_permissions = '0777'").await;
    lab.branch("main", "child");
    lab.stop("main");
    lab.start("main");
    for branch in ["main", "child"] {
        let client = lab.connect(branch).await;
        assert_eq!(text(&client, "show listen_addresses").await, "");
        let held = sockets(&lab, branch);
        assert!(!held.is_empty());
        let mut looked_at = 0;
        for table in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
            let Ok(lines) = fs::read_to_string(format!("/proc/net/{table}")) else { continue };
            looked_at += 1;
            for line in lines.lines().skip(1) {
                let inode = line.split_whitespace().nth(9).unwrap();
                assert!(!held.contains(inode), "{branch} holds a network socket: {table} {line}");
            }
        }
        assert!(looked_at >= 2);
        let listening = fs::read_to_string("/proc/net/unix").unwrap();
        let listening: Vec<&str> = listening
            .lines()
            .filter(|line| line.split_whitespace().nth(6).is_some_and(|inode| held.contains(inode)))
            .filter_map(|line| line.split_whitespace().nth(7))
            .collect();
        let own = lab.engine.socket_dir(&key(branch)).join(".s.PGSQL.5432");
        assert!(listening.contains(&own.to_str().unwrap()), "{listening:?}");
        assert!(listening.iter().all(|path| Path::new(path) == own), "{listening:?}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .permissions()
        .mode()
        & 0o7777
}

/// Calls `each` with every path below `root`.
fn walk(root: &Path, each: &mut dyn FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        // Servers make and remove files meanwhile.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        each(&path, &metadata);
        if metadata.is_dir() {
            walk(&path, each);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_the_owners_and_sealed_ones_cannot_be_written() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t as select generate_series(1, 50000) i; checkpoint").await;
    lab.branch("main", "child");
    run(&main, "update t set i = -i; checkpoint").await;
    lab.branch("main", "second");
    lab.engine.maintain().unwrap();

    assert_eq!(mode(&lab.home()), 0o700);
    let (mut open, mut wide) = (0, Vec::new());
    walk(&lab.home(), &mut |path, metadata| {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            wide.push(format!("{mode:o} {}", path.display()));
        }
        open += 1;
    });
    assert!(open > 1000, "{open} files looked at");
    assert_eq!(wide, [""; 0]);
    for branch in ["main", "child", "second"] {
        let sockets = lab.engine.socket_dir(&key(branch));
        assert_eq!(mode(&sockets), 0o700);
        let socket = sockets.join(".s.PGSQL.5432");
        assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
        assert_eq!(mode(&socket), 0o700);
    }
    // All layers of main but its open one.
    let layers = lab.layers("main");
    let mut sealed = 0;
    for layer in &layers[..layers.len() - 1] {
        walk(&layer.join("f"), &mut |path, metadata| {
            if metadata.is_file() && !path.file_name().unwrap().to_string_lossy().starts_with(".wh.") {
                assert_eq!(metadata.permissions().mode() & 0o7777, 0o400, "{}", path.display());
                sealed += 1;
            }
        });
    }
    assert!(sealed > 900, "{sealed} sealed files");
    // And yet they can be written through.
    for sql in ["update t set i = i + 1", "vacuum full t", "checkpoint"] {
        run(&main, sql).await;
    }
    assert_eq!(text(&lab.connect("child").await, "select sum(i) from t").await, "1250025000");
    assert_eq!(text(&lab.connect("second").await, "select sum(i) from t").await, "-1250025000");
    assert_eq!(text(&main, "select sum(i) from t").await, "-1249975000");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_a_password() {
    let lab = Lab::with_main();
    lab.branch("main", "child");
    for branch in ["main", "child"] {
        let rules = fs::read_to_string(lab.data_directory(branch).join("pg_hba.conf")).unwrap();
        let rules: Vec<&str> =
            rules.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert!(!rules.is_empty());
        for rule in rules {
            assert!(rule.starts_with("local ") && rule.ends_with(" scram-sha-256"), "{rule}");
        }
        let client = lab.connect(branch).await;
        assert_eq!(
            text(&client, "select string_agg(distinct auth_method, ' ') from pg_hba_file_rules").await,
            "scram-sha-256"
        );
        let mut config = tokio_postgres::Config::new();
        config.host_path(lab.engine.socket_dir(&key(branch))).user(compute::engine::BOOTSTRAP_ROLE);
        config.dbname("postgres");
        assert!(config.connect(NoTls).await.is_err(), "no password");
        config.password("guess");
        assert!(config.connect(NoTls).await.is_err(), "a wrong password");
        config.password(PASSWORD);
        assert!(config.connect(NoTls).await.is_ok());
    }
}

/// What a logout of the user, or a careless administrator, removes from memory that has names.
fn clear_shared_memory(lab: &Lab, branch: &str) {
    let mut mapped = BTreeSet::new();
    for process in servers(lab, branch) {
        let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
        let paths =
            maps.lines().filter_map(|line| line.split_once("/dev/shm/").map(|(_, name)| name.to_owned()));
        mapped.extend(paths);
    }
    assert_eq!(mapped, BTreeSet::new(), "memory that somebody may remove is mapped");
    let hash = store::path::fnv1a(lab.home().join("layers").as_os_str().as_encoded_bytes());
    for entry in fs::read_dir("/dev/shm").unwrap().flatten() {
        let ours = entry.file_name().to_string_lossy().contains(&format!("{hash:016x}"));
        if ours {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    // The kernel keeps the segment of System V until its last user is gone.
    if let Some(segment) =
        process::PostmasterFile::read(&lab.data_directory(branch)).unwrap().unwrap().shared_memory
    {
        compute::os::remove_shared_memory(segment.1).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_with_a_name_may_vanish_under_load() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    tpcb::fill(&main, 1).await;
    let load = tpcb::start(&lab.engine.socket_dir(&key("main")), 3, 1, 0).await;
    let parallel = "set max_parallel_workers_per_gather = 2; set min_parallel_table_scan_size = 0;
                    set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set debug_parallel_query = on";
    run(&main, parallel).await;
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if round == 0 {
            clear_shared_memory(&lab, "main");
        }
        assert_eq!(
            text(&main, "select count(*) from accounts a join tellers t using (bid)").await,
            "1000000"
        );
        // Throws the caches away that lay there, and makes new ones.
        for sql in
            ["create index on history (client)", "vacuum full pg_class", "drop index history_client_idx"]
        {
            run(&main, sql).await;
        }
        run(&lab.connect("main").await, "select count(*) from pg_class").await;
        let child = format!("child-{round}");
        let before = load.acknowledged();
        tokio::task::block_in_place(|| lab.engine.create_child(&key("main"), &key(&child))).unwrap();
        let after = load.sent();
        tokio::task::block_in_place(|| lab.start(&child));
        tpcb::check(&lab.connect(&child).await, &before, &after).await;
    }
    let clients = load.clients.clone();
    load.stop().await;
    let sent: Vec<u64> =
        clients.iter().map(|one| one.sent.load(std::sync::atomic::Ordering::SeqCst)).collect();
    tpcb::check(&main, &sent, &sent).await;
    drop(main);
    lab.stop("main");
    lab.start("main");
    tpcb::check(&lab.connect("main").await, &sent, &sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_read_files_see_the_branch_as_it_is() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t(i int, v text) with (fillfactor = 100)").await;
    run(&main, "insert into t select i, 'written on main ' || i from generate_series(1, 20000) i").await;
    run(&main, "vacuum (freeze) t").await;
    run(&main, "checkpoint").await;
    let path = text(&main, "select pg_relation_filepath('t')").await;
    let digest = format!("select md5(pg_read_binary_file('{path}'))");
    let part = |offset: u64, length: u64| {
        format!("select encode(pg_read_binary_file('{path}', {offset}, {length}), 'hex')")
    };
    let (whole, size) = (text(&main, &digest).await, text(&main, "select pg_relation_size('t')").await);
    let middle = text(&main, &part(8192 * 5 + 100, 8192 * 3)).await;
    lab.branch("main", "child");
    let child = lab.connect("child").await;
    assert_eq!(text(&child, "select pg_relation_filepath('t')").await, path);
    // Before anything was written, and after placeholders were made.
    for _ in 0..2 {
        assert_eq!(text(&child, &digest).await, whole);
        assert_eq!(text(&child, &part(8192 * 5 + 100, 8192 * 3)).await, middle);
        let stat = text(&child, &format!("select size || ' ' || isdir from pg_stat_file('{path}')")).await;
        assert_eq!(stat, format!("{size} false"));
        run(&child, "begin; lock table t; update t set v = v where i = 1; rollback").await;
    }
    let marked =
        format!("select position('written on main 19999'::bytea in pg_read_binary_file('{path}')) > 0");
    assert_eq!(text(&child, &marked).await, "t");

    // One block of the child's own among those of the parent.
    run(&child, "update t set v = 'written on child' where i = 20000; checkpoint").await;
    run(&main, "update t set v = 'and later on main' where i = 1; checkpoint").await;
    let block = |number: u64| format!("select md5(pg_read_binary_file('{path}', {}, 8192))", number * 8192);
    let last: u64 = text(&child, "select pg_relation_size('t') / 8192 - 1").await.parse().unwrap();
    assert_ne!(text(&child, &block(last)).await, text(&main, &block(last)).await);
    assert_ne!(text(&child, &block(0)).await, text(&main, &block(0)).await);
    for number in [1, 2, last / 2] {
        assert_eq!(text(&child, &block(number)).await, text(&main, &block(number)).await, "block {number}");
    }
    assert_eq!(text(&child, &marked).await, "t");
    let own = format!("select position('written on child'::bytea in pg_read_binary_file('{path}')) > 0");
    assert_eq!(text(&child, &own).await, "t");
    assert_eq!(text(&main, &own).await, "f");
    // Every whole page that the function reads carries its checksum.
    let zeros = format!(
        "select count(*) from generate_series(0, {last}) n
         where pg_read_binary_file('{path}', n * 8192, 8192) = decode(repeat('00', 8192), 'hex')"
    );
    assert_eq!(text(&child, &zeros).await, "0");

    // Directories, the databases of a cluster, sizes.
    let same = [
        "select string_agg(name, ' ' order by name) from pg_ls_dir('base') name where name !~ 'pgsql_tmp'",
        "select string_agg(name, ' ' order by name) from pg_ls_dir('pg_xact') name",
        "select string_agg(oid::text, ' ' order by oid::text) from pg_database",
        "select pg_read_file('PG_VERSION')",
        "select pg_read_file('base/1/PG_VERSION')",
        "select string_agg(name, ' ' order by name)
         from pg_ls_dir('base/' || (select oid from pg_database where datname = 'template1')) name
         where name !~ 'pg_internal'",
        "select pg_database_size('template1')",
    ];
    for sql in same {
        let (on_child, on_main) = (text(&child, sql).await, text(&main, sql).await);
        assert!(!on_main.is_empty() && on_child == on_main, "{sql}: {on_child} is not {on_main}");
    }
    assert_eq!(text(&child, same[0]).await, text(&child, same[2]).await);
    let top = text(&child, "select string_agg(name, ' ' order by name) from pg_ls_dir('.') name").await;
    for name in ["PG_VERSION", "base", "global", "pg_wal", "pg_xact", "postmaster.pid"] {
        assert!(top.split(' ').any(|other| other == name), "{top}");
    }
    let difference = "select abs(pg_database_size('postgres') -
                                 (select sum(pg_relation_size(oid, fork)) from pg_class,
                                  unnest('{main,fsm,vm,init}'::text[]) fork
                                  where relkind in ('r', 'i', 't', 'm', 'S') and not relisshared))";
    let difference: i64 = text(&child, difference).await.parse().unwrap();
    // The rest: PG_VERSION, the map of filenodes, caches.
    assert!(difference < 400_000, "{difference}");
    assert_eq!(
        refused(&child, "select pg_read_binary_file('base/1/no-such-file')")
            .await
            .split(": ")
            .last()
            .unwrap(),
        "No such file or directory"
    );
}
