//! Logins with a password that PostgreSQL itself knows.

use std::time::Instant;

use super::end::{THROTTLED_FLOOR, quote, timed_out};
use super::{Admitted, Client, End, Visit, hangs_up};
use crate::Proxy;
use crate::gatekeeper::{Gatekeeper, RoleLogin, Route};
use crate::login::{self, LoginError};
use crate::refusal::Refusal;

impl<G: Gatekeeper> Proxy<G> {
    /// The endpoint, where the role is to prove itself to PostgreSQL.
    pub(super) async fn native_route(&self, visit: &Visit) -> Result<Option<Route>, End> {
        let Ok(Some(route)) = &visit.route else { return Ok(None) };
        if !route.native_login {
            return Ok(None);
        }
        let by_password = match self.gatekeeper.known_login(route, &visit.user).await? {
            Some(RoleLogin::Password) => true,
            Some(RoleLogin::Identity { .. }) => false,
            // By its looks, so that the question tells nothing about whether the role exists.
            Some(RoleLogin::NoLogin | RoleLogin::Unknown) | None => !is_identity_name(&visit.user),
        };
        Ok(by_password.then(|| route.clone()))
    }

    /// A login with a password that PostgreSQL knows.
    pub(super) async fn by_password(
        &self,
        client: &mut Client,
        visit: &mut Visit,
        route: Route,
    ) -> Result<Admitted<G::Guard>, End> {
        let tried = Instant::now();
        // Guessing does not even wake the compute.
        if let Some(seconds) = self.throttle.wait(visit.source, &visit.user, tried) {
            tokio::time::sleep(THROTTLED_FLOOR).await;
            return Err(Refusal::login_throttled(&visit.user, seconds).into());
        }
        let unproven = tokio::select! {
            turn = self.turns.wait(&route.endpoint, route.max_connections) => turn,
            () = hangs_up(client) => return Err(End::Gone),
        };
        let slot = self.slot(&route)?;
        let (server, guard) = self.connect(client, &route).await?;
        let mut startup = visit.startup.clone();
        match self.gatekeeper.role_login(&route, &visit.user).await? {
            RoleLogin::Password => {}
            RoleLogin::Identity { .. } => {
                drop((server, guard, slot, unproven));
                return self.by_token(client, visit).await;
            }
            // The server goes through the motions for a role that it does not have, and so tells
            // nothing about those that it has.
            RoleLogin::NoLogin | RoleLogin::Unknown => startup.set(b"user", stand_in(&visit.user).as_bytes()),
        }
        let login = login::relay(server, &startup, client);
        match tokio::time::timeout(self.patience.login, login).await.map_err(|_| timed_out())? {
            Ok(welcome) => Ok(Admitted { welcome, slot, guard }),
            Err(LoginError::Client(_)) => Err(End::Gone),
            // Also a role without the right to log in: which is told only after a good password.
            Err(error) if matches!(error.sqlstate(), Some("28P01" | "28000")) => {
                Err(self.failed(visit, tried).await)
            }
            Err(error) => Err(quote(error, &route)),
        }
    }
}

/// Names of people and of service principals: an address, or a UUID.
fn is_identity_name(role: &str) -> bool {
    let is_uuid = role.len() == 36
        && role.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    is_uuid || role.contains('@')
}

/// A name that no role has, always the same one for the same role.
fn stand_in(role: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, role.as_bytes());
    let hex: String = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("pg_nobody_{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_people_and_programs() {
        for name in ["ana@example.org", "0b5f1d3c-8f5e-4f0e-9a51-1a2b3c4d5e6f"] {
            assert!(is_identity_name(name), "{name}");
        }
        for name in
            ["app", "", "0b5f1d3c-8f5e-4f0e-9a51-1a2b3c4d5e6g", "0b5f1d3c8f5e4f0e9a511a2b3c4d5e6f0000"]
        {
            assert!(!is_identity_name(name), "{name}");
        }
    }
}
