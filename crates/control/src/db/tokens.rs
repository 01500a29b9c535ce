//! Rows of opaque secrets, and of signed tokens that were taken back.

use auth::{Digest, Scope};
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::{bad_value, from_json, from_micros, from_optional_micros, to_json, to_micros};
use crate::error::Error;
use crate::identity::{StoredToken, TokenKind};

/// Adds a token.
///
/// # Errors
/// The database failed.
pub fn insert(connection: &Connection, token: &StoredToken) -> Result<(), Error> {
    let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    connection.execute(
        "INSERT INTO tokens (id, kind, principal, name, digest, scopes, projects, create_time, expire_time) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            token.id,
            token.kind.as_str(),
            token.principal,
            token.name,
            token.digest.to_hex(),
            to_json(&scopes)?,
            token.projects.as_ref().map(to_json).transpose()?,
            to_micros(token.create_time),
            token.expire_time.map(to_micros),
        ],
    )?;
    Ok(())
}

/// All tokens, oldest first.
///
/// # Errors
/// The database failed.
pub fn list(connection: &Connection) -> Result<Vec<StoredToken>, Error> {
    let sql = "SELECT id, kind, principal, name, digest, scopes, projects, create_time, expire_time \
               FROM tokens ORDER BY create_time, id";
    let rows = connection.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Forgets a token. Whether there was one.
///
/// # Errors
/// The database failed.
pub fn remove(connection: &Connection, id: &str) -> Result<bool, Error> {
    Ok(connection.execute("DELETE FROM tokens WHERE id = ?1", [id])? > 0)
}

/// Forgets tokens that expired before `time`.
///
/// # Errors
/// The database failed.
pub fn remove_expired(connection: &Connection, time: Timestamp) -> Result<(), Error> {
    let time = to_micros(time);
    connection.execute("DELETE FROM revoked_tokens WHERE expire_time < ?1", [time])?;
    connection.execute("DELETE FROM tokens WHERE expire_time < ?1", [time])?;
    Ok(())
}

/// Takes back a signed token that expires by itself at `expire_time` at the latest.
///
/// # Errors
/// The database failed.
pub fn revoke_signed(connection: &Connection, id: &str, expire_time: Timestamp) -> Result<(), Error> {
    connection.execute(
        "INSERT OR IGNORE INTO revoked_tokens (id, expire_time) VALUES (?1, ?2)",
        params![id, to_micros(expire_time)],
    )?;
    Ok(())
}

/// Identities of signed tokens that were taken back, and when they have expired by themselves.
///
/// # Errors
/// The database failed.
pub fn revoked(connection: &Connection) -> Result<Vec<(String, Timestamp)>, Error> {
    let mut statement = connection.prepare_cached("SELECT id, expire_time FROM revoked_tokens")?;
    let read = |row: &Row| Ok((row.get(0)?, from_micros(row.get(1)?)?));
    let rows = statement.query_map([], read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

fn read(row: &Row) -> rusqlite::Result<StoredToken> {
    let scopes: Vec<String> = from_json(&row.get::<_, String>(5)?)?;
    let scopes = scopes.iter().map(|word| Scope::parse(word).ok_or_else(|| bad_value("scope")));
    let projects: Option<String> = row.get(6)?;
    Ok(StoredToken {
        id: row.get(0)?,
        kind: TokenKind::parse(&row.get::<_, String>(1)?).ok_or_else(|| bad_value("token kind"))?,
        principal: row.get(2)?,
        name: row.get(3)?,
        digest: Digest::parse(&row.get::<_, String>(4)?).ok_or_else(|| bad_value("digest"))?,
        scopes: scopes.collect::<Result<_, _>>()?,
        projects: projects.as_deref().map(from_json).transpose()?,
        create_time: from_micros(row.get(7)?)?,
        expire_time: from_optional_micros(row.get(8)?)?,
    })
}
