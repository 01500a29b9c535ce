//! Waking, suspending and disabling an endpoint's compute by hand.

use std::sync::Arc;
use std::time::Instant;

use super::branches::live_branch;
use super::{Control, Wake, not_found};
use crate::computes::{Cause, Phase};
use crate::db::endpoints;
use crate::error::Error;
use crate::model::{Endpoint, Principal};

/// Names an endpoint by identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointName {
    /// Of the project.
    pub project: String,
    /// Of the branch.
    pub branch: String,
    /// Of the endpoint.
    pub id: String,
}

impl std::fmt::Display for EndpointName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "projects/{}/branches/{}/endpoints/{}", self.project, self.branch, self.id)
    }
}

impl Control {
    /// Ends an endpoint's compute now, whatever it does; open connections are closed. The next
    /// connection wakes it.
    ///
    /// # Errors
    /// There is no such endpoint, or its compute does not end.
    pub async fn suspend_endpoint(
        self: &Arc<Self>,
        principal: Principal,
        name: EndpointName,
    ) -> Result<(), Error> {
        let target = name.to_string();
        let endpoint = self.named_endpoint(name).await?;
        // A task of its own: a caller that hangs up must not leave a shutdown half-way.
        let control = Arc::clone(self);
        let work = tokio::spawn(async move { control.suspend(&endpoint.branch, Cause::Asked).await });
        let outcome = work.await.unwrap_or_else(|error| Err(Error::Internal(error.to_string())));
        self.note_outcome(principal, "endpoint.suspend", target, outcome.map(drop)).await
    }

    /// Starts an endpoint's compute where needed and waits until it answers a query.
    ///
    /// # Errors
    /// There is no such endpoint, it is disabled, the host has no room, or it does not start.
    pub async fn wake_endpoint(
        self: &Arc<Self>,
        principal: Principal,
        name: EndpointName,
    ) -> Result<Wake, Error> {
        let begin = Instant::now();
        let target = name.to_string();
        let endpoint = self.named_endpoint(name).await?;
        let control = Arc::clone(self);
        let work = tokio::spawn(async move { control.answers(&endpoint.branch).await });
        let outcome = work.await.unwrap_or_else(|error| Err(Error::Internal(error.to_string())));
        self.note_outcome(principal, "endpoint.wake", target, outcome).await?;
        Ok(Wake { took: begin.elapsed() })
    }

    /// Disables an endpoint: its compute ends now and does not wake until it is enabled again.
    ///
    /// # Errors
    /// There is no such endpoint, or its compute does not end (which is tried again).
    pub async fn set_endpoint_disabled(
        self: &Arc<Self>,
        principal: Principal,
        name: EndpointName,
        disabled: bool,
    ) -> Result<(), Error> {
        let target = name.to_string();
        let mut endpoint = self.named_endpoint(name).await?;
        let uid = endpoint.uid.clone();
        self.blocking(move |control| {
            control.db.write(|tx| {
                (endpoint.disabled, endpoint.update_time) = (disabled, control.clock.now());
                endpoints::update(tx, &endpoint)?;
                let action = if disabled { "endpoint.disable" } else { "endpoint.enable" };
                control.note(tx, &principal, action, &target, "done", "")
            })
        })
        .await?;
        self.follow_endpoint(&uid).await
    }

    /// Makes a compute follow the row of its endpoint (`uid`), which was changed.
    ///
    /// # Errors
    /// The database failed, or a compute that must end does not.
    pub(crate) async fn follow_endpoint(self: &Arc<Self>, uid: &str) -> Result<(), Error> {
        let uid = uid.to_owned();
        let row = self.blocking(move |control| control.db.read(|c| endpoints::by_uid(c, &uid))).await?;
        // One that is gone has no compute either.
        let Some(endpoint) = row else { return Ok(()) };
        if endpoint.disabled {
            // Whoever waits for it is told at once.
            self.admission.cancel(&endpoint.branch);
            self.suspend(&endpoint.branch, Cause::Disabled).await?;
        } else if self.computes.slot(&endpoint.branch).phase() == Phase::Awake {
            self.blocking(move |control| control.resize_compute(&endpoint.branch)).await?;
        }
        Ok(())
    }

    async fn named_endpoint(self: &Arc<Self>, name: EndpointName) -> Result<Endpoint, Error> {
        self.blocking(move |control| {
            control.db.read(|c| {
                let (_, branch) = live_branch(c, &name.project, &name.branch)?;
                endpoints::by_id(c, &branch.uid, &name.id)?.ok_or_else(|| not_found("endpoint"))
            })
        })
        .await
    }

    async fn note_outcome(
        self: &Arc<Self>,
        principal: Principal,
        action: &'static str,
        target: String,
        outcome: Result<(), Error>,
    ) -> Result<(), Error> {
        self.blocking(move |control| {
            let outcome = control.note_refusal(&principal, action, &target, outcome);
            if outcome.is_ok() {
                control.db.write_soon(|tx| control.note(tx, &principal, action, &target, "done", ""))?;
            }
            outcome
        })
        .await
    }
}
