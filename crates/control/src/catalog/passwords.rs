//! Passwords of roles: what the daemon logs in with, what people log in with, and their verifiers.

use auth::Secret;
use tokio_postgres::Transaction;

use super::{Catalog, answer};
use crate::clock::{Random, new_secret};
use crate::error::Error;
use crate::keys::Secrets;
use crate::model::AuthMethod;
use crate::scram;

/// The password with which the daemon logs in as a role that belongs to an identity. Made from the
/// branch's own secret: nothing needs to be stored, and the parent's passwords do not fit the child.
pub(crate) fn backend_password(secrets: &Secrets, role: &str) -> Secret {
    // The owner's stands in the file, since older files have one that was not made like this.
    if role == secrets.owner_role {
        return Secret::new(secrets.owner_password.clone());
    }
    Secret::new(derive(&secrets.admin_password, role))
}

/// HMAC-SHA-256 of the role's name under the branch's secret, as hexadecimal digits.
pub(crate) fn derive(branch_secret: &str, role: &str) -> String {
    let digest = scram::hmac(branch_secret.as_bytes(), format!("anabranch role {role}").as_bytes());
    crate::clock::to_hex(&digest)
}

/// Verifier of [`backend_password`].
pub(crate) fn backend_verifier(secrets: &Secrets, role: &str, random: &dyn Random) -> Result<String, Error> {
    new_verifier(backend_password(secrets, role).expose(), scram::DAEMON_ITERATIONS, random)
}

/// A verifier of a password, with a salt of its own.
pub(crate) fn new_verifier(password: &str, iterations: u32, random: &dyn Random) -> Result<String, Error> {
    let mut salt = [0u8; 16];
    random.fill(&mut salt).map_err(no_randomness)?;
    Ok(scram::verifier(password, &salt, iterations))
}

/// A new password for people, and its verifier.
pub(crate) fn new_password(random: &dyn Random) -> Result<(Secret, String), Error> {
    let password = new_secret(random).map_err(no_randomness)?;
    let verifier = new_verifier(&password, scram::CLIENT_ITERATIONS, random)?;
    Ok((Secret::new(password), verifier))
}

/// Which roles of a branch get new passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renew {
    /// Those that the daemon logs in as.
    Identities,
    /// Those with passwords of their own as well: what was a secret of a protected parent must not
    /// open its child. Nobody knows the new ones; they are set by whoever may.
    Everything,
}

/// Sets the daemon's verifiers of all roles of identities, in one statement.
pub(crate) async fn renew(
    transaction: &Transaction<'_>,
    catalog: &Catalog,
    secrets: &Secrets,
    which: Renew,
    random: &dyn Random,
) -> Result<(), Error> {
    let (mut oids, mut verifiers) = (Vec::new(), Vec::new());
    for role in &catalog.roles {
        let verifier = if role.identity.is_some() || role.name == secrets.owner_role {
            backend_verifier(secrets, &role.name, random)?
        } else if which == Renew::Everything && role.has_password {
            new_password(random)?.1
        } else {
            continue;
        };
        oids.push(role.oid);
        verifiers.push(verifier);
    }
    set_verifiers(transaction, &oids, &verifiers).await
}

/// Sets the daemon's verifier of those roles of identities that have none: made by SQL.
pub(crate) async fn complete(
    transaction: &Transaction<'_>,
    catalog: &Catalog,
    secrets: &Secrets,
    random: &dyn Random,
) -> Result<(), Error> {
    let (mut oids, mut verifiers) = (Vec::new(), Vec::new());
    for role in catalog.roles.iter().filter(|role| lacks_verifier(role)) {
        oids.push(role.oid);
        verifiers.push(backend_verifier(secrets, &role.name, random)?);
    }
    set_verifiers(transaction, &oids, &verifiers).await
}

/// Whether the daemon could not log in as the role though it should.
pub(crate) fn lacks_verifier(role: &super::LiveRole) -> bool {
    role.auth_method == AuthMethod::Identity && !role.has_password
}

/// The catalog itself is written to: `ALTER ROLE` would be one statement for each role.
pub(crate) async fn set_verifiers(
    transaction: &Transaction<'_>,
    oids: &[u32],
    verifiers: &[String],
) -> Result<(), Error> {
    if oids.is_empty() {
        return Ok(());
    }
    const SET: &str = "UPDATE pg_authid SET rolpassword = n.verifier \
                       FROM unnest($1::oid[], $2::text[]) AS n (oid, verifier) WHERE pg_authid.oid = n.oid";
    transaction
        .execute(SET, &[&oids, &verifiers])
        .await
        .map(drop)
        .map_err(|error| answer("cannot set the passwords of the branch's roles", error))
}

fn no_randomness(source: std::io::Error) -> Error {
    Error::io("cannot read random bytes", source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnerKind;

    fn secrets(word: &str) -> Secrets {
        Secrets::new(word.to_owned(), "ana@example.org".to_owned(), OwnerKind::User)
    }

    #[test]
    fn every_role_of_every_branch_has_a_password_of_its_own() {
        let password =
            |branch: &str, role: &str| backend_password(&secrets(branch), role).expose().to_owned();
        assert_eq!(password("one", "a"), password("one", "a"));
        assert_ne!(password("one", "a"), password("one", "b"));
        assert_ne!(password("one", "a"), password("two", "a"));
        assert_eq!(password("one", "ana@example.org"), derive("one", "ana@example.org"));
        // HMAC-SHA-256("key", "anabranch role a"), so that no change of it goes unseen: running
        // branches would lock the daemon out.
        assert_eq!(password("key", "a"), "fa9e84e073b36c7a255eb3c9da69e2f83c2975e04684f512e2680ecb8972d4b8");
    }
}
