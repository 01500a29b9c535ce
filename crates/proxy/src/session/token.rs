//! Logins with a token.

use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::end::{quote, timed_out};
use super::{Admitted, Client, End, Visit};
use crate::Proxy;
use crate::gatekeeper::{Gatekeeper, RoleLogin, Route, TokenIdentity};
use crate::login::{self, LoginError, Welcome};
use crate::refusal::{Refusal, sqlstate};
use crate::wire::{self, authentication};

impl<G: Gatekeeper> Proxy<G> {
    /// A login with a token. Nothing is woken before it is known who asks.
    pub(super) async fn by_token(
        &self,
        client: &mut Client,
        visit: &mut Visit,
    ) -> Result<Admitted<G::Guard>, End> {
        let asking = async {
            client.write_all(&wire::authentication(authentication::CLEARTEXT, &[])).await?;
            client.flush().await?;
            wire::read_message(client, wire::MAX_PASSWORD).await
        };
        let (kind, body) =
            tokio::time::timeout(self.patience.login, asking).await.map_err(|_| timed_out())??;
        if kind != b'p' {
            return Err(Refusal::violation("expected a password message").into());
        }
        let tried = Instant::now();
        let token = body.strip_suffix(&[0]).and_then(|token| std::str::from_utf8(token).ok());
        let identity = match token {
            Some(token) if !token.is_empty() => self.gatekeeper.check_token(token).await?,
            _ => None,
        };
        let Some(identity) = identity else { return Err(self.failed(visit, tried).await) };
        let Some(route) = self.route_for(visit, &identity).await? else {
            return Err(self.failed(visit, tried).await);
        };
        drop(visit.permit.take());
        let slot = self.slot(&route)?;
        let (server, guard) = self.connect(client, &route).await?;
        if !self.is_own_role(visit, &route, &identity).await? {
            return Err(self.failed(visit, tried).await);
        }
        match self.log_in(server, &route, visit).await? {
            Ok(welcome) => Ok(Admitted { welcome, slot, guard }),
            Err(error) if error.sqlstate() == Some(sqlstate::INVALID_PASSWORD) => {
                tracing::warn!(branch = route.branch, role = ?visit.user, "the role's password was changed by somebody; it is set again");
                self.gatekeeper.repair_password(&route, &visit.user).await?;
                drop(guard);
                let (server, guard) = self.connect(client, &route).await?;
                match self.log_in(server, &route, visit).await? {
                    Ok(welcome) => Ok(Admitted { welcome, slot, guard }),
                    Err(error) => Err(quote(error, &route)),
                }
            }
            Err(error) => Err(quote(error, &route)),
        }
    }

    /// Whether the role asked for is that of the token's holder. Who has none yet gets one.
    async fn is_own_role(&self, visit: &Visit, route: &Route, identity: &TokenIdentity) -> Result<bool, End> {
        let own = identity.role();
        let login = match self.gatekeeper.role_login(route, &visit.user).await? {
            RoleLogin::Unknown if visit.user == own => self.gatekeeper.make_role(route, identity).await?,
            login => login,
        };
        Ok(matches!(login, RoleLogin::Identity { name, .. } if name == own))
    }

    async fn log_in(
        &self,
        server: UnixStream,
        route: &Route,
        visit: &Visit,
    ) -> Result<Result<Welcome, LoginError>, End> {
        let secret = self.gatekeeper.backend_password(route, &visit.user).await?;
        let login = login::log_in(server, &visit.startup, &secret);
        Ok(tokio::time::timeout(self.patience.login, login).await.map_err(|_| timed_out())?)
    }
}
