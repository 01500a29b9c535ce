//! What the proxy asks of the rest of the system.

use std::future::Future;

use auth::Secret;
pub use control::app::{RoleLogin, TokenIdentity};
use tokio::net::UnixStream;

use crate::route::Selector;

/// An endpoint as the proxy needs to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// `uid` of the endpoint (`ep-…`).
    pub endpoint: String,
    /// `uid` of its branch.
    pub branch: String,
    /// What people call the branch, for messages: `shop/dev`.
    pub name: String,
    /// Most sessions at once.
    pub max_connections: usize,
    /// Whether roles may log in with a password that PostgreSQL itself knows.
    pub native_login: bool,
}

/// Something of ours failed. The text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);

/// Why there is no connection to a branch's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// The endpoint is disabled.
    Disabled,
    /// The branch is deleted.
    Gone,
    /// Too many wait for a compute already, or one waited too long.
    TooManyWaiting,
    /// The compute does not start; the text says why.
    CannotStart(String),
}

/// The rest of the system, as the proxy sees it.
pub trait Gatekeeper: Send + Sync + 'static {
    /// Kept for as long as a connection lasts.
    type Guard: Send + 'static;

    /// The endpoint meant; none if there is none.
    fn route(&self, selector: &Selector) -> impl Future<Output = Result<Option<Route>, Trouble>> + Send;

    /// Who the token speaks for; none if it is no good. Does not wake anything.
    fn check_token(&self, token: &str)
    -> impl Future<Output = Result<Option<TokenIdentity>, Trouble>> + Send;

    /// Whether the holder of a token may connect to this endpoint now.
    fn may_use(
        &self,
        identity: &TokenIdentity,
        route: &Route,
    ) -> impl Future<Output = Result<bool, Trouble>> + Send;

    /// How the role logs in, as far as that is known without waking the compute.
    fn known_login(
        &self,
        route: &Route,
        role: &str,
    ) -> impl Future<Output = Result<Option<RoleLogin>, Trouble>> + Send;

    /// How the role logs in. The compute is awake.
    fn role_login(
        &self,
        route: &Route,
        role: &str,
    ) -> impl Future<Output = Result<RoleLogin, Trouble>> + Send;

    /// Makes the role of somebody with a token for the endpoint, where there is none of that name, and
    /// says how one logs in as it. The compute is awake.
    fn make_role(
        &self,
        route: &Route,
        identity: &TokenIdentity,
    ) -> impl Future<Output = Result<RoleLogin, Trouble>> + Send;

    /// A connection to the branch's server, which is woken where it sleeps. Dropped when the client
    /// goes away while it waits.
    fn connect(
        &self,
        route: &Route,
    ) -> impl Future<Output = Result<(UnixStream, Self::Guard), ConnectError>> + Send;

    /// The daemon's own password for an identity role.
    fn backend_password(
        &self,
        route: &Route,
        role: &str,
    ) -> impl Future<Output = Result<Secret, Trouble>> + Send;

    /// Makes the server accept that password again, after somebody changed it.
    fn repair_password(&self, route: &Route, role: &str) -> impl Future<Output = Result<(), Trouble>> + Send;
}
