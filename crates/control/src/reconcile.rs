//! Makes the world follow the rows, again and again.
//!
//! Every step looks at the rows and the world, and does what is missing; none remembers anything.
//! So a first start, a crash and a normal second share one path.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use compute::fault::{Fault, planted};
use compute::libraries;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use crate::app::{Control, is_catalog, key_of};
use crate::db::{branches, operations, projects};
use crate::error::Error;
use crate::model::{Branch, Kind, Operation, Outcome, Principal, State, Verb};

/// Wall and steady clock may drift this far apart between two rounds.
const DRIFT: SignedDuration = SignedDuration::from_secs(30);

/// After a jump of the wall clock nothing expires for this long: a wrong clock is often put right
/// soon after (at boot, or after sleep), and what was freed would not come back.
const SETTLE: Duration = Duration::from_secs(120);

/// Finished operations are kept this long.
const OPERATION_HISTORY: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The space of all branches is counted this often: what is at rest costs some microseconds each.
const COUNT_EVERY: Duration = Duration::from_secs(120);

/// Background work between rounds, and what it needs to know of the last one.
#[derive(Default)]
pub(crate) struct Watch {
    stopped: AtomicBool,
    wake: Notify,
    clocks: Mutex<Clocks>,
}

/// Tells a jump of the wall clock from time going by.
#[derive(Default)]
struct Clocks {
    last: Option<(Timestamp, Duration)>,
    unsettled_until: Option<Duration>,
}

impl Clocks {
    /// Whether the wall clock may be believed now.
    fn trusted(&mut self, wall: Timestamp, steady: Duration) -> bool {
        if let Some((last_wall, last_steady)) = self.last {
            let by_wall = wall.duration_since(last_wall);
            let by_steady = SignedDuration::try_from(steady.saturating_sub(last_steady)).unwrap_or_default();
            if (by_wall - by_steady).abs() > DRIFT && !planted(Fault::ClockBelieved) {
                tracing::warn!(%wall, "the clock jumped; nothing expires for two minutes");
                self.unsettled_until = Some(steady + SETTLE);
            }
        }
        self.last = Some((wall, steady));
        self.unsettled_until.is_none_or(|until| steady >= until)
    }
}

impl Watch {
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Control {
    /// Removes strays, finishes what was begun, listens for every branch; then keeps the world in
    /// line in the background until the shutdown.
    ///
    /// # Errors
    /// The rows or the engine cannot be read at all. What concerns single branches is logged and
    /// tried again.
    pub async fn run(self: &Arc<Self>) -> Result<(), Error> {
        // From here on a jump is noticed.
        self.clock_is_trusted();
        self.sweep().await?;
        self.blocking(|control| control.abort_changes()).await?;
        self.adopt_computes().await?;
        self.finish_creates().await?;
        self.open_all_endpoints().await?;
        tokio::spawn(Arc::clone(self).rounds());
        tokio::spawn(Arc::clone(self).watch_computes());
        tokio::spawn(Arc::clone(self).maintenance());
        if self.settings.hosting.compaction {
            tokio::spawn(Arc::clone(self).compaction());
        }
        Ok(())
    }

    async fn rounds(self: Arc<Self>) {
        // Who asked an earlier daemon for a delete shall not wait for the first round.
        for (step, outcome) in
            [("deleted computes", self.stop_deleted().await), ("deletes", self.finish_deletes().await)]
        {
            if let Err(error) = outcome {
                tracing::error!(step, %error, "a step of reconciliation failed");
            }
        }
        while self.pause().await {
            // Failures are logged where they happen, and the next round tries again.
            let _ = self.round().await;
        }
    }

    /// Computes come and go: a task of its own, since a shutdown may take long.
    async fn watch_computes(self: Arc<Self>) {
        while self.pause().await {
            if let Err(error) = self.compute_round().await {
                tracing::error!(%error, "computes cannot be looked after");
            }
        }
    }

    /// Takes note of computes that are gone, and suspends those that nobody uses.
    ///
    /// # Errors
    /// The database or the engine failed.
    pub async fn compute_round(self: &Arc<Self>) -> Result<(), Error> {
        self.miss_computes().await?;
        self.suspend_idle().await?;
        self.resize_computes().await?;
        self.shed();
        Ok(())
    }

    /// A task of its own: it may take long, and expiry must not wait for it.
    async fn maintenance(self: Arc<Self>) {
        let mut counted = std::time::Instant::now();
        self.tell_of_libraries().await;
        while self.pause().await {
            if counted.elapsed() > COUNT_EVERY {
                if let Err(error) = self.blocking(|control| control.count_own_space()).await {
                    tracing::error!(%error, "the space of branches is not known");
                }
                counted = std::time::Instant::now();
                self.tell_of_libraries().await;
            }
            if let Err(error) = self.blocking(|control| Ok(control.engine.maintain()?)).await {
                tracing::error!(%error, "background work of the store failed");
            }
        }
    }

    /// Apart from the rest of the background work: a merge of large layers takes minutes.
    async fn compaction(self: Arc<Self>) {
        while self.pause().await {
            while !self.watch.is_stopped() {
                match self.blocking(|control| Ok(control.engine.compact_next()?)).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => tracing::warn!(%error, "layers were not merged"),
                }
            }
        }
    }

