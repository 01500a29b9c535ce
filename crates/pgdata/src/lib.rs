//! What PostgreSQL's data directory means. Pure: bytes in, facts out; no I/O, no clock.

pub mod class;
pub mod control_file;
pub mod crc;
pub mod lsn;
pub mod page;
pub mod wal;

pub use lsn::Lsn;
