//! The run that the power-failure tests record: an engine and its computes under load, with every
//! acknowledgement noted in the log in the order in which it came.
//!
//! `power-run HOME SHIM SOCKETS [again]`, with the recorder's variable set and the shim preloaded (std's calls
//! are interposed; the store's own go to the recorder linked into this program).
//!
//! Notes: `ack BRANCH CLIENT SEQUENCE`; `creating CHILD PARENT`, `created CHILD`, `deleting BRANCH`,
//! `deleted BRANCH`; `checkpointed BRANCH`; `merged BRANCH`; `fact BRANCH NAME|SQL|ANSWER`, which holds until
//! `doubt BRANCH NAME`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use compute::engine::{Engine, StartOptions};
use compute::server::Server;
use e2e::lab::{connect_at, key, run, text};
use e2e::power::Random;
use e2e::tpcb;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const SETTINGS: [(&str, &str); 6] = [
    ("shared_buffers", "2MB"),
    ("max_wal_size", "32MB"),
    ("checkpoint_timeout", "30s"),
    ("bgwriter_delay", "10ms"),
    ("bgwriter_lru_maxpages", "1000"),
    ("max_connections", "20"),
];

fn note(text: &str) {
    store::recorder::mark(text).unwrap();
}

#[tokio::main]
async fn main() {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [home, shim, sockets, again @ ..] = &arguments[..] else {
        panic!("power-run HOME SHIM SOCKETS [again]")
    };
    store::recorder::attach_from_environment().unwrap();
    let server = recorded_server(&home.join("branches/main/server"));
    let engine = Engine::open(home, shim, sockets).unwrap();
    let stage = Stage { engine: &engine, server };
    match again {
        [] => stage.play().await,
        _ => stage.play_again().await,
    }
    note("end");
}

fn recorded_server(path: &Path) -> Server {
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let number = |name: &str| record[name].as_u64().unwrap() as u32;
    Server {
        bin_dir: record["bin_dir"].as_str().unwrap().into(),
        major: number("major"),
        minor: number("minor"),
    }
}

struct Stage<'a> {
    engine: &'a Engine,
    server: Server,
}

struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

