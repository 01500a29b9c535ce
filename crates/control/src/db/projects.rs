//! Rows of projects.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{bad_value, from_json, from_micros, from_optional_micros, to_json, to_micros};
use crate::error::Error;
use crate::model::{Project, ProjectOptions, State};

const COLUMNS: &str = "uid, id, display_name, owner, state, server, compute, history_seconds, default_branch, \
                       create_time, update_time, delete_time, purge_time, native_login, custom_tags, \
                       budget_policy_id, compute_provisioner";

/// Adds a project.
///
/// # Errors
/// A live project has its identifier, or the database failed.
pub fn insert(connection: &Connection, project: &Project) -> Result<(), Error> {
    save(
        connection,
        project,
        "INSERT INTO projects (uid, id, display_name, owner, state, server, compute, history_seconds, \
         default_branch, create_time, update_time, delete_time, purge_time, native_login, custom_tags, \
         budget_policy_id, compute_provisioner) VALUES (:uid, :id, :display_name, :owner, :state, :server, \
         :compute, :history_seconds, :default_branch, :create_time, :update_time, :delete_time, :purge_time, \
         :native_login, :custom_tags, :budget_policy_id, :compute_provisioner)",
    )
}

/// Writes every column of a project.
///
/// # Errors
/// The database failed.
pub fn update(connection: &Connection, project: &Project) -> Result<(), Error> {
    save(
        connection,
        project,
        "UPDATE projects SET id = :id, display_name = :display_name, owner = :owner, state = :state, \
         server = :server, compute = :compute, history_seconds = :history_seconds, \
         default_branch = :default_branch, create_time = :create_time, update_time = :update_time, \
         delete_time = :delete_time, purge_time = :purge_time, native_login = :native_login, \
         custom_tags = :custom_tags, budget_policy_id = :budget_policy_id, \
         compute_provisioner = :compute_provisioner WHERE uid = :uid",
    )
}

fn save(connection: &Connection, project: &Project, sql: &str) -> Result<(), Error> {
    connection.prepare_cached(sql)?.execute(named_params! {
        ":uid": project.uid,
        ":id": project.id,
        ":display_name": project.display_name,
        ":owner": project.owner,
        ":state": project.state.as_str(),
        ":server": to_json(&project.server)?,
        ":compute": to_json(&project.compute)?,
        ":history_seconds": project.history_seconds,
        ":default_branch": project.default_branch,
        ":create_time": to_micros(project.create_time),
        ":update_time": to_micros(project.update_time),
        ":delete_time": project.delete_time.map(to_micros),
        ":purge_time": project.purge_time.map(to_micros),
        ":native_login": project.options.native_login,
        ":custom_tags": to_json(&project.options.custom_tags)?,
        ":budget_policy_id": project.options.budget_policy_id,
        ":compute_provisioner": project.options.compute_provisioner,
    })?;
    Ok(())
}

/// The live project with this identifier.
///
/// # Errors
/// The database failed.
pub fn by_id(connection: &Connection, id: &str) -> Result<Option<Project>, Error> {
    one(connection, "id = ?1 AND delete_time IS NULL", id)
}

/// The project with this `uid`, deleted or not.
///
/// # Errors
/// The database failed.
pub fn by_uid(connection: &Connection, uid: &str) -> Result<Option<Project>, Error> {
    one(connection, "uid = ?1", uid)
}

fn one(connection: &Connection, condition: &str, value: &str) -> Result<Option<Project>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM projects WHERE {condition}");
    Ok(connection.prepare_cached(&sql)?.query_row([value], read).optional()?)
}

/// All projects, oldest first; deleted ones that still hold data where asked for.
///
/// # Errors
/// The database failed.
pub fn list(connection: &Connection, with_deleted: bool) -> Result<Vec<Project>, Error> {
    let sql =
        format!("SELECT {COLUMNS} FROM projects WHERE delete_time IS NULL OR ?1 ORDER BY create_time, uid");
    let rows = connection.prepare_cached(&sql)?.query_map([with_deleted], read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Forgets a project that has no branches left.
///
/// # Errors
/// It has branches, or the database failed.
pub fn remove(connection: &Connection, uid: &str) -> Result<(), Error> {
    connection.execute("DELETE FROM projects WHERE uid = ?1", [uid])?;
    Ok(())
}

fn read(row: &Row) -> rusqlite::Result<Project> {
    Ok(Project {
        uid: row.get(0)?,
        id: row.get(1)?,
        display_name: row.get(2)?,
        owner: row.get(3)?,
        state: State::parse(&row.get::<_, String>(4)?).ok_or_else(|| bad_value("project state"))?,
        server: from_json(&row.get::<_, String>(5)?)?,
        compute: from_json(&row.get::<_, String>(6)?)?,
        history_seconds: row.get(7)?,
        default_branch: row.get(8)?,
        create_time: from_micros(row.get(9)?)?,
        update_time: from_micros(row.get(10)?)?,
        delete_time: from_optional_micros(row.get(11)?)?,
        purge_time: from_optional_micros(row.get(12)?)?,
        options: ProjectOptions {
            native_login: row.get(13)?,
            custom_tags: from_json(&row.get::<_, String>(14)?)?,
            budget_policy_id: row.get(15)?,
            compute_provisioner: row.get(16)?,
        },
    })
}
