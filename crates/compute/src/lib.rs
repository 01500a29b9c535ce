//! PostgreSQL as a process, and branches of its data directory.

pub mod elf;
pub mod engine;
pub mod imports;
pub mod initdb;
pub mod install;
pub mod limits;
pub mod machine;
pub mod os;
pub mod platform;
pub mod process;
pub mod run_as;
pub mod server;
pub mod settings;

#[cfg(test)]
mod scratch;
#[cfg(test)]
mod testing;
