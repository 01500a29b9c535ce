//! Single values.

use rusqlite::{Connection, OptionalExtension};

use crate::error::Error;

/// Key of the owner principal's name.
pub const OWNER: &str = "owner";
/// Key of what tells this home from all others.
pub const HOME_ID: &str = "home_id";
/// Key of the number by which clients know this home.
pub const WORKSPACE_ID: &str = "workspace_id";

/// The value of `key`.
///
/// # Errors
/// The database failed.
pub fn get(connection: &Connection, key: &str) -> Result<Option<String>, Error> {
    Ok(connection
        .query_row("SELECT value FROM settings WHERE key = ?1", [key], |row| row.get(0))
        .optional()?)
}

/// Sets `key` to `value`.
///
/// # Errors
/// The database failed.
pub fn set(connection: &Connection, key: &str, value: &str) -> Result<(), Error> {
    connection.execute(
        "INSERT INTO settings (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [key, value],
    )?;
    Ok(())
}
