//! Rows of endpoints.

use std::net::IpAddr;

use rusqlite::{Connection, Row, ToSql, named_params, params};

use super::{bad_value, from_json, from_micros, to_json, to_micros};
use crate::error::Error;
use crate::model::{Address, Endpoint};

const COLUMNS: &str = "uid, branch, id, compute, disabled, host, port, create_time, update_time, \
                       readable_secondaries";

/// Adds an endpoint.
///
/// # Errors
/// The branch has one with its identifier, its address is taken, or the database failed.
pub fn insert(connection: &Connection, endpoint: &Endpoint) -> Result<(), Error> {
    save(
        connection,
        endpoint,
        "INSERT INTO endpoints (uid, branch, id, compute, disabled, host, port, create_time, update_time, \
         readable_secondaries) VALUES (:uid, :branch, :id, :compute, :disabled, :host, :port, :create_time, \
         :update_time, :readable_secondaries)",
    )
}

/// Writes every column of an endpoint.
///
/// # Errors
/// Its address is taken, or the database failed.
pub fn update(connection: &Connection, endpoint: &Endpoint) -> Result<(), Error> {
    save(
        connection,
        endpoint,
        "UPDATE endpoints SET branch = :branch, id = :id, compute = :compute, disabled = :disabled, \
         host = :host, port = :port, create_time = :create_time, update_time = :update_time, \
         readable_secondaries = :readable_secondaries WHERE uid = :uid",
    )
}

fn save(connection: &Connection, endpoint: &Endpoint, sql: &str) -> Result<(), Error> {
    connection.prepare_cached(sql)?.execute(named_params! {
        ":uid": endpoint.uid,
        ":branch": endpoint.branch,
        ":id": endpoint.id,
        ":compute": to_json(&endpoint.compute)?,
        ":disabled": endpoint.disabled,
        ":host": endpoint.address.map(|address| address.host.to_string()),
        ":port": endpoint.address.map(|address| address.port),
        ":create_time": to_micros(endpoint.create_time),
        ":update_time": to_micros(endpoint.update_time),
        ":readable_secondaries": endpoint.readable_secondaries,
    })?;
    Ok(())
}

/// Endpoints of a branch, oldest first.
///
/// # Errors
/// The database failed.
pub fn list(connection: &Connection, branch: &str) -> Result<Vec<Endpoint>, Error> {
    select(connection, "branch = ?1", &[&branch])
}

/// The endpoint of a branch that reads and writes; every branch has one from the beginning.
///
/// # Errors
/// The branch is gone, or the database failed.
pub fn read_write(connection: &Connection, branch: &str) -> Result<Endpoint, Error> {
    let first = list(connection, branch)?.into_iter().next();
    first.ok_or_else(|| Error::Internal(format!("branch {branch} has no endpoint")))
}

/// The endpoint of the branch with this identifier.
///
/// # Errors
/// The database failed.
pub fn by_id(connection: &Connection, branch: &str, id: &str) -> Result<Option<Endpoint>, Error> {
    Ok(select(connection, "branch = ?1 AND id = ?2", &[&branch, &id])?.pop())
}

/// The endpoint with this `uid`.
///
/// # Errors
/// The database failed.
pub fn by_uid(connection: &Connection, uid: &str) -> Result<Option<Endpoint>, Error> {
    Ok(select(connection, "uid = ?1", &[&uid])?.pop())
}

/// Whether an endpoint of this home keeps the address; with port 0, whether one has any port of it.
///
/// # Errors
/// The database failed.
pub fn is_taken(connection: &Connection, host: IpAddr, port: u16) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM endpoints WHERE host = ?1 AND (?2 = 0 OR port = ?2) LIMIT 1";
    Ok(connection.prepare_cached(sql)?.exists(params![host.to_string(), port])?)
}

/// Endpoints of all branches that can be used, oldest first.
///
/// # Errors
/// The database failed.
pub fn of_ready_branches(connection: &Connection) -> Result<Vec<Endpoint>, Error> {
    select(connection, "branch IN (SELECT uid FROM branches WHERE state = 'ready')", &[])
}

fn select(connection: &Connection, condition: &str, values: &[&dyn ToSql]) -> Result<Vec<Endpoint>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM endpoints WHERE {condition} ORDER BY create_time, uid");
    let rows = connection.prepare_cached(&sql)?.query_map(values, read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

fn read(row: &Row) -> rusqlite::Result<Endpoint> {
    let address = match (row.get::<_, Option<String>>(5)?, row.get(6)?) {
        (Some(host), Some(port)) => {
            Some(Address { host: host.parse().map_err(|_| bad_value("endpoint address"))?, port })
        }
        _ => None,
    };
    Ok(Endpoint {
        uid: row.get(0)?,
        branch: row.get(1)?,
        id: row.get(2)?,
        compute: from_json(&row.get::<_, String>(3)?)?,
        disabled: row.get(4)?,
        address,
        create_time: from_micros(row.get(7)?)?,
        update_time: from_micros(row.get(8)?)?,
        readable_secondaries: row.get(9)?,
    })
}
