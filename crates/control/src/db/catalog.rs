//! Rows of roles and databases: what a branch's PostgreSQL held when it was last looked at.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{bad_value, from_micros, to_micros};
use crate::error::Error;
use crate::model::{Attributes, AuthMethod, Database, Identity, IdentityType, Role};

const ROLE_COLUMNS: &str = "oid, id, name, identity_type, identity_name, auth_method, superuser_member, \
                            bypassrls, createdb, createrole, create_time, update_time";
const DATABASE_COLUMNS: &str = "oid, id, name, owner, create_time, update_time";

/// Roles of a branch, oldest first.
///
/// # Errors
/// The database failed.
pub fn roles(connection: &Connection, branch: &str) -> Result<Vec<Role>, Error> {
    let sql = format!("SELECT {ROLE_COLUMNS} FROM roles WHERE branch = ?1 ORDER BY create_time, id");
    let rows = connection.prepare_cached(&sql)?.query_map([branch], read_role)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Databases of a branch, oldest first.
///
/// # Errors
/// The database failed.
pub fn databases(connection: &Connection, branch: &str) -> Result<Vec<Database>, Error> {
    let sql = format!("SELECT {DATABASE_COLUMNS} FROM databases WHERE branch = ?1 ORDER BY create_time, id");
    let rows =
        connection.prepare_cached(&sql)?.query_map([branch], read_database)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Replaces all that is known of a branch.
///
/// # Errors
/// There is no such branch, or the database failed.
pub fn replace(
    connection: &Connection,
    branch: &str,
    roles: &[Role],
    databases: &[Database],
) -> Result<(), Error> {
    connection.execute("DELETE FROM roles WHERE branch = ?1", [branch])?;
    connection.execute("DELETE FROM databases WHERE branch = ?1", [branch])?;
    let sql = format!(
        "INSERT INTO roles (branch, {ROLE_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
    );
    let mut insert = connection.prepare_cached(&sql)?;
    for role in roles {
        insert.execute(params![
            branch,
            role.oid,
            role.id,
            role.name,
            role.identity.as_ref().map(|identity| identity.kind.as_str()),
            role.identity.as_ref().map(|identity| &identity.name),
            role.auth_method.as_str(),
            role.superuser_member,
            role.attributes.bypassrls,
            role.attributes.createdb,
            role.attributes.createrole,
            to_micros(role.create_time),
            to_micros(role.update_time),
        ])?;
    }
    let sql =
        format!("INSERT INTO databases (branch, {DATABASE_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
    let mut insert = connection.prepare_cached(&sql)?;
    for database in databases {
        insert.execute(params![
            branch,
            database.oid,
            database.id,
            database.name,
            database.owner,
            to_micros(database.create_time),
            to_micros(database.update_time),
        ])?;
    }
    Ok(())
}

/// A child begins with what its parent had.
///
/// # Errors
/// The child has rows already, or the database failed.
pub fn inherit(connection: &Connection, parent: &str, child: &str) -> Result<(), Error> {
    for (table, columns) in [("roles", ROLE_COLUMNS), ("databases", DATABASE_COLUMNS)] {
        let sql = format!(
            "INSERT INTO {table} (branch, {columns}) SELECT ?2, {columns} FROM {table} WHERE branch = ?1"
        );
        connection.prepare_cached(&sql)?.execute([parent, child])?;
    }
    Ok(())
}

/// Notes that the passwords of a branch must be replaced before the first client comes.
///
/// # Errors
/// There is no such branch, or the database failed.
pub fn want_fresh_passwords(connection: &Connection, branch: &str) -> Result<(), Error> {
    connection.execute("INSERT OR IGNORE INTO fresh_passwords (branch) VALUES (?1)", [branch])?;
    Ok(())
}

/// Whether they must still be replaced.
///
/// # Errors
/// The database failed.
pub fn wants_fresh_passwords(connection: &Connection, branch: &str) -> Result<bool, Error> {
    let row = connection.query_row("SELECT 1 FROM fresh_passwords WHERE branch = ?1", [branch], |_| Ok(()));
    Ok(row.optional()?.is_some())
}

/// Notes that they were replaced.
///
/// # Errors
/// The database failed.
pub fn has_fresh_passwords(connection: &Connection, branch: &str) -> Result<(), Error> {
    connection.execute("DELETE FROM fresh_passwords WHERE branch = ?1", [branch])?;
    Ok(())
}

fn read_role(row: &Row) -> rusqlite::Result<Role> {
    let identity = match (row.get::<_, Option<String>>(3)?, row.get(4)?) {
        (Some(kind), Some(name)) => Some(Identity {
            name,
            kind: IdentityType::parse(&kind).ok_or_else(|| bad_value("identity type"))?,
        }),
        _ => None,
    };
    Ok(Role {
        oid: row.get(0)?,
        id: row.get(1)?,
        name: row.get(2)?,
        identity,
        auth_method: AuthMethod::parse(&row.get::<_, String>(5)?).ok_or_else(|| bad_value("auth method"))?,
        superuser_member: row.get(6)?,
        attributes: Attributes { bypassrls: row.get(7)?, createdb: row.get(8)?, createrole: row.get(9)? },
        create_time: from_micros(row.get(10)?)?,
        update_time: from_micros(row.get(11)?)?,
    })
}

fn read_database(row: &Row) -> rusqlite::Result<Database> {
    Ok(Database {
        oid: row.get(0)?,
        id: row.get(1)?,
        name: row.get(2)?,
        owner: row.get(3)?,
        create_time: from_micros(row.get(4)?)?,
        update_time: from_micros(row.get(5)?)?,
    })
}
