//! `global/pg_control`: what a cluster is, and where its recovery begins.
//!
//! The format is the one of PostgreSQL 15 to 18 on a 64-bit little-endian machine
//! (`src/include/catalog/pg_control.h`). The file is 8 KiB, of which less than 512 bytes are used.

use crate::Lsn;
use crate::crc::crc32c;

/// What the cluster was doing when the file was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Made by `initdb`, or a start that has not got further.
    StartingUp,
    /// Ended cleanly.
    ShutDown,
    /// A standby, ended cleanly.
    ShutDownInRecovery,
    /// In the middle of a clean end.
    ShuttingDown,
    /// Replaying WAL after an unclean end.
    InCrashRecovery,
    /// Replaying WAL from an archive or a primary.
    InArchiveRecovery,
    /// Open for writes; or killed while it was.
    InProduction,
}

/// How much goes into the WAL (`wal_level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Enough for crash recovery, except that bulk operations may skip the WAL.
    Minimal,
    /// Enough to rebuild every page.
    Replica,
    /// As `Replica`, and what logical decoding needs.
    Logical,
}

/// The facts of a `pg_control` file whose checksum is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// Drawn by `initdb`; shared by all clusters that descend from the same one.
    pub system_identifier: u64,
    /// Format of this file, e.g. 1700.
    pub pg_control_version: u32,
    /// Format of the system catalogs, e.g. 202406281.
    pub catalog_version_no: u32,
    /// What the cluster was doing.
    pub state: State,
    /// When this file was last written, Unix time in seconds.
    pub time: i64,
    /// Start of the latest checkpoint's WAL record.
    pub checkpoint_lsn: Lsn,
    /// Where replay begins: redo location of the latest checkpoint.
    pub redo_lsn: Lsn,
    /// Timeline of the latest checkpoint.
    pub timeline: u32,
    /// Whether pages go into the WAL whole after a checkpoint.
    pub full_page_writes: bool,
    /// Next transaction id, with its epoch in the upper 32 bits.
    pub next_xid: u64,
    /// Oldest transaction id that may still be looked up in `pg_xact`.
    pub oldest_xid: u32,
    /// When the latest checkpoint began, Unix time in seconds.
    pub checkpoint_time: i64,
    /// `wal_level` of the last start.
    pub wal_level: WalLevel,
    /// `wal_log_hints` of the last start.
    pub wal_log_hints: bool,
    /// `max_connections` of the last start.
    pub max_connections: u32,
    /// `max_worker_processes` of the last start.
    pub max_worker_processes: u32,
    /// `max_wal_senders` of the last start.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions` of the last start.
    pub max_prepared_xacts: u32,
    /// `max_locks_per_transaction` of the last start.
    pub max_locks_per_xact: u32,
    /// `track_commit_timestamp` of the last start.
    pub track_commit_timestamp: bool,
    /// Page size of relations, bytes.
    pub block_size: u32,
    /// Pages in one segment file of a relation.
    pub blocks_per_segment: u32,
    /// Page size of the WAL, bytes.
    pub wal_block_size: u32,
    /// Size of a WAL segment file, bytes.
    pub wal_segment_size: u32,
    /// Version of the page checksums; 0 where they are off.
    pub data_checksum_version: u32,
}

/// Why bytes are not a usable `pg_control`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too short to hold the facts.
    #[error("pg_control is cut short: {found} bytes, at least {needed} are needed")]
    Truncated {
        /// Bytes given.
        found: usize,
        /// Bytes that this format occupies.
        needed: usize,
    },
    /// Not a format of PostgreSQL 15 to 18.
    #[error("pg_control has format {0}; known are 1300 (PostgreSQL 15, 16), 1700 (17) and 1800 (18)")]
    UnknownVersion(u32),
    /// The content does not match its checksum.
    #[error("pg_control is damaged: its checksum is {stored:08X}, its content gives {computed:08X}")]
    Checksum {
        /// Checksum in the file.
        stored: u32,
        /// Checksum of the content.
        computed: u32,
    },
    /// A value that PostgreSQL never writes.
    #[error("pg_control holds the impossible value {value} for {what}")]
    Value {
        /// The field.
        what: &'static str,
        /// What stands there.
        value: u32,
    },
}

/// Up to the version number, which says how long the rest is.
const HEAD: usize = 16;

