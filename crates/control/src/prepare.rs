//! What is done inside a new branch's PostgreSQL before anybody is let in.
//!
//! A root gets its owner's role and database. A child stops to be its parent: it gets secrets of
//! its own, and subscriptions that came with the data are cut loose, since two followers of one
//! slot would rob each other. Every step may be repeated after a crash.

use std::path::Path;

use compute::engine::{BOOTSTRAP_ROLE, DEFAULT_DATABASE};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::clock::Random;
use crate::error::Error;
use crate::keys::Secrets;
use crate::scram;

/// Database that belongs to the bootstrap superuser, so that an owner cannot drop it.
pub(crate) const ADMIN_DATABASE: &str = "postgres";

/// Group of roles that may do nearly everything; the vendor's name for it.
pub(crate) const SUPERUSER_GROUP: &str = "databricks_superuser";

/// What the group may do. The owner can hand it on, but is not a superuser: that would reach the
/// files of the host.
const GROUP_RIGHTS: &str = "pg_read_all_data, pg_write_all_data, pg_monitor, pg_signal_backend, \
                            pg_checkpoint, pg_maintain, pg_create_subscription";

/// Statements below carry verifiers; none of them may reach a log, whatever the branch's settings say.
const QUIET: &str = "SET LOCAL log_statement = 'none'; \
                     SET LOCAL log_min_duration_statement = -1; \
                     SET LOCAL log_min_duration_sample = -1; \
                     SET LOCAL log_transaction_sample_rate = 0; \
                     SET LOCAL log_min_error_statement = 'panic'; \
                     SET LOCAL synchronous_commit = 'on'";

/// Connects as the bootstrap superuser with the first of `candidates` that is accepted.
pub(crate) async fn connect_admin(socket_dir: &Path, candidates: &[Secrets]) -> Result<Client, Error> {
    let mut refusal = None;
    for secrets in candidates {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(socket_dir)
            .user(BOOTSTRAP_ROLE)
            .password(&secrets.admin_password)
            .dbname(ADMIN_DATABASE)
            .application_name("anabranch");
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                // Ends by itself once the client is dropped; errors surface in the client's calls.
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error) if error.code() == Some(&SqlState::INVALID_PASSWORD) => refusal = Some(error),
            Err(error) => return Err(Error::postgres("cannot connect to the branch's server", error)),
        }
    }
    match refusal {
        Some(error) => Err(Error::postgres("the branch's server accepts none of its keys", error)),
        None => Err(Error::Internal("a branch without keys".to_owned())),
    }
}

/// Makes the owner's role and database in a new cluster.
pub(crate) async fn prepare_root(
    client: &mut Client,
    secrets: &Secrets,
    random: &dyn Random,
) -> Result<(), Error> {
    let failed = |error| Error::postgres("cannot make the owner's role", error);
    let owner = quote_identifier(&secrets.owner_role);
    let verifier = new_verifier(&secrets.owner_password, scram::CLIENT_ITERATIONS, random)?;
    let admin = new_verifier(&secrets.admin_password, scram::DAEMON_ITERATIONS, random)?;
    let transaction = client.transaction().await.map_err(failed)?;
    transaction.batch_execute(QUIET).await.map_err(failed)?;
    if !role_exists(&transaction, SUPERUSER_GROUP).await.map_err(failed)? {
        transaction
            .batch_execute(&format!(
                "CREATE ROLE {SUPERUSER_GROUP} NOLOGIN; GRANT {GROUP_RIGHTS} TO {SUPERUSER_GROUP} WITH ADMIN OPTION"
            ))
            .await
            .map_err(failed)?;
    }
    let verb = if role_exists(&transaction, &secrets.owner_role).await.map_err(failed)? {
        "ALTER"
    } else {
        "CREATE"
    };
    transaction
        .batch_execute(&format!(
            "ALTER ROLE {BOOTSTRAP_ROLE} PASSWORD '{admin}'; \
             {verb} ROLE {owner} LOGIN CREATEDB CREATEROLE BYPASSRLS PASSWORD '{verifier}'; \
             GRANT {SUPERUSER_GROUP} TO {owner} WITH ADMIN OPTION"
        ))
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;

    // CREATE DATABASE does not run inside a transaction.
    let failed = |error| Error::postgres("cannot make the owner's database", error);
    let exists = client
        .query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&DEFAULT_DATABASE])
        .await
        .map_err(failed)?
        .is_some();
    if !exists {
        client
            .batch_execute(&format!("CREATE DATABASE {DEFAULT_DATABASE} OWNER {owner}"))
            .await
            .map_err(failed)?;
    }
    // A branch replays its parent's log since the last checkpoint: the first ones shall not have
    // to replay the making of the database.
    client.batch_execute("CHECKPOINT").await.map_err(failed)
}

/// Makes a child its own: new secrets, no live subscription. One transaction.
pub(crate) async fn prepare_child(
    client: &mut Client,
    secrets: &Secrets,
    random: &dyn Random,
) -> Result<(), Error> {
    let failed = |error| Error::postgres("cannot give the branch keys of its own", error);
    let admin = new_verifier(&secrets.admin_password, scram::DAEMON_ITERATIONS, random)?;
    let owner = new_verifier(&secrets.owner_password, scram::CLIENT_ITERATIONS, random)?;
    let transaction = client.transaction().await.map_err(failed)?;
    // By itself: a batch is logged as a whole before its first statement runs.
    transaction.batch_execute(QUIET).await.map_err(failed)?;
    transaction
        .batch_execute(&format!(
            "UPDATE pg_subscription SET subenabled = false, subslotname = NULL \
             WHERE subenabled OR subslotname IS NOT NULL; \
             ALTER ROLE {BOOTSTRAP_ROLE} PASSWORD '{admin}'"
        ))
        .await
        .map_err(failed)?;
    // The role may have been renamed or dropped inside the data; that is no reason to lock it up.
    if role_exists(&transaction, &secrets.owner_role).await.map_err(failed)? {
        let role = quote_identifier(&secrets.owner_role);
        transaction.batch_execute(&format!("ALTER ROLE {role} PASSWORD '{owner}'")).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

async fn role_exists(
    transaction: &tokio_postgres::Transaction<'_>,
    role: &str,
) -> Result<bool, tokio_postgres::Error> {
    Ok(transaction.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&role]).await?.is_some())
}

fn new_verifier(password: &str, iterations: u32, random: &dyn Random) -> Result<String, Error> {
    let mut salt = [0u8; 16];
    random.fill(&mut salt).map_err(|source| Error::io("cannot read random bytes", source))?;
    Ok(scram::verifier(password, &salt, iterations))
}

/// An identifier as SQL text.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
