//! Rows of signing keys: the public halves. The private ones are files.

use auth::PublicKey;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::{from_json, from_micros, from_optional_micros, to_json, to_micros};
use crate::error::Error;

/// A key as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its public half.
    pub public: PublicKey,
    /// When it was made.
    pub create_time: Timestamp,
    /// Since when it signs no more.
    pub retire_time: Option<Timestamp>,
}

/// Adds a key.
///
/// # Errors
/// The database failed.
pub fn insert(connection: &Connection, key: &KeyRow) -> Result<(), Error> {
    connection.execute(
        "INSERT INTO signing_keys (kid, public_key, create_time, retire_time) VALUES (?1, ?2, ?3, ?4)",
        params![
            key.public.kid,
            to_json(&key.public)?,
            to_micros(key.create_time),
            key.retire_time.map(to_micros),
        ],
    )?;
    Ok(())
}

/// All keys, newest first.
///
/// # Errors
/// The database failed.
pub fn list(connection: &Connection) -> Result<Vec<KeyRow>, Error> {
    let sql = "SELECT public_key, create_time, retire_time FROM signing_keys ORDER BY create_time DESC, kid";
    let rows = connection.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Notes that the keys that still sign do so no more.
///
/// # Errors
/// The database failed.
pub fn retire_all(connection: &Connection, time: Timestamp) -> Result<(), Error> {
    connection
        .execute("UPDATE signing_keys SET retire_time = ?1 WHERE retire_time IS NULL", [to_micros(time)])?;
    Ok(())
}

/// Forgets keys that were retired before `time`. How many.
///
/// # Errors
/// The database failed.
pub fn remove_retired(connection: &Connection, time: Timestamp) -> Result<usize, Error> {
    Ok(connection.execute("DELETE FROM signing_keys WHERE retire_time < ?1", [to_micros(time)])?)
}

fn read(row: &Row) -> rusqlite::Result<KeyRow> {
    Ok(KeyRow {
        public: from_json(&row.get::<_, String>(0)?)?,
        create_time: from_micros(row.get(1)?)?,
        retire_time: from_optional_micros(row.get(2)?)?,
    })
}
