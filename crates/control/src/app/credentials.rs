//! Database tokens: what a client shows to a branch's endpoint in place of a password.

use std::sync::Arc;

use auth::{Audience, Claims, Opaque, Scope, database_expiry, looks_signed};
use jiff::{SignedDuration, Timestamp};

use super::branches::live_branch;
use super::principals::no_principal;
use super::{Action, Caller, Control, not_found};
use crate::db::endpoints;
use crate::error::{Error, Refusal};
use crate::identity::{Identity, IdentityKind};
use crate::model::{Endpoint, Principal};

/// A token for one endpoint. Has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseToken {
    /// The token.
    pub token: String,
    /// When it expires; sessions that it opened go on.
    pub expire_time: Timestamp,
}

/// Who a database login is, as far as its token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIdentity {
    /// Who.
    pub principal: Principal,
    /// `uid` of the only endpoint that the token opens; none for a personal token.
    pub endpoint: Option<String>,
    /// Group that the principal logs in as.
    pub group: Option<String>,
    /// Identity of the token, for the audit log and for revoking it.
    pub token_id: String,
}

impl TokenIdentity {
    /// The principal or group as whom it logs in.
    pub fn role(&self) -> &str {
        self.group.as_deref().unwrap_or_else(|| self.principal.on_behalf_of())
    }
}

/// Why a token opens no database.
pub type TokenRefusal = auth::Refusal;

impl Control {
    /// A token with which `principal` can log in to an endpoint (`projects/p/branches/b/endpoints/e`),
    /// for an hour unless told otherwise; as `group` where one is given.
    ///
    /// # Errors
    /// There is no such endpoint, the principal may not connect to it or is not in the group, or the
    /// life asked for is outside 300 to 3600 seconds.
    pub async fn issue_database_token(
        self: &Arc<Self>,
        principal: Principal,
        endpoint_name: String,
        ttl: Option<SignedDuration>,
        expire_time: Option<Timestamp>,
        group: Option<String>,
    ) -> Result<DatabaseToken, Error> {
        let caller = self.caller_of(&principal)?;
        self.issue_for(caller, endpoint_name, ttl, expire_time, group).await
    }

    /// The same for a caller whose own credential may be narrow.
    ///
    /// # Errors
    /// As [`Control::issue_database_token`].
    pub async fn issue_for(
        self: &Arc<Self>,
        caller: Caller,
        endpoint_name: String,
        ttl: Option<SignedDuration>,
        expire_time: Option<Timestamp>,
        group: Option<String>,
    ) -> Result<DatabaseToken, Error> {
        self.blocking(move |control| {
            let target = endpoint_name.clone();
            let outcome = control.make_database_token(&caller, &endpoint_name, ttl, expire_time, group);
            control.note_refusal(&caller.principal, "credential.issue", &target, outcome)
        })
        .await
    }

    fn make_database_token(
        &self,
        caller: &Caller,
        endpoint_name: &str,
        ttl: Option<SignedDuration>,
        expire_time: Option<Timestamp>,
        group: Option<String>,
    ) -> Result<DatabaseToken, Error> {
        let (project_id, branch_id, endpoint_id) = parse_endpoint_name(endpoint_name)?;
        let now = self.clock.now();
        let end =
            database_expiry(now, ttl, expire_time).map_err(|error| Error::invalid(error.to_string()))?;
        let endpoint = self.endpoint_for(caller, project_id, branch_id, endpoint_id)?;
        if let Some(group) = &group {
            self.check_membership(&caller.identity, group)?;
        }
        let claims = Claims {
            iss: self.issuer().to_owned(),
            aud: Audience::Database.as_str().to_owned(),
            sub: caller.identity.name.clone(),
            uid: caller.identity.uid.clone(),
            kind: caller.identity.kind.as_str().to_owned(),
            endpoint: Some(endpoint.uid),
            group,
            scope: None,
            iat: now.as_second(),
            exp: end.as_second(),
            jti: self.new_uuid()?,
        };
        let token = self.sign(Audience::Database, &claims)?;
        // The token's id, never the token.
        let detail = format!("token {} until {end}", claims.jti);
        self.db.write_soon(|tx| {
            self.note(tx, &caller.principal, "credential.issue", endpoint_name, "done", &detail)
        })?;
        Ok(DatabaseToken { token: token.expose().to_owned(), expire_time: end })
    }

