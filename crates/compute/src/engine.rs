//! Branches of a PostgreSQL data directory: create, cut, start, stop, delete, export.
//!
//! The engine owns the directories `layers/` and `branches/` of a home. It knows nothing of names,
//! projects or expiry: those are the control plane's. Every call is synchronous and may block;
//! asynchronous callers use a blocking thread. Every call is safe to repeat.

mod assemble;
mod attention;
mod backup;
mod compact;
mod confine;
mod create;
mod cut;
mod damage;
mod durable;
mod export;
mod home;
mod maintain;
mod record;
mod run;
mod scrub;
mod segments;
mod size;
mod usage;
mod wal;

use pgdata::Lsn;

pub use backup::Held;
pub use compact::Compaction;
pub(crate) use create::make_branch_directories;
pub use home::Engine;
pub use run::remove_caches;
pub use scrub::{Grade, ScrubEvent, ScrubFinding, ScrubTotals};

/// Identity of a branch's data on disk: the branch's `uid` (`br-…`), safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchKey(String);

/// How to end a compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnect sessions, write a shutdown checkpoint (SIGINT to the postmaster).
    Fast,
    /// Kill every process of the branch; the next start recovers from WAL.
    Kill,
}

/// What is running for a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComputeState {
    /// No process of the branch is alive.
    Stopped,
    /// The postmaster is alive.
    Running {
        /// Its process id.
        pid: i32,
    },
    /// The postmaster is gone but other processes of the branch live on; a start is refused
    /// until they are gone.
    Orphans {
        /// Their process ids.
        pids: Vec<i32>,
    },
}

/// The bootstrap superuser of every cluster we make.
pub const BOOTSTRAP_ROLE: &str = "anabranch";

/// The database made in every new project.
pub const DEFAULT_DATABASE: &str = "databricks_postgres";

/// The moment at which a branch was cut, as recorded on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutInfo {
    /// Redo location of the last checkpoint: replay begins here.
    pub redo_lsn: Lsn,
    /// End of the last record inside the cut.
    pub end_lsn: Lsn,
    /// PostgreSQL timeline.
    pub timeline: u32,
    /// Unix time of the cut, microseconds.
    pub time_us: i64,
    /// How long writers were held back (gate closed to gate open), microseconds.
    pub closed_us: u64,
    /// Of these, how long it took until running calls had drained, microseconds.
    pub drain_us: u64,
}

/// Space of a branch, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Disk space that the branch's removal would free: its directory with WAL, layers that only it uses.
    pub own_bytes: u64,
    /// Disk space of layers and WAL segments that other branches use too.
    pub shared_bytes: u64,
    /// Length of all its files but WAL and configuration, as PostgreSQL sees them: what a copy would need.
    pub logical_bytes: u64,
}

/// What stopped an engine call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing on disk has this key.
    #[error("branch {0} has no data on this host")]
    NotFound(String),
    /// The branch has children that read through it.
    #[error("branch {0} is in a state that does not allow this: {1}")]
    Refused(String, String),
    /// Damaged, unreadable, or written by a newer version.
    #[error("{0}")]
    Damaged(String),
    /// The operating system or the server said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// PostgreSQL did not do as asked; the text carries the last lines of its log.
    #[error("{0}")]
    Postgres(String),
}

/// How a branch is to be started.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// First start of a child: logical replication workers stay off until the control plane has
    /// disabled the subscriptions that came with the data.
    pub first_start: bool,
    /// Further settings, given on the command line after ours; the forced ones cannot be overridden.
    pub settings: Vec<(String, String)>,
}

impl BranchKey {
    /// Accepts lowercase letters, digits and hyphens, at most 63.
    ///
    /// # Errors
    /// The text, when it is anything else.
    pub fn new(text: impl Into<String>) -> Result<BranchKey, String> {
        let text = text.into();
        let fits = !text.is_empty()
            && text.len() <= 63
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(BranchKey(text)) } else { Err(text) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for BranchKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
