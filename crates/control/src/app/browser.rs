//! Logging in through a browser: a code for a program that waits on the same computer (RFC 6749, with
//! the proof key of RFC 7636).
//!
//! Codes live for a minute, in memory only: who restarts the daemon logs in again. What the program
//! renews its access with is a personal token like any other, so it is listed and can be revoked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use auth::{Digest, Opaque, Refusal, Scope, Secret};

use super::authenticate::AccessToken;
use super::tokens::{Life, NewToken};
use super::{Caller, Control};
use crate::error::Error;
use crate::identity::TokenKind;

/// A program fetches its tokens at once.
const LIFE: Duration = Duration::from_secs(60);

/// More codes than this wait for nobody; the oldest go.
const MOST: usize = 1000;

/// What a program asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRequest {
    /// What it calls itself.
    pub client: String,
    /// Where it waits for the code.
    pub redirect: String,
    /// Digest of a secret that only it knows.
    pub challenge: Digest,
    /// What its tokens are to be good for.
    pub scopes: Vec<Scope>,
}

/// What a program gets for a code.
pub struct Login {
    /// For the next hour.
    pub access: AccessToken,
    /// To renew that.
    pub refresh: Secret,
    /// What both are good for.
    pub scopes: Vec<Scope>,
}

struct Granted {
    request: LoginRequest,
    caller: Caller,
    since: Duration,
}

/// Codes that nobody has used yet, by their digests.
#[derive(Default)]
pub(crate) struct Codes(Mutex<HashMap<Digest, Granted>>);

impl Codes {
    fn add(&self, code: &Secret, granted: Granted) {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = granted.since;
        codes.retain(|_, other| now.saturating_sub(other.since) < LIFE);
        if codes.len() >= MOST
            && let Some(oldest) = codes.iter().min_by_key(|(_, other)| other.since).map(|(digest, _)| *digest)
        {
            codes.remove(&oldest);
        }
        codes.insert(code.digest(), granted);
    }

    /// A code is good once, whether or not the rest fits.
    fn take(&self, code: &Secret, now: Duration) -> Option<Granted> {
        let granted = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&code.digest())?;
        (now.saturating_sub(granted.since) < LIFE).then_some(granted)
    }
}

impl Control {
    /// A code for a program, given by whoever shows a personal token of theirs; the inner error says why
    /// that is not accepted. It must be one without limits: the program would not have them.
    ///
    /// # Errors
    /// The code cannot be made.
    pub async fn grant_login(
        self: &Arc<Self>,
        token: &Secret,
        request: LoginRequest,
    ) -> Result<Result<Secret, Refusal>, Error> {
        if Opaque::of(token.expose()) != Some(Opaque::Personal) {
            return Ok(Err(Refusal::Malformed));
        }
        let caller = match self.authenticate(token.expose(), None).await {
            Ok(caller) => caller,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !caller.scopes.contains(&Scope::All) || caller.projects.is_some() {
            return Ok(Err(Refusal::Purpose));
        }
        let code = Secret::new(self.new_secret()?);
        self.codes.add(&code, Granted { request, caller, since: self.clock.steady() });
        Ok(Ok(code))
    }

    /// Tokens for a code; the inner error says why it is not accepted. `verifier` is the secret behind
    /// the challenge, the rest must be as it was when the code was asked for.
    ///
    /// # Errors
    /// The tokens cannot be made.
    pub async fn redeem_login(
        self: &Arc<Self>,
        code: &Secret,
        client: &str,
        redirect: &str,
        verifier: &Secret,
    ) -> Result<Result<Login, Refusal>, Error> {
        let Some(granted) = self.codes.take(code, self.clock.steady()) else {
            return Ok(Err(Refusal::Unknown));
        };
        let Granted { request, caller, .. } = granted;
        if request.client != client || request.redirect != redirect || request.challenge != verifier.digest()
        {
            return Ok(Err(Refusal::Purpose));
        }
        let new = NewToken {
            kind: TokenKind::Personal,
            name: format!("login of {client}"),
            principal: None,
            scopes: request.scopes.clone(),
            projects: None,
            life: Life::Usual,
        };
        let identity = Arc::clone(&caller.identity);
        let refresh = self.create_token(caller, new).await?.secret;
        let access = self.access_token(identity, request.scopes.clone()).await?;
        Ok(Ok(Login { access, refresh, scopes: request.scopes }))
    }

    /// Another access token for a program that has logged in; the inner error says why not.
    ///
    /// # Errors
    /// The token cannot be made.
    pub async fn renew_login(
        self: &Arc<Self>,
        refresh: &Secret,
    ) -> Result<Result<(AccessToken, Vec<Scope>), Refusal>, Error> {
        let Some(kind) = Opaque::of(refresh.expose()) else { return Ok(Err(Refusal::Malformed)) };
        let (stored, identity) = match self.opaque(refresh.expose(), kind) {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // An access token reaches all projects.
        if stored.projects.is_some() {
            return Ok(Err(Refusal::Purpose));
        }
        let scopes = stored.scopes.clone();
        let access = self.access_token(identity, scopes.clone()).await?;
        Ok(Ok((access, scopes)))
    }
}
