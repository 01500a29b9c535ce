//! The record of a cut, kept in the child's manifest.

use pgdata::Lsn;
use serde::{Deserialize, Serialize};

use super::{CutInfo, Error};
use crate::settings::Recorded;

/// What is kept of a cut. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CutRecord {
    /// Version of this record.
    pub version: u32,
    /// Branch that was cut; none for a new cluster.
    pub parent: Option<String>,
    pub redo_lsn: u64,
    /// Location of the checkpoint record itself.
    pub checkpoint_lsn: u64,
    pub end_lsn: u64,
    pub timeline: u32,
    pub time_us: i64,
    pub closed_us: u64,
    pub drain_us: u64,
    pub wal_segment_size: u64,
    /// Settings that a child must not start below.
    pub recorded: Recorded,
}

/// The server that a branch runs under, kept in its file `server`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServerRecord {
    pub bin_dir: std::path::PathBuf,
    pub major: u32,
    pub minor: u32,
}

impl CutRecord {
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self)
            .map_err(|error| Error::Damaged(format!("could not write a cut record: {error}")))
    }

    pub fn decode(branch: &str, bytes: &[u8]) -> Result<CutRecord, Error> {
        let record: CutRecord = serde_json::from_slice(bytes).map_err(|error| {
            Error::Damaged(format!("the cut record of branch {branch} does not read back: {error}"))
        })?;
        if record.version == 1 {
            Ok(record)
        } else {
            Err(Error::Damaged(format!(
                "the cut record of branch {branch} has version {}; this ana reads version 1: use a newer ana",
                record.version
            )))
        }
    }

    pub fn info(&self) -> CutInfo {
        CutInfo {
            redo_lsn: Lsn(self.redo_lsn),
            end_lsn: Lsn(self.end_lsn),
            timeline: self.timeline,
            time_us: self.time_us,
            closed_us: self.closed_us,
            drain_us: self.drain_us,
        }
    }
}
