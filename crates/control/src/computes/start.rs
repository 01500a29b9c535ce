//! Starting computes.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compute::engine::{BranchKey, ComputeState, StartOptions, StopMode};
use tokio::net::UnixStream;

use super::size::{cost_of, settings_of};
use super::slot::{Landing, Phase, Slot};
use crate::app::{Control, First, Touched, key_of};
use crate::catalog::passwords::Renew;
use crate::db::{branches, catalog, computes, endpoints, projects};
use crate::error::{ConnectError, Error, Refusal};
use crate::model::{Branch, Endpoint, Project, State};
use crate::prepare;

/// Waiters that come this soon after a failed start share its failure: without that, each of many
/// waiters would try in turn, and the last would wait very long for the same answer.
const SHARED_FAILURE: Duration = Duration::from_secs(1);

/// What is to be started.
struct Plan {
    project: Project,
    branch: Branch,
    endpoint: Endpoint,
}

fn daemon_ends() -> Error {
    Error::refused(Refusal::Busy, "the daemon is ending")
}

impl Control {
    /// Starts the compute as soon as nobody else works on it and the host has room.
    pub(super) async fn start_in_turn(self: &Arc<Self>, branch: &str, slot: &Arc<Slot>) -> Landing {
        let _turn = slot.turn.lock().await;
        if slot.door.is_open() && self.answers_at_all(branch).await {
            return Landing::Done(Ok(()));
        }
        if let Some((when, failure)) = &slot.notes().failure
            && when.elapsed() < SHARED_FAILURE
        {
            return Landing::Done(Err(failure.clone()));
        }
        let begin = Instant::now();
        let outcome = match self.start(branch, slot).await {
            Ok(true) => Ok(()),
            Ok(false) => return Landing::Abandoned,
            Err(error) => Err(error),
        };
        match &outcome {
            Ok(()) => self.metrics.wakes.note(begin.elapsed()),
            Err(error) => {
                tracing::warn!(branch, %error, "compute not started");
                self.metrics.count_error("start");
            }
        }
        slot.notes().failure = outcome.as_ref().err().map(|error| (Instant::now(), error.clone()));
        slot.door.set(outcome.is_ok());
        Landing::Done(outcome)
    }

    async fn answers_at_all(&self, branch: &str) -> bool {
        let Ok(path) = self.socket_path(branch) else { return false };
        // Whoever has a full queue still takes from it.
        UnixStream::connect(path).await.map_or_else(|error| error.kind() == ErrorKind::WouldBlock, |_| true)
    }

    /// Starts the compute; false where nobody waited for it any more when its turn came.
    async fn start(self: &Arc<Self>, branch: &str, slot: &Arc<Slot>) -> Result<bool, ConnectError> {
        let plan = self.plan_start(branch).await?;
        let key = key_of(branch)?;
        let state = self.blocking(move |control| Ok(control.engine.glance(&key)?)).await?;
        if matches!(state, ComputeState::Running { .. }) {
            // Since before this daemon, or started behind its back: it has its room already.
            self.start_prepared(&plan).await?;
            self.admission.adopt(branch, cost_of(&plan.endpoint.compute));
            self.note_awake(branch, slot);
            return Ok(true);
        }
        self.admission.gone(branch);
        slot.set_phase(Phase::Waiting);
        let outcome = self.start_admitted(branch, slot, &plan).await;
        if !matches!(outcome, Ok(true)) {
            slot.set_phase(Phase::Asleep);
        }
        outcome
    }

    async fn start_admitted(
        self: &Arc<Self>,
        branch: &str,
        slot: &Arc<Slot>,
        plan: &Plan,
    ) -> Result<bool, ConnectError> {
        let begin = Instant::now();
        let permit = self.admit(branch, cost_of(&plan.endpoint.compute), Some(Arc::clone(slot))).await;
        self.metrics.turns.note(begin.elapsed());
        // What was true before the wait need not be true any more.
        let plan = self.plan_start(branch).await?;
        let Some(permit) = permit else {
            self.must_go_on()?;
            return Ok(false);
        };
        slot.set_phase(Phase::Starting);
        if let Err(error) = self.start_prepared(&plan).await {
            // Started and not made ready, it would run on, counted by nobody.
            let key = key_of(branch)?;
            let stopped = self.blocking(move |control| Ok(control.engine.stop(&key, StopMode::Fast)?)).await;
            if let Err(error) = stopped {
                tracing::warn!(branch, %error, "a compute that is not ready could not be stopped");
            }
            return Err(error.into());
        }
        permit.awake();
        self.note_awake(branch, slot);
        Ok(true)
    }

    /// Starts the compute of a project that is just being made.
    pub(crate) async fn start_root(
        self: &Arc<Self>,
        project: &Project,
        branch: &Branch,
    ) -> Result<(), Error> {
        let uid = branch.uid.clone();
        let endpoint =
            self.blocking(move |control| control.db.read(|c| endpoints::read_write(c, &uid))).await?;
        let plan = Plan { project: project.clone(), branch: branch.clone(), endpoint };
        let slot = self.computes.slot(&branch.uid);
        let _turn = self.computes.turn(&branch.uid).await;
        let permit = self.admit(&branch.uid, cost_of(&plan.endpoint.compute), None).await;
        let permit = permit.ok_or_else(daemon_ends)?;
        self.start_prepared(&plan).await?;
        permit.awake();
        self.note_awake(&branch.uid, &slot);
        slot.door.set(true);
        Ok(())
    }

