//! Statements about databases.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::names::{quote_identifier, quote_literal};
use super::{DATABASE_ID, answer, quiet_transaction};
use crate::error::{Error, Refusal};
use crate::prepare::SUPERUSER_GROUP;

const CREATING: &str = "cannot make the database";
const CHANGING: &str = "cannot change the database";

/// The refusal where a database's name or identifier is taken.
pub(crate) fn duplicate() -> Error {
    Error::refused(Refusal::BadRequest, "database with that name already exists")
}

fn refusal(what: &str, error: tokio_postgres::Error) -> Error {
    if error.code() == Some(&SqlState::DUPLICATE_DATABASE) { duplicate() } else { answer(what, error) }
}

/// Makes a database.
pub(crate) async fn create(client: &mut Client, id: &str, name: &str, owner: &str) -> Result<(), Error> {
    // Does not run inside a transaction.
    let statement = format!("CREATE DATABASE {} OWNER {}", quote_identifier(name), quote_identifier(owner));
    client.batch_execute(&statement).await.map_err(|error| refusal(CREATING, error))?;
    mark(client, id, name).await
}

/// Gives a database its identifier, and the group the right to make schemas and extensions in it.
pub(crate) async fn mark(client: &mut Client, id: &str, name: &str) -> Result<(), Error> {
    let failed = |error| answer(CREATING, error);
    let transaction = quiet_transaction(client).await?;
    super::roles::ensure_group(&transaction).await?;
    let name = quote_identifier(name);
    let statements = format!(
        "ALTER DATABASE {name} SET {DATABASE_ID} = {}; GRANT CREATE ON DATABASE {name} TO {SUPERUSER_GROUP}",
        quote_literal(id)
    );
    transaction.batch_execute(&statements).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// Renames a database, changes its owner, or both.
pub(crate) async fn change(
    client: &mut Client,
    name: &str,
    new_name: Option<&str>,
    owner: Option<&str>,
) -> Result<(), Error> {
    let transaction = quiet_transaction(client).await?;
    if let Some(owner) = owner {
        let statement =
            format!("ALTER DATABASE {} OWNER TO {}", quote_identifier(name), quote_identifier(owner));
        transaction.batch_execute(&statement).await.map_err(|error| answer(CHANGING, error))?;
    }
    if let Some(new_name) = new_name {
        let statement =
            format!("ALTER DATABASE {} RENAME TO {}", quote_identifier(name), quote_identifier(new_name));
        transaction.batch_execute(&statement).await.map_err(|error| refusal(CHANGING, error))?;
    }
    transaction.commit().await.map_err(|error| answer(CHANGING, error))
}

/// Deletes a database; sessions in it are ended.
pub(crate) async fn delete(client: &Client, name: &str) -> Result<(), Error> {
    let statement = format!("DROP DATABASE {} WITH (FORCE)", quote_identifier(name));
    client.batch_execute(&statement).await.map_err(|error| answer("cannot delete the database", error))
}
