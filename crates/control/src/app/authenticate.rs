//! From what a client shows to who it is.

use std::sync::Arc;

use auth::external::{self, Trust};
use auth::{Audience, Claims, Digest, Opaque, Refusal, Scope, Secret, looks_signed};
use jiff::Timestamp;

use super::{Caller, Control};
use crate::directory::Directory;
use crate::error::Error;
use crate::identity::{Identity, IdentityKind, StoredToken, TokenKind};

/// An access token for the API.
pub struct AccessToken {
    /// The token.
    pub token: Secret,
    /// When it expires.
    pub expire_time: Timestamp,
}

impl Control {
    /// Who signs tokens of this home: the value of their `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The number by which clients know this home.
    pub fn workspace_id(&self) -> &str {
        &self.workspace_id
    }

    /// The public keys that check our tokens, as a JWKS document.
    pub fn jwks(&self) -> serde_json::Value {
        self.signing.ring().jwks()
    }

    /// Whoever shows this token as a bearer: a personal token, an access token of ours, or a token of
    /// a foreign issuer that stands for somebody here.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn authenticate(self: &Arc<Self>, token: &str, agent: Option<&str>) -> Result<Caller, Refusal> {
        if let Some(kind) = Opaque::of(token) {
            let (stored, identity) = self.opaque(token, kind)?;
            return Ok(caller(&identity, agent, &stored));
        }
        if !looks_signed(token) {
            return Err(Refusal::Malformed);
        }
        let peeked = external::peek(token).ok_or(Refusal::Malformed)?;
        if peeked.issuer == self.issuer {
            let claims = self.signing.ring().verify(token, Audience::Api, &self.issuer, self.clock.now())?;
            let identity = self.identity_of(&claims)?;
            return Ok(Caller {
                principal: identity.actor(agent),
                scopes: scopes_of(&claims),
                identity,
                projects: None,
                token_id: Some(claims.jti),
            });
        }
        let identity = self.federated(token).await?;
        Ok(Caller {
            principal: identity.actor(agent),
            identity,
            scopes: vec![Scope::All],
            projects: None,
            token_id: None,
        })
    }

    /// The stored token and the principal behind an opaque secret.
    pub(crate) fn opaque(
        &self,
        token: &str,
        kind: Opaque,
    ) -> Result<(Arc<StoredToken>, Arc<Identity>), Refusal> {
        let directory = self.directories.now();
        let stored = directory.token(&Digest::of(token)).ok_or(Refusal::Unknown)?;
        let wanted = match kind {
            Opaque::Personal => TokenKind::Personal,
            // Good for the token endpoint only.
            Opaque::ClientSecret => return Err(Refusal::Purpose),
        };
        if stored.kind != wanted {
            return Err(Refusal::Purpose);
        }
        check_time(stored, self.clock.now())?;
        let identity = directory.by_uid(&stored.principal).ok_or(Refusal::Unknown)?;
        Ok((Arc::clone(stored), Arc::clone(identity)))
    }

    /// The principal that a signed token of ours speaks of, if it is still the same one and the
    /// token was not taken back.
    pub(crate) fn identity_of(&self, claims: &Claims) -> Result<Arc<Identity>, Refusal> {
        let directory = self.directories.now();
        if directory.is_revoked(&claims.jti) {
            return Err(Refusal::Unknown);
        }
        let identity = directory.by_uid(&claims.uid).filter(|identity| identity.name == claims.sub);
        identity.cloned().ok_or(Refusal::Unknown)
    }

    /// The principal that a foreign token stands for.
    async fn federated(self: &Arc<Self>, token: &str) -> Result<Arc<Identity>, Refusal> {
        let token = Secret::new(token.to_owned());
        let control = Arc::clone(self);
        // Keys may have to be fetched.
        let work = tokio::task::spawn_blocking(move || control.check_foreign(token.expose()));
        work.await.map_err(|_| Refusal::NotTrusted)?
    }

    fn check_foreign(&self, token: &str) -> Result<Arc<Identity>, Refusal> {
        let peeked = external::peek(token).ok_or(Refusal::Malformed)?;
        let directory: Arc<Directory> = self.directories.now();
        let mut refusal = Refusal::NotTrusted;
        for row in directory.federation().iter().filter(|row| row.issuer == peeked.issuer) {
            let keys = self.issuer_keys.get(
                &row.issuer,
                row.jwks_uri.as_deref(),
                peeked.kid.as_deref(),
                self.clock.steady(),
            );
            let Ok(keys) = keys else { continue };
            let trust = Trust {
                issuer: row.issuer.clone(),
                audience: row.audience.clone(),
                algorithms: row.algorithms.clone(),
            };
            match external::verify(token, &keys, &trust, self.clock.now()) {
                Ok(claims) if row.conditions.iter().all(|condition| condition.holds(&claims)) => {
                    return directory.by_uid(&row.principal).cloned().ok_or(Refusal::NoPrincipal);
                }
                Ok(_) => refusal = Refusal::NoPrincipal,
                Err(error) if refusal != Refusal::NoPrincipal => refusal = error,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    /// An access token for a service principal that shows its secret; the inner error says why not,
    /// but not which of the two is wrong.
    ///
    /// # Errors
    /// The token cannot be made.
    pub async fn client_credentials(
        self: &Arc<Self>,
        client_id: &str,
        secret: &Secret,
        scopes: Vec<Scope>,
    ) -> Result<Result<AccessToken, Refusal>, Error> {
        match self.check_client(client_id, secret) {
            Ok(identity) => self.access_token(identity, scopes).await.map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    fn check_client(&self, client_id: &str, secret: &Secret) -> Result<Arc<Identity>, Refusal> {
        let directory = self.directories.now();
        let stored = directory.token(&secret.digest()).ok_or(Refusal::Unknown)?;
        if stored.kind != TokenKind::ClientSecret {
            return Err(Refusal::Purpose);
        }
        check_time(stored, self.clock.now())?;
        let identity = directory.by_uid(&stored.principal).ok_or(Refusal::Unknown)?;
        if identity.name != client_id || identity.kind != IdentityKind::ServicePrincipal {
            return Err(Refusal::Unknown);
        }
        Ok(Arc::clone(identity))
    }

    /// An access token in exchange for a foreign token (RFC 8693); the inner error says why that is
    /// not accepted. Where the client says who it is, that must be who the foreign token stands for.
    ///
    /// # Errors
    /// The token cannot be made.
    pub async fn exchange_token(
        self: &Arc<Self>,
        subject_token: &str,
        client_id: Option<&str>,
        scopes: Vec<Scope>,
    ) -> Result<Result<AccessToken, Refusal>, Error> {
        let identity = match self.federated(subject_token).await {
            Ok(identity) => identity,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if client_id.is_some_and(|client_id| client_id != identity.name) {
            return Ok(Err(Refusal::NoPrincipal));
        }
        self.access_token(identity, scopes).await.map(Ok)
    }

    pub(crate) async fn access_token(
        self: &Arc<Self>,
        identity: Arc<Identity>,
        scopes: Vec<Scope>,
    ) -> Result<AccessToken, Error> {
        self.blocking(move |control| {
            let now = control.clock.now();
            let end = now.as_second() + auth::ACCESS_SECONDS;
            let claims = Claims {
                iss: control.issuer.clone(),
                aud: Audience::Api.as_str().to_owned(),
                sub: identity.name.clone(),
                uid: identity.uid.clone(),
                kind: identity.kind.as_str().to_owned(),
                endpoint: None,
                group: None,
                scope: Some(scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")),
                iat: now.as_second(),
                exp: end,
                jti: control.new_uuid()?,
            };
            let token = control.sign(Audience::Api, &claims)?;
            let target = format!("principals/{}/tokens/{}", identity.name, claims.jti);
            control.db.write_soon(|tx| {
                control.note(tx, &identity.actor(None), "token.issue", &target, "done", "access token")
            })?;
            let expire_time = Timestamp::from_second(end).unwrap_or(now);
            Ok(AccessToken { token, expire_time })
        })
        .await
    }

    pub(crate) fn sign(&self, audience: Audience, claims: &Claims) -> Result<Secret, Error> {
        self.signing.ring().sign(audience, claims).map_err(|error| Error::Internal(error.to_string()))
    }

    /// Signs with a new key from now on; tokens signed before stay good. Name of the new key.
    ///
    /// # Errors
    /// The key cannot be written.
    pub async fn rotate_signing_key(self: &Arc<Self>, caller: Caller) -> Result<String, Error> {
        self.blocking(move |control| {
            let kid = control.signing.rotate(&control.db, control.clock.now())?;
            control.db.write(|tx| {
                control.note(tx, &caller.principal, "signing-key.rotate", "signing-keys", "done", &kid)
            })?;
            Ok(kid)
        })
        .await
    }
}

fn caller(identity: &Arc<Identity>, agent: Option<&str>, stored: &StoredToken) -> Caller {
    Caller {
        principal: identity.actor(agent),
        identity: Arc::clone(identity),
        scopes: stored.scopes.clone(),
        projects: stored.projects.clone(),
        token_id: Some(stored.id.clone()),
    }
}

fn scopes_of(claims: &Claims) -> Vec<Scope> {
    claims.scope.as_deref().unwrap_or_default().split(' ').filter_map(Scope::parse).collect()
}

fn check_time(token: &StoredToken, now: Timestamp) -> Result<(), Refusal> {
    if token.expire_time.is_some_and(|end| end <= now) {
        return Err(Refusal::Expired);
    }
    Ok(())
}
