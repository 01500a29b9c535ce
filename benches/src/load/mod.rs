//! The load: pgbench where there is one, else the same transactions from this program.

mod own;
mod pgbench;
mod tables;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::failure::{Context, Result};
use crate::ground::Ground;
use crate::session::Target;

pub use tables::{fill, fill_ballast};

/// Which transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Three updates, a select and an insert.
    Tpcb,
    /// One select by primary key.
    Select,
}

impl Kind {
    /// As written in raw lines.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tpcb => "tpcb",
            Kind::Select => "select",
        }
    }
}

/// What is to be run.
#[derive(Clone)]
pub struct Job<'a> {
    pub target: &'a Target,
    pub kind: Kind,
    pub clients: u32,
    pub scale: i32,
    /// Until it is stopped where there is none.
    pub length: Option<Duration>,
    /// Whether the latency of each transaction is kept.
    pub latencies: bool,
}

/// What a load did.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub transactions: u64,
    pub per_second: f64,
    /// Milliseconds, in no order; empty unless asked for.
    pub latencies: Vec<f64>,
}

/// What makes the load.
#[derive(Debug, Clone)]
pub enum Generator {
    Pgbench { program: PathBuf, version: String, scratch: PathBuf },
    Own { runtime: Handle },
}

impl Generator {
    /// pgbench from `PATH`, Debian's directories or beside the server, unless `own` is wanted.
    pub fn find(own: bool, server_dir: &Path, ground: &Ground, runtime: &Handle) -> Result<Generator> {
        let found = if own { None } else { pgbench::find(server_dir) };
        Ok(match found {
            Some((program, version)) => {
                Generator::Pgbench { program, version, scratch: ground.make("load")? }
            }
            None => Generator::Own { runtime: runtime.clone() },
        })
    }

    /// For the record.
    pub fn describe(&self) -> String {
        match self {
            Generator::Pgbench { version, .. } => format!("{version}, prepared statements"),
            Generator::Own { .. } => "ana-bench's own, prepared statements".to_owned(),
        }
    }

    /// Starts a load.
    pub fn start(&self, job: &Job<'_>) -> Result<Running> {
        match self {
            Generator::Pgbench { program, scratch, .. } => {
                pgbench::Running::start(program, scratch, job).map(Running::Pgbench)
            }
            Generator::Own { runtime } => own::Running::start(runtime, job).map(Running::Own),
        }
    }

    /// Runs a load of limited length to its end.
    pub fn run(&self, job: &Job<'_>) -> Result<Outcome> {
        self.start(job)?.finish()
    }
}

/// A load that runs; it ends when this is dropped.
pub enum Running {
    Pgbench(pgbench::Running),
    Own(own::Running),
}

impl Running {
    /// Fails where the load has ended, which it must not while things are measured under it.
    pub fn check(&mut self) -> Result<()> {
        match self {
            Running::Pgbench(running) => running.check(),
            Running::Own(running) => running.check(),
        }
    }

    /// Waits for the end of a load of limited length.
    pub fn finish(self) -> Result<Outcome> {
        match self {
            Running::Pgbench(running) => running.finish(),
            Running::Own(running) => running.finish(),
        }
    }
}

/// Writes a file that only we can read.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let what = || format!("writing {}", path.display());
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .context(what())?;
    file.write_all(text.as_bytes()).context(what())
}
