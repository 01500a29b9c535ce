//! Compute instances: what runs behind an endpoint.

use std::sync::Arc;

use jiff::Timestamp;

use super::{ComputeStatus, EndpointView};
use crate::app::{Control, key_of, not_found};
use crate::error::Error;

/// The compute of an endpoint as it is now. An endpoint has exactly one, asleep or awake.
#[derive(Debug, Clone, PartialEq)]
pub struct ComputeInstanceView {
    /// Identifier; stays across restarts.
    pub id: String,
    /// Its endpoint.
    pub endpoint: EndpointView,
    /// When the server that runs now was started; none while it does not run.
    pub start_time: Option<Timestamp>,
}

impl Control {
    /// The computes of an endpoint.
    ///
    /// # Errors
    /// There is no such endpoint.
    pub async fn compute_instances(
        self: &Arc<Self>,
        project: String,
        branch: String,
        endpoint: String,
    ) -> Result<Vec<ComputeInstanceView>, Error> {
        let endpoint = self.endpoint(project, branch, endpoint).await?;
        self.blocking(move |control| {
            let started = match endpoint.state {
                ComputeStatus::Active => control.engine.started(&key_of(&endpoint.endpoint.branch)?)?,
                ComputeStatus::Idle | ComputeStatus::Init | ComputeStatus::Degraded => None,
            };
            let start_time = started.and_then(|second| Timestamp::from_second(second).ok());
            let uid = &endpoint.endpoint.uid;
            let id = format!("compute-{}", uid.strip_prefix("ep-").unwrap_or(uid));
            Ok(vec![ComputeInstanceView { id, endpoint, start_time }])
        })
        .await
    }

    /// One compute of an endpoint.
    ///
    /// # Errors
    /// There is no such endpoint or compute.
    pub async fn compute_instance(
        self: &Arc<Self>,
        project: String,
        branch: String,
        endpoint: String,
        id: String,
    ) -> Result<ComputeInstanceView, Error> {
        let all = self.compute_instances(project, branch, endpoint).await?;
        all.into_iter().find(|compute| compute.id == id).ok_or_else(|| not_found("compute instance"))
    }
}
