//! Endpoints: stable addresses of branches.

use std::sync::Arc;

use compute::engine::ComputeState;
use rusqlite::Connection;

use super::branches::live_branch;
use super::{Control, key_of, not_found};
use crate::computes::{ComputeTimes, Phase};
use crate::db::{endpoints, operations};
use crate::error::{Error, Refusal};
use crate::model::{ComputeSettings, Endpoint, Kind, Operation, Outcome, Principal, Verb};
use crate::names::check_id;

/// Changes to compute settings; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateCompute {
    /// Smallest size.
    pub min_cu: Option<f64>,
    /// Largest size.
    pub max_cu: Option<f64>,
    /// Idle time until suspension in seconds; `Some(None)` means never.
    pub suspend_seconds: Option<Option<f64>>,
}

/// What a caller wants of an endpoint.
#[derive(Debug, Clone)]
pub struct WriteEndpoint {
    /// Identifier of the project.
    pub project: String,
    /// Identifier of the branch.
    pub branch: String,
    /// Identifier of the endpoint.
    pub id: String,
    /// Whether it reads and writes; the other kind only reads.
    pub read_write: bool,
    /// Size and suspension.
    pub compute: UpdateCompute,
    /// Whether one that exists already is changed instead.
    pub replace_existing: bool,
}

/// Whether the compute behind an endpoint runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeStatus {
    /// It runs.
    Active,
    /// It starts with the next connection.
    Idle,
    /// It is being started for the first time.
    Init,
    /// Processes of an earlier run are still about.
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
        let phase = self.computes.slot(branch).phase();
        let ever = self.computes.times(branch).start.is_some();
        Ok(match (self.engine.state(&key_of(branch)?)?, phase) {
            (ComputeState::Orphans { .. }, _) => (Degraded, None),
            (_, Phase::Waiting | Phase::Starting) if ever => (Idle, Some(Active)),
            (_, Phase::Waiting | Phase::Starting) => (Init, Some(Active)),
            (ComputeState::Running { .. }, Phase::Suspending) => (Active, Some(Idle)),
            (ComputeState::Running { .. }, _) => (Active, None),
            (ComputeState::Stopped, _) => (Idle, None),
        })
    }

    /// Adopts the branch's own endpoint. Every branch has its read-write endpoint from the
    /// beginning and can have no second one.
    ///
    /// # Errors
    /// The endpoint exists (and is not to be replaced), or would be a second or a read-only one.
    pub async fn create_endpoint(
        self: &Arc<Self>,
        principal: Principal,
        request: WriteEndpoint,
    ) -> Result<Operation, Error> {
        let operation = self
            .blocking(move |control| {
                let target = format!(
                    "projects/{}/branches/{}/endpoints/{}",
                    request.project, request.branch, request.id
                );
                let outcome = control.db.write(|tx| control.adopt_endpoint(tx, &principal, &target, request));
                control.note_refusal(&principal, "endpoint.create", &target, outcome)
            })
            .await?;
        self.follow_endpoint(&operation.target).await?;
        Ok(operation)
    }

    fn adopt_endpoint(
        &self,
        tx: &Connection,
        principal: &Principal,
        target: &str,
        request: WriteEndpoint,
    ) -> Result<Operation, Error> {
        check_id("endpoint_id", &request.id)?;
        let (_, branch) = live_branch(tx, &request.project, &request.branch)?;
        if !request.read_write {
            return Err(Error::refused(Refusal::NotImplemented, "read-only endpoints are not supported yet"));
        }
        let Some(mut endpoint) = endpoints::by_id(tx, &branch.uid, &request.id)? else {
            return Err(Error::refused(
                Refusal::BadRequest,
                format!("branch '{}' has a read-write endpoint already", branch.id),
            ));
        };
        if !request.replace_existing {
            return Err(Error::refused(Refusal::AlreadyExists, "endpoint with such id already exists"));
        }
        endpoint.compute = check_compute(endpoint.compute, request.compute)?;
        endpoint.update_time = self.clock.now();
        endpoints::update(tx, &endpoint)?;
        let mut operation =
            self.new_operation(principal, Verb::Update, Kind::Endpoint, target, &endpoint.uid)?;
        operation.outcome = Outcome::Done;
        operations::insert(tx, &operation)?;
        self.note(tx, principal, "endpoint.update", target, "done", "")?;
        Ok(operation)
    }

    /// Refuses: the one endpoint of a branch goes with the branch.
    ///
    /// # Errors
    /// Always; which one says whether the endpoint exists.
    pub async fn delete_endpoint(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
        id: String,
    ) -> Result<Operation, Error> {
        self.blocking(move |control| {
            let target = format!("projects/{project}/branches/{branch}/endpoints/{id}");
            let outcome = control.db.read(|c| {
                let (_, branch) = live_branch(c, &project, &branch)?;
                let endpoint = endpoints::by_id(c, &branch.uid, &id)?;
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

/// Applies changes to compute settings and checks the result.
pub(crate) fn check_compute(
    mut settings: ComputeSettings,
    update: UpdateCompute,
) -> Result<ComputeSettings, Error> {
    // One of the two limits given alone pulls the other along.
    settings.min_cu = update
        .min_cu
        .unwrap_or_else(|| update.max_cu.map_or(settings.min_cu, |max| max.min(settings.min_cu)));
    settings.max_cu = update.max_cu.unwrap_or_else(|| settings.max_cu.max(settings.min_cu));
    if let Some(suspend) = update.suspend_seconds {
        settings.suspend_seconds = suspend;
    }
    let (min, max) = (settings.min_cu, settings.max_cu);
    if !(min >= 0.5 && max <= 64.0 && min <= max) {
        return Err(Error::invalid("autoscaling limits must be between 0.5 and 64, the smaller one first"));
    }
    if max - min > 16.0 {
        return Err(Error::invalid("autoscaling limits must not be more than 16 apart"));
    }
    if settings.suspend_seconds.is_some_and(|seconds| !(60.0..=604_800.0).contains(&seconds)) {
        return Err(Error::invalid("Field 'suspend_timeout_duration' must be between 60s and 604800s."));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(min: Option<f64>, max: Option<f64>) -> Option<(f64, f64)> {
        let update = UpdateCompute { min_cu: min, max_cu: max, suspend_seconds: None };
        check_compute(ComputeSettings::default(), update)
            .ok()
            .map(|settings| (settings.min_cu, settings.max_cu))
    }

    #[test]
    fn limits_of_size() {
        assert_eq!(check(None, None), Some((1.0, 1.0)));
        assert_eq!(check(Some(0.5), Some(4.0)), Some((0.5, 4.0)));
        assert_eq!(check(Some(2.0), None), Some((2.0, 2.0)));
        assert_eq!(check(None, Some(0.5)), Some((0.5, 0.5)));
        assert_eq!(check(Some(0.1), None), None);
        assert_eq!(check(Some(1.0), Some(17.5)), None);
        assert_eq!(check(Some(60.0), Some(65.0)), None);
        assert_eq!(check(Some(4.0), Some(2.0)), None);
        assert_eq!(check(Some(f64::NAN), None), None);
    }

    #[test]
    fn limits_of_suspension() {
        let with = |seconds| {
            let update = UpdateCompute { suspend_seconds: Some(seconds), ..UpdateCompute::default() };
            check_compute(ComputeSettings::default(), update).map(|settings| settings.suspend_seconds).ok()
        };
        assert_eq!(with(None), Some(None));
        assert_eq!(with(Some(60.0)), Some(Some(60.0)));
        assert_eq!(with(Some(59.0)), None);
        assert_eq!(with(Some(604_801.0)), None);
    }
}