    /// One line in the log for each library of the server that calls what branches do not know.
    async fn tell_of_libraries(self: &Arc<Self>) {
        let looked = self
            .blocking(|control| {
                let memory = control.settings.home.join("run/libraries.json");
                Ok(libraries::news(&control.server, &memory))
            })
            .await;
        match looked {
            Ok(Ok(findings)) => {
                for finding in findings {
                    tracing::warn!(
                        library = %finding.library.display(),
                        functions = finding.functions.join(", "),
                        "this library calls file functions that branches do not support; \
                         do not let it call them on a branch's data directory"
                    );
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the server's libraries could not be checked"),
            Err(error) => tracing::error!(%error, "the server's libraries could not be checked"),
        }
    }

    /// Waits for the next round; false once the daemon ends.
    async fn pause(&self) -> bool {
        let _ = tokio::time::timeout(self.settings.round, self.watch.wake.notified()).await;
        !self.watch.is_stopped()
    }

    /// One round. Public for tests, which move the clock and then want it seen.
    ///
    /// # Errors
    /// The first failure; the other steps are done all the same.
    pub async fn round(self: &Arc<Self>) -> Result<(), Error> {
        let trusted = self.clock_is_trusted();
        let mut outcomes = vec![("creates", self.finish_creates().await)];
        if trusted {
            outcomes.push(("expiry", self.reap().await));
            outcomes.push(("purges", self.purge().await));
            outcomes.push(("tokens and keys", self.maintain_tokens().await));
        }
        outcomes.push(("deletes", self.finish_deletes().await));
        outcomes.push(("endpoints", self.open_missing_endpoints().await));
        outcomes.push(("old operations", self.prune_operations().await));
        let mut first = Ok(());
        for (step, outcome) in outcomes {
            if let Err(error) = outcome {
                tracing::error!(step, %error, "a step of reconciliation failed");
                self.metrics.count_error("reconcile");
                first = first.and(Err(error));
            }
        }
        first
    }

    fn clock_is_trusted(&self) -> bool {
        let mut clocks = self.watch.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.trusted(self.clock.now(), self.clock.steady())
    }

    async fn prune_operations(self: &Arc<Self>) -> Result<(), Error> {
        self.blocking(|control| {
            let horizon = control.clock.now().checked_sub(OPERATION_HISTORY).unwrap_or(Timestamp::UNIX_EPOCH);
            control.db.write(|tx| operations::prune(tx, horizon))
        })
        .await
    }

    async fn maintain_tokens(self: &Arc<Self>) -> Result<(), Error> {
        self.blocking(|control| {
            control.prune_tokens()?;
            control.signing.maintain(&control.db, control.clock.now())
        })
        .await
    }

    /// Removes files that no row asks for. Only at start, when nothing else runs.
    async fn sweep(self: &Arc<Self>) -> Result<(), Error> {
        self.blocking(|control| {
            let on_disk: HashSet<String> =
                control.engine.keys()?.into_iter().map(|key| key.as_str().to_owned()).collect();
            let with_keys: HashSet<String> = control.keys.branches()?.into_iter().collect();
            let known = control.db.read(branches::all_uids)?;
            for uid in on_disk.union(&with_keys).filter(|uid| !known.contains(*uid)) {
                tracing::warn!(branch = uid, "removing data that belongs to no branch");
                control.undo_branch_files(uid)?;
            }
            Ok(())
        })
        .await
    }

    /// Finishes or undoes what an earlier daemon began to make.
    async fn finish_creates(self: &Arc<Self>) -> Result<(), Error> {
        let rows =
            self.blocking(|control| control.db.read(|c| branches::in_state(c, State::Creating))).await?;
        for branch in rows {
            let owner = if branch.source.is_some() { branch.uid.clone() } else { branch.project.clone() };
            let Some(claim) = self.claim(&owner) else { continue };
            let (control, is_root) = (Arc::clone(self), branch.source.is_none());
            let finish = async move {
                let _claim = claim;
                let uid = branch.uid.clone();
                if let Err(error) = control.finish_create(branch).await {
                    tracing::error!(branch = uid, %error, "a branch that is half made could not be finished or taken back; it will be tried again");
                }
            };
            // Making a project may wait for room on the host; nothing else is to wait with it.
            if is_root {
                tokio::spawn(finish);
            } else {
                finish.await;
            }
        }
        Ok(())
    }

    async fn finish_create(self: &Arc<Self>, branch: Branch) -> Result<(), Error> {
        let uid = branch.uid.clone();
        // Between reading the rows and the claim, whoever was making it may have finished.
        let current = self
            .blocking(move |control| {
                control.db.read(|c| {
                    let Some(branch) = branches::by_uid(c, &uid)? else { return Ok(None) };
                    let project = projects::by_uid(c, &branch.project)?;
                    Ok(project.map(|project| (project, branch)))
                })
            })
            .await?;
        let Some((project, branch)) = current.filter(|(_, branch)| branch.state == State::Creating) else {
            return Ok(());
        };
        if branch.source.is_none() {
            return self.make_project(&project, &branch).await;
        }
        self.close_endpoints(&branch.uid).await?;
        self.blocking(move |control| {
            // The caller was never answered, so the moment of the cut it asked for is gone. What
            // is half made is taken back.
            let outcome = Outcome::Failed {
                code: "ABORTED".to_owned(),
                message: "the daemon ended while the branch was being made; create it again".to_owned(),
            };
            control.undo_branch(&branch, &outcome)
        })
        .await
    }

    /// Deletes branches whose time is up.
    async fn reap(self: &Arc<Self>) -> Result<(), Error> {
        let expired = self
            .blocking(|control| {
                control.db.write(|tx| {
                    let now = control.clock.now();
                    let rows = branches::expired(tx, now)?;
                    for branch in &rows {
                        control.mark_deleted(tx, branch.clone(), now, false, Some("expired"))?;
                        let project =
                            projects::by_uid(tx, &branch.project)?.map_or_else(String::new, |p| p.id);
                        let target = format!("projects/{project}/branches/{}", branch.id);
                        control.note(tx, &Principal::daemon(), "branch.expire", &target, "done", "")?;
                    }
                    Ok(rows)
                })
            })
            .await?;
        for branch in expired {
            tracing::info!(branch = branch.uid, name = branch.id, "branch expired");
            self.retire_or_log(&branch.uid).await;
        }
        Ok(())
    }

    /// Frees the data of branches whose grace time is over.
    async fn purge(self: &Arc<Self>) -> Result<(), Error> {
        let due =
            self.blocking(|control| control.db.read(|c| branches::purgeable(c, control.clock.now()))).await?;
        // Children before parents: a parent's layers come free only after those that stand on them.
        for branch in due.into_iter().rev() {
            self.retire_or_log(&branch.uid).await;
        }
        let gone = self
            .blocking(|control| {
                control.db.read(|c| {
                    let rows = projects::list(c, true)?;
                    Ok(rows.into_iter().filter(|project| project.state == State::Deleted).collect::<Vec<_>>())
                })
            })
            .await?;
        for project in gone {
            self.finish_delete(project.uid).await?;
        }
        Ok(())
    }

    /// Stops what still runs of deleted branches. Only at start: an earlier daemon may have died between
    /// the row and the deed, and where a branch expired, or went with its parent, no operation tells.
    async fn stop_deleted(self: &Arc<Self>) -> Result<(), Error> {
        let rows = self
            .blocking(|control| {
                let alive = control.engine.with_processes()?;
                let mut rows = control.db.read(|c| branches::in_state(c, State::Deleted))?;
                rows.retain(|branch| {
                    key_of(&branch.uid)
                        .is_ok_and(|key| alive.contains(&key) || control.engine.may_have_run(&key))
                });
                Ok(rows)
            })
            .await?;
        for branch in rows.into_iter().rev() {
            if let Err(error) = self.stop_deleted_branch(&branch.uid).await {
                tracing::error!(branch = branch.uid, %error, "the compute of a deleted branch did not stop");
            }
        }
        Ok(())
    }

    /// Ends deletes that an earlier daemon, or an error, left unfinished.
    async fn finish_deletes(self: &Arc<Self>) -> Result<(), Error> {
        let running = self.blocking(|control| control.db.read(operations::all_running)).await?;
        // Changes inside a branch are carried out by whoever asked, or not at all.
        let ours = |operation: &Operation| operation.verb == Verb::Delete && !is_catalog(operation.kind);
        for operation in running.into_iter().filter(ours) {
            let Some(_claim) = self.claim(&operation.uid) else { continue };
            self.finish_one_delete(operation).await?;
        }
        Ok(())
    }

    async fn finish_one_delete(self: &Arc<Self>, operation: Operation) -> Result<(), Error> {
        let target = operation.target.clone();
        let doomed = self
            .blocking(move |control| {
                control.db.read(|c| {
                    let rows = match operation.kind {
                        Kind::Project => branches::list(c, &operation.target, true)?,
                        _ => branches::by_uid(c, &operation.target)?.into_iter().collect(),
                    };
                    Ok(rows.into_iter().filter(|row| row.state == State::Deleted).collect::<Vec<_>>())
                })
            })
            .await?;
        for branch in doomed.into_iter().rev() {
            if !self.retire_or_log(&branch.uid).await {
                return Ok(());
            }
        }
        self.finish_delete(target).await
    }

    async fn retire_or_log(self: &Arc<Self>, branch: &str) -> bool {
        match self.retire_branch(branch).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(branch, %error, "a deleted branch could not be ended; it will be tried again");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn time_going_by_is_believed() {
        let mut clocks = Clocks::default();
        assert!(clocks.trusted(at(0), Duration::ZERO));
        assert!(clocks.trusted(at(10), Duration::from_secs(10)));
        assert!(clocks.trusted(at(100_029), Duration::from_secs(100_000)));
    }

    #[test]
    fn a_jump_is_believed_only_after_a_while() {
        for jump in [-86_400, 86_400] {
            let mut clocks = Clocks::default();
            assert!(clocks.trusted(at(0), Duration::ZERO));
            assert!(!clocks.trusted(at(jump + 2), Duration::from_secs(2)), "a jump was believed at once");
            assert!(!clocks.trusted(at(jump + 121), Duration::from_secs(121)));
            assert!(clocks.trusted(at(jump + 122), Duration::from_secs(122)));
        }
    }

    #[test]
    fn a_jump_and_back_leaves_nothing_expired() {
        let mut clocks = Clocks::default();
        assert!(clocks.trusted(at(0), Duration::ZERO));
        assert!(!clocks.trusted(at(1_000_000), Duration::from_secs(2)));
        assert!(!clocks.trusted(at(4), Duration::from_secs(4)));
        assert!(clocks.trusted(at(124), Duration::from_secs(124)));
    }

    #[cfg(debug_assertions)]
    #[test]
    fn planted_trust_in_a_clock_that_jumps() {
        let test = "reconcile::tests::a_jump_is_believed_only_after_a_while";
        compute::fault::must_be_noticed(Fault::ClockBelieved, test, "a jump was believed at once");
    }
}
