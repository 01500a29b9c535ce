//! Suspending computes: what nobody uses costs nothing.

use std::sync::Arc;
use std::time::Duration;

use compute::engine::{ComputeState, StopMode};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::size::cost_of;
use super::slot::{Phase, Slot};
use crate::app::{Control, key_of};
use crate::db::endpoints;
use crate::error::Error;

/// Why a compute is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Nobody used it for its endpoint's time.
    Idle(Duration),
    /// Another one needs its room.
    Pressure,
    /// Somebody asked for it.
    Asked,
    /// Its endpoint is disabled.
    Disabled,
}

impl Cause {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Idle(_) => "idle",
            Cause::Pressure => "pressure",
            Cause::Asked => "asked",
            Cause::Disabled => "disabled",
        }
    }
}

impl Control {
    /// Suspends every compute that nobody used for its endpoint's time, or whose endpoint is
    /// disabled; returns how many. Public for tests, which move the clock and then want it seen.
    ///
    /// # Errors
    /// The database failed. What concerns single computes is logged and tried again.
    pub async fn suspend_idle(self: &Arc<Self>) -> Result<usize, Error> {
        let due = self.blocking(|control| control.due()).await?;
        let slots = Arc::new(Semaphore::new(self.settings.hosting.starts()));
        let mut tasks = JoinSet::new();
        for (branch, cause) in due {
            let (control, slots) = (Arc::clone(self), Arc::clone(&slots));
            tasks.spawn(async move {
                let _slot = slots.acquire().await;
                control.suspend(&branch, cause).await.unwrap_or_else(|error| {
                    tracing::warn!(branch, %error, "a compute could not be suspended; it will be tried again");
                    false
                })
            });
        }
        let outcomes = tasks.join_all().await;
        Ok(outcomes.into_iter().filter(|suspended| *suspended).count())
    }

    fn due(&self) -> Result<Vec<(String, Cause)>, Error> {
        let mut due = Vec::new();
        for (branch, slot) in self.computes.awake() {
            // One that is just being deleted has none.
            let Some(endpoint) = self.db.read(|c| Ok(endpoints::list(c, &branch)?.into_iter().next()))?
            else {
                continue;
            };
            if endpoint.disabled {
                due.push((branch, Cause::Disabled));
            } else if let Some(seconds) = endpoint.compute.suspend_seconds {
                let limit = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
                if slot.idle_for() >= limit {
                    due.push((branch, Cause::Idle(limit)));
                }
            }
        }
        Ok(due)
    }

    /// Suspends the compute of a branch; false where it is in use and `cause` asks for consent.
    ///
    /// # Errors
    /// It cannot be stopped.
    pub(crate) async fn suspend(self: &Arc<Self>, branch: &str, cause: Cause) -> Result<bool, Error> {
        let slot = self.computes.slot(branch);
        let gentle = matches!(cause, Cause::Idle(_) | Cause::Pressure);
        let _turn = if gentle {
            // Whoever has it starts or stops the compute: either way there is nothing to do here.
            let Ok(turn) = Arc::clone(&slot.turn).try_lock_owned() else { return Ok(false) };
            turn
        } else {
            Arc::clone(&slot.turn).lock_owned().await
        };
        let key = key_of(branch)?;
        let running = self.blocking(move |control| Ok(control.engine.glance(&key)?)).await?;
        if !matches!(running, ComputeState::Running { .. }) {
            self.note_asleep(branch);
            return Ok(true);
        }
        if !gentle {
            slot.door.set(false);
            // Once it sleeps, its roles and databases are listed as last seen.
            self.look_if_awake(branch).await;
        } else if !self.consents(branch, &slot, cause).await? {
            return Ok(false);
        }
        slot.set_phase(Phase::Suspending);
        let key = key_of(branch)?;
        let stopped = self.blocking(move |control| Ok(control.engine.stop(&key, StopMode::Fast)?)).await;
        if let Err(error) = stopped {
            self.metrics.count_error("suspend");
            slot.set_phase(Phase::Awake);
            return Err(error);
        }
        let idle = slot.idle_for();
        slot.notes().suspended = Some(self.clock.now());
        self.note_asleep(branch);
        self.remember_times(branch).await;
        self.metrics.count_suspend(cause);
        tracing::info!(branch, cause = cause.as_str(), idle_s = idle.as_secs(), "compute suspended");
        Ok(true)
    }

