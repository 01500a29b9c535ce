//! Who serves the clients of the endpoints, and what it needs to know of them.

use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;

use crate::app::Control;
use crate::db::{branches, endpoints, projects};
use crate::error::Error;
use crate::model::{Endpoint, State};

/// Serves connections to endpoints.
pub trait Front: Send + Sync {
    /// Serves a connection to an endpoint's own address, without being waited for.
    fn serve(&self, stream: TcpStream, endpoint_uid: String);
}

/// The one front of a control plane, once it is there.
#[derive(Default)]
pub(crate) struct FrontDoor(OnceLock<Arc<dyn Front>>);

impl FrontDoor {
    pub fn get(&self) -> Option<Arc<dyn Front>> {
        self.0.get().cloned()
    }
}

/// The domain below which every endpoint has a name of its own, and the port behind all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name; a wildcard record leads from there to the daemon.
    pub name: String,
    /// The port of the listener that tells endpoints apart by these names.
    pub port: u16,
}

/// Where clients reach an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Address or name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A way to name an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointName {
    /// Its `uid`.
    Uid(String),
    /// Identifiers, as people know them.
    Path {
        /// Of the project.
        project: String,
        /// Of the branch.
        branch: String,
        /// Of the endpoint; the branch's first one where absent.
        endpoint: Option<String>,
    },
}

/// An endpoint of a living branch.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveEndpoint {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Identifier of its branch.
    pub branch_id: String,
    /// Identifier of its project.
    pub project_id: String,
    /// Whether roles of the project may log in with passwords of their own.
    pub native_login: bool,
}

impl Control {
    /// Says who serves clients. Before that, connections are hung up on; a second call changes nothing.
    pub fn set_front(&self, front: Arc<dyn Front>) {
        let _ = self.front.0.set(front);
    }

    /// The endpoint of this name; none if there is none on a living branch.
    ///
    /// # Errors
    /// The database failed.
    pub async fn live_endpoint(self: &Arc<Self>, name: EndpointName) -> Result<Option<LiveEndpoint>, Error> {
        self.blocking(move |control| {
            control.db.read(|c| {
                let (branch, endpoint) = match &name {
                    EndpointName::Uid(uid) => {
                        let Some(endpoint) = endpoints::by_uid(c, uid)? else { return Ok(None) };
                        (branches::by_uid(c, &endpoint.branch)?, Some(endpoint))
                    }
                    EndpointName::Path { project, branch, endpoint } => {
                        let Some(project) = projects::by_id(c, project)? else { return Ok(None) };
                        let Some(branch) = branches::by_id(c, &project.uid, branch)? else { return Ok(None) };
                        let found = match endpoint {
                            Some(id) => endpoints::by_id(c, &branch.uid, id)?,
                            None => endpoints::list(c, &branch.uid)?.into_iter().next(),
                        };
                        (Some(branch), found)
                    }
                };
                let Some((branch, endpoint)) = branch.zip(endpoint) else { return Ok(None) };
                let project = projects::by_uid(c, &branch.project)?
                    .ok_or_else(|| Error::Internal(format!("branch {} has no project", branch.uid)))?;
                if branch.state == State::Deleted || project.state == State::Deleted {
                    return Ok(None);
                }
                Ok(Some(LiveEndpoint {
                    endpoint,
                    branch_id: branch.id,
                    project_id: project.id,
                    native_login: project.options.native_login,
                }))
            })
        })
        .await
    }

    /// Where clients reach an endpoint; none as long as nobody has listened for it yet.
    pub(crate) fn place_of(&self, endpoint: &Endpoint) -> Option<Place> {
        let address = endpoint.address?;
        Some(match &self.settings.domain {
            Some(domain) => Place { host: format!("{}.{}", endpoint.uid, domain.name), port: domain.port },
            None => Place { host: address.host.to_string(), port: address.port },
        })
    }
}
