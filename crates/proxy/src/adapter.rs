//! The rest of the system as it is: the control plane behind the [`Gatekeeper`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use auth::Secret;
use control::{Control, EndpointName, Front, LiveEndpoint, Refusal};
use tokio::net::{TcpStream, UnixStream};

use crate::gatekeeper::{ConnectError, Gatekeeper, RoleLogin, Route, TokenIdentity, Trouble};
use crate::limits::max_connections;
use crate::route::Selector;
use crate::{Certificates, Patience, Proxy};

/// The control plane as the proxy sees it. Does not keep it alive: it is the control plane that
/// holds the proxy.
pub struct Doorman {
    control: Weak<Control>,
}

impl Doorman {
    /// Opens the front door of `control`.
    pub fn install(
        control: &Arc<Control>,
        certificates: Arc<Certificates>,
        patience: Patience,
    ) -> Arc<Proxy<Doorman>> {
        let proxy = Proxy::new(Doorman { control: Arc::downgrade(control) }, certificates, patience);
        control.set_front(Arc::new(Door(Arc::clone(&proxy))));
        proxy
    }

    fn control(&self) -> Result<Arc<Control>, Trouble> {
        self.control.upgrade().ok_or_else(|| Trouble("the daemon is ending".to_owned()))
    }
}

struct Door(Arc<Proxy<Doorman>>);

impl Front for Door {
    fn serve(&self, stream: TcpStream, endpoint_uid: String) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Arc::clone(&self.0).serve(stream, Some(endpoint_uid)))
    }
}

impl Gatekeeper for Doorman {
    type Guard = ();

    async fn route(&self, selector: &Selector) -> Result<Option<Route>, Trouble> {
        let name = match selector.clone() {
            Selector::Uid(uid) => EndpointName::Uid(uid),
            Selector::Name { project, branch, endpoint } => EndpointName::Path { project, branch, endpoint },
        };
        let found = self.control()?.live_endpoint(name).await.map_err(trouble)?;
        Ok(found.map(route_to))
    }

    async fn check_token(&self, token: &str) -> Result<Option<TokenIdentity>, Trouble> {
        let checked = self.control()?.check_database_token(token);
        if let Err(reason) = &checked {
            // The client is not told: it would learn how near it came.
            tracing::info!(%reason, "a token was refused");
        }
        Ok(checked.ok())
    }

    async fn may_use(&self, identity: &TokenIdentity, route: &Route) -> Result<bool, Trouble> {
        self.control()?.may_connect(identity, &route.branch).map_err(trouble)
    }

    async fn known_login(&self, route: &Route, role: &str) -> Result<Option<RoleLogin>, Trouble> {
        self.control()?.known_login(&route.branch, role).await.map_err(trouble)
    }

    async fn role_login(&self, route: &Route, role: &str) -> Result<RoleLogin, Trouble> {
        self.control()?.role_login(&route.branch, role).await.map_err(trouble)
    }

    async fn make_role(&self, route: &Route, identity: &TokenIdentity) -> Result<RoleLogin, Trouble> {
        self.control()?.make_own_role(&route.branch, identity).await.map_err(trouble)
    }

    async fn connect(&self, route: &Route) -> Result<(UnixStream, ()), ConnectError> {
        let control = self.control().map_err(|trouble| ConnectError::CannotStart(trouble.to_string()))?;
        match control.open_session(&route.branch).await {
            Ok(stream) => Ok((stream, ())),
            Err(control::Error::Refused { refusal: Refusal::NotFound, .. }) => Err(ConnectError::Gone),
            Err(error) => {
                tracing::warn!(%error, branch = route.branch, "a branch could not be reached");
                Err(ConnectError::CannotStart(error.to_string()))
            }
        }
    }

    async fn backend_password(&self, route: &Route, role: &str) -> Result<Secret, Trouble> {
        self.control()?.backend_password(&route.branch, role).map_err(trouble)
    }

    async fn repair_password(&self, route: &Route, role: &str) -> Result<(), Trouble> {
        self.control()?.repair_role_password(&route.branch, role).await.map_err(trouble)
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

fn trouble(error: control::Error) -> Trouble {
    Trouble(error.to_string())
}
