//! Statements about roles.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use super::names::{quote_identifier, quote_literal};
use super::passwords::set_verifiers;
use super::{IDENTITY_NAME, IDENTITY_TYPE, LiveRole, ROLE_ID, answer, quiet_transaction};
use crate::error::{Error, Refusal};
use crate::model::{Attributes, Identity};
use crate::prepare::SUPERUSER_GROUP;

/// What the group may do. Members can hand it on where they were given that right, but are not
/// superusers: those reach the files of the host.
/// Older versions do not have all of these.
const GROUP_RIGHTS: [&str; 7] = [
    "pg_read_all_data",
    "pg_write_all_data",
    "pg_monitor",
    "pg_signal_backend",
    "pg_checkpoint",
    "pg_maintain",
    "pg_create_subscription",
];

const CREATING: &str = "cannot make the role";
const CHANGING: &str = "cannot change the role";
const DELETING: &str = "cannot delete the role";

/// A role to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewRole<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub identity: Option<&'a Identity>,
    pub can_login: bool,
    pub attributes: Attributes,
    pub superuser_member: bool,
    /// What PostgreSQL stores in place of the password.
    pub verifier: Option<&'a str>,
    /// Role of whoever asks: may manage the new one, as after its own `CREATE ROLE`.
    pub manager: Option<&'a str>,
}

/// Changes to a role; what is absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoleChange {
    /// Row-level security does not apply to it.
    pub bypassrls: Option<bool>,
    /// It may make databases.
    pub createdb: Option<bool>,
    /// It may make roles.
    pub createrole: Option<bool>,
    /// Membership in `databricks_superuser`.
    pub superuser_member: Option<bool>,
}

/// All of the attributes, and no membership.
impl From<Attributes> for RoleChange {
    fn from(attributes: Attributes) -> RoleChange {
        RoleChange {
            bypassrls: Some(attributes.bypassrls),
            createdb: Some(attributes.createdb),
            createrole: Some(attributes.createrole),
            superuser_member: None,
        }
    }
}

/// The refusal where a role's name or identifier is taken.
pub(crate) fn duplicate() -> Error {
    Error::refused(Refusal::BadRequest, "role with that name already exists")
}

/// Makes the group where it is not there (any more).
pub(crate) async fn ensure_group(transaction: &Transaction<'_>) -> Result<(), Error> {
    let failed = |error| answer("cannot make the group databricks_superuser", error);
    let find = "SELECT FROM pg_roles WHERE rolname = $1";
    if transaction.query_opt(find, &[&SUPERUSER_GROUP]).await.map_err(failed)?.is_some() {
        return Ok(());
    }
    let rights = "SELECT string_agg(rolname, ', ') FROM pg_roles WHERE rolname = ANY ($1)";
    let rights: String =
        transaction.query_one(rights, &[&GROUP_RIGHTS.as_slice()]).await.map_err(failed)?.get(0);
    let make = format!(
        "CREATE ROLE {SUPERUSER_GROUP} NOLOGIN; GRANT {rights} TO {SUPERUSER_GROUP} WITH ADMIN OPTION"
    );
    transaction.batch_execute(&make).await.map_err(failed)
}

/// Makes a role.
pub(crate) async fn create(client: &mut Client, role: &NewRole<'_>) -> Result<(), Error> {
    let transaction = quiet_transaction(client).await?;
    let name = quote_identifier(role.name);
    let statement = format!(
        "CREATE ROLE {name} {} {}",
        if role.can_login { "LOGIN" } else { "NOLOGIN" },
        attribute_words(&role.attributes.into())
    );
    transaction.batch_execute(&statement).await.map_err(|error| {
        if error.code() == Some(&SqlState::DUPLICATE_OBJECT) { duplicate() } else { answer(CREATING, error) }
    })?;
    if let Some(verifier) = role.verifier {
        let failed = |error| answer(CREATING, error);
        let find = "SELECT oid FROM pg_authid WHERE rolname = $1";
        let oid: u32 = transaction.query_one(find, &[&role.name]).await.map_err(failed)?.get(0);
        set_verifiers(&transaction, &[oid], &[verifier.to_owned()]).await?;
    }
    mark(&transaction, role.name, Some(role.id), role.identity).await?;
    if role.superuser_member {
        set_membership(&transaction, role.name, true).await?;
    }
    if let Some(manager) = role.manager {
        allow_managing(&transaction, role.name, manager).await?;
    }
    transaction.commit().await.map_err(|error| answer(CREATING, error))
}

/// Writes into the catalog what PostgreSQL does not know of a role.
pub(crate) async fn mark(
    transaction: &Transaction<'_>,
    name: &str,
    id: Option<&str>,
    identity: Option<&Identity>,
) -> Result<(), Error> {
    let name = quote_identifier(name);
    let mut values = Vec::new();
    values.extend(id.map(|id| (ROLE_ID, id)));
    if let Some(identity) = identity {
        values.push((IDENTITY_TYPE, identity.kind.as_str()));
        values.push((IDENTITY_NAME, identity.name.as_str()));
    }
    let statements: Vec<String> = values
        .iter()
        .map(|(setting, value)| format!("ALTER ROLE {name} SET {setting} = {}", quote_literal(value)))
        .collect();
    transaction.batch_execute(&statements.join("; ")).await.map_err(|error| answer(CREATING, error))
}

