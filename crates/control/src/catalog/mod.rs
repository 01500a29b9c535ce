//! Roles and databases inside a branch's PostgreSQL: what is read from its catalogs, and the
//! statements that change them.
//!
//! What PostgreSQL does not know of a role (its identifier, whose it is) stands in settings of the
//! role, in the catalog that all databases share: so it goes with the data, from parent to child.
//! Nobody but a superuser can set, change or reset them: PostgreSQL asks for that where a setting
//! belongs to no loaded library, and `GRANT SET ON PARAMETER` for one is again a superuser's.

pub(crate) mod databases;
pub(crate) mod extension;
pub(crate) mod names;
pub(crate) mod passwords;
mod read;
pub(crate) mod roles;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use crate::error::{Error, Refusal};
use crate::model::{Attributes, AuthMethod, Identity};
use crate::prepare::QUIET;

pub(crate) use read::read;

/// Setting of a role that carries its identifier.
pub(crate) const ROLE_ID: &str = "anabranch.role_id";
/// Setting of a role that carries the kind of the principal it belongs to.
pub(crate) const IDENTITY_TYPE: &str = "anabranch.identity_type";
/// Setting of a role that carries the name of the principal it belongs to.
pub(crate) const IDENTITY_NAME: &str = "anabranch.identity_name";
/// Setting of a database that carries its identifier.
pub(crate) const DATABASE_ID: &str = "anabranch.database_id";

/// What the catalogs of a branch hold, system roles and databases left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Catalog {
    pub roles: Vec<LiveRole>,
    pub databases: Vec<LiveDatabase>,
}

/// A role as PostgreSQL has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveRole {
    pub oid: u32,
    pub id: String,
    pub name: String,
    pub identity: Option<Identity>,
    pub auth_method: AuthMethod,
    pub superuser_member: bool,
    pub attributes: Attributes,
    /// A real superuser; clients never log in as one.
    pub is_superuser: bool,
    pub has_password: bool,
}

/// A database as PostgreSQL has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveDatabase {
    pub oid: u32,
    pub id: String,
    pub name: String,
    pub owner: u32,
}

impl Catalog {
    /// The role with this identifier.
    pub fn role(&self, id: &str) -> Option<&LiveRole> {
        self.roles.iter().find(|role| role.id == id)
    }

    /// The database with this identifier.
    pub fn database(&self, id: &str) -> Option<&LiveDatabase> {
        self.databases.iter().find(|database| database.id == id)
    }
}

/// A transaction none of whose statements reaches the server's log.
pub(crate) async fn quiet_transaction(client: &mut Client) -> Result<Transaction<'_>, Error> {
    let failed = |error| Error::postgres("cannot begin a change of the branch's roles", error);
    let transaction = client.transaction().await.map_err(failed)?;
    // By itself: a batch is logged as a whole before its first statement runs.
    transaction.batch_execute(QUIET).await.map_err(failed)?;
    Ok(transaction)
}

/// What PostgreSQL says to a statement that a caller is answerable for: a refusal where the request is
/// to blame, else a failure.
pub(crate) fn answer(what: &str, error: tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else { return Error::postgres(what, error) };
    let message = match db.detail() {
        Some(detail) => format!("{}: {}", db.message(), detail.replace('\n', "; ")),
        None => db.message().to_owned(),
    };
    let code = db.code();
    if *code == SqlState::OBJECT_IN_USE {
        return Error::refused(Refusal::BadRequest, message)
            .with_hint("end the sessions that use it, then try again");
    }
    if *code == SqlState::RESERVED_NAME || *code == SqlState::INVALID_NAME {
        return Error::invalid(message);
    }
    // Wrong objects, privileges, values, states: the request's fault. Else the server's.
    let class = code.code().get(..2).unwrap_or_default();
    if ["0A", "22", "2B", "42", "55"].contains(&class) {
        return Error::refused(Refusal::BadRequest, message);
    }
    Error::postgres(what, error)
}
