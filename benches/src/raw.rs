//! Raw lines: one JSON object for each thing measured.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::{Context, Result};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    Run(Run),
    Create(Create),
    FirstRow(FirstRow),
    PlainStart(PlainStart),
    Cut(Cut),
    Clients(Clients),
    Throughput(Throughput),
    Space(Space),
    Call(Call),
    HttpCreate(HttpCreate),
    Connect(Connect),
    Wake(Wake),
    Proxied(Proxied),
    Idle(Idle),
    Crowd(Crowd),
    Sized(Sized),
    Neighbours(Neighbours),
    Turns(Turns),
    Many(Many),
}

/// A step, or a figure of the daemon, with so many branches there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Many {
    pub branches: u32,
    pub what: String,
    pub unit: String,
    pub values: Vec<f64>,
}

/// Circumstances of a run; the first line of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub unix_time: u64,
    pub version: String,
    /// Whether this program was built with optimisation.
    pub optimised: bool,
    pub processor: String,
    pub processors: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub file_system: String,
    pub postgres: String,
    pub load: String,
    /// Through what branches are created: `engine` or `daemon`.
    pub through: String,
    pub reductions: Vec<String>,
}

/// A branch created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Create {
    pub round: u32,
    /// Label of the database.
    pub size: String,
    /// Its size when the round began.
    pub data_bytes: u64,
    /// Clients of the TPC-B load; 0 is idle.
    pub clients: u32,
    /// Scale of the load's tables.
    pub scale: i32,
    pub through: String,
    pub create_ms: f64,
    /// Cuts of this parent before this one.
    pub cuts_before: u32,
    pub cut: Option<CutFacts>,
}

/// What the engine says of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CutFacts {
    /// Gate closed to gate open.
    pub closed_us: u64,
    /// Of these, waiting for running calls.
    pub drain_us: u64,
    /// WAL between the redo location of the last checkpoint and the end of the cut.
    pub wal_bytes: u64,
}

/// A branch created, started, connected to and asked for a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FirstRow {
    pub round: u32,
    pub clients: u32,
    pub scale: i32,
    pub through: String,
    pub create_ms: f64,
    /// Until the server accepts connections; 0 where the first connection starts it.
    pub start_ms: f64,
    pub connect_ms: f64,
    pub query_ms: f64,
    pub total_ms: f64,
    pub cut: Option<CutFacts>,
}

/// A plain server started after a clean stop and asked for a row: the floor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlainStart {
    pub round: u32,
    pub start_ms: f64,
    pub connect_ms: f64,
    pub query_ms: f64,
    pub total_ms: f64,
}

/// A cut under load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    pub round: u32,
    pub clients: u32,
    pub create_ms: f64,
    pub cut: CutFacts,
}

/// What the clients of a load saw, with a cut each second or without.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clients {
    pub round: u32,
    pub clients: u32,
    pub cuts: u32,
    pub seconds: f64,
    pub transactions: u64,
    pub median_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

/// One run of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    pub round: u32,
    /// `tpcb` or `select`.
    pub load: String,
    pub clients: u32,
    /// What it ran against; see [`crate::figures::throughput`].
    pub variant: String,
    pub scale: i32,
    pub seconds: f64,
    pub transactions: u64,
    pub per_second: f64,
    /// Processor time of all processes of the server: steadier than the rate on a shared machine.
    pub server_cpu_seconds: f64,
    /// What the whole machine read from that disk meanwhile: pages that had left the page cache.
    #[serde(default)]
    pub disk_read_bytes: u64,
    /// And wrote to it.
    #[serde(default)]
    pub disk_written_bytes: u64,
    /// Share of the machine's processor time that its host gave to others meanwhile, 0 to 1.
    #[serde(default)]
    pub stolen_share: f64,
}

impl Throughput {
    /// Both runs as one.
    #[must_use]
    pub fn and(self, other: &Throughput) -> Throughput {
        let seconds = self.seconds + other.seconds;
        let weighed = |ours: f64, theirs: f64| (ours * self.seconds + theirs * other.seconds) / seconds;
        Throughput {
            seconds,
            transactions: self.transactions + other.transactions,
            per_second: weighed(self.per_second, other.per_second),
            server_cpu_seconds: self.server_cpu_seconds + other.server_cpu_seconds,
            disk_read_bytes: self.disk_read_bytes + other.disk_read_bytes,
            disk_written_bytes: self.disk_written_bytes + other.disk_written_bytes,
            stolen_share: weighed(self.stolen_share, other.stolen_share),
            ..self
        }
    }
}

