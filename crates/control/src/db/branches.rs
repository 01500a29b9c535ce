//! Rows of branches.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::{Connection, Row, ToSql, named_params, params};

use super::{bad_value, from_micros, from_optional_micros, to_micros};
use crate::error::Error;
use crate::model::{Branch, Source, State};

const COLUMNS: &str = "uid, project, id, given_name, source, source_id, source_lsn, source_time, source_fate, \
                       state, state_change_time, prepared, is_protected, expire_time, create_time, update_time, \
                       delete_time, purge_time";

/// Adds a branch.
///
/// # Errors
/// A live branch of the project has its identifier, or the database failed.
pub fn insert(connection: &Connection, branch: &Branch) -> Result<(), Error> {
    save(
        connection,
        branch,
        "INSERT INTO branches (uid, project, id, given_name, source, source_id, source_lsn, source_time, \
         source_fate, state, state_change_time, prepared, is_protected, expire_time, create_time, update_time, \
         delete_time, purge_time) VALUES (:uid, :project, :id, :given_name, :source, :source_id, :source_lsn, \
         :source_time, :source_fate, :state, :state_change_time, :prepared, :is_protected, :expire_time, \
         :create_time, :update_time, :delete_time, :purge_time)",
    )
}

/// Writes every column of a branch.
///
/// # Errors
/// The database failed.
pub fn update(connection: &Connection, branch: &Branch) -> Result<(), Error> {
    save(
        connection,
        branch,
        "UPDATE branches SET project = :project, id = :id, given_name = :given_name, source = :source, \
         source_id = :source_id, source_lsn = :source_lsn, source_time = :source_time, \
         source_fate = :source_fate, state = :state, state_change_time = :state_change_time, \
         prepared = :prepared, is_protected = :is_protected, expire_time = :expire_time, \
         create_time = :create_time, update_time = :update_time, delete_time = :delete_time, \
         purge_time = :purge_time WHERE uid = :uid",
    )
}

fn save(connection: &Connection, branch: &Branch, sql: &str) -> Result<(), Error> {
    let source = branch.source.as_ref();
    connection.prepare_cached(sql)?.execute(named_params! {
        ":uid": branch.uid,
        ":project": branch.project,
        ":id": branch.id,
        ":given_name": branch.given_name,
        ":source": source.map(|source| &source.branch),
        ":source_id": source.map(|source| &source.branch_id),
        ":source_lsn": source.and_then(|source| source.lsn.as_ref()),
        ":source_time": source.and_then(|source| source.time).map(to_micros),
        ":source_fate": source.and_then(|source| source.fate.as_ref()),
        ":state": branch.state.as_str(),
        ":state_change_time": to_micros(branch.state_change_time),
        ":prepared": branch.prepared,
        ":is_protected": branch.is_protected,
        ":expire_time": branch.expire_time.map(to_micros),
        ":create_time": to_micros(branch.create_time),
        ":update_time": to_micros(branch.update_time),
        ":delete_time": branch.delete_time.map(to_micros),
        ":purge_time": branch.purge_time.map(to_micros),
    })?;
    Ok(())
}

/// The live branch of the project with this identifier.
///
/// # Errors
/// The database failed.
pub fn by_id(connection: &Connection, project: &str, id: &str) -> Result<Option<Branch>, Error> {
    Ok(select(connection, "project = ?1 AND id = ?2 AND delete_time IS NULL", &[&project, &id])?.pop())
}

/// The branch with this `uid`, deleted or not.
///
/// # Errors
/// The database failed.
pub fn by_uid(connection: &Connection, uid: &str) -> Result<Option<Branch>, Error> {
    Ok(select(connection, "uid = ?1", &[&uid])?.pop())
}

/// Branches of a project, oldest first; deleted ones that still hold data where asked for.
///
/// # Errors
/// The database failed.
pub fn list(connection: &Connection, project: &str, with_deleted: bool) -> Result<Vec<Branch>, Error> {
    select(connection, "project = ?1 AND (delete_time IS NULL OR ?2)", &[&project, &with_deleted])
}

