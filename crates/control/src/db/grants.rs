//! Rows of rights on projects.

use rusqlite::{Connection, OptionalExtension, params};

use super::bad_value;
use crate::error::Error;
use crate::identity::Level;

/// A right: project, principal (both by `uid`), level.
pub type Grant = (String, String, Level);

/// All rights.
///
/// # Errors
/// The database failed.
pub fn list(connection: &Connection) -> Result<Vec<Grant>, Error> {
    let mut statement =
        connection.prepare_cached("SELECT project, principal, level FROM grants ORDER BY project, rowid")?;
    let read = |row: &rusqlite::Row| {
        let level = Level::parse(&row.get::<_, String>(2)?).ok_or_else(|| bad_value("level"))?;
        Ok((row.get(0)?, row.get(1)?, level))
    };
    let rows = statement.query_map([], read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Gives a right in place of the one held before.
///
/// # Errors
/// The database failed.
pub fn set(connection: &Connection, project: &str, principal: &str, level: Level) -> Result<(), Error> {
    connection.execute(
        "INSERT INTO grants (project, principal, level) VALUES (?1, ?2, ?3) \
         ON CONFLICT (project, principal) DO UPDATE SET level = excluded.level",
        params![project, principal, level.as_str()],
    )?;
    Ok(())
}

/// Takes a right away. Whether there was one.
///
/// # Errors
/// The database failed.
pub fn remove(connection: &Connection, project: &str, principal: &str) -> Result<bool, Error> {
    let sql = "DELETE FROM grants WHERE project = ?1 AND principal = ?2";
    Ok(connection.execute(sql, [project, principal])? > 0)
}

/// Takes all rights on a project away.
///
/// # Errors
/// The database failed.
pub fn clear(connection: &Connection, project: &str) -> Result<(), Error> {
    connection.execute("DELETE FROM grants WHERE project = ?1", [project])?;
    Ok(())
}

/// `uid` and owner of the project that an identifier means: the live one, else the one deleted last.
///
/// # Errors
/// The database failed.
pub fn subject(connection: &Connection, project_id: &str) -> Result<Option<(String, String)>, Error> {
    let sql = "SELECT uid, owner FROM projects WHERE id = ?1 \
               ORDER BY delete_time IS NOT NULL, delete_time DESC LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row([project_id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// `uid` and owner of the project that a branch belongs to.
///
/// # Errors
/// The database failed.
pub fn subject_of_branch(
    connection: &Connection,
    branch_uid: &str,
) -> Result<Option<(String, String)>, Error> {
    let sql = "SELECT p.uid, p.owner FROM projects p JOIN branches b ON b.project = p.uid WHERE b.uid = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row([branch_uid], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// Identifiers of the projects that a principal owns and that still hold data.
///
/// # Errors
/// The database failed.
pub fn owned_by(connection: &Connection, owner: &str) -> Result<Vec<String>, Error> {
    let mut statement =
        connection.prepare_cached("SELECT DISTINCT id FROM projects WHERE owner = ?1 ORDER BY id")?;
    let rows = statement.query_map([owner], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Hands all projects of one principal to another.
///
/// # Errors
/// The database failed.
pub fn hand_over(connection: &Connection, from: &str, to: &str) -> Result<(), Error> {
    connection.execute("UPDATE projects SET owner = ?2 WHERE owner = ?1", [from, to])?;
    Ok(())
}
