//! What is done inside a new branch's PostgreSQL before anybody is let in.
//!
//! A root gets its first role and database. A child stops to be its parent: it gets secrets of
//! its own, and subscriptions that came with the data are cut loose, since two followers of one
//! slot would rob each other. Every step may be repeated after a crash.

use std::path::Path;

use compute::engine::BOOTSTRAP_ROLE;
use compute::fault::{Fault, planted};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::app::First;
use crate::catalog::names::{check_role_id, quote_identifier};
use crate::catalog::passwords::{Renew, backend_verifier, new_password, new_verifier};
use crate::catalog::{self, databases, passwords, quiet_transaction, roles};
use crate::clock::Random;
use crate::error::Error;
use crate::keys::Secrets;
use crate::model::AuthMethod;
use crate::names::normalise;
use crate::scram;

/// Database that belongs to the bootstrap superuser, so that an owner cannot drop it.
pub(crate) const ADMIN_DATABASE: &str = "postgres";

/// Group of roles that may do nearly everything; the vendor's name for it.
pub(crate) const SUPERUSER_GROUP: &str = "databricks_superuser";

/// Statements below carry verifiers; none of them may reach a log, whatever the branch's settings say.
pub(crate) const QUIET: &str = "SET LOCAL log_statement = 'none'; \
                     SET LOCAL log_min_duration_statement = -1; \
                     SET LOCAL log_min_duration_sample = -1; \
                     SET LOCAL log_transaction_sample_rate = 0; \
                     SET LOCAL log_min_error_statement = 'panic'; \
                     SET LOCAL debug_print_parse = off; \
                     SET LOCAL debug_print_rewritten = off; \
                     SET LOCAL debug_print_plan = off; \
                     SET LOCAL auto_explain.log_min_duration = -1; \
                     SET LOCAL pg_stat_statements.track = 'none'; \
                     SET LOCAL synchronous_commit = 'on'";

/// What an owner may set for a database must not bend what the daemon does in it.
const ADMIN_OPTIONS: &str = "-c search_path=pg_catalog -c default_transaction_read_only=off \
                             -c statement_timeout=0 -c lock_timeout=0 -c standard_conforming_strings=on";

/// Connects as the bootstrap superuser with the first of `candidates` that is accepted.
pub(crate) async fn connect_admin(socket_dir: &Path, candidates: &[Secrets]) -> Result<Client, Error> {
    connect_admin_to(socket_dir, candidates, ADMIN_DATABASE).await
}

/// As [`connect_admin`], to a certain database.
pub(crate) async fn connect_admin_to(
    socket_dir: &Path,
    candidates: &[Secrets],
    database: &str,
) -> Result<Client, Error> {
    let mut refusal = None;
    for secrets in candidates {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(socket_dir)
            .user(BOOTSTRAP_ROLE)
            .password(&secrets.admin_password)
            .dbname(database)
            .options(ADMIN_OPTIONS)
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

/// Makes the first role and database in a new cluster.
pub(crate) async fn prepare_root(
    client: &mut Client,
    secrets: &Secrets,
    first: &First,
    random: &dyn Random,
) -> Result<(), Error> {
    let failed = |error| Error::postgres("cannot make the first role", error);
    let name = quote_identifier(&first.role);
    let verifier = match first.auth_method {
        AuthMethod::Identity => Some(backend_verifier(secrets, &first.role, random)?),
        // Nobody knows it: whoever may manage the role sets one.
        AuthMethod::Password => Some(new_password(random)?.1),
        AuthMethod::NoLogin => None,
    };
    let words = [
        if verifier.is_some() { "LOGIN".to_owned() } else { "NOLOGIN".to_owned() },
        roles::attribute_words(&first.attributes.into()),
        verifier.map(|verifier| format!("PASSWORD '{verifier}'")).unwrap_or_default(),
    ];
    let admin = new_verifier(&secrets.admin_password, scram::DAEMON_ITERATIONS, random)?;
    let transaction = quiet_transaction(client).await?;
    roles::ensure_group(&transaction).await?;
    let verb = if role_exists(&transaction, &first.role).await.map_err(failed)? { "ALTER" } else { "CREATE" };
    let mut statements =
        format!("ALTER ROLE {BOOTSTRAP_ROLE} PASSWORD '{admin}'; {verb} ROLE {name} {}", words.join(" "));
    if first.superuser_member {
        statements += &format!("; GRANT {SUPERUSER_GROUP} TO {name} WITH ADMIN OPTION");
    }
    transaction.batch_execute(&statements).await.map_err(failed)?;
    roles::mark(&transaction, &first.role, first.role_id.as_deref(), first.identity.as_ref()).await?;
    transaction.commit().await.map_err(failed)?;

    // CREATE DATABASE does not run inside a transaction.
    let failed = |error| Error::postgres("cannot make the first database", error);
    let exists = client
        .query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&first.database])
        .await
        .map_err(failed)?
        .is_some();
    if exists {
        databases::mark(client, &first.database_id, &first.database).await?;
    } else {
        databases::create(client, &first.database_id, &first.database, &first.role).await?;
    }
    // A branch replays its parent's log since the last checkpoint: the first ones shall not have
    // to replay the making of the database.
    client.batch_execute("CHECKPOINT").await.map_err(failed)
}

/// Makes a child its own: new secrets, no live subscription. One transaction.
pub(crate) async fn prepare_child(
    client: &mut Client,
    secrets: &Secrets,
    which: Renew,
    random: &dyn Random,
) -> Result<(), Error> {
    let failed = |error| Error::postgres("cannot give the branch keys of its own", error);
    let admin = new_verifier(&secrets.admin_password, scram::DAEMON_ITERATIONS, random)?;
    let catalog = catalog::read(client).await?;
    let transaction = quiet_transaction(client).await?;
    let cut_loose = if planted(Fault::SubscriptionKept) {
        ""
    } else {
        "UPDATE pg_subscription SET subenabled = false, subslotname = NULL \
         WHERE subenabled OR subslotname IS NOT NULL;"
    };
    transaction
        .batch_execute(&format!("{cut_loose} ALTER ROLE {BOOTSTRAP_ROLE} PASSWORD '{admin}'"))
        .await
        .map_err(failed)?;
    passwords::renew(&transaction, &catalog, secrets, which, random).await?;
    transaction.commit().await.map_err(failed)
}

async fn role_exists(
    transaction: &tokio_postgres::Transaction<'_>,
    role: &str,
) -> Result<bool, tokio_postgres::Error> {
    Ok(transaction.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&role]).await?.is_some())
}

/// The identifier that the role of an identity gets where nobody chooses one: made from its name.
pub(crate) fn identity_role_id(name: &str) -> Option<String> {
    let id = normalise(name);
    check_role_id(&id, false).is_ok().then_some(id)
}

#[cfg(test)]
mod tests;
