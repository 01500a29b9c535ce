//! Foreign issuers whose tokens stand for principals here, such as a CI system's.

use std::sync::Arc;

use auth::external::{Alg, Condition};

use super::principals::no_principal;
use super::{Caller, Control};
use crate::db::federation;
use crate::error::{Error, Refusal};
use crate::identity::{Federation, Identity, IdentityKind};
use crate::issuer_keys::check_url;

/// What a caller wants of a new federation.
#[derive(Debug, Clone)]
pub struct NewFederation {
    /// Exact `iss` of the tokens.
    pub issuer: String,
    /// What their `aud` must contain.
    pub audience: String,
    /// Names of algorithms; `RS256` where empty, which nearly all issuers use.
    pub algorithms: Vec<String>,
    /// Where the keys are; found by discovery where absent.
    pub jwks_uri: Option<String>,
    /// What the claims must say, each as `CLAIM=VALUE`; at least one.
    pub conditions: Vec<String>,
    /// Principal that the tokens stand for.
    pub principal: String,
}

/// A federation with its principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederationView {
    /// The row.
    pub federation: Federation,
    /// Who its tokens stand for.
    pub principal: Arc<Identity>,
}

impl Control {
    /// Trusts tokens of a foreign issuer.
    ///
    /// # Errors
    /// The request is not sound, or there is no such principal.
    pub async fn create_federation(
        self: &Arc<Self>,
        caller: Caller,
        new: NewFederation,
    ) -> Result<FederationView, Error> {
        self.blocking(move |control| {
            let target = format!("principals/{}", new.principal);
            let outcome = control.insert_federation(&caller, new);
            control.note_refusal(&caller.principal, "federation.create", &target, outcome)
        })
        .await
    }

    fn insert_federation(&self, caller: &Caller, new: NewFederation) -> Result<FederationView, Error> {
        check_url(&new.issuer).map_err(|text| Error::invalid(format!("Field 'issuer': {text}.")))?;
        if let Some(uri) = &new.jwks_uri {
            check_url(uri).map_err(|text| Error::invalid(format!("Field 'jwks_uri': {text}.")))?;
        }
        if new.issuer == self.issuer() {
            return Err(Error::invalid("this server is not a foreign issuer to itself"));
        }
        if new.audience.is_empty() {
            return Err(Error::invalid("Field 'audience' must not be empty.")
                .with_hint("without it, tokens that were made for other services would be accepted"));
        }
        let names = if new.algorithms.is_empty() { vec!["RS256".to_owned()] } else { new.algorithms };
        let algorithms = names
            .iter()
            .map(|name| {
                Alg::parse(name).ok_or_else(|| {
                    Error::invalid(format!("'{name}' is not an algorithm that a token may be signed with"))
                        .with_hint("use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA")
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let conditions = new
            .conditions
            .iter()
            .map(|text| {
                Condition::parse(text)
                    .ok_or_else(|| Error::invalid(format!("'{text}' must be written CLAIM=VALUE")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if conditions.is_empty() {
            return Err(Error::invalid("at least one condition is needed").with_hint(
                "an issuer serves many people; say whose tokens are meant, e.g. repository=acme/shop",
            ));
        }
        let id = self.new_uid("fed")?;
        self.directories.change(&self.db, |tx, directory| {
            let principal = directory.find(&new.principal).ok_or_else(|| no_principal(&new.principal))?;
            if principal.kind == IdentityKind::Group {
                return Err(Error::invalid(format!("'{}' is a group and cannot log in", principal.name)));
            }
            let row = Federation {
                id,
                issuer: new.issuer,
                audience: new.audience,
                algorithms,
                jwks_uri: new.jwks_uri,
                conditions,
                principal: principal.uid.clone(),
                create_time: self.clock.now(),
            };
            federation::insert(tx, &row)?;
            let target = format!("principals/{}", principal.name);
            let detail = format!("{} {}", row.id, row.issuer);
            self.note(tx, &caller.principal, "federation.create", &target, "done", &detail)?;
            Ok(FederationView { federation: row, principal: Arc::clone(principal) })
        })
    }

    /// All of them, oldest first.
    pub fn federations(&self) -> Vec<FederationView> {
        let directory = self.directories.now();
        let view = |row: &Federation| {
            let principal = Arc::clone(directory.by_uid(&row.principal)?);
            Some(FederationView { federation: row.clone(), principal })
        };
        directory.federation().iter().filter_map(view).collect()
    }

    /// Trusts no longer.
    ///
    /// # Errors
    /// There is none with this id.
    pub async fn delete_federation(self: &Arc<Self>, caller: Caller, id: String) -> Result<(), Error> {
        self.blocking(move |control| {
            let target = format!("federations/{id}");
            let outcome = control.directories.change(&control.db, |tx, _| {
                if !federation::remove(tx, &id)? {
                    return Err(Error::refused(Refusal::NotFound, format!("federation '{id}' not found")));
                }
                control.note(tx, &caller.principal, "federation.delete", &target, "done", "")
            });
            control.note_refusal(&caller.principal, "federation.delete", &target, outcome)
        })
        .await
    }
}
