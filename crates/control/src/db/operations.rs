//! Rows of operations.

use jiff::Timestamp;
use rusqlite::{Connection, Row, ToSql, params};

use super::{bad_value, from_micros, to_micros};
use crate::error::Error;
use crate::model::{Kind, Operation, Outcome, Principal, PrincipalKind, Verb};

const COLUMNS: &str = "uid, resource, kind, target, verb, principal, principal_kind, done, error_code, \
                       error_message, create_time";

/// Adds an operation.
///
/// # Errors
/// The database failed.
pub fn insert(connection: &Connection, operation: &Operation) -> Result<(), Error> {
    let (code, message) = failure(&operation.outcome);
    connection.execute(
        "INSERT INTO operations (uid, resource, kind, target, verb, principal, principal_kind, done, error_code, \
         error_message, create_time, update_time) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11)",
        params![
            operation.uid,
            operation.resource,
            operation.kind.as_str(),
            operation.target,
            operation.verb.as_str(),
            operation.principal.name,
            operation.principal.kind.as_str(),
            operation.outcome != Outcome::Running,
            code,
            message,
            to_micros(operation.create_time),
        ],
    )?;
    Ok(())
}

/// Notes how an operation ended.
///
/// # Errors
/// The database failed.
pub fn finish(connection: &Connection, uid: &str, outcome: &Outcome, now: Timestamp) -> Result<(), Error> {
    let (code, message) = failure(outcome);
    connection.execute(
        "UPDATE operations SET done = 1, error_code = ?2, error_message = ?3, update_time = ?4 WHERE uid = ?1",
        params![uid, code, message, to_micros(now)],
    )?;
    Ok(())
}

/// The operation with this `uid` under this resource name.
///
/// # Errors
/// The database failed.
pub fn get(connection: &Connection, resource: &str, uid: &str) -> Result<Option<Operation>, Error> {
    Ok(select(connection, "resource = ?1 AND uid = ?2", &[&resource, &uid])?.pop())
}

/// Who began an operation.
///
/// # Errors
/// The database failed.
pub fn begun_by(connection: &Connection, uid: &str) -> Result<Option<Principal>, Error> {
    Ok(select(connection, "uid = ?1", &[&uid])?.pop().map(|operation| operation.principal))
}

/// Unfinished operations on a target, oldest first.
///
/// # Errors
/// The database failed.
pub fn running(connection: &Connection, target: &str) -> Result<Vec<Operation>, Error> {
    select(connection, "done = 0 AND target = ?1", &[&target])
}

/// All unfinished operations, oldest first.
///
/// # Errors
/// The database failed.
pub fn all_running(connection: &Connection) -> Result<Vec<Operation>, Error> {
    select(connection, "done = 0", &[])
}

/// Forgets what ended before `horizon`.
///
/// # Errors
/// The database failed.
pub fn prune(connection: &Connection, horizon: Timestamp) -> Result<(), Error> {
    connection.execute("DELETE FROM operations WHERE done = 1 AND update_time < ?1", [to_micros(horizon)])?;
    Ok(())
}

fn failure(outcome: &Outcome) -> (Option<&str>, Option<&str>) {
    match outcome {
        Outcome::Failed { code, message } => (Some(code), Some(message)),
        Outcome::Running | Outcome::Done => (None, None),
    }
}

fn select(connection: &Connection, condition: &str, values: &[&dyn ToSql]) -> Result<Vec<Operation>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM operations WHERE {condition} ORDER BY create_time, uid");
    let rows = connection.prepare_cached(&sql)?.query_map(values, read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

fn read(row: &Row) -> rusqlite::Result<Operation> {
    let done: bool = row.get(7)?;
    let outcome = match (done, row.get(8)?, row.get(9)?) {
        (false, _, _) => Outcome::Running,
        (true, Some(code), Some(message)) => Outcome::Failed { code, message },
        (true, _, _) => Outcome::Done,
    };
    Ok(Operation {
        uid: row.get(0)?,
        resource: row.get(1)?,
        kind: Kind::parse(&row.get::<_, String>(2)?).ok_or_else(|| bad_value("operation kind"))?,
        target: row.get(3)?,
        verb: Verb::parse(&row.get::<_, String>(4)?).ok_or_else(|| bad_value("operation verb"))?,
        principal: Principal {
            name: row.get(5)?,
            kind: PrincipalKind::parse(&row.get::<_, String>(6)?)
                .ok_or_else(|| bad_value("principal kind"))?,
        },
        outcome,
        create_time: from_micros(row.get(10)?)?,
    })
}
