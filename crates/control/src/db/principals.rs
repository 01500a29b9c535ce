//! Rows of principals and of who is in which group.

use rusqlite::{Connection, Row, params};

use super::{bad_value, from_micros, to_micros};
use crate::error::Error;
use crate::identity::{Identity, IdentityKind};

/// Adds a principal.
///
/// # Errors
/// Its name is taken, or the database failed.
pub fn insert(connection: &Connection, identity: &Identity) -> Result<(), Error> {
    connection.execute(
        "INSERT INTO principals (uid, name, kind, display_name, is_owner, create_time) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            identity.uid,
            identity.name,
            identity.kind.as_str(),
            identity.display_name,
            identity.is_owner,
            to_micros(identity.create_time),
        ],
    )?;
    Ok(())
}

/// All principals, oldest first.
///
/// # Errors
/// The database failed.
pub fn list(connection: &Connection) -> Result<Vec<Identity>, Error> {
    let sql = "SELECT uid, name, kind, display_name, is_owner, create_time FROM principals \
               ORDER BY create_time, uid";
    let rows = connection.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Forgets a principal with its tokens, rights and memberships.
///
/// # Errors
/// The database failed.
pub fn remove(connection: &Connection, uid: &str) -> Result<(), Error> {
    connection.execute("DELETE FROM principals WHERE uid = ?1", [uid])?;
    Ok(())
}

/// Pairs of group and member.
///
/// # Errors
/// The database failed.
pub fn members(connection: &Connection) -> Result<Vec<(String, String)>, Error> {
    let mut statement = connection.prepare_cached("SELECT group_uid, member FROM members")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Puts a principal into a group, or takes it out; no error if that is so already.
///
/// # Errors
/// The database failed.
pub fn set_member(connection: &Connection, group: &str, member: &str, present: bool) -> Result<(), Error> {
    let sql = if present {
        "INSERT OR IGNORE INTO members (group_uid, member) VALUES (?1, ?2)"
    } else {
        "DELETE FROM members WHERE group_uid = ?1 AND member = ?2"
    };
    connection.execute(sql, [group, member])?;
    Ok(())
}

fn read(row: &Row) -> rusqlite::Result<Identity> {
    Ok(Identity {
        uid: row.get(0)?,
        name: row.get(1)?,
        kind: IdentityKind::parse(&row.get::<_, String>(2)?).ok_or_else(|| bad_value("principal kind"))?,
        display_name: row.get(3)?,
        is_owner: row.get(4)?,
        create_time: from_micros(row.get(5)?)?,
    })
}
