//! The rest of the system as it is: the control plane behind the [`Gatekeeper`].

use std::future::Future;
use std::sync::{Arc, Weak};

use auth::Secret;
use control::{Connection, ConnectionGuard, Control, EndpointName, Front, LiveEndpoint, Refusal};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::gatekeeper::{ConnectError, Gatekeeper, RoleLogin, Route, TokenIdentity, Trouble};
use crate::limits::max_connections;
use crate::route::Selector;
use crate::{Certificates, Patience, Proxy};

/// The control plane as the proxy sees it. Does not keep it alive: it is the control plane that
/// holds the proxy.
pub struct Doorman {
    control: Weak<Control>,
    /// Where the control plane lives. Connections have threads of their own, which must not wait for a disk.
    home: Handle,
}

impl Doorman {
    /// Opens the front door of `control`. To be called on the runtime that the control plane lives on.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn install(
        control: &Arc<Control>,
        certificates: Arc<Certificates>,
        patience: Patience,
    ) -> std::io::Result<Arc<Proxy<Doorman>>> {
        let doorman = Doorman { control: Arc::downgrade(control), home: Handle::current() };
        let proxy = Proxy::new(doorman, certificates, patience)?;
        control.set_front(Arc::new(Door(Arc::clone(&proxy))));
        Ok(proxy)
    }

    /// Asks the control plane at its home.
    async fn ask<T, F>(&self, question: impl FnOnce(Arc<Control>) -> F) -> Result<T, Trouble>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let control = self.control.upgrade().ok_or_else(|| Trouble("the daemon is ending".to_owned()))?;
        let mut asked = Asked(self.home.spawn(question(control)));
        (&mut asked.0).await.map_err(|error| Trouble(error.to_string()))
    }
}

/// A question that is dropped when nobody waits for its answer any more.
struct Asked<T>(JoinHandle<T>);

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Door(Arc<Proxy<Doorman>>);

impl Front for Door {
    fn serve(&self, stream: TcpStream, endpoint_uid: String) {
        self.0.serve(stream, Some(endpoint_uid));
    }
}

impl Gatekeeper for Doorman {
    type Guard = ConnectionGuard;

    async fn route(&self, selector: &Selector) -> Result<Option<Route>, Trouble> {
        let name = match selector.clone() {
            Selector::Uid(uid) => EndpointName::Uid(uid),
            Selector::Name { project, branch, endpoint } => EndpointName::Path { project, branch, endpoint },
        };
        let found = self.ask(|control| async move { control.live_endpoint(name).await }).await?;
        Ok(found.map_err(trouble)?.map(route_to))
    }

    async fn check_token(&self, token: &str) -> Result<Option<TokenIdentity>, Trouble> {
        let token = Secret::new(token.to_owned());
        let checked = self.ask(|control| async move { control.check_database_token(token.expose()) }).await?;
        if let Err(reason) = &checked {
            // The client is not told: it would learn how near it came.
            tracing::info!(%reason, "a token was refused");
        }
        Ok(checked.ok())
    }

    async fn may_use(&self, identity: &TokenIdentity, route: &Route) -> Result<bool, Trouble> {
        let (identity, branch) = (identity.clone(), route.branch.clone());
        self.ask(|control| async move { control.may_connect(&identity, &branch) }).await?.map_err(trouble)
    }

    async fn known_login(&self, route: &Route, role: &str) -> Result<Option<RoleLogin>, Trouble> {
        let (branch, role) = (route.branch.clone(), role.to_owned());
        self.ask(|control| async move { control.known_login(&branch, &role).await }).await?.map_err(trouble)
    }

    async fn role_login(&self, route: &Route, role: &str) -> Result<RoleLogin, Trouble> {
        let (branch, role) = (route.branch.clone(), role.to_owned());
        self.ask(|control| async move { control.role_login(&branch, &role).await }).await?.map_err(trouble)
    }

    async fn make_role(&self, route: &Route, identity: &TokenIdentity) -> Result<RoleLogin, Trouble> {
        let (branch, identity) = (route.branch.clone(), identity.clone());
        let made = self.ask(|control| async move { control.make_own_role(&branch, &identity).await });
        made.await?.map_err(trouble)
    }

    async fn connect(&self, route: &Route) -> Result<(UnixStream, ConnectionGuard), ConnectError> {
        let branch = route.branch.clone();
        let asked = self.ask(|control| async move { control.connect(&branch).await });
        let connected = asked.await.map_err(|trouble| ConnectError::CannotStart(trouble.to_string()))?;
        let Connection { stream, guard } = connected.map_err(|error| {
            tracing::warn!(%error, branch = route.branch, "a branch could not be reached");
            refused(&error)
        })?;
        // From now on it belongs to the event loop of the connection.
        let stream = stream.into_std().and_then(UnixStream::from_std);
        Ok((stream.map_err(|error| ConnectError::CannotStart(error.to_string()))?, guard))
    }

    async fn backend_password(&self, route: &Route, role: &str) -> Result<Secret, Trouble> {
        let (branch, role) = (route.branch.clone(), role.to_owned());
        self.ask(|control| async move { control.backend_password(&branch, &role) }).await?.map_err(trouble)
    }

    async fn repair_password(&self, route: &Route, role: &str) -> Result<(), Trouble> {
        let (branch, role) = (route.branch.clone(), role.to_owned());
        let repaired = self.ask(|control| async move { control.repair_role_password(&branch, &role).await });
        repaired.await?.map_err(trouble)
    }
}

fn route_to(found: LiveEndpoint) -> Route {
    Route {
        name: format!("{}/{}", found.project_id, found.branch_id),
        max_connections: max_connections(found.endpoint.compute.max_cu),
        endpoint: found.endpoint.uid,
        branch: found.endpoint.branch,
        native_login: found.native_login,
    }
}

fn refused(error: &control::ConnectError) -> ConnectError {
    match error {
        control::ConnectError::Disabled => ConnectError::Disabled,
        control::ConnectError::TooManyWaiting { .. } => ConnectError::TooManyWaiting,
        control::ConnectError::CannotStart(why) => match &**why {
            control::Error::Refused { refusal: Refusal::NotFound, .. } => ConnectError::Gone,
            why => ConnectError::CannotStart(why.to_string()),
        },
    }
}

fn trouble(error: control::Error) -> Trouble {
    Trouble(error.to_string())
}
