//! The command line.

use std::path::PathBuf;

/// Measures branches side by side with plain PostgreSQL on the same disk.
///
/// Every round is kept as a line of JSON; tables go to standard output, talk to standard error.
#[derive(Debug, clap::Parser)]
#[command(name = "ana-bench", version)]
pub struct Options {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
pub enum What {
    /// Time to create a branch at three sizes, idle and under TPC-B
    Create(Run),
    /// Time from create to the first row on the child
    FirstRow(Run),
    /// How long writers wait at a cut, and what clients notice of it
    Gate(Run),
    /// TPC-B and select-only against plain PostgreSQL
    Throughput(Run),
    /// Bytes of a fresh branch after its first connection
    Space(Run),
    /// Cost of single calls through the preload library against raw system calls
    Micro(Run),
    /// What a size does: a query at 0.5 and 2 units, a parent while four children scan
    Sizes(Run),
    /// Create over HTTP against the store's own time; needs --daemon, as all that follow
    HttpCreate(Run),
    /// Connecting through the daemon's door against connecting to PostgreSQL
    Connect(Run),
    /// From connecting to a suspended endpoint to its first row
    Wake(Run),
    /// TPC-B and select-only through the door, directly, and through pgbouncer, all encrypted
    Proxy(Run),
    /// Memory of the daemon with many idle clients
    Idle(Run),
    /// Many branches created, woken and asked at once
    Crowd(Run),
    /// Many clients at once, a branch each, with room for few
    Turns(Run),
    /// Each step with ten and with very many branches, many awake at once, clients that come and go
    Many(Run),
    /// Seven of those that need --daemon
    Door(Run),
    /// Everything; what needs --daemon only with it
    All(Run),
    /// Print the tables of earlier runs again
    Report {
        /// Files with raw lines
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// The process that `micro` starts under the preload library
    #[command(hide = true)]
    MicroCalls {
        /// What is called
        access: Access,
        /// File to read or write
        file: PathBuf,
        /// Calls of each kind
        calls: u32,
    },
}

/// How much is measured, where, and with what.
#[derive(Debug, Clone, clap::Args)]
pub struct Run {
    #[command(flatten)]
    pub extent: Extent,
    /// Rounds of each measurement
    #[arg(long)]
    pub rounds: Option<u32>,
    /// Scale of the TPC-B tables
    #[arg(long)]
    pub scale: Option<i32>,
    /// Seconds of each run of a load
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Branches that `many` makes
    #[arg(long, value_name = "NUMBER")]
    pub branches: Option<u32>,
    /// Directory for data, on the disk to be measured; made and removed
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// File that gets the raw lines
    #[arg(long, value_name = "FILE", default_value = "ana-bench.jsonl")]
    pub out: PathBuf,
    /// Directory of the PostgreSQL programs to use for all sides
    #[arg(long, env = "ANABRANCH_PG_BIN", value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// Create branches through the daemon of this `ana` program instead of the engine in process
    #[arg(long, value_name = "PROGRAM")]
    pub daemon: Option<PathBuf>,
    /// User to run as, when started by root
    #[arg(long, env = "ANABRANCH_RUN_AS", value_name = "USER")]
    pub run_as: Option<String>,
    /// Load in this program even where pgbench is at hand
    #[arg(long)]
    pub own_load: bool,
}

/// How much is measured.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Extent {
    /// Reduced sizes and rounds, to see that everything works; the numbers are noise
    #[arg(long)]
    pub quick: bool,
    /// Sizes and rounds that figures may be quoted from
    #[arg(long)]
    pub full: bool,
}

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Access {
    Read,
    Write,
}

impl Access {
    /// As given on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
        }
    }
}
