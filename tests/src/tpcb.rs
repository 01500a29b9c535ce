//! The TPC-B-like load of pgbench, in Rust: the downloaded PostgreSQL brings no pgbench.
//!
//! Each client numbers its transactions and writes the number into `history`, so that a test can
//! tell which acknowledged transactions a database holds.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::lab::{PASSWORD, connect_with, run, text};

/// Rows of `accounts` per unit of scale.
pub const ACCOUNTS: i32 = 100_000;

/// Makes and fills the tables: `scale` branches, 10 tellers and 100,000 accounts each.
pub async fn fill(client: &Client, scale: i32) {
    run(client, &format!(
        "create table branches(bid int primary key, bbalance bigint, filler char(88)) with (fillfactor=100);
         create table tellers(tid int primary key, bid int, tbalance bigint, filler char(84));
         create table accounts(aid int, bid int, abalance bigint, filler char(84));
         create table history(tid int, bid int, aid int, delta int, mtime timestamptz, client int, seq bigint);
         insert into branches select i, 0, '' from generate_series(1, {scale}) i;
         insert into tellers select i, (i - 1) / 10 + 1, 0, '' from generate_series(1, {scale} * 10) i;
         insert into accounts select i, (i - 1) / {ACCOUNTS} + 1, 0, '' from generate_series(1, {scale} * {ACCOUNTS}) i;
         alter table accounts add primary key (aid)"
    )).await;
}

/// What one client did.
#[derive(Debug, Default)]
pub struct Progress {
    /// Number of the last transaction that was sent.
    pub sent: AtomicU64,
    /// Number of the last that was acknowledged.
    pub acknowledged: AtomicU64,
}

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub clients: Vec<Arc<Progress>>,
    tasks: Vec<JoinHandle<Result<Vec<u64>, tokio_postgres::Error>>>,
}

/// Starts `clients` clients against the server behind `socket_dir`. Numbering goes on at `from`.
pub async fn start(socket_dir: &Path, clients: usize, scale: i32, from: u64) -> Load {
    start_with(socket_dir, PASSWORD, clients, scale, from).await
}

/// As [`start`], where the superuser's password is another.
pub async fn start_with(socket_dir: &Path, password: &str, clients: usize, scale: i32, from: u64) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = Load { stop: Arc::clone(&stop), clients: Vec::new(), tasks: Vec::new() };
    for number in 0..clients {
        let progress = Arc::new(Progress::default());
        progress.sent.store(from, Ordering::SeqCst);
        progress.acknowledged.store(from, Ordering::SeqCst);
        let client = connect_with(socket_dir, "postgres", password).await;
        let task = one_client(client, number as i32, scale, Arc::clone(&progress), Arc::clone(&stop));
        load.clients.push(progress);
        load.tasks.push(tokio::spawn(task));
    }
    load
}

async fn one_client(
    client: Client,
    number: i32,
    scale: i32,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
) -> Result<Vec<u64>, tokio_postgres::Error> {
    let statements = [
        "update accounts set abalance = abalance + $1::int where aid = $2::int",
        "select abalance from accounts where aid = $1::int",
        "update tellers set tbalance = tbalance + $1::int where tid = $2::int",
        "update branches set bbalance = bbalance + $1::int where bid = $2::int",
        "insert into history values ($1::int, $2::int, $3::int, $4::int, now(), $5::int, $6::bigint)",
    ];
    let mut prepared = Vec::new();
    for statement in statements {
        prepared.push(client.prepare(statement).await?);
    }
    let mut random = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(number as u64 * 2 + 1);
    let mut below = move |limit: i32| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit as u64) as i32
    };
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (aid, tid, bid) = (below(scale * ACCOUNTS) + 1, below(scale * 10) + 1, below(scale) + 1);
        let delta = below(10_000) - 5000;
        let sequence = progress.sent.fetch_add(1, Ordering::SeqCst) as i64 + 1;
        let began = Instant::now();
        client.batch_execute("begin").await?;
        client.execute(&prepared[0], &[&delta, &aid]).await?;
        client.query(&prepared[1], &[&aid]).await?;
        client.execute(&prepared[2], &[&delta, &tid]).await?;
        client.execute(&prepared[3], &[&delta, &bid]).await?;
        client.execute(&prepared[4], &[&tid, &bid, &aid, &delta, &number, &sequence]).await?;
        client.batch_execute("commit").await?;
        latencies.push(began.elapsed().as_micros() as u64);
        progress.acknowledged.store(sequence as u64, Ordering::SeqCst);
    }
    Ok(latencies)
}