impl Stage<'_> {
    async fn play(&self) {
        self.start("main");
        let main = self.connect("main").await;
        tpcb::fill(&main, 1).await;
        run(&main, "create table kept(i int primary key, v text); create table emptied(i int)").await;
        self.checkpoint("main", &main).await;
        note("filled");

        let load = self.load("main", 0..2).await;
        self.change(&main, "main", 1).await;
        pause(300).await;
        self.cut("main", "first");
        self.start("first");
        let first = self.connect("first").await;
        let first_load = self.load("first", 10..11).await;
        self.checkpoint("main", &main).await;
        self.maintain();
        self.change(&main, "main", 2).await;
        self.change(&first, "first", 3).await;
        pause(200).await;
        self.checkpoint("first", &first).await;

        self.cut("first", "second");
        self.cut("main", "third");
        self.start("second");
        let second = self.connect("second").await;
        let second_load = self.load("second", 20..21).await;
        self.checkpoint("main", &main).await;
        self.change(&main, "main", 4).await;
        self.checkpoint("first", &first).await;
        self.maintain();
        pause(300).await;
        self.checkpoint("second", &second).await;

        second_load.stop().await;
        drop(second);
        note("deleting second");
        tokio::task::block_in_place(|| self.engine.delete(&key("second"))).unwrap();
        note("deleted second");
        note("deleting third");
        tokio::task::block_in_place(|| self.engine.delete(&key("third"))).unwrap();
        note("deleted third");

        self.merge("main").await;
        self.change(&main, "main", 7).await;
        self.checkpoint("main", &main).await;

        first_load.stop().await;
        self.cut("first", "fourth");
        self.checkpoint("main", &main).await;
        pause(200).await;
        load.stop().await;
        drop((main, first));
        for branch in ["main", "first"] {
            self.engine.stop(&key(branch), compute::engine::StopMode::Kill).unwrap();
        }
    }

    /// After a power cut: everything goes on.
    async fn play_again(&self) {
        self.start("main");
        let main = self.connect("main").await;
        note("filled");
        let load = self.load("main", 0..2).await;
        self.change(&main, "main", 5).await;
        let first = match self.engine.keys().unwrap().contains(&key("first")) {
            true => {
                self.start("first");
                let client = self.connect("first").await;
                let load = self.load("first", 10..11).await;
                self.change(&client, "first", 6).await;
                Some((client, load))
            }
            false => None,
        };
        self.checkpoint("main", &main).await;
        self.cut("main", "fifth");
        self.maintain();
        if let Some((client, _)) = &first {
            self.checkpoint("first", client).await;
            self.cut("first", "sixth");
        }
        self.checkpoint("main", &main).await;
        self.merge("main").await;
        if let Some((client, first_load)) = first {
            self.checkpoint("first", &client).await;
            first_load.stop().await;
        }
        pause(200).await;
        load.stop().await;
        for branch in self.engine.keys().unwrap() {
            self.engine.stop(&branch, compute::engine::StopMode::Kill).unwrap();
        }
    }

    fn start(&self, branch: &str) {
        let settings = SETTINGS.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let options = StartOptions { first_start: false, settings };
        tokio::task::block_in_place(|| self.engine.start(&key(branch), &self.server, &options)).unwrap();
    }

    async fn connect(&self, branch: &str) -> Client {
        connect_at(&self.engine.socket_dir(&key(branch)), "postgres").await
    }

    fn cut(&self, parent: &str, child: &str) {
        note(&format!("creating {child} {parent}"));
        tokio::task::block_in_place(|| self.engine.create_child(&key(parent), &key(child))).unwrap();
        note(&format!("created {child}"));
    }

    /// Cuts whose children do not stay leave layers that only this branch uses: these become one.
    async fn merge(&self, branch: &str) {
        let client = self.connect(branch).await;
        for number in 0..5 {
            // Something has to be in each.
            self.checkpoint(branch, &client).await;
            let child = format!("{branch}-nothing-{number}");
            self.cut(branch, &child);
            note(&format!("deleting {child}"));
            tokio::task::block_in_place(|| self.engine.delete(&key(&child))).unwrap();
            note(&format!("deleted {child}"));
            pause(50).await;
        }
        let mut merged = None;
        for _ in 0..200 {
            // What was cut last is being sealed still.
            self.maintain();
            merged = tokio::task::block_in_place(|| self.engine.compact(&key(branch))).unwrap();
            if merged.is_some() {
                break;
            }
            pause(20).await;
        }
        assert!(merged.is_some(), "there was nothing to merge");
        note(&format!("merged {branch}"));
    }

    fn maintain(&self) {
        tokio::task::block_in_place(|| self.engine.maintain()).unwrap();
    }

    async fn checkpoint(&self, branch: &str, client: &Client) {
        run(client, "checkpoint").await;
        note(&format!("checkpointed {branch}"));
    }

    async fn load(&self, branch: &str, clients: Range<u64>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for number in clients {
            let client = self.connect(branch).await;
            let last = format!("select coalesce(max(seq), 0) from history where client = {number}");
            let last: u64 = text(&client, &last).await.parse().unwrap();
            if last > 0 {
                // Also what nobody had acknowledged before the power cut.
                note(&format!("ack {branch} {number} {last}"));
            }
            tasks.push(tokio::spawn(one_client(client, branch.to_owned(), number, last, Arc::clone(&stop))));
        }
        Load { stop, tasks }
    }

    /// Data definition and bulk changes, each acknowledged by a fact.
    async fn change(&self, client: &Client, branch: &str, round: i32) {
        let change = async |name: &str, sql: &str, question: &str| {
            note(&format!("doubt {branch} {name}"));
            run(client, sql).await;
            let answer = text(client, question).await;
            note(&format!("fact {branch} {name}|{question}|{answer}"));
        };
        let grow = format!(
            "insert into kept select i, repeat('{round}', 100) from generate_series({round} * 10000, {round} * 10000 + 1999) i"
        );
        change("kept", &grow, "select count(*) || ' ' || sum(i) || ' ' || sum(length(v)) from kept").await;
        let made = format!(
            "create table made_{round} as select i, i * {round} as v from generate_series(1, 3000) i;
             create index made_{round}_v on made_{round}(v)"
        );
        let question = format!(
            "select count(*) || ' ' || sum(v) || ' ' || count(*) filter (where v > 0) from made_{round}"
        );
        change(&format!("made_{round}"), &made, &question).await;
        change(
            "emptied",
            &format!("insert into emptied select generate_series(1, {round} * 5000)"),
            "select count(*) from emptied",
        )
        .await;
        change("emptied", "truncate emptied; insert into emptied values (1)", "select count(*) from emptied")
            .await;
        change(
            "kept",
            &format!("delete from kept where i >= {round} * 10000 + 500 and i < {round} * 10000 + 2000"),
            "select count(*) || ' ' || sum(i) || ' ' || sum(length(v)) from kept",
        )
        .await;
        run(client, "vacuum kept").await;
        change("reindexed", "reindex table kept", "select count(*) > 0 from pg_class").await;
        if round > 1 {
            let gone = format!("made_{}", round - 1);
            change(
                &gone,
                &format!("drop table if exists {gone}"),
                &format!("select to_regclass('{gone}') is null"),
            )
            .await;
        }
    }
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

async fn one_client(client: Client, branch: String, number: u64, last: u64, stop: Arc<AtomicBool>) {
    let mut random = Random::new(number + last + 1);
    let mut sequence = last;
    while !stop.load(Ordering::Relaxed) {
        sequence += 1;
        let (account, teller) = (random.below(100_000) + 1, random.below(10) + 1);
        let delta = random.below(10_000) as i64 - 5000;
        let transaction = format!(
            "begin;
             update accounts set abalance = abalance + {delta} where aid = {account};
             update tellers set tbalance = tbalance + {delta} where tid = {teller};
             update branches set bbalance = bbalance + {delta} where bid = 1;
             insert into history values ({teller}, 1, {account}, {delta}, now(), {number}, {sequence});
             commit"
        );
        run(&client, &transaction).await;
        note(&format!("ack {branch} {number} {sequence}"));
    }
}