    /// The endpoint, if the caller may connect to its project. Who may not see the project learns
    /// nothing about what is in it.
    fn endpoint_for(
        &self,
        caller: &Caller,
        project: &str,
        branch: &str,
        endpoint: &str,
    ) -> Result<Endpoint, Error> {
        let project = self.db.read(|c| super::projects::live_project(c, project))?;
        self.conclude(caller, Action::Connect, Some((&project.uid, &project.owner)))?;
        self.db.read(|c| {
            let (_, branch) = live_branch(c, &project.id, branch)?;
            endpoints::by_id(c, &branch.uid, endpoint)?.ok_or_else(|| not_found("endpoint"))
        })
    }

    fn check_membership(&self, identity: &Identity, group: &str) -> Result<(), Error> {
        let directory = self.directories.now();
        let found = directory.by_name(group).filter(|found| found.kind == IdentityKind::Group);
        let found = found.ok_or_else(|| no_principal(group))?;
        if directory.groups_of(&identity.uid).contains(&found.uid) {
            return Ok(());
        }
        Err(Error::refused(Refusal::PermissionDenied, format!("you are not a member of group '{group}'")))
    }

    /// Who shows this token to a database: a database token, or a personal token that may be used to
    /// connect. Touches neither disk nor database. Whether the principal may connect to the branch is
    /// [`Control::may_connect`]'s to say.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn check_database_token(&self, token: &str) -> Result<TokenIdentity, TokenRefusal> {
        if let Some(kind) = Opaque::of(token) {
            let (stored, identity) = self.opaque(token, kind)?;
            if !stored.scopes.iter().any(|scope| matches!(scope, Scope::All | Scope::Connect)) {
                return Err(TokenRefusal::Purpose);
            }
            return Ok(TokenIdentity {
                principal: identity.actor(None),
                endpoint: None,
                group: None,
                token_id: stored.id.clone(),
            });
        }
        if !looks_signed(token) {
            return Err(TokenRefusal::Malformed);
        }
        let claims =
            self.signing.ring().verify(token, Audience::Database, self.issuer(), self.clock.now())?;
        let identity = self.identity_of(&claims)?;
        if let Some(group) = &claims.group
            && self.check_membership(&identity, group).is_err()
        {
            return Err(TokenRefusal::Unknown);
        }
        Ok(TokenIdentity {
            principal: identity.actor(None),
            endpoint: Some(claims.endpoint.ok_or(TokenRefusal::Purpose)?),
            group: claims.group,
            token_id: claims.jti,
        })
    }

    /// Whether somebody with such a token may connect to a branch now: rights may have been taken away
    /// since it was issued, and a personal token may be confined to other projects.
    ///
    /// # Errors
    /// The database failed.
    pub fn may_connect(&self, who: &TokenIdentity, branch_uid: &str) -> Result<bool, Error> {
        let Some((project, owner)) = self.subject_of_branch(branch_uid)? else { return Ok(false) };
        let Ok(mut caller) = self.caller_of(&who.principal) else { return Ok(false) };
        if who.endpoint.is_none() {
            let directory = self.directories.now();
            let Some(stored) = directory.tokens().iter().find(|token| token.id == who.token_id) else {
                return Ok(false);
            };
            caller.scopes.clone_from(&stored.scopes);
            caller.projects.clone_from(&stored.projects);
        }
        Ok(self.conclude(&caller, Action::Connect, Some((&project, &owner))).is_ok())
    }
}

fn parse_endpoint_name(name: &str) -> Result<(&str, &str, &str), Error> {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        ["projects", project, "branches", branch, "endpoints", endpoint]
            if ![project, branch, endpoint].iter().any(|part| part.is_empty()) =>
        {
            Ok((project, branch, endpoint))
        }
        _ if name.is_empty() => {
            Err(Error::invalid("Field 'endpoint' is required, expected non-default value (not \"\")!"))
        }
        _ => Err(Error::invalid(format!(
            "Field 'endpoint' must be a name such as 'projects/P/branches/B/endpoints/E', got '{name}'."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_endpoint_name;

    #[test]
    fn endpoint_names() {
        let parsed = parse_endpoint_name("projects/shop/branches/dev/endpoints/primary").ok();
        assert_eq!(parsed, Some(("shop", "dev", "primary")));
        for wrong in [
            "",
            "primary",
            "projects/shop/branches/dev",
            "projects/shop/branches/dev/endpoints/",
            "projects//branches/dev/endpoints/primary",
            "/projects/shop/branches/dev/endpoints/primary",
            "projects/shop/branches/dev/endpoints/primary/x",
        ] {
            assert!(parse_endpoint_name(wrong).is_err(), "{wrong}");
        }
    }
}
