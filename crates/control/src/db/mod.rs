//! The rows: one SQLite file, one module for each kind of row.
//!
//! Functions of the modules take a connection, so that several can share one transaction.

pub mod audit;
pub mod branches;
pub mod catalog;
pub mod computes;
pub mod endpoints;
pub mod federation;
pub mod grants;
pub mod operations;
pub mod principals;
pub mod projects;
pub mod settings;
pub mod signing_keys;
pub mod snapshot;
pub mod tokens;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::Error;

/// Step N takes a database from version N to N + 1. Steps are never edited once released.
const MIGRATIONS: &[&str] = &[
    include_str!("0001.sql"),
    include_str!("0002.sql"),
    include_str!("0003.sql"),
    include_str!("0004.sql"),
    include_str!("0005.sql"),
    include_str!("0006.sql"),
];

/// The metadata database. One connection behind a lock: every transaction is short.
pub struct Db {
    connection: Mutex<Connection>,
}

impl Db {
    /// Opens the file, makes it where it is missing, and brings an older one up to date.
    ///
    /// # Errors
    /// The file cannot be used, or was written by a newer version.
    pub fn open(path: &Path) -> Result<Db, Error> {
        let mut connection = Connection::open(path)
            .map_err(|error| Error::Internal(format!("cannot open {}: {error}", path.display())))?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        // An answered change must survive a power failure, so every commit is synced.
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        migrate(&mut connection, path)?;
        Ok(Db { connection: Mutex::new(connection) })
    }

    /// Runs `work` in one transaction: all of it or nothing.
    ///
    /// # Errors
    /// Those of `work`, or the commit failed.
    pub fn write<T>(&self, work: impl FnOnce(&Transaction) -> Result<T, Error>) -> Result<T, Error> {
        in_transaction(&mut self.lock(), work)
    }

    /// As [`Db::write`], but the change need not survive a power failure before the next
    /// [`Db::write`], which makes it durable too. For intent that is taken back when it is lost.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub fn write_soon<T>(&self, work: impl FnOnce(&Transaction) -> Result<T, Error>) -> Result<T, Error> {
        let mut connection = self.lock();
        connection.pragma_update(None, "synchronous", "normal")?;
        let outcome = in_transaction(&mut connection, work);
        connection.pragma_update(None, "synchronous", "full")?;
        outcome
    }

    /// Runs `work` on one state of the database.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        work(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while holding the lock rolled its transaction back, so the connection is sound.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction) -> Result<T, Error>,
) -> Result<T, Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = work(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), Error> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = MIGRATIONS.len() as i64;
    if version > known {
        return Err(Error::refused(
            crate::Refusal::BadRequest,
            format!("{} has format {version}, this version knows formats up to {known}", path.display()),
        )
        .with_hint("use the version of ana that wrote it, or a newer one"));
    }
    for step in version..known {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        transaction.execute_batch(MIGRATIONS[step as usize])?;
        transaction.pragma_update(None, "user_version", step + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Times are stored as microseconds since 1970.
fn to_micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

fn from_micros(micros: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|error| bad_value(error.to_string()))
}

fn from_optional_micros(micros: Option<i64>) -> rusqlite::Result<Option<Timestamp>> {
    micros.map(from_micros).transpose()
}

/// A stored value that no version of this program writes.
fn bad_value(text: impl Into<String>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, text.into().into())
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| bad_value(error.to_string()))
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Internal(error.to_string()))
}

#[cfg(test)]
mod tests;
