//! Waking and suspending an endpoint's compute by hand, and letting it follow its endpoint's row.

use std::sync::Arc;
use std::time::Instant;

use super::branches::live_branch;
use super::{Control, EndpointId, Wake, not_found};
use crate::computes::{Cause, Phase};
use crate::db::endpoints;
use crate::error::Error;
use crate::model::{Endpoint, Principal};

impl Control {
    /// Ends an endpoint's compute now, whatever it does; open connections are closed. The next
    /// connection wakes it.
    ///
    /// # Errors
    /// There is no such endpoint, or its compute does not end.
    pub async fn suspend_endpoint(
        self: &Arc<Self>,
        principal: Principal,
        name: EndpointId,
    ) -> Result<(), Error> {
        let target = name.name();
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
        name: EndpointId,
    ) -> Result<Wake, Error> {
        let begin = Instant::now();
        let target = name.name();
        let endpoint = self.named_endpoint(name).await?;
        let control = Arc::clone(self);
        let work = tokio::spawn(async move { control.answers(&endpoint.branch).await });
        let outcome = work.await.unwrap_or_else(|error| Err(Error::Internal(error.to_string())));
        self.note_outcome(principal, "endpoint.wake", target, outcome).await?;
        Ok(Wake { took: begin.elapsed() })
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

    async fn named_endpoint(self: &Arc<Self>, name: EndpointId) -> Result<Endpoint, Error> {
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
