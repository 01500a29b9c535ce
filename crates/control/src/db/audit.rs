//! The audit log: append-only, also by a trigger in the database.

use rusqlite::{Connection, Row, params};

use super::{bad_value, from_micros, to_micros};
use crate::error::Error;
use crate::model::{AuditEntry, Principal, PrincipalKind};

/// Appends a line.
///
/// # Errors
/// The database failed.
pub fn append(connection: &Connection, entry: &AuditEntry) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO audit (time, principal, principal_kind, action, target, result, detail) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            to_micros(entry.time),
            entry.principal.name,
            entry.principal.kind.as_str(),
            entry.action,
            entry.target,
            entry.result,
            entry.detail,
        ])?;
    Ok(())
}

/// The last `limit` lines, newest first.
///
/// # Errors
/// The database failed.
pub fn latest(connection: &Connection, limit: u32) -> Result<Vec<AuditEntry>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT time, principal, principal_kind, action, target, result, detail FROM audit \
         ORDER BY seq DESC LIMIT ?1",
    )?;
    let rows = statement.query_map([limit], read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

fn read(row: &Row) -> rusqlite::Result<AuditEntry> {
    let kind = PrincipalKind::parse(&row.get::<_, String>(2)?).ok_or_else(|| bad_value("principal kind"))?;
    Ok(AuditEntry {
        time: from_micros(row.get(0)?)?,
        principal: Principal { name: row.get(1)?, kind },
        action: row.get(3)?,
        target: row.get(4)?,
        result: row.get(5)?,
        detail: row.get(6)?,
    })
}
