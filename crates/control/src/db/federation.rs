//! Rows of foreign issuers.

use auth::external::Alg;
use rusqlite::{Connection, Row, params};

use super::{bad_value, from_json, from_micros, to_json, to_micros};
use crate::error::Error;
use crate::identity::Federation;

/// Adds one.
///
/// # Errors
/// The database failed.
pub fn insert(connection: &Connection, row: &Federation) -> Result<(), Error> {
    let algorithms: Vec<&str> = row.algorithms.iter().map(|alg| alg.as_str()).collect();
    connection.execute(
        "INSERT INTO federation (id, issuer, audience, algorithms, jwks_uri, conditions, principal, create_time) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            row.id,
            row.issuer,
            row.audience,
            to_json(&algorithms)?,
            row.jwks_uri,
            to_json(&row.conditions)?,
            row.principal,
            to_micros(row.create_time),
        ],
    )?;
    Ok(())
}

/// All of them, oldest first.
///
/// # Errors
/// The database failed.
pub fn list(connection: &Connection) -> Result<Vec<Federation>, Error> {
    let sql = "SELECT id, issuer, audience, algorithms, jwks_uri, conditions, principal, create_time \
               FROM federation ORDER BY create_time, id";
    let rows = connection.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Forgets one. Whether there was one.
///
/// # Errors
/// The database failed.
pub fn remove(connection: &Connection, id: &str) -> Result<bool, Error> {
    Ok(connection.execute("DELETE FROM federation WHERE id = ?1", [id])? > 0)
}

fn read(row: &Row) -> rusqlite::Result<Federation> {
    let algorithms: Vec<String> = from_json(&row.get::<_, String>(3)?)?;
    let algorithms = algorithms.iter().map(|name| Alg::parse(name).ok_or_else(|| bad_value("algorithm")));
    Ok(Federation {
        id: row.get(0)?,
        issuer: row.get(1)?,
        audience: row.get(2)?,
        algorithms: algorithms.collect::<Result<_, _>>()?,
        jwks_uri: row.get(4)?,
        conditions: from_json(&row.get::<_, String>(5)?)?,
        principal: row.get(6)?,
        create_time: from_micros(row.get(7)?)?,
    })
}
