//! The same transactions from this program, for machines without pgbench.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tables::ACCOUNTS;
use super::{Job, Kind, Outcome};
use crate::failure::{Context, Failure, Result};
use crate::session;

type Latencies = std::result::Result<Vec<f64>, tokio_postgres::Error>;

/// A running load.
pub struct Running {
    runtime: Handle,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Latencies>>,
    begin: Instant,
    length: Option<Duration>,
    latencies: bool,
}

impl Running {
    pub fn start(runtime: &Handle, job: &Job<'_>) -> Result<Running> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for number in 0..job.clients {
            let connected = runtime.block_on(connect(job, session::tls()?));
            let (client, statements) = connected.context(format!("connecting to {}", job.target.host))?;
            let worker = Worker { client, statements, scale: job.scale, random: seed(number) };
            clients.push(runtime.spawn(worker.work(Arc::clone(&stop))));
        }
        let (begin, length, latencies) = (Instant::now(), job.length, job.latencies);
        Ok(Running { runtime: runtime.clone(), stop, clients, begin, length, latencies })
    }

    pub fn check(&mut self) -> Result<()> {
        match self.clients.iter().any(JoinHandle::is_finished) {
            false => Ok(()),
            true => Err(Failure("a client of the load ended early".to_owned())),
        }
    }

    pub fn finish(mut self) -> Result<Outcome> {
        if let Some(length) = self.length {
            std::thread::sleep((self.begin + length).saturating_duration_since(Instant::now()));
        }
        self.stop.store(true, Ordering::Relaxed);
        let seconds = self.begin.elapsed().as_secs_f64();
        let mut all = Vec::new();
        for client in std::mem::take(&mut self.clients) {
            let done = self.runtime.block_on(client).context("a client of the load")?;
            all.extend(done.context("a client of the load")?);
        }
        let transactions = all.len() as u64;
        let latencies = if self.latencies { all } else { Vec::new() };
        Ok(Outcome { transactions, per_second: transactions as f64 / seconds, latencies })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            let _ = self.runtime.block_on(client);
        }
    }
}

/// Other rows each time and for each client, as pgbench has it.
fn seed(number: u32) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (now.as_nanos() as u64).wrapping_mul(u64::from(number) * 2 + 1) | 1
}

async fn connect(
    job: &Job<'_>,
    tls: MakeRustlsConnect,
) -> std::result::Result<(Client, Vec<Statement>), tokio_postgres::Error> {
    let client = session::connect(job.target, tls).await?;
    let texts: &[&str] = match job.kind {
        Kind::Tpcb => &[
            "UPDATE pgbench_accounts SET abalance = abalance + $1::int WHERE aid = $2::int",
            "SELECT abalance FROM pgbench_accounts WHERE aid = $1::int",
            "UPDATE pgbench_tellers SET tbalance = tbalance + $1::int WHERE tid = $2::int",
            "UPDATE pgbench_branches SET bbalance = bbalance + $1::int WHERE bid = $2::int",
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) \
             VALUES ($1::int, $2::int, $3::int, $4::int, CURRENT_TIMESTAMP)",
        ],
        Kind::Select => &["SELECT abalance FROM pgbench_accounts WHERE aid = $1::int"],
    };
    let mut statements = Vec::new();
    for text in texts {
        statements.push(client.prepare(text).await?);
    }
    Ok((client, statements))
}

struct Worker {
    client: Client,
    statements: Vec<Statement>,
    scale: i32,
    random: u64,
}

impl Worker {
    async fn work(mut self, stop: Arc<AtomicBool>) -> Latencies {
        let mut latencies = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            self.transaction().await?;
            latencies.push(begin.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(latencies)
    }

    async fn transaction(&mut self) -> std::result::Result<(), tokio_postgres::Error> {
        let aid = self.below(self.scale * ACCOUNTS) + 1;
        let (bid, tid) = (self.below(self.scale) + 1, self.below(self.scale * 10) + 1);
        let delta = self.below(10_001) - 5000;
        let [accounts, select, tellers, branches, history] = &self.statements[..] else {
            return self.client.query(&self.statements[0], &[&aid]).await.map(drop);
        };
        self.client.batch_execute("BEGIN").await?;
        self.client.execute(accounts, &[&delta, &aid]).await?;
        self.client.query(select, &[&aid]).await?;
        self.client.execute(tellers, &[&delta, &tid]).await?;
        self.client.execute(branches, &[&delta, &bid]).await?;
        self.client.execute(history, &[&tid, &bid, &aid, &delta]).await?;
        self.client.batch_execute("END").await
    }

    fn below(&mut self, limit: i32) -> i32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % limit as u64) as i32
    }
}
