//! A server for `tests/regress/run`: a branch on the store, or a plain cluster made and started the
//! same way without the store. Serves until its standard input ends, then removes everything.
//!
//! `regress-compute plain|branch BIN_DIR DIRECTORY [SECONDS]` prints the socket's directory on one line
//! when the server is up. With SECONDS it cuts the branch that often, starts every tenth child and
//! checks all its pages.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use compute::engine::{BOOTSTRAP_ROLE, StopMode};
use compute::process::{self, SpawnSpec};
use compute::server::Server;
use compute::settings::{ForcedInput, Recorded, command_line};
use e2e::lab::{Lab, PASSWORD, key, text};
use e2e::tpcb::check_pages;

/// What the suite sets for a server of its own, where it has a say in the results.
const SETTINGS: [(&str, &str); 2] = [("max_prepared_transactions", "2"), ("max_wal_size", "256MB")];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, bin_dir, directory, rest @ ..] = &arguments[..] else {
        eprintln!("usage: regress-compute plain|branch BIN_DIR DIRECTORY [SECONDS]");
        std::process::exit(2);
    };
    let server = Server::at(Path::new(bin_dir)).unwrap_or_else(|error| panic!("{error}"));
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(&directory).unwrap();
    match mode.as_str() {
        "plain" => plain(&server, &directory),
        _ => branch(server, directory, rest.first().map(|text| text.parse().unwrap())),
    }
}

fn serve(socket_dir: &Path) {
    println!("{}", socket_dir.display());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn plain(server: &Server, directory: &Path) {
    let data_dir = directory.join("pgdata");
    compute::initdb::initdb(server, &data_dir, BOOTSTRAP_ROLE, PASSWORD, None).unwrap();
    let socket_dir = directory.join("s");
    std::fs::create_dir_all(&socket_dir).unwrap();
    let input = ForcedInput {
        data_dir: &data_dir,
        socket_dir: &socket_dir,
        logical: true,
        child: false,
        first_start: false,
    };
    let wanted = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (settings, _) =
        command_line(server.major, &input, &Recorded::default(), &Vec::new(), &wanted.to_vec());
    let spec = SpawnSpec {
        server: server.clone(),
        data_dir: data_dir.clone(),
        settings,
        env: Vec::new(),
        log: directory.join("postgres.log"),
        run_as: None,
        confinement: None,
        limit: Duration::from_secs(60),
    };
    process::spawn(&spec).unwrap_or_else(|error| panic!("{error}"));
    serve(&socket_dir);
    process::stop_fast(&data_dir, Duration::from_secs(60)).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
}

fn branch(server: Server, directory: PathBuf, cut_every: Option<u64>) {
    let engine = e2e::lab::open_engine(&directory);
    let lab = Arc::new(Lab { path: directory, engine, server });
    lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
    // The suite's branch is a child: everything that initdb made lies in a layer below it.
    lab.start_with("main", &SETTINGS);
    lab.engine.create_child(&key("main"), &key("suite")).unwrap();
    lab.start_with("suite", &SETTINGS);
    let stop = Arc::new(AtomicBool::new(false));
    let cutter = cut_every.map(|seconds| {
        let (lab, stop) = (Arc::clone(&lab), Arc::clone(&stop));
        std::thread::spawn(move || cut_and_check(&lab, Duration::from_secs(seconds), &stop))
    });
    serve(&lab.engine.socket_dir(&key("suite")));
    stop.store(true, Ordering::SeqCst);
    let failed = cutter.is_some_and(|cutter| cutter.join().is_err());
    lab.engine.stop(&key("suite"), StopMode::Fast).unwrap();
    drop(lab);
    assert!(!failed, "a child was not sound");
}

/// Cuts the suite's branch at a pace; children come up and are whole.
fn cut_and_check(lab: &Lab, pace: Duration, stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut longest = 0;
    let mut cuts = 0;
    while !stop.load(Ordering::SeqCst) {
        let began = Instant::now();
        let child = format!("cut-{cuts}");
        match lab.engine.create_child(&key("suite"), &key(&child)) {
            Ok(cut) => {
                longest = longest.max(cut.closed_us);
                if cuts % 10 == 0 {
                    lab.start_with(&child, &SETTINGS);
                    let checked = runtime.block_on(check_databases(lab, &child));
                    eprintln!("cut {cuts}: {checked} databases are sound; longest stop {longest} us");
                }
                lab.engine.delete(&key(&child)).unwrap();
                lab.engine.maintain().unwrap();
                cuts += 1;
            }
            Err(error) => eprintln!("cut {cuts} was given up: {error}"),
        }
        while began.elapsed() < pace && !stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    eprintln!("{cuts} cuts; longest stop {longest} us");
}

async fn check_databases(lab: &Lab, branch: &str) -> usize {
    let client = lab.connect(branch).await;
    let names = text(
        &client,
        "select string_agg(datname, ',') from pg_database where datallowconn and datconnlimit <> -2",
    )
    .await;
    let names: Vec<&str> = names.split(',').collect();
    for name in &names {
        check_pages(&lab.connect_to(branch, name).await).await;
    }
    names.len()
}
