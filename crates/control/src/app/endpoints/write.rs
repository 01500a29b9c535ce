//! Endpoints adopted and changed.

use std::sync::Arc;

use rusqlite::Connection;

use super::UpdateCompute;
use crate::app::branches::live_branch;
use crate::app::{Change, Control, not_found};
use crate::db::endpoints;
use crate::error::{Error, Refusal};
use crate::model::{ComputeSettings, Endpoint, Kind, Operation, Principal, Verb};
use crate::names::check_id;

/// Which endpoint is meant.
#[derive(Debug, Clone)]
pub struct EndpointId {
    /// Identifier of the project.
    pub project: String,
    /// Identifier of the branch.
    pub branch: String,
    /// Identifier of the endpoint.
    pub id: String,
}

impl EndpointId {
    /// The resource name.
    pub fn name(&self) -> String {
        format!("projects/{}/branches/{}/endpoints/{}", self.project, self.branch, self.id)
    }
}

/// What a caller wants of a new endpoint.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// Whether it reads and writes; the other kind only reads.
    pub read_write: bool,
    /// What it is set to.
    pub settings: UpdateEndpoint,
    /// Whether one that exists already is changed instead.
    pub replace_existing: bool,
}

/// Changes to an endpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateEndpoint {
    /// Size, suspension and PostgreSQL settings.
    pub compute: UpdateCompute,
    /// Whether connections are refused.
    pub disabled: Change<bool>,
    /// Whether secondaries serve reads.
    pub readable_secondaries: Change<bool>,
}

impl Control {
    /// Adopts the branch's own endpoint. Every branch has its read-write endpoint from the
    /// beginning and can have no second one.
    ///
    /// # Errors
    /// The endpoint exists (and is not to be replaced), or would be a second or a read-only one.
    pub async fn create_endpoint(
        self: &Arc<Self>,
        principal: Principal,
        which: EndpointId,
        request: NewEndpoint,
    ) -> Result<Operation, Error> {
        let written = self.blocking(move |control| {
            let outcome = control.check_pg_settings(&request.settings.compute.pg_settings).and_then(|()| {
                control.db.write(|tx| {
                    let found = control.adoptable(tx, &which, &request)?;
                    let changed = |current: ComputeSettings, _: &ComputeSettings| {
                        request.settings.compute.clone().begin(&current)
                    };
                    control.write_endpoint(tx, &principal, &which, found, &request.settings, changed)
                })
            });
            control.note_refusal(&principal, "endpoint.create", &which.name(), outcome)
        });
        self.followed(written.await?).await
    }

    fn adoptable(
        &self,
        tx: &Connection,
        which: &EndpointId,
        request: &NewEndpoint,
    ) -> Result<(ComputeSettings, Endpoint), Error> {
        check_id("endpoint_id", &which.id)?;
        let (project, branch) = live_branch(tx, &which.project, &which.branch)?;
        if !request.read_write {
            return Err(Error::refused(Refusal::NotImplemented, "read-only endpoints are not supported yet"));
        }
        let Some(endpoint) = endpoints::by_id(tx, &branch.uid, &which.id)? else {
            return Err(Error::refused(
                Refusal::BadRequest,
                format!("branch '{}' has a read-write endpoint already", branch.id),
            )
            .with_hint("every branch comes with the endpoint \"primary\"; use that one"));
        };
        if !request.replace_existing {
            return Err(Error::refused(Refusal::AlreadyExists, "endpoint with such id already exists"));
        }
        Ok((project.compute, endpoint))
    }

    /// Changes an endpoint. What is reset gets what a new endpoint of the project begins with.
    ///
    /// # Errors
    /// There is no such endpoint, or a value is not allowed.
    pub async fn update_endpoint(
        self: &Arc<Self>,
        principal: Principal,
        which: EndpointId,
        update: UpdateEndpoint,
    ) -> Result<Operation, Error> {
        let written = self.blocking(move |control| {
            let outcome = control.check_pg_settings(&update.compute.pg_settings).and_then(|()| {
                control.db.write(|tx| {
                    let (project, branch) = live_branch(tx, &which.project, &which.branch)?;
                    let endpoint = endpoints::by_id(tx, &branch.uid, &which.id)?;
                    let found = (project.compute, endpoint.ok_or_else(|| not_found("endpoint"))?);
                    let changed = |current: ComputeSettings, usual: &ComputeSettings| {
                        update.compute.clone().change(current, usual)
                    };
                    control.write_endpoint(tx, &principal, &which, found, &update, changed)
                })
            });
            control.note_refusal(&principal, "endpoint.update", &which.name(), outcome)
        });
        self.followed(written.await?).await
    }

    /// Lets the compute follow what was written of its endpoint. In a task of its own: a caller that
    /// hangs up must not leave a shutdown half-way.
    async fn followed(self: &Arc<Self>, operation: Operation) -> Result<Operation, Error> {
        let (control, uid) = (Arc::clone(self), operation.target.clone());
        let work = tokio::spawn(async move { control.follow_endpoint(&uid).await });
        Control::wait_patiently(work).await;
        Ok(operation)
    }

    fn write_endpoint(
        &self,
        tx: &Connection,
        principal: &Principal,
        which: &EndpointId,
        (usual, mut endpoint): (ComputeSettings, Endpoint),
        update: &UpdateEndpoint,
        changed: impl FnOnce(ComputeSettings, &ComputeSettings) -> Result<ComputeSettings, Error>,
    ) -> Result<Operation, Error> {
        endpoint.compute = changed(endpoint.compute, &usual)?;
        endpoint.disabled = update.disabled.applied(endpoint.disabled, false);
        endpoint.readable_secondaries =
            update.readable_secondaries.applied(endpoint.readable_secondaries, false);
        endpoint.update_time = self.clock.now();
        endpoints::update(tx, &endpoint)?;
        let target = which.name();
        let operation =
            self.new_operation(principal, Verb::Update, Kind::Endpoint, &target, &endpoint.uid)?;
        let operation = self.insert_done(tx, operation)?;
        self.note(tx, principal, "endpoint.update", &target, "done", "")?;
        Ok(operation)
    }
}