/// Since version 16 whoever makes a role has the right to manage it, and nobody else.
async fn allow_managing(transaction: &Transaction<'_>, name: &str, manager: &str) -> Result<(), Error> {
    let failed = |error| answer(CREATING, error);
    let may = "SELECT FROM pg_roles WHERE rolname = $1 AND rolcreaterole AND NOT rolsuper \
               AND current_setting('server_version_num')::int >= 160000";
    if transaction.query_opt(may, &[&manager]).await.map_err(failed)?.is_none() {
        return Ok(());
    }
    let grant = format!(
        "GRANT {} TO {} WITH ADMIN OPTION, INHERIT FALSE, SET FALSE",
        quote_identifier(name),
        quote_identifier(manager)
    );
    transaction.batch_execute(&grant).await.map_err(failed)
}

/// Changes a role.
pub(crate) async fn change(client: &mut Client, name: &str, change: &RoleChange) -> Result<(), Error> {
    let failed = |error| answer(CHANGING, error);
    let transaction = quiet_transaction(client).await?;
    let words = attribute_words(change);
    if !words.is_empty() {
        let statement = format!("ALTER ROLE {} {words}", quote_identifier(name));
        transaction.batch_execute(&statement).await.map_err(failed)?;
    }
    if let Some(member) = change.superuser_member {
        set_membership(&transaction, name, member).await?;
    }
    transaction.commit().await.map_err(failed)
}

pub(crate) fn attribute_words(change: &RoleChange) -> String {
    let attributes =
        [(change.bypassrls, "BYPASSRLS"), (change.createdb, "CREATEDB"), (change.createrole, "CREATEROLE")];
    let words: Vec<String> = attributes
        .iter()
        .filter_map(|(value, word)| value.map(|on| if on { (*word).to_owned() } else { format!("NO{word}") }))
        .collect();
    words.join(" ")
}

/// Puts a role into the group, or takes it out whoever put it there.
async fn set_membership(transaction: &Transaction<'_>, name: &str, member: bool) -> Result<(), Error> {
    let failed = |error| answer(CHANGING, error);
    let grantors = "SELECT pg_get_userbyid(m.grantor)::text FROM pg_auth_members m \
                    JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member \
                    WHERE g.rolname = $1 AND r.rolname = $2";
    let rows = transaction.query(grantors, &[&SUPERUSER_GROUP, &name]).await.map_err(failed)?;
    let quoted = quote_identifier(name);
    if member {
        if rows.is_empty() {
            ensure_group(transaction).await?;
            let grant = format!("GRANT {SUPERUSER_GROUP} TO {quoted}");
            transaction.batch_execute(&grant).await.map_err(failed)?;
        }
        return Ok(());
    }
    for row in rows {
        let grantor = quote_identifier(row.get(0));
        let revoke = format!("REVOKE {SUPERUSER_GROUP} FROM {quoted} GRANTED BY {grantor}");
        transaction.batch_execute(&revoke).await.map_err(failed)?;
    }
    Ok(())
}

/// Sets a role's verifier.
pub(crate) async fn set_verifier(client: &mut Client, oid: u32, verifier: String) -> Result<(), Error> {
    let transaction = quiet_transaction(client).await?;
    set_verifiers(&transaction, &[oid], &[verifier]).await?;
    transaction.commit().await.map_err(|error| answer(CHANGING, error))
}

/// Gives everything that a role owns in one database, and the databases it owns, to another; takes its
/// privileges there away.
pub(crate) async fn reassign(client: &mut Client, from: &str, to: &str) -> Result<(), Error> {
    let failed = |error| answer("cannot give the role's objects to the other role", error);
    let transaction = quiet_transaction(client).await?;
    let (from, to) = (quote_identifier(from), quote_identifier(to));
    let statements = format!("REASSIGN OWNED BY {from} TO {to}; DROP OWNED BY {from}");
    transaction.batch_execute(&statements).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// Databases that may hold objects of a role.
pub(crate) async fn databases_to_clear(client: &Client) -> Result<Vec<String>, Error> {
    let rows = client
        .query("SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY oid", &[])
        .await
        .map_err(|error| answer(DELETING, error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Deletes a role and ends its sessions.
pub(crate) async fn delete(client: &mut Client, role: &LiveRole) -> Result<(), Error> {
    let transaction = quiet_transaction(client).await?;
    let dropped = transaction.batch_execute(&format!("DROP ROLE {}", quote_identifier(&role.name))).await;
    dropped.map_err(|error| {
        let depended_on = error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST);
        let refusal = answer(DELETING, error);
        if depended_on {
            refusal.with_hint("name a role that takes over what it owns: reassign_owned_to")
        } else {
            refusal
        }
    })?;
    transaction.commit().await.map_err(|error| answer(DELETING, error))?;
    // PostgreSQL would let them work on in the name of nobody.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = $1";
    client.execute(end, &[&role.oid]).await.map(drop).map_err(|error| answer(DELETING, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_is_said() {
        assert_eq!(attribute_words(&RoleChange::default()), "");
        let change = RoleChange { createdb: Some(true), bypassrls: Some(false), ..RoleChange::default() };
        assert_eq!(attribute_words(&change), "NOBYPASSRLS CREATEDB");
    }
}