impl ControlFile {
    /// Reads the facts out of the file's bytes; bytes after the checksum are ignored.
    ///
    /// # Errors
    /// Too short, unknown format, wrong checksum, impossible value.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, Error> {
        let fields = Fields(bytes);
        fields.need(HEAD)?;
        let version = fields.u32(8);
        let checksum_at = match version {
            1300 | 1700 => 288,
            1800 => 292,
            other => return Err(Error::UnknownVersion(other)),
        };
        fields.need(checksum_at + 4)?;
        let stored = fields.u32(checksum_at);
        let computed = crc32c(0, &bytes[..checksum_at]);
        if stored != computed {
            return Err(Error::Checksum { stored, computed });
        }
        Ok(ControlFile {
            system_identifier: fields.u64(0),
            pg_control_version: version,
            catalog_version_no: fields.u32(12),
            state: state(fields.u32(16))?,
            time: fields.u64(24).cast_signed(),
            checkpoint_lsn: Lsn(fields.u64(32)),
            redo_lsn: Lsn(fields.u64(40)),
            timeline: fields.u32(48),
            full_page_writes: fields.bool(56),
            next_xid: fields.u64(64),
            oldest_xid: fields.u32(84),
            checkpoint_time: fields.u64(104).cast_signed(),
            wal_level: wal_level(fields.u32(172))?,
            wal_log_hints: fields.bool(176),
            max_connections: fields.u32(180),
            max_worker_processes: fields.u32(184),
            max_wal_senders: fields.u32(188),
            max_prepared_xacts: fields.u32(192),
            max_locks_per_xact: fields.u32(196),
            track_commit_timestamp: fields.bool(200),
            block_size: fields.u32(216),
            blocks_per_segment: fields.u32(220),
            wal_block_size: fields.u32(224),
            wal_segment_size: fields.u32(228),
            data_checksum_version: fields.u32(252),
        })
    }
}

impl ControlFile {
    /// How many transactions ago the oldest one began that is not frozen everywhere, as of the latest
    /// checkpoint: `age(datfrozenxid)` of the cluster's oldest database.
    pub fn freeze_age(&self) -> u32 {
        (self.next_xid as u32).wrapping_sub(self.oldest_xid)
    }
}

/// Little-endian fields at fixed offsets; `need` comes before any access.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn need(&self, needed: usize) -> Result<(), Error> {
        let found = self.0.len();
        if found < needed { Err(Error::Truncated { found, needed }) } else { Ok(()) }
    }

    fn u32(&self, at: usize) -> u32 {
        let mut value = [0; 4];
        value.copy_from_slice(&self.0[at..at + 4]);
        u32::from_le_bytes(value)
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    fn bool(&self, at: usize) -> bool {
        self.0[at] != 0
    }
}

fn state(value: u32) -> Result<State, Error> {
    Ok(match value {
        0 => State::StartingUp,
        1 => State::ShutDown,
        2 => State::ShutDownInRecovery,
        3 => State::ShuttingDown,
        4 => State::InCrashRecovery,
        5 => State::InArchiveRecovery,
        6 => State::InProduction,
        value => return Err(Error::Value { what: "the cluster state", value }),
    })
}

