//! Starting computes: one start for many waiters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use compute::engine::{BranchKey, ComputeState, StartOptions, StopMode};
use jiff::Timestamp;
use tokio::net::UnixStream;
use tokio::sync::OwnedMutexGuard;

use crate::app::{Control, First, Touched, key_of};
use crate::catalog::passwords::Renew;
use crate::db::{branches, catalog, projects};
use crate::error::{Error, Refusal};
use crate::model::{Branch, Project, State};
use crate::prepare;

/// Waiters that come this soon after a failed start share its failure: without that, each of many
/// waiters would try in turn, and the last would wait very long for the same answer.
const SHARED_FAILURE: Duration = Duration::from_secs(1);

/// What is known of the computes of this home.
#[derive(Default)]
pub(crate) struct Computes {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    /// A start has succeeded: clients may be let in as long as the socket answers.
    ready: AtomicBool,
    turn: Arc<tokio::sync::Mutex<()>>,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    failure: Option<(Instant, String)>,
    last_active: Option<Timestamp>,
}

impl Computes {
    fn slot(&self, branch: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(branch.to_owned()).or_default())
    }

    /// Waits for the right to start or stop the compute; clients wait until it is given back.
    pub async fn turn(&self, branch: &str) -> OwnedMutexGuard<()> {
        let slot = self.slot(branch);
        let turn = Arc::clone(&slot.turn).lock_owned().await;
        slot.ready.store(false, Ordering::Release);
        turn
    }

    /// When somebody last connected to the branch.
    pub fn last_active(&self, branch: &str) -> Option<Timestamp> {
        self.slot(branch).notes.lock().unwrap_or_else(PoisonError::into_inner).last_active
    }
}

impl Control {
    /// Connects to a branch's server; starts it first where needed.
    pub(crate) async fn connect(self: &Arc<Self>, branch: &str) -> Result<UnixStream, Error> {
        let slot = self.computes.slot(branch);
        let path = self.socket_path(branch)?;
        slot.notes.lock().unwrap_or_else(PoisonError::into_inner).last_active = Some(self.clock.now());
        if slot.ready.load(Ordering::Acquire) {
            if let Ok(stream) = UnixStream::connect(&path).await {
                return Ok(stream);
            }
            slot.ready.store(false, Ordering::Release);
        }
        self.awake(branch).await?;
        UnixStream::connect(&path)
            .await
            .map_err(|source| Error::io(format!("cannot reach the server of branch {branch}"), source))
    }

    fn socket_path(&self, branch: &str) -> Result<std::path::PathBuf, Error> {
        Ok(self.engine.socket_dir(&key_of(branch)?).join(".s.PGSQL.5432"))
    }

    /// Returns once the branch's compute runs and may be used.
    pub(crate) async fn awake(self: &Arc<Self>, branch: &str) -> Result<(), Error> {
        let slot = self.computes.slot(branch);
        let _turn = slot.turn.lock().await;
        if slot.ready.load(Ordering::Acquire) && UnixStream::connect(self.socket_path(branch)?).await.is_ok()
        {
            return Ok(());
        }
        if let Some((when, text)) = &slot.notes.lock().unwrap_or_else(PoisonError::into_inner).failure
            && when.elapsed() < SHARED_FAILURE
        {
            return Err(Error::Internal(text.clone()));
        }
        let outcome = self.start(branch).await;
        let mut notes = slot.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.failure = outcome.as_ref().err().map(|error| (Instant::now(), error.to_string()));
        slot.ready.store(outcome.is_ok(), Ordering::Release);
        outcome
    }

    async fn start(self: &Arc<Self>, branch: &str) -> Result<(), Error> {
        let uid = branch.to_owned();
        let (project, branch) = self
            .blocking(move |control| {
                control.db.read(|c| {
                    let branch = branches::by_uid(c, &uid)?.filter(|branch| branch.state == State::Ready);
                    let branch = branch.ok_or_else(|| {
                        Error::refused(Refusal::NotFound, "the branch is deleted, or is not made yet")
                    })?;
                    let project = projects::by_uid(c, &branch.project)?
                        .ok_or_else(|| Error::Internal(format!("branch {uid} has no project")))?;
                    Ok((project, branch))
                })
            })
            .await?;
        self.start_prepared(&project, &branch).await
    }

    /// Starts the compute, and does what must be done before the first client comes.
    pub(crate) async fn start_prepared(
        self: &Arc<Self>,
        project: &Project,
        branch: &Branch,
    ) -> Result<(), Error> {
        if self.watch.is_stopped() {
            return Err(Error::refused(Refusal::Busy, "the daemon is ending"));
        }
        let begin = Instant::now();
        let server = self.server_of(project)?;
        let key = key_of(&branch.uid)?;
        let first_start = !branch.prepared && branch.source.is_some();
        let starting = key.clone();
        self.blocking(move |control| {
            control.clear_orphans(&starting)?;
            let settings = control.pg_settings_of(starting.as_str())?;
            let options = StartOptions { first_start, settings };
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

    /// Backends that outlived their postmaster would keep the next one out for as long as they please.
    pub(crate) fn clear_orphans(&self, key: &BranchKey) -> Result<(), Error> {
        if let ComputeState::Orphans { pids } = self.engine.state(key)? {
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