/// At most `limit` branches of a project that are not half made, in order of creation, from the first one
/// after the place `after`; deleted ones that still hold data where asked for.
///
/// # Errors
/// The database failed.
pub fn page(
    connection: &Connection,
    project: &str,
    with_deleted: bool,
    after: Option<&(Timestamp, String)>,
    limit: usize,
) -> Result<Vec<Branch>, Error> {
    let live = if with_deleted { "" } else { "AND delete_time IS NULL" };
    let (time, uid) = after.map_or((i64::MIN, ""), |(time, uid)| (to_micros(*time), uid.as_str()));
    let sql = format!(
        "SELECT {COLUMNS} FROM branches WHERE project = ?1 {live} AND +state <> 'creating' \
         AND (create_time, uid) > (?2, ?3) ORDER BY create_time, uid LIMIT ?4"
    );
    let values = params![project, time, uid, limit.min(i64::MAX as usize) as i64];
    let rows = connection.prepare_cached(&sql)?.query_map(values, read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// All branches in a state, oldest first.
///
/// # Errors
/// The database failed.
pub fn in_state(connection: &Connection, state: State) -> Result<Vec<Branch>, Error> {
    select(connection, "state = ?1", &[&state.as_str()])
}

/// The `uid`s of all branches in a state.
///
/// # Errors
/// The database failed.
pub fn uids(connection: &Connection, state: State) -> Result<HashSet<String>, Error> {
    let mut statement = connection.prepare_cached("SELECT uid FROM branches WHERE state = ?1")?;
    let rows = statement.query_map([state.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// The `uid`s of all branches, deleted or not.
///
/// # Errors
/// The database failed.
pub fn all_uids(connection: &Connection) -> Result<HashSet<String>, Error> {
    let mut statement = connection.prepare_cached("SELECT uid FROM branches")?;
    let rows = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// The branch with this identifier that was deleted last and whose data is there still at `now`.
///
/// # Errors
/// The database failed.
pub fn last_deleted(
    connection: &Connection,
    project: &str,
    id: &str,
    now: Timestamp,
) -> Result<Option<Branch>, Error> {
    let condition = "+project = ?1 AND id = ?2 AND delete_time IS NOT NULL AND +purge_time > ?3";
    Ok(select(connection, condition, &[&project, &id, &to_micros(now)])?.pop())
}

/// Live children of a branch, oldest first.
///
/// # Errors
/// The database failed.
pub fn children(connection: &Connection, uid: &str) -> Result<Vec<Branch>, Error> {
    select(connection, "source = ?1 AND delete_time IS NULL", &[&uid])
}

/// Ready branches whose time was up at `now`.
///
/// # Errors
/// The database failed.
pub fn expired(connection: &Connection, now: Timestamp) -> Result<Vec<Branch>, Error> {
    // The plus sign keeps the planner to the index of times.
    select(connection, "+state = 'ready' AND expire_time <= ?1", &[&to_micros(now)])
}

/// Deleted branches whose data was due to be freed at `now`.
///
/// # Errors
/// The database failed.
pub fn purgeable(connection: &Connection, now: Timestamp) -> Result<Vec<Branch>, Error> {
    select(connection, "+state = 'deleted' AND purge_time <= ?1", &[&to_micros(now)])
}

/// Whether a branch, deleted or not, belongs to a project.
///
/// # Errors
/// The database failed.
pub fn is_of(connection: &Connection, uid: &str, project: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM branches WHERE uid = ?1 AND project = ?2";
    Ok(connection.prepare_cached(sql)?.exists(params![uid, project])?)
}

/// Notes in its children what became of a branch.
///
/// # Errors
/// The database failed.
pub fn tell_children(connection: &Connection, uid: &str, fate: Option<&str>) -> Result<(), Error> {
    connection.execute("UPDATE branches SET source_fate = ?2 WHERE source = ?1", params![uid, fate])?;
    Ok(())
}

/// Forgets a branch and its endpoints.
///
/// # Errors
/// The database failed.
pub fn remove(connection: &Connection, uid: &str) -> Result<(), Error> {
    connection.execute("DELETE FROM branches WHERE uid = ?1", [uid])?;
    Ok(())
}

fn select(connection: &Connection, condition: &str, values: &[&dyn ToSql]) -> Result<Vec<Branch>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM branches WHERE {condition} ORDER BY create_time, uid");
    let rows = connection.prepare_cached(&sql)?.query_map(values, read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

fn read(row: &Row) -> rusqlite::Result<Branch> {
    let source = match row.get::<_, Option<String>>(4)? {
        Some(branch) => Some(Source {
            branch,
            branch_id: row.get(5)?,
            lsn: row.get(6)?,
            time: from_optional_micros(row.get(7)?)?,
            fate: row.get(8)?,
        }),
        None => None,
    };
    Ok(Branch {
        uid: row.get(0)?,
        project: row.get(1)?,
        id: row.get(2)?,
        given_name: row.get(3)?,
        source,
        state: State::parse(&row.get::<_, String>(9)?).ok_or_else(|| bad_value("branch state"))?,
        state_change_time: from_micros(row.get(10)?)?,
        prepared: row.get(11)?,
        is_protected: row.get(12)?,
        expire_time: from_optional_micros(row.get(13)?)?,
        create_time: from_micros(row.get(14)?)?,
        update_time: from_micros(row.get(15)?)?,
        delete_time: from_optional_micros(row.get(16)?)?,
        purge_time: from_optional_micros(row.get(17)?)?,
    })
}