impl Load {
    /// Numbers acknowledged so far, by client.
    pub fn acknowledged(&self) -> Vec<u64> {
        self.clients.iter().map(|client| client.acknowledged.load(Ordering::SeqCst)).collect()
    }

    /// Numbers sent so far, by client.
    pub fn sent(&self) -> Vec<u64> {
        self.clients.iter().map(|client| client.sent.load(Ordering::SeqCst)).collect()
    }

    /// Ends the load; latencies of all transactions in microseconds. A client's error is a panic.
    pub async fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap().unwrap_or_else(|error| panic!("a client failed: {error:?}")));
        }
        all
    }

    /// Ends a load whose server is gone: acknowledged and sent numbers.
    pub async fn bounds(self) -> (Vec<u64>, Vec<u64>) {
        let clients = self.clients.clone();
        let acknowledged = self.abandon().await;
        (acknowledged, clients.iter().map(|one| one.sent.load(Ordering::SeqCst)).collect())
    }

    /// Ends the load where the server was killed under it: clients may have failed.
    pub async fn abandon(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        let acknowledged = self.clients.clone();
        for task in self.tasks {
            let _ = task.await.unwrap();
        }
        acknowledged.iter().map(|client| client.acknowledged.load(Ordering::SeqCst)).collect()
    }
}

/// Gives every client of a load the same last number, so that the next load can go on from there.
pub async fn level(client: &Client, clients: usize) -> u64 {
    run(
        client,
        &format!(
            "insert into history
             select 0, 0, 0, 0, now(), number, missing
             from generate_series(0, {clients} - 1) number,
                  generate_series((select coalesce(max(seq), 0) + 1 from history where client = number),
                                  (select coalesce(max(seq), 0) from history)) missing"
        ),
    )
    .await;
    text(client, "select coalesce(max(seq), 0) from history").await.parse().unwrap()
}

/// Everything that must hold in a database under this load: sums agree, every page and index is
/// sound, and each client's transactions are there without a gap, from the first to one between
/// `at_least` and `at_most`.
pub async fn check(client: &Client, at_least: &[u64], at_most: &[u64]) {
    let sums = text(
        client,
        "select (select sum(abalance) from accounts) || ' ' || (select sum(tbalance) from tellers) || ' ' ||
                (select sum(bbalance) from branches) || ' ' || (select coalesce(sum(delta), 0) from history)",
    )
    .await;
    let numbers: Vec<&str> = sums.split(' ').collect();
    assert!(numbers.iter().all(|number| *number == numbers[0]), "sums differ: {sums}");
    for (number, (least, most)) in at_least.iter().zip(at_most).enumerate() {
        let row = text(
            client,
            &format!("select count(*) || ' ' || count(distinct seq) || ' ' || coalesce(max(seq), 0) from history where client = {number}"),
        )
        .await;
        let found: Vec<u64> = row.split(' ').map(|number| number.parse().unwrap()).collect();
        assert!(found[0] == found[1] && found[1] == found[2], "client {number} has gaps or doubles: {row}");
        assert!(
            found[2] >= *least && found[2] <= *most,
            "client {number}: {row}, expected {least} to {most}"
        );
    }
    check_pages(client).await;
}

/// amcheck over every index and heap of the database; reading all of it also checks checksums.
pub async fn check_pages(client: &Client) {
    run(client, "create extension if not exists amcheck").await;
    run(
        client,
        "
        do $$
        declare r record; bad bigint;
        begin
          for r in select c.oid, c.relname from pg_class c join pg_am a on a.oid = c.relam
                   where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence <> 't' and
                         (select indisvalid from pg_index where indexrelid = c.oid) loop
            perform bt_index_check(r.oid::regclass, true);
          end loop;
          for r in select oid, relname from pg_class
                   where relkind in ('r', 't', 'm') and relpersistence <> 't' and relam = 2 loop
            select count(*) into bad from verify_heapam(r.oid::regclass);
            if bad > 0 then raise exception '% corrupt rows in %', bad, r.relname; end if;
          end loop;
        end $$",
    )
    .await;
}
