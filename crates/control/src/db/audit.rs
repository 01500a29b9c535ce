//! The audit log: append-only, also by a trigger in the database.

use jiff::Timestamp;
use rusqlite::{Connection, Row, ToSql, params};

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

/// Which lines of the log are wanted; what is absent does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not earlier than this.
    pub since: Option<Timestamp>,
    /// By this principal.
    pub principal: Option<String>,
    /// This action, or all that begin with it and a dot: `branch` finds `branch.create`.
    pub action: Option<String>,
}

/// The last `limit` lines that fit, newest first.
///
/// # Errors
/// The database failed.
pub fn latest(connection: &Connection, filter: &Filter, limit: u32) -> Result<Vec<AuditEntry>, Error> {
    // A condition that is not there must not be in the way of an index.
    let mut conditions = Vec::new();
    let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &limit)];
    let since = filter.since.map(to_micros);
    let mut place = "audit";
    if let Some(principal) = &filter.principal {
        conditions.push("principal = :principal");
        values.push((":principal", principal));
    }
    if let Some(action) = &filter.action {
        conditions.push("(action = :action OR substr(action, 1, length(:action) + 1) = :action || '.')");
        values.push((":action", action));
    }
    if let Some(since) = &since {
        conditions.push("time >= :since");
        values.push((":since", since));
        // Else the planner would go back to the first line of all, since they are wanted in order.
        place = "audit INDEXED BY audit_time";
    }
    let conditions = match conditions.is_empty() {
        true => String::new(),
        false => format!("WHERE {}", conditions.join(" AND ")),
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT time, principal, principal_kind, action, target, result, detail FROM {place} \
         {conditions} ORDER BY seq DESC LIMIT :limit"
    ))?;
    let rows = statement.query_map(&values[..], read)?.collect::<Result<_, _>>()?;
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