fn wal_level(value: u32) -> Result<WalLevel, Error> {
    Ok(match value {
        0 => WalLevel::Minimal,
        1 => WalLevel::Replica,
        2 => WalLevel::Logical,
        value => return Err(Error::Value { what: "wal_level", value }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First 512 bytes of files written by PostgreSQL 15.18, 16.14, 17.10 and 18.4. Each server was
    /// started with settings that differ from every default and asked with `pg_control_system()`,
    /// `pg_control_checkpoint()` and `pg_control_init()` what stands in it.
    const FIXTURES: [&[u8]; 4] = [
        include_bytes!("../fixtures/pg_control.15"),
        include_bytes!("../fixtures/pg_control.16"),
        include_bytes!("../fixtures/pg_control.17"),
        include_bytes!("../fixtures/pg_control.18"),
    ];

    fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
        let at = if u32::from_le_bytes(bytes[8..12].try_into().unwrap()) == 1800 { 292 } else { 288 };
        let crc = crc32c(0, &bytes[..at]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn says_what_postgres_says() {
        let seventeen = ControlFile {
            system_identifier: 7710257666779768420,
            pg_control_version: 1700,
            catalog_version_no: 202406281,
            state: State::InProduction,
            time: 1795184369,
            checkpoint_lsn: Lsn(0x0100_0080),
            redo_lsn: Lsn(0x0100_0028),
            timeline: 1,
            full_page_writes: true,
            next_xid: 739,
            oldest_xid: 730,
            checkpoint_time: 1795184369,
            wal_level: WalLevel::Logical,
            wal_log_hints: true,
            max_connections: 101,
            max_worker_processes: 9,
            max_wal_senders: 11,
            max_prepared_xacts: 5,
            max_locks_per_xact: 65,
            track_commit_timestamp: true,
            block_size: 8192,
            blocks_per_segment: 131072,
            wal_block_size: 8192,
            wal_segment_size: 4 << 20,
            data_checksum_version: 1,
        };
        let fifteen = ControlFile {
            system_identifier: 7710257663382001234,
            pg_control_version: 1300,
            catalog_version_no: 202209061,
            time: 1795184368,
            checkpoint_time: 1795184368,
            checkpoint_lsn: Lsn(0x0100_0060),
            next_xid: 725,
            oldest_xid: 716,
            ..seventeen.clone()
        };
        let sixteen = ControlFile {
            system_identifier: 7710257772982920859,
            catalog_version_no: 202307071,
            next_xid: 731,
            oldest_xid: 722,
            ..fifteen.clone()
        };
        let eighteen = ControlFile {
            system_identifier: 7710257784999511746,
            pg_control_version: 1800,
            catalog_version_no: 202506291,
            next_xid: 753,
            oldest_xid: 744,
            ..seventeen.clone()
        };
        for (bytes, expected) in FIXTURES.into_iter().zip([fifteen, sixteen, seventeen, eighteen]) {
            assert_eq!(ControlFile::parse(bytes), Ok(expected));
        }
    }

    #[test]
    fn the_freeze_age_goes_round_with_the_counter() {
        let mut facts = ControlFile::parse(FIXTURES[2]).unwrap();
        assert_eq!(facts.freeze_age(), 9);
        (facts.next_xid, facts.oldest_xid) = (7 << 32 | 5, u32::MAX);
        assert_eq!(facts.freeze_age(), 6);
    }

    #[test]
    fn any_changed_byte_is_found() {
        for bytes in FIXTURES {
            for at in (0..256).filter(|at| !(8..12).contains(at)) {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 0x40;
                let result = ControlFile::parse(&damaged);
                assert!(matches!(result, Err(Error::Checksum { .. })), "byte {at}: {result:?}");
            }
        }
        let mut damaged = FIXTURES[2].to_vec();
        damaged[288] ^= 1;
        let text = ControlFile::parse(&damaged).unwrap_err().to_string();
        assert!(text.starts_with("pg_control is damaged: its checksum is "), "{text}");
    }

    #[test]
    fn a_short_file_is_refused_and_the_rest_is_not_needed() {
        for (bytes, needed) in FIXTURES.into_iter().zip([292, 292, 292, 296]) {
            assert!(ControlFile::parse(&bytes[..needed]).is_ok());
            for found in 16..needed {
                assert_eq!(ControlFile::parse(&bytes[..found]), Err(Error::Truncated { found, needed }));
            }
            for found in 0..16 {
                assert_eq!(ControlFile::parse(&bytes[..found]), Err(Error::Truncated { found, needed: 16 }));
            }
        }
    }

    #[test]
    fn an_unknown_format_is_named() {
        let mut bytes = FIXTURES[2].to_vec();
        bytes[8..12].copy_from_slice(&1201u32.to_le_bytes());
        let error = ControlFile::parse(&bytes).unwrap_err();
        assert_eq!(error, Error::UnknownVersion(1201));
        assert!(error.to_string().contains("format 1201"));
    }

    #[test]
    fn every_state_and_nothing_else() {
        let states = [
            State::StartingUp,
            State::ShutDown,
            State::ShutDownInRecovery,
            State::ShuttingDown,
            State::InCrashRecovery,
            State::InArchiveRecovery,
            State::InProduction,
        ];
        for (value, state) in states.into_iter().enumerate() {
            let mut bytes = FIXTURES[3].to_vec();
            bytes[16] = value as u8;
            assert_eq!(ControlFile::parse(&with_checksum(bytes)).unwrap().state, state);
        }
        for (at, what) in [(16, "the cluster state"), (172, "wal_level")] {
            let mut bytes = FIXTURES[1].to_vec();
            bytes[at] = 7;
            let error = ControlFile::parse(&with_checksum(bytes)).unwrap_err();
            assert_eq!(error, Error::Value { what, value: 7 });
        }
    }
}
