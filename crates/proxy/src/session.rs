//! The life of one connection: hello, login, pass-through.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;

use crate::Proxy;
use crate::cancel::Registered;
use crate::gatekeeper::{ConnectError, Gatekeeper, RoleLogin, Route, TokenIdentity, Trouble};
use crate::hello::{self, Hello};
use crate::limits::Slot;
use crate::login::{self, LoginError, Welcome};
use crate::options;
use crate::pump;
use crate::refusal::{Refusal, sqlstate};
use crate::replication::Inspector;
use crate::route::{Hints, Selector};
use crate::startup::{Replication, Startup};
use crate::wire::{self, authentication};

type Client = TlsStream<TcpStream>;

/// No refused login is answered sooner than this after it was tried, so that the time says nothing
/// about the reason.
const REFUSAL_FLOOR: Duration = Duration::from_millis(250);

/// As much once there were too many of them.
const THROTTLED_FLOOR: Duration = Duration::from_secs(2);

/// A session that is let in.
struct Session<T> {
    client: Client,
    server: UnixStream,
    /// Where what the client says must be looked at.
    inspector: Option<Inspector>,
    /// Given back when the session ends.
    _holds: (Option<Registered>, Slot, T),
}

/// Why there is no session.
enum End {
    /// The client is to be told.
    Refused(Refusal),
    /// The client is to be told what the server said: the body of its error message.
    Quoted(Vec<u8>),
    /// There is nobody to tell.
    Gone,
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refused(refusal)
    }
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End::Gone
    }
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> End {
        tracing::error!(%trouble, "a login was not possible");
        End::Refused(Refusal::internal())
    }
}

/// Who asks, for what.
struct Visit {
    source: IpAddr,
    user: String,
    startup: Startup,
    /// The endpoint meant, or why it is none. Only said to those who have a token: others are not told
    /// which endpoints there are.
    route: Result<Option<Route>, Refusal>,
    /// Held until it is known who it is.
    permit: Option<OwnedSemaphorePermit>,
}

impl<G: Gatekeeper> Proxy<G> {
    /// Serves one connection. `address` is the `uid` of the endpoint whose own address was dialled.
    pub async fn serve(self: Arc<Self>, client: TcpStream, address: Option<String>) {
        // In a box, so that what only the login needs is given back before the long life of the session.
        let Some(session) = Box::pin(self.begin(client, address)).await else { return };
        let Session { client, server, inspector, _holds } = session;
        // Errors here are connections that broke: both ends notice by themselves.
        let _ = pump::pass(client, server, inspector).await;
    }

    async fn begin(&self, client: TcpStream, address: Option<String>) -> Option<Session<G::Guard>> {
        let source = client.peer_addr().ok()?.ip().to_canonical();
        let entrance = async {
            let permit = Arc::clone(&self.door).acquire_owned().await.map_err(std::io::Error::other)?;
            let hello = hello::hello(client, address, &self.certificates, &self.keys).await?;
            std::io::Result::Ok(hello.map(|hello| (permit, hello)))
        };
        let (permit, hello) = match tokio::time::timeout(self.patience.hello, entrance).await {
            Ok(Ok(Some(entered))) => entered,
            Ok(Ok(None)) => return None,
            Ok(Err(error)) => {
                tracing::debug!(%error, %source, "a connection ended before it had begun");
                return None;
            }
            Err(_) => {
                tracing::debug!(%source, "a client did not say what it wanted");
                return None;
            }
        };
        let Hello { mut client, startup, hints } = hello;
        let inspector = (startup.replication() != Replication::None).then(Inspector::default);
        let admitted = self.admit(&mut client, startup, hints, source, permit).await;
        match admitted {
            Ok((server, holds)) => Some(Session { client, server, inspector, _holds: holds }),
            Err(End::Refused(refusal)) => {
                tracing::info!(%source, sqlstate = refusal.sqlstate, message = ?refusal.message, "a connection was turned away");
                hello::refuse(&mut client, &refusal).await;
                None
            }
            Err(End::Quoted(body)) => {
                let farewell = async {
                    client.write_all(&wire::message(b'E', &body)).await?;
                    client.shutdown().await
                };
                let _ = tokio::time::timeout(self.patience.login, farewell).await;
                None
            }
            Err(End::Gone) => None,
        }
    }

    async fn admit(
        &self,
        client: &mut Client,
        mut startup: Startup,
        mut hints: Hints,
        source: IpAddr,
        permit: OwnedSemaphorePermit,
    ) -> Result<(UnixStream, (Option<Registered>, Slot, G::Guard)), End> {
        if let Some(refused) = startup.negotiate() {
            client.write_all(&wire::negotiate(&refused)).await?;
        }
        let user = startup.user().map(str::to_owned).ok_or_else(|| {
            let message = "no PostgreSQL user name, or none in UTF-8, specified in startup packet";
            Refusal::new(sqlstate::INVALID_AUTHORIZATION, message)
        })?;
        hints.option = take_option(&mut startup)?;
        let route = self.find(&hints).await?;
        let mut visit = Visit { source, user, startup, route, permit: Some(permit) };
        let (mut welcome, slot, guard) = match self.native_route(&visit).await? {
            Some(route) => self.by_password(client, &mut visit, route).await?,
            None => self.by_token(client, &mut visit).await?,
        };
        if welcome.is_superuser {
            tracing::error!(role = ?visit.user, "a superuser was not let in");
            return Err(Refusal::login_failed(&visit.user).into());
        }
        let registered = welcome.register(&self.keys);
        client.write_all(&welcome.greeting).await?;
        client.flush().await?;
        self.throttle.succeeded(source, &visit.user);
        Ok((welcome.server, (registered, slot, guard)))
    }

