//! The life of one connection: hello, login, pass-through.

mod end;
mod find;
mod native;
mod token;

use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;

use crate::Proxy;
use crate::cancel::Registered;
use crate::gatekeeper::{Gatekeeper, Route};
use crate::hello::{self, Hello};
use crate::limits::Slot;
use crate::login::Welcome;
use crate::pump;
use crate::refusal::{Refusal, sqlstate};
use crate::replication::Inspector;
use crate::route::Hints;
use crate::startup::{Replication, Startup};
use crate::wire;
use end::{End, unreachable};
use find::take_option;

type Client = TlsStream<TcpStream>;

/// A session that is let in.
struct Session<T> {
    client: Client,
    server: UnixStream,
    /// Where what the client says must be looked at.
    inspector: Option<Inspector>,
    /// Given back when the session ends.
    _holds: (Option<Registered>, Slot, T),
}

/// A login that succeeded, with what is held until the session ends.
struct Admitted<T> {
    welcome: Welcome,
    slot: Slot,
    guard: T,
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
    /// Serves one connection, on a thread for connections. `address` is the `uid` of the endpoint whose own
    /// address was dialled.
    pub fn serve(self: &Arc<Self>, client: TcpStream, address: Option<String>) {
        let Ok(client) = client.into_std() else { return };
        let this = Arc::downgrade(self);
        self.lanes.run(async move {
            let Some((this, client)) = this.upgrade().zip(TcpStream::from_std(client).ok()) else { return };
            this.serve_here(client, address).await;
        });
    }

    async fn serve_here(self: Arc<Self>, client: TcpStream, address: Option<String>) {
        // In a box, so that what only the login needs is given back before the long life of the session.
        let Some(session) = Box::pin(self.begin(client, address)).await else { return };
        // A session must not keep the threads that it runs on.
        drop(self);
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
        let Admitted { mut welcome, slot, guard } = match self.native_route(&visit).await? {
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
}

/// Resolves when the client is gone; never if it sends something instead.
async fn hangs_up(client: &mut Client) {
    let still_there = client.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty());
    if still_there {
        std::future::pending().await
    }
}
