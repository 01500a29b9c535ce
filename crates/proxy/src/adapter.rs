//! The rest of the system as it is: the control plane behind the [`Gatekeeper`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use control::{Control, EndpointName, EndpointPlace, Front, Refusal};
use tokio::net::{TcpStream, UnixStream};

use crate::gatekeeper::{ConnectError, Gatekeeper, RoleLogin, Route, Secret, TokenIdentity, Trouble};
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
    fn serve(
        &self,
        stream: TcpStream,
        endpoint_uid: String,
        _branch_uid: String,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
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
        let place = self.control()?.find_endpoint(name).await.map_err(trouble)?;
        Ok(place.map(route_to))
    }

    /// There are no tokens in this version of the control plane.
    async fn check_token(&self, _token: &str) -> Result<Option<TokenIdentity>, Trouble> {
        Ok(None)
    }

    async fn may_use(&self, _identity: &TokenIdentity, _route: &Route) -> Result<bool, Trouble> {
        Ok(false)
    }

    async fn known_login(&self, route: &Route, role: &str) -> Result<Option<RoleLogin>, Trouble> {
        self.role_login(route, role).await.map(Some)
    }

    /// All roles have passwords, and PostgreSQL knows which: it is the one to refuse the others.
    async fn role_login(&self, _route: &Route, role: &str) -> Result<RoleLogin, Trouble> {
        Ok(if Control::is_bootstrap_role(role) { RoleLogin::Unknown } else { RoleLogin::Password })
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
        Err(Trouble(format!("the daemon has no password for role {role} of branch {}", route.branch)))
    }

    async fn repair_password(&self, route: &Route, role: &str) -> Result<(), Trouble> {
        Err(Trouble(format!("the daemon has no password for role {role} of branch {}", route.branch)))
    }
}

fn route_to(place: EndpointPlace) -> Route {
    Route {
        name: format!("{}/{}", place.project_id, place.branch_id),
        max_connections: max_connections(place.endpoint.compute.max_cu),
        endpoint: place.endpoint.uid,
        branch: place.endpoint.branch,
        project: place.project,
        native_login: true,
    }
}

fn trouble(error: control::Error) -> Trouble {
    Trouble(error.to_string())
}
