//! PostgreSQL as a process, and branches of its data directory.

pub mod engine;
pub mod server;
pub mod elf;
pub mod initdb;
pub mod platform;
pub mod process;
pub mod settings;
pub mod imports;
pub mod install;
pub mod machine;
pub mod os;
pub mod run_as;

#[cfg(test)]
mod scratch;
#[cfg(test)]
mod testing;