    fn must_go_on(&self) -> Result<(), Error> {
        if self.watch.is_stopped() { Err(daemon_ends()) } else { Ok(()) }
    }

    async fn plan_start(self: &Arc<Self>, branch: &str) -> Result<Plan, ConnectError> {
        let uid = branch.to_owned();
        let plan = self
            .blocking(move |control| {
                control.db.read(|c| {
                    let branch = branches::by_uid(c, &uid)?.filter(|branch| branch.state == State::Ready);
                    let branch = branch.ok_or_else(|| {
                        Error::refused(Refusal::NotFound, "the branch is deleted, or is not made yet")
                    })?;
                    let project = projects::by_uid(c, &branch.project)?
                        .ok_or_else(|| Error::Internal(format!("branch {uid} has no project")))?;
                    let endpoint = endpoints::read_write(c, &uid)?;
                    Ok(Plan { project, branch, endpoint })
                })
            })
            .await?;
        if plan.endpoint.disabled {
            return Err(ConnectError::Disabled);
        }
        let (uid, name) = (plan.branch.uid.clone(), plan.branch.id.clone());
        // Before others are suspended to make room for it.
        self.blocking(move |control| control.check_whole(&uid, &name)).await?;
        Ok(plan)
    }

    /// Starts the compute, and does what must be done before the first client comes.
    async fn start_prepared(self: &Arc<Self>, plan: &Plan) -> Result<(), Error> {
        self.must_go_on()?;
        let begin = Instant::now();
        let branch = &plan.branch;
        let server = self.server_of(&plan.project)?;
        let key = key_of(&branch.uid)?;
        let options = StartOptions {
            first_start: !branch.prepared && branch.source.is_some(),
            settings: settings_of(&plan.endpoint.compute),
        };
        let starting = key.clone();
        let (project, row, compute) = (plan.project.clone(), branch.clone(), plan.endpoint.compute.clone());
        self.blocking(move |control| {
            control.clear_orphans(&starting)?;
            if let Err(error) = control.size_for_start(&project, &row, &compute) {
                // It runs already, and outside its group. A limit is not worth a compute.
                tracing::warn!(branch = row.uid, %error, "a compute runs without its size");
            }
            Ok(control.engine.start(&starting, &server, &options)?)
        })
        .await?;
        let accepting = begin.elapsed().as_millis() as u64;
        if !branch.prepared {
            self.prepare(&key, branch).await?;
        }
        tracing::info!(
            branch = branch.uid,
            accepting_ms = accepting,
            ready_ms = begin.elapsed().as_millis() as u64,
            "compute started"
        );
        Ok(())
    }

    fn note_awake(self: &Arc<Self>, branch: &str, slot: &Slot) {
        slot.touch();
        let mut notes = slot.notes();
        notes.phase = Phase::Awake;
        notes.started = Some(self.clock.now());
        drop(notes);
        // Its client need not wait for that.
        let (control, branch) = (Arc::clone(self), branch.to_owned());
        tokio::spawn(async move { control.remember_times(&branch).await });
    }

    /// Writes the compute's times down, so that the next daemon can tell them. Lost with the power,
    /// they would only be missing from a status.
    pub(super) async fn remember_times(self: &Arc<Self>, branch: &str) {
        let (uid, times) = (branch.to_owned(), self.computes.times(branch));
        let written =
            self.blocking(move |control| control.db.write_soon(|tx| computes::set(tx, &uid, &times)));
        if let Err(error) = written.await {
            tracing::debug!(branch, %error, "a compute's times were not written down");
        }
    }

    /// Backends that outlived their postmaster would keep the next one out for as long as they please.
    pub(crate) fn clear_orphans(&self, key: &BranchKey) -> Result<(), Error> {
        if let ComputeState::Orphans { pids } = self.engine.glance(key)? {
            tracing::warn!(branch = key.as_str(), ?pids, "ending processes of a server that is gone");
            self.engine.stop(key, StopMode::Kill)?;
        }
        Ok(())
    }

    async fn prepare(self: &Arc<Self>, key: &BranchKey, branch: &Branch) -> Result<(), Error> {
        let candidates = self.keys.read(key.as_str())?;
        let wanted = candidates[0].clone();
        // What came with the data is tried first: the wanted keys only fit after a crash between
        // the change and its confirmation.
        let mut tries = candidates;
        tries.rotate_left(1);
        let mut client = prepare::connect_admin(&self.engine.socket_dir(key), &tries).await?;
        if branch.source.is_some() {
            let fresh = self.db.read(|c| catalog::wants_fresh_passwords(c, &branch.uid))?;
            let which = if fresh { Renew::Everything } else { Renew::Identities };
            prepare::prepare_child(&mut client, &wanted, which, &*self.random).await?;
        } else {
            // Files of older daemons do not say: there was only one way to begin.
            let first = self.keys.first(key.as_str())?.unwrap_or_else(|| First::usual(wanted.owner()));
            prepare::prepare_root(&mut client, &wanted, &first, &*self.random).await?;
            self.look(&branch.uid, &mut client, Touched::Nothing).await?;
        }
        let uid = branch.uid.clone();
        self.blocking(move |control| {
            control.keys.write(&uid, &[wanted])?;
            control.db.write(|tx| {
                if let Some(mut row) = branches::by_uid(tx, &uid)? {
                    row.prepared = true;
                    branches::update(tx, &row)?;
                }
                catalog::has_fresh_passwords(tx, &uid)
            })
        })
        .await
    }
}
