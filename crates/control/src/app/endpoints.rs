//! Endpoints: stable addresses of branches.

mod instances;
mod settings;
mod write;

use std::sync::Arc;

use compute::engine::ComputeState;

use super::branches::live_branch;
use super::{Control, key_of, not_found};
use crate::computes::{ComputeTimes, Phase};
use crate::db::endpoints;
use crate::error::{Error, Refusal};
use crate::front::Place;
use crate::model::{Endpoint, Operation, Principal};

pub use instances::ComputeInstanceView;
pub use settings::UpdateCompute;
pub use write::{EndpointId, NewEndpoint, UpdateEndpoint};

/// Whether the compute behind an endpoint runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeStatus {
    /// It runs.
    Active,
    /// It starts with the next connection.
    Idle,
    /// It is being started for the first time.
    Init,
    /// Processes of an earlier run are still about, or the branch's data is damaged.
    Degraded,
}

/// An endpoint with what its row does not say.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointView {
    /// The row.
    pub endpoint: Endpoint,
    /// Identifier of the project.
    pub project_id: String,
    /// Identifier of the branch.
    pub branch_id: String,
    /// Where clients reach it; none as long as nobody has listened for it yet.
    pub place: Option<Place>,
    /// Whether its compute runs.
    pub state: ComputeStatus,
    /// What it is on its way to; none once that is settled.
    pub pending: Option<ComputeStatus>,
    /// When its compute was last in use, started and suspended.
    pub times: ComputeTimes,
}

impl Control {
    /// One endpoint.
    ///
    /// # Errors
    /// There is none with these identifiers.
    pub async fn endpoint(
        self: &Arc<Self>,
        project: String,
        branch: String,
        id: String,
    ) -> Result<EndpointView, Error> {
        let mut all = self.endpoints(project, branch).await?;
        match all.iter().position(|view| view.endpoint.id == id) {
            Some(place) => Ok(all.swap_remove(place)),
            None => Err(not_found("endpoint")),
        }
    }

    /// Endpoints of a branch, the first one first.
    ///
    /// # Errors
    /// There is no such branch.
    pub async fn endpoints(
        self: &Arc<Self>,
        project: String,
        branch: String,
    ) -> Result<Vec<EndpointView>, Error> {
        self.blocking(move |control| {
            let (project, branch, rows) = control.db.read(|c| {
                let (project, branch) = live_branch(c, &project, &branch)?;
                let rows = endpoints::list(c, &branch.uid)?;
                Ok((project, branch, rows))
            })?;
            rows.into_iter()
                .map(|endpoint| control.endpoint_view(&project.id, &branch.id, endpoint))
                .collect()
        })
        .await
    }

    pub(crate) fn endpoint_view(
        &self,
        project_id: &str,
        branch_id: &str,
        endpoint: Endpoint,
    ) -> Result<EndpointView, Error> {
        let (state, pending) = self.compute_status(&endpoint.branch)?;
        Ok(EndpointView {
            project_id: project_id.to_owned(),
            branch_id: branch_id.to_owned(),
            place: self.place_of(&endpoint),
            state,
            pending,
            times: self.computes.times(&endpoint.branch),
            endpoint,
        })
    }

    /// What a compute is, by its processes, and what it will be soon, by what we do with it. One that
    /// wakes counts as idle until it takes connections: clients may connect to it all the time.
    pub(crate) fn compute_status(
        &self,
        branch: &str,
    ) -> Result<(ComputeStatus, Option<ComputeStatus>), Error> {
        use ComputeStatus::{Active, Degraded, Idle, Init};
        let phase = self.computes.known(branch).map_or(Phase::Asleep, |slot| slot.phase());
        let ever = self.computes.times(branch).start.is_some();
        Ok(match (self.engine.glance(&key_of(branch)?)?, phase) {
            (ComputeState::Orphans { .. }, _) => (Degraded, None),
            (ComputeState::Stopped, _) if self.damage_of(branch).is_some() => (Degraded, None),
            (_, Phase::Waiting | Phase::Starting) if ever => (Idle, Some(Active)),
            (_, Phase::Waiting | Phase::Starting) => (Init, Some(Active)),
            (ComputeState::Running { .. }, Phase::Suspending) => (Active, Some(Idle)),
            (ComputeState::Running { .. }, _) => (Active, None),
            (ComputeState::Stopped, _) => (Idle, None),
        })
    }

    /// Refuses: the one endpoint of a branch goes with the branch.
    ///
    /// # Errors
    /// Always; which one says whether the endpoint exists.
    pub async fn delete_endpoint(
        self: &Arc<Self>,
        principal: Principal,
        which: EndpointId,
    ) -> Result<Operation, Error> {
        self.blocking(move |control| {
            let target = which.name();
            let outcome = control.db.read(|c| {
                let (_, branch) = live_branch(c, &which.project, &which.branch)?;
                let endpoint = endpoints::by_id(c, &branch.uid, &which.id)?;
                Err(match endpoint {
                    None => not_found("endpoint"),
                    Some(_) => Error::refused(
                        Refusal::ManagedByParent,
                        format!("Cannot delete read-write endpoint '{target}'. Read-write endpoints cannot be deleted."),
                    ),
                })
            });
            control.note_refusal(&principal, "endpoint.delete", &target, outcome)
        })
        .await
    }
}
