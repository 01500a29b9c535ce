//! The front door for PostgreSQL clients.
//!
//! A connection is encrypted, finds its endpoint, logs in, waits until the branch's server is awake,
//! and from then on is bytes passed in both directions. What is understood of the protocol is its
//! beginning and cancel requests, nothing else. `docs/proxy.md` has the rules.

mod adapter;
mod authority;
mod cancel;
#[cfg(test)]
mod fuzz;
mod gatekeeper;
mod hello;
mod lanes;
mod limits;
mod login;
pub mod options;
mod pump;
mod refusal;
mod replication;
mod route;
mod session;
pub mod startup;
mod tls;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use adapter::Doorman;
pub use auth::Secret;
pub use gatekeeper::{ConnectError, Gatekeeper, RoleLogin, Route, TokenIdentity, Trouble};
pub use limits::max_connections;
pub use route::Selector;
pub use tls::{Certificates, Error};

use cancel::CancelKeys;
use lanes::Lanes;
use limits::{Slots, Throttle, Turns};

/// So many connections may be on their way in at once; more wait.
const ENTRANTS: usize = 1024;

/// How long clients may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the connection to the end of the start-up packet.
    pub hello: Duration,
    /// For each of: the password, the login on the server.
    pub login: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { hello: Duration::from_secs(20), login: Duration::from_secs(30) }
    }
}

/// The front door.
pub struct Proxy<G> {
    gatekeeper: G,
    certificates: Arc<Certificates>,
    patience: Patience,
    keys: Arc<CancelKeys>,
    slots: Arc<Slots>,
    /// Of those who prove themselves to PostgreSQL and have not done so yet.
    turns: Turns,
    throttle: Throttle,
    door: Arc<Semaphore>,
    lanes: Lanes,
}

impl<G: Gatekeeper> Proxy<G> {
    /// A door that nobody has come to yet.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn new(
        gatekeeper: G,
        certificates: Arc<Certificates>,
        patience: Patience,
    ) -> std::io::Result<Arc<Proxy<G>>> {
        Ok(Arc::new(Proxy {
            gatekeeper,
            certificates,
            patience,
            keys: Arc::default(),
            slots: Arc::default(),
            turns: Turns::default(),
            throttle: Throttle::default(),
            door: Arc::new(Semaphore::new(ENTRANTS)),
            lanes: Lanes::start()?,
        }))
    }

    /// Serves what comes to a listener that stands for no endpoint in particular. Does not return.
    pub async fn listen(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    self.serve(client, None);
                }
                Err(error) => {
                    // Usually out of descriptors: some will be given back soon.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.slots.total()
    }

    /// What the proxy asks of the rest of the system.
    pub fn gatekeeper(&self) -> &G {
        &self.gatekeeper
    }

    /// The certificates shown to clients.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }
}
