//! A copy of all rows as of one moment, for a backup.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::to_micros;
use crate::error::Error;

/// Writes all rows to the file `to`, which must not exist.
///
/// # Errors
/// The database failed, or the file cannot be written.
pub fn take(connection: &Connection, to: &Path) -> Result<(), Error> {
    connection.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
    Ok(())
}

/// Runs `work` on a copy.
///
/// # Errors
/// Those of `work`, or the copy cannot be opened.
pub fn read<T>(copy: &Path, work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
    let connection = Connection::open(copy)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let value = work(&connection)?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(value)
}

/// Leaves only these branches in a copy, and projects that have one. Operations that were making something
/// have failed: nobody will go on with them.
///
/// # Errors
/// The copy cannot be written.
pub fn keep(copy: &Path, branches: &[&str], now: Timestamp) -> Result<(), Error> {
    read(copy, |connection| {
        connection.execute_batch("BEGIN; CREATE TEMP TABLE kept (uid TEXT PRIMARY KEY)")?;
        for uid in branches {
            connection.execute("INSERT INTO kept VALUES (?1)", [uid])?;
        }
        connection.execute_batch(
            "DELETE FROM branches WHERE uid NOT IN (SELECT uid FROM kept); \
             DELETE FROM projects WHERE uid NOT IN (SELECT project FROM branches)",
        )?;
        connection.execute(
            "UPDATE operations SET done = 1, error_code = 'ABORTED', error_message = ?1, update_time = ?2 \
             WHERE done = 0 AND verb = 'create'",
            params!["the home was restored from a backup that was made meanwhile", to_micros(now)],
        )?;
        connection.execute_batch("COMMIT")?;
        Ok(())
    })
}