    /// Whether nobody uses the compute. If so, its door is shut: whoever comes from now on waits for
    /// the end of the suspension, and wakes it again.
    async fn consents(self: &Arc<Self>, branch: &str, slot: &Slot, cause: Cause) -> Result<bool, Error> {
        let enough = |slot: &Slot| match cause {
            Cause::Idle(limit) => slot.idle_for() >= limit,
            _ => slot.connections() == 0 || slot.idle_for() >= self.settings.hosting.grace,
        };
        // Read first: who comes after this is seen by the door.
        let seen = slot.door.arrivals();
        if !enough(slot) {
            return Ok(false);
        }
        // Before the probe, which is to be the last thing: what a session begins after it is cut off.
        self.look_if_awake(branch).await;
        let activity = self.probe(branch).await?;
        if let Some(reason) = activity.busy {
            slot.touch();
            slot.notes().kept_by = Some(reason);
            tracing::debug!(branch, reason, "compute kept awake");
            return Ok(false);
        }
        if let Some(change) = activity.last_change {
            slot.touch_at(change);
        }
        Ok(enough(slot) && slot.door.shut_unless_entered(seen))
    }

    /// Ends a compute that was only started to recover its branch before a cut: nobody asked for it, so
    /// nobody would ever suspend it.
    pub(crate) async fn rest_after_cut(self: &Arc<Self>, branch: &str) {
        let slot = self.computes.slot(branch);
        // Whoever has the turn starts or stops it by his own wish.
        let Ok(_turn) = Arc::clone(&slot.turn).try_lock_owned() else { return };
        if slot.phase() != Phase::Asleep {
            return;
        }
        let uid = branch.to_owned();
        let rested = self.blocking(move |control| {
            let key = key_of(&uid)?;
            if matches!(control.engine.state(&key)?, ComputeState::Running { .. }) {
                control.engine.stop(&key, StopMode::Fast)?;
            }
            Ok(())
        });
        if let Err(error) = rested.await {
            tracing::warn!(branch, %error, "a compute that was started for a cut did not end");
        }
    }

    /// The compute does not run. For the holder of its turn.
    pub(crate) fn note_asleep(&self, branch: &str) {
        let slot = self.computes.slot(branch);
        slot.door.set(false);
        let mut notes = slot.notes();
        notes.phase = Phase::Asleep;
        (notes.pace, notes.limits, notes.memory, notes.measured) = (None, None, None, None);
        drop(notes);
        self.admission.gone(branch);
    }

    /// Takes note of computes that run since before this daemon, with what is written of them.
    pub(crate) async fn adopt_computes(self: &Arc<Self>) -> Result<(), Error> {
        self.blocking(|control| {
            let written = control.db.read(crate::db::computes::all)?;
            for (branch, times) in written {
                let slot = control.computes.slot(&branch);
                if let Some(active) = times.last_active {
                    slot.touch_at(active);
                }
                let mut notes = slot.notes();
                (notes.started, notes.suspended) = (times.start, times.suspend);
            }
            for key in control.engine.with_processes()? {
                let running = matches!(control.engine.state(&key)?, ComputeState::Running { .. });
                let endpoint =
                    control.db.read(|c| Ok(endpoints::list(c, key.as_str())?.into_iter().next()))?;
                if let (true, Some(endpoint)) = (running, endpoint) {
                    let slot = control.computes.slot(key.as_str());
                    slot.watch();
                    slot.set_phase(Phase::Awake);
                    control.admission.adopt(key.as_str(), cost_of(&endpoint.compute));
                }
            }
            Ok(())
        })
        .await
    }

    /// Takes note of computes that ended by themselves.
    pub(crate) async fn miss_computes(self: &Arc<Self>) -> Result<(), Error> {
        self.blocking(|control| {
            for (branch, slot) in control.computes.awake() {
                let Ok(_turn) = Arc::clone(&slot.turn).try_lock_owned() else { continue };
                if slot.phase() == Phase::Awake
                    && control.engine.glance(&key_of(&branch)?)? == ComputeState::Stopped
                {
                    tracing::warn!(branch, "a compute is gone");
                    control.note_asleep(&branch);
                }
            }
            Ok(())
        })
        .await
    }
}
