//! The end of the daemon.

use std::collections::BTreeSet;
use std::sync::Arc;

use compute::engine::{BranchKey, StopMode};
use compute::moment::{Moment, reached};

use super::{Control, key_of};
use crate::error::Error;
use crate::model::State;

impl Control {
    /// Lets nobody new in, and stops the computes unless they are to be kept. Those that are kept
    /// are adopted by the next daemon.
    ///
    /// # Errors
    /// A compute could not be stopped.
    pub async fn shut_down(self: &Arc<Self>, keep_computes: bool) -> Result<(), Error> {
        self.watch.stop();
        self.engine.give_up_compaction();
        self.listeners.close_all();
        if keep_computes {
            return Ok(());
        }
        let keys = self.blocking(|control| control.not_at_rest()).await?;
        let mut stopping = tokio::task::JoinSet::new();
        for key in keys {
            let control = Arc::clone(self);
            stopping.spawn(async move {
                // Once it sleeps, its roles and databases are listed as last seen.
                control.look_if_awake(key.as_str()).await;
                let _turn = control.computes.turn(key.as_str()).await;
                control.blocking(move |control| Ok(control.engine.stop(&key, StopMode::Fast)?)).await
            });
        }
        let mut result = Ok(());
        while let Some(outcome) = stopping.join_next().await {
            let outcome = outcome.map_err(|error| Error::Internal(error.to_string())).and_then(|inner| inner);
            if let Err(error) = outcome {
                tracing::error!(%error, "a compute did not stop");
                result = Err(error);
            }
        }
        result
    }

    /// Branches whose compute runs, or may be on its way.
    fn not_at_rest(&self) -> Result<BTreeSet<BranchKey>, Error> {
        let mut keys = self.engine.with_processes()?;
        for branch in self.computes.stirring() {
            keys.insert(key_of(&branch)?);
        }
        Ok(keys)
    }

    /// Stops the compute of a branch, if it is deleted still.
    pub(crate) async fn stop_deleted_branch(self: &Arc<Self>, branch: &str) -> Result<(), Error> {
        let _claim = self.claim_in_turn(branch).await;
        self.admission.cancel(branch);
        let _turn = self.computes.turn(branch).await;
        let key = key_of(branch)?;
        self.blocking(move |control| {
            let row = control.db.read(|c| crate::db::branches::by_uid(c, key.as_str()))?;
            if row.is_some_and(|row| row.state == State::Deleted) {
                control.clear_orphans(&key)?;
                control.engine.stop(&key, StopMode::Fast)?;
                control.note_asleep(key.as_str());
            }
            Ok(())
        })
        .await
    }

    /// Stops a deleted branch for good, and frees its data where that is due.
    pub(crate) async fn retire_branch(self: &Arc<Self>, branch: &str) -> Result<(), Error> {
        let _claim = self.claim_in_turn(branch).await;
        self.close_endpoints(branch).await?;
        reached(Moment::EndpointClosed);
        // Who waits for room has the compute's turn.
        self.admission.cancel(branch);
        let _turn = self.computes.turn(branch).await;
        let key = key_of(branch)?;
        self.blocking(move |control| {
            let due = control.db.read(|c| {
                let row = crate::db::branches::by_uid(c, key.as_str())?;
                Ok(row.map(|branch| branch.purge_time.is_some_and(|due| due <= control.clock.now())))
            })?;
            match due {
                Some(true) => {
                    // First the data, then the row that says it must go.
                    control.undo_branch_files(key.as_str())?;
                    control.db.write(|tx| crate::db::branches::remove(tx, key.as_str()))?;
                    reached(Moment::RowRemoved);
                    Ok(())
                }
                Some(false) => {
                    control.clear_orphans(&key)?;
                    control.engine.stop(&key, StopMode::Fast)?;
                    control.note_asleep(key.as_str());
                    reached(Moment::ComputeEnded);
                    Ok(())
                }
                None => Ok(()),
            }
        })
        .await
    }
}
