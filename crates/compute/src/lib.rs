//! PostgreSQL as a process, and branches of its data directory.

pub mod backup;
pub mod confinement;
pub mod elf;
pub mod engine;
mod guarded;
pub mod imports;
pub mod initdb;
pub mod install;
pub mod libraries;
pub mod limits;
pub mod machine;
pub mod os;
pub mod platform;
pub mod process;
pub mod run_as;
pub mod server;
pub mod settings;
pub mod user_settings;

pub use store::fault;

/// Where tests let the daemon stand still: one list for all crates.
pub use store::moment;

#[cfg(test)]
mod scratch;
#[cfg(test)]
mod testing;