/// Weight of a fresh branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Space {
    pub round: u32,
    /// Clients of the load on its parent; 0 is an idle parent just after a checkpoint.
    pub clients: u32,
    /// Disk space of its directory without WAL.
    pub directory_bytes: u64,
    /// Disk space of its own layer.
    pub layer_bytes: u64,
    /// Disk space of its WAL before its first start, without what it shares by links.
    pub prefix_bytes: u64,
    /// Disk space of WAL it shares by links with its parent.
    pub linked_bytes: u64,
    /// WAL that it wrote itself until its first connection.
    pub own_wal_bytes: u64,
    /// What the engine says it occupies.
    pub engine_own_bytes: u64,
}

/// Cost of one kind of call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub round: u32,
    /// What is called.
    pub call: String,
    /// How: `raw`, or through what.
    pub way: String,
    pub nanoseconds: f64,
}

/// A branch created over HTTP, or by the store alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpCreate {
    pub round: u32,
    /// `store` or `HTTP`.
    pub way: String,
    pub create_ms: f64,
}

/// A connection made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connect {
    pub round: u32,
    /// What was connected to; see [`crate::figures::connect`].
    pub way: String,
    /// Until the server was ready for a query: TCP, TLS and login.
    pub connect_ms: f64,
    /// The first query after that.
    pub query_ms: f64,
}

/// What slept woken by a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wake {
    pub round: u32,
    /// What slept; see [`crate::figures::wake`].
    pub way: String,
    /// From connecting to the first row.
    pub total_ms: f64,
}

/// One run of a load over TLS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proxied {
    pub round: u32,
    /// `tpcb` or `select`.
    pub load: String,
    pub clients: u32,
    /// What it went through; see [`crate::figures::proxy`].
    pub variant: String,
    pub scale: i32,
    pub seconds: f64,
    pub transactions: u64,
    pub per_second: f64,
}

impl Proxied {
    /// Both runs as one.
    #[must_use]
    pub fn and(self, other: &Proxied) -> Proxied {
        let seconds = self.seconds + other.seconds;
        let weighed = |ours: f64, theirs: f64| (ours * self.seconds + theirs * other.seconds) / seconds;
        Proxied {
            seconds,
            transactions: self.transactions + other.transactions,
            per_second: weighed(self.per_second, other.per_second),
            ..self
        }
    }
}

/// Resident memory of the daemon with idle clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    pub round: u32,
    pub clients: u32,
    /// With one client.
    pub before_bytes: u64,
    /// With all of them.
    pub with_bytes: u64,
    /// After they have left.
    pub after_bytes: u64,
}

/// One of many branches created, woken and asked at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Crowd {
    pub round: u32,
    /// How many there were.
    pub branches: u32,
    /// From the common start until this one was created.
    pub create_ms: f64,
    /// And until its first row.
    pub first_row_ms: f64,
}

/// A query that takes processors and nothing else, on a compute of some size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sized {
    pub round: u32,
    /// Size in compute units.
    pub cu: f64,
    pub query_ms: f64,
}

/// What the clients of a parent saw while children scanned, or alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Neighbours {
    pub round: u32,
    /// `tpcb` or `select`.
    pub load: String,
    pub clients: u32,
    /// Children that scanned all the time; 0 is the parent alone.
    pub children: u32,
    /// Scans that they finished.
    pub scans: u64,
    pub seconds: f64,
    pub transactions: u64,
    pub median_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Clients that came at once, each to a branch of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// Memory for all computes together.
    pub memory_mib: u64,
    /// From the beginning until each client had its row.
    pub rows_ms: Vec<f64>,
}

/// The file of raw lines.
#[derive(Debug)]
pub struct Writer {
    file: File,
    lines: Vec<Line>,
}

impl Writer {
    /// Appends to a file opened before.
    pub fn new(file: File) -> Writer {
        Writer { file, lines: Vec::new() }
    }

    /// Keeps a line; it is on disk's way at once, so that a run that fails loses nothing.
    pub fn push(&mut self, line: Line) -> Result<()> {
        let mut text = serde_json::to_string(&line).context("writing a raw line")?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).context("writing a raw line")?;
        self.lines.push(line);
        Ok(())
    }

    /// All lines of this run.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
}

/// Reads the lines of a file.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let what = || format!("reading {}", path.display());
    let file = File::open(path).context(what())?;
    BufReader::new(file)
        .lines()
        .map(|line| serde_json::from_str(&line.context(what())?).context(what()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back_as_they_were_written() {
        let path = std::env::temp_dir().join(format!("ana-bench-raw-{}", std::process::id()));
        let line = Line::Cut(Cut {
            round: 1,
            clients: 4,
            create_ms: 12.5,
            cut: CutFacts { closed_us: 10, drain_us: 3, wal_bytes: 99 },
        });
        let mut writer = Writer::new(File::create(&path).unwrap());
        writer.push(line.clone()).unwrap();
        writer.push(line.clone()).unwrap();
        assert_eq!(read(&path).unwrap(), [line.clone(), line]);
        std::fs::remove_file(path).unwrap();
    }
}
