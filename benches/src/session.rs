//! Connections.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::failure::{Context, Failure, Result};

/// How to connect to a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Directory of its socket, or an address.
    pub host: String,
    pub port: u16,
    pub role: String,
    pub password: String,
    pub database: String,
}

impl Target {
    /// A driver's settings.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(&self.role)
            .password(&self.password)
            .dbname(&self.database)
            .ssl_mode(if self.host.starts_with('/') { SslMode::Disable } else { SslMode::Prefer })
            .connect_timeout(Duration::from_secs(60));
        config
    }
}

/// TLS, for servers that have it.
pub fn tls() -> Result<MakeRustlsConnect> {
    client::tls::connector(None).context("preparing TLS")
}

/// A connection used from outside the runtime.
pub struct Session {
    runtime: Handle,
    client: Client,
}

impl Session {
    pub fn connect(runtime: &Handle, target: &Target) -> Result<Session> {
        let connected = runtime.block_on(target.config().connect(tls()?));
        let (client, connection) = connected.context(format!("connecting to {}", target.host))?;
        // Ends once the client is dropped; its errors surface in the client's calls.
        runtime.spawn(connection);
        Ok(Session { runtime: runtime.clone(), client })
    }

    /// Runs statements.
    pub fn run(&self, sql: &str) -> Result<()> {
        self.runtime.block_on(self.client.batch_execute(sql)).context(first_words(sql))
    }

    /// First column of the first row, as text.
    pub fn text(&self, sql: &str) -> Result<String> {
        let messages = self.runtime.block_on(self.client.simple_query(sql)).context(first_words(sql))?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        row.ok_or_else(|| Failure(format!("no row: {}", first_words(sql))))
    }

    /// First column of the first row, as a number.
    pub fn number(&self, sql: &str) -> Result<u64> {
        self.text(sql)?.parse().context(first_words(sql))
    }
}

fn first_words(sql: &str) -> String {
    sql.split_whitespace().take(8).collect::<Vec<_>>().join(" ")
}

/// Times of the steps to a first row on a server that runs already, or starts when it is connected to.
#[derive(Debug, Clone, Copy)]
pub struct FirstRowTimes {
    pub connect_ms: f64,
    pub query_ms: f64,
}

/// Connects and reads one row of the TPC-B tables.
pub fn first_row(runtime: &Handle, target: &Target) -> Result<FirstRowTimes> {
    let begin = Instant::now();
    let session = Session::connect(runtime, target)?;
    let connected = Instant::now();
    let aid = session.number("SELECT aid FROM pgbench_accounts WHERE aid = 1")?;
    if aid != 1 {
        return Err(Failure(format!("the first row has aid {aid}")));
    }
    Ok(FirstRowTimes {
        connect_ms: milliseconds(connected - begin),
        query_ms: milliseconds(connected.elapsed()),
    })
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