    /// The endpoint that a connection names; none where it names none.
    async fn find(&self, hints: &Hints) -> Result<Result<Option<Route>, Refusal>, End> {
        let (first, second) = match hints.choose() {
            Ok(chosen) => chosen,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(first) = first else { return Ok(Ok(None)) };
        let Some(route) = self.gatekeeper.route(&first).await? else {
            return Ok(Err(Refusal::unknown_endpoint(&first.text())));
        };
        if let Some(second) = second
            && self.gatekeeper.route(&second).await?.is_none_or(|other| other.endpoint != route.endpoint)
        {
            return Ok(Err(Refusal::conflict(&route.endpoint, &second.text())));
        }
        Ok(Ok(Some(route)))
    }

    /// The endpoint, where the role is to prove itself to PostgreSQL.
    async fn native_route(&self, visit: &Visit) -> Result<Option<Route>, End> {
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

    /// A login with a token. Nothing is woken before it is known who asks.
    async fn by_token(
        &self,
        client: &mut Client,
        visit: &mut Visit,
    ) -> Result<(Welcome, Slot, G::Guard), End> {
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
        let named = match self.gatekeeper.role_login(&route, &visit.user).await? {
            RoleLogin::Identity { name } => name == identity.role(),
            RoleLogin::Password | RoleLogin::NoLogin | RoleLogin::Unknown => false,
        };
        if !named {
            return Err(self.failed(visit, tried).await);
        }
        match self.log_in(server, &route, visit).await? {
            Ok(welcome) => Ok((welcome, slot, guard)),
            Err(error) if error.sqlstate() == Some(sqlstate::INVALID_PASSWORD) => {
                tracing::warn!(branch = route.branch, role = ?visit.user, "the role's password was changed by somebody; it is set again");
                self.gatekeeper.repair_password(&route, &visit.user).await?;
                drop(guard);
                let (server, guard) = self.connect(client, &route).await?;
                match self.log_in(server, &route, visit).await? {
                    Ok(welcome) => Ok((welcome, slot, guard)),
                    Err(error) => Err(quote(error, &route)),
                }
            }
            Err(error) => Err(quote(error, &route)),
        }
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

    /// The endpoint that the holder of a token gets to; none if it may not.
    async fn route_for(&self, visit: &Visit, identity: &TokenIdentity) -> Result<Option<Route>, End> {
        let route = match (&visit.route, &identity.endpoint) {
            (Err(refusal), _) => return Err(refusal.clone().into()),
            (Ok(Some(route)), _) => route.clone(),
            (Ok(None), Some(uid)) => {
                let route = self.gatekeeper.route(&Selector::Uid(uid.clone())).await?;
                route.ok_or_else(|| Refusal::unknown_endpoint(uid))?
            }
            (Ok(None), None) => return Err(Refusal::no_endpoint().into()),
        };
        let may = match &identity.endpoint {
            Some(uid) => *uid == route.endpoint,
            None => self.gatekeeper.may_use(identity, &route).await?,
        };
        Ok(may.then_some(route))
    }

    /// A login with a password that PostgreSQL knows.
    async fn by_password(
        &self,
        client: &mut Client,
        visit: &mut Visit,
        route: Route,
    ) -> Result<(Welcome, Slot, G::Guard), End> {
        let tried = Instant::now();
        // Guessing does not even wake the compute.
        if let Some(seconds) = self.throttle.wait(visit.source, &visit.user, tried) {
            tokio::time::sleep(THROTTLED_FLOOR).await;
            return Err(Refusal::login_throttled(&visit.user, seconds).into());
        }
        let slot = self.slot(&route)?;
        let (server, guard) = self.connect(client, &route).await?;
        let mut startup = visit.startup.clone();
        match self.gatekeeper.role_login(&route, &visit.user).await? {
            RoleLogin::Password => {}
            RoleLogin::Identity { .. } => {
                drop((server, guard, slot));
                return self.by_token(client, visit).await;
            }
            // The server goes through the motions for a role that it does not have, and so tells
            // nothing about those that it has.
            RoleLogin::NoLogin | RoleLogin::Unknown => startup.set(b"user", stand_in(&visit.user).as_bytes()),
        }
        let login = login::relay(server, &startup, client);
        match tokio::time::timeout(self.patience.login, login).await.map_err(|_| timed_out())? {
            Ok(welcome) => Ok((welcome, slot, guard)),
            Err(LoginError::Client(_)) => Err(End::Gone),
            // Also a role without the right to log in: which is told only after a good password.
            Err(error) if matches!(error.sqlstate(), Some("28P01" | "28000")) => {
                Err(self.failed(visit, tried).await)
            }
            Err(error) => Err(quote(error, &route)),
        }
    }

    fn slot(&self, route: &Route) -> Result<Slot, Refusal> {
        let limit = route.max_connections;
        self.slots.take(&route.endpoint, limit).ok_or_else(|| Refusal::too_many_connections(limit))
    }

    /// Connects to the branch's server, which may have to be woken, for as long as the client waits.
    async fn connect(&self, client: &mut Client, route: &Route) -> Result<(UnixStream, G::Guard), End> {
        tokio::select! {
            outcome = self.gatekeeper.connect(route) => outcome.map_err(|error| unreachable(error, route).into()),
            () = hangs_up(client) => Err(End::Gone),
        }
    }

    /// Notes a login that went wrong; gives the answer to it when it is time.
    async fn failed(&self, visit: &Visit, tried: Instant) -> End {
        let wait = self.throttle.wait(visit.source, &visit.user, tried);
        self.throttle.failed(visit.source, &visit.user, tried);
        tracing::info!(source = %visit.source, role = ?visit.user, "a login failed");
        let (floor, refusal) = match wait {
            Some(seconds) => (THROTTLED_FLOOR, Refusal::login_throttled(&visit.user, seconds)),
            None => (REFUSAL_FLOOR, Refusal::login_failed(&visit.user)),
        };
        tokio::time::sleep_until((tried + floor).into()).await;
        refusal.into()
    }
}

/// Takes our option out of the start-up packet.
fn take_option(startup: &mut Startup) -> Result<Option<Selector>, Refusal> {
    let Some(options) = startup.get("options") else { return Ok(None) };
    let (endpoint, rest) = options::take_endpoint(options).map_err(|error| {
        Refusal::new(sqlstate::CONNECTION_REJECTED, error.to_string())
            .with_hint("write options=endpoint=PROJECT/BRANCH, once")
    })?;
    let Some(endpoint) = endpoint else { return Ok(None) };
    if rest.is_empty() {
        startup.remove("options");
    } else {
        startup.set(b"options", &rest);
    }
    let selector = Selector::parse(&endpoint).ok_or_else(|| {
        Refusal::new(sqlstate::CONNECTION_REJECTED, format!("\"{endpoint}\" names no endpoint"))
            .with_hint("write options=endpoint=PROJECT/BRANCH, or endpoint=ep-… as the endpoint's uid says")
    })?;
    Ok(Some(selector))
}

/// Resolves when the client is gone; never if it sends something instead.
async fn hangs_up(client: &mut Client) {
    let still_there = client.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty());
    if still_there {
        std::future::pending().await
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

fn quote(error: LoginError, route: &Route) -> End {
    match error {
        LoginError::Refused(body) if wire::error_field(&body, b'C') != Some(sqlstate::INVALID_PASSWORD) => {
            End::Quoted(body)
        }
        LoginError::Client(_) => End::Gone,
        other => {
            tracing::error!(
                branch = route.branch,
                reason = other.describe(),
                "the server does not let the daemon in"
            );
            Refusal::internal().into()
        }
    }
}

fn timed_out() -> Refusal {
    Refusal::new(sqlstate::TIMEOUT, "canceling authentication due to timeout")
}

fn unreachable(error: ConnectError, route: &Route) -> Refusal {
    let name = &route.name;
    match error {
        ConnectError::Disabled => Refusal::new(
            sqlstate::CANNOT_CONNECT_NOW,
            format!("the endpoint of branch \"{name}\" is disabled"),
        )
        .with_hint("enable it first"),
        ConnectError::Gone => {
            Refusal::new(sqlstate::ADMIN_SHUTDOWN, format!("branch \"{name}\" was deleted"))
                .with_hint("`ana branch undelete` may bring it back")
        }
        ConnectError::TooManyWaiting => Refusal::new(
            sqlstate::CANNOT_CONNECT_NOW,
            format!("branch \"{name}\" cannot be woken: too many others wait for the same memory"),
        )
        .with_hint("try again in a while, or suspend an endpoint that is not needed"),
        ConnectError::CannotStart(reason) => Refusal::new(
            sqlstate::CANNOT_CONNECT_NOW,
            format!("branch \"{name}\" cannot be reached: {reason}"),
        )
        .with_hint("the branch's log and `ana status` say more"),
    }
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

    #[test]
    fn our_option_does_not_reach_the_server() {
        let mut startup = Startup::default();
        startup.set(b"options", b"-c endpoint=ep-1");
        assert_eq!(take_option(&mut startup), Ok(Some(Selector::Uid("ep-1".into()))));
        assert_eq!(startup.get("options"), None);
        startup.set(b"options", b"-c geqo=off endpoint=shop/dev");
        assert!(take_option(&mut startup).unwrap().is_some());
        assert_eq!(startup.get("options"), Some(b"-c geqo=off".as_slice()));
        startup.set(b"options", b"endpoint=Shop");
        assert_eq!(take_option(&mut startup).unwrap_err().sqlstate, "08004");
    }
}
