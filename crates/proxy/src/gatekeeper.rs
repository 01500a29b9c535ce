//! What the proxy asks of the rest of the system.

use std::future::Future;

use tokio::net::UnixStream;

use crate::route::Selector;

/// An endpoint as the proxy needs to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// `uid` of the endpoint (`ep-…`).
    pub endpoint: String,
    /// `uid` of its branch.
    pub branch: String,
    /// `uid` of its project.
    pub project: String,
    /// What people call the branch, for messages: `shop/dev`.
    pub name: String,
    /// Most sessions at once.
    pub max_connections: usize,
    /// Whether roles may log in with a password that PostgreSQL itself knows.
    pub native_login: bool,
}

/// Who a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIdentity {
    /// Name of the principal.
    pub principal: String,
    /// Group in whose name it logs in.
    pub group: Option<String>,
    /// `uid` of the one endpoint that it is for; none for a personal token.
    pub endpoint: Option<String>,
}

impl TokenIdentity {
    /// The role that it may log in as.
    pub fn role(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.principal)
    }
}

/// How a role logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleLogin {
    /// With a token of the principal or group of this name.
    Identity {
        /// The name.
        name: String,
    },
    /// With a password that PostgreSQL knows.
    Password,
    /// Not at all.
    NoLogin,
    /// There is no such role.
    Unknown,
}

/// A password of the daemon's own. Has no `Debug`, so that it cannot slip into a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

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

    /// Whether the holder of a token that is for no endpoint in particular may use this one.
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
