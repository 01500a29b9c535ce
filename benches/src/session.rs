//! Connections.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};
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
            .ssl_mode(if self.is_socket() { SslMode::Disable } else { SslMode::Prefer })
            .connect_timeout(Duration::from_secs(60));
        config
    }

    /// Whether it is reached through a file and not over TCP.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

/// TLS, for servers that have it.
pub fn tls() -> Result<MakeRustlsConnect> {
    client::tls::connector(None).context("preparing TLS")
}

/// Connects, with TLS where that is not a socket: there the driver has no name for it to check.
pub async fn connect(
    target: &Target,
    tls: MakeRustlsConnect,
) -> std::result::Result<Client, tokio_postgres::Error> {
    // A connection ends once its client is dropped; its errors surface in the client's calls.
    if target.is_socket() {
        let (client, connection) = target.config().connect(NoTls).await?;
        tokio::spawn(connection);
        return Ok(client);
    }
    let (client, connection) = target.config().connect(tls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A connection used from outside the runtime.
pub struct Session {
    runtime: Handle,
    client: Client,
}

impl Session {
    pub fn connect(runtime: &Handle, target: &Target) -> Result<Session> {
        let connected = runtime.block_on(connect(target, tls()?));
        let client = connected.context(format!("connecting to {}", target.host))?;
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
