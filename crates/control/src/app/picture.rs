//! What runs: every branch with its compute.

use std::collections::HashMap;
use std::time::Duration;

use compute::engine::ComputeState;
use jiff::Timestamp;

use super::{Control, key_of};
use crate::computes::Phase;
use crate::db::{branches, endpoints, projects};
use crate::error::Error;
use crate::model::{Address, Branch, Endpoint, State};

/// One branch in the status.
#[derive(Debug, Clone)]
pub struct ComputeLine {
    /// Identity of the branch.
    pub uid: String,
    /// Identifier of the project.
    pub project: String,
    /// Identifier of the branch.
    pub branch: String,
    /// Identifier of the branch it left from, where that lives on.
    pub parent: Option<String>,
    /// What the compute does: `asleep`, `waiting`, `starting`, `awake`, `suspending`.
    pub state: &'static str,
    /// Whether it may not wake.
    pub disabled: bool,
    /// Process id of the postmaster, while it runs.
    pub pid: Option<i32>,
    /// Where clients connect.
    pub address: Option<Address>,
    /// When it was last in use.
    pub last_active: Option<Timestamp>,
    /// Open connections.
    pub connections: usize,
    /// Connections that wait for it to wake.
    pub waiting: usize,
    /// Its size now, in compute units; none while it does not run, or runs outside its group.
    pub cu: Option<f64>,
    /// The range of its size.
    pub cu_range: (f64, f64),
    /// Memory it was found to take, bytes.
    pub memory: Option<u64>,
    /// How long nobody has used it, while it runs. Sessions are looked at only when the time is
    /// nearly over, so this is an upper bound.
    pub idle: Option<Duration>,
    /// When it is suspended, if nothing happens; none where it never is, or does not run.
    pub suspends_in: Option<Duration>,
    /// What kept it from being suspended when its time was over.
    pub kept_by: Option<&'static str>,
}

impl Control {
    /// Number of projects, and a line for each branch that can be used.
    pub(super) fn picture(&self) -> Result<(usize, Vec<ComputeLine>), Error> {
        let (count, rows) = self.db.read(|c| {
            let mut rows = Vec::new();
            let endpoints = endpoints::of_ready_branches(c)?;
            // Collected backwards, so that of several the first one stays.
            let mut endpoints: HashMap<String, Endpoint> =
                endpoints.into_iter().rev().map(|endpoint| (endpoint.branch.clone(), endpoint)).collect();
            let all = projects::list(c, false)?;
            for project in &all {
                for branch in branches::list(c, &project.uid, false)? {
                    let endpoint = endpoints.remove(&branch.uid);
                    rows.extend(endpoint.map(|endpoint| (project.id.clone(), branch, endpoint)));
                }
            }
            Ok((all.len(), rows))
        })?;
        let usable = rows.into_iter().filter(|(_, branch, _)| branch.state == State::Ready);
        let lines = usable.map(|(project, branch, endpoint)| self.compute_line(project, branch, endpoint));
        Ok((count, lines.collect::<Result<_, _>>()?))
    }

    fn compute_line(
        &self,
        project: String,
        branch: Branch,
        endpoint: Endpoint,
    ) -> Result<ComputeLine, Error> {
        let key = key_of(&branch.uid)?;
        let pid = match self.engine.glance(&key)? {
            ComputeState::Running { pid } => Some(pid),
            ComputeState::Stopped | ComputeState::Orphans { .. } => None,
        };
        // Where groups hold computes, one outside of them has no size, whatever was meant for it.
        let held = !self.engine.means().is_enforced() || pid.is_some() && self.engine.load(&key).is_some();
        // What nobody has wanted yet is not remembered for being looked at.
        let slot = self.computes.known(&branch.uid).unwrap_or_else(|| self.computes.unknown());
        let idle = slot.idle_for();
        let limit =
            endpoint.compute.suspend_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let waiting = slot.waiting();
        let notes = slot.notes();
        // Processes are what counts; what we did only tells more of them.
        let phase = match (pid, notes.phase) {
            (None, Phase::Awake | Phase::Suspending) => Phase::Asleep,
            (Some(_), Phase::Asleep) => Phase::Awake,
            (_, phase) => phase,
        };
        let awake = phase == Phase::Awake;
        Ok(ComputeLine {
            uid: branch.uid,
            project,
            branch: branch.id,
            parent: branch.source.filter(|source| source.fate.is_none()).map(|source| source.branch_id),
            state: phase.as_str(),
            disabled: endpoint.disabled,
            pid,
            address: endpoint.address,
            last_active: notes.active.map(|moment| moment.wall),
            connections: slot.connections().saturating_sub(waiting),
            waiting,
            cu: notes.pace.filter(|_| pid.is_some() && held).map(|pace| pace.cu()),
            cu_range: (endpoint.compute.min_cu, endpoint.compute.max_cu),
            memory: notes.memory.filter(|_| pid.is_some()),
            idle: awake.then_some(idle),
            suspends_in: limit.filter(|_| awake).map(|limit| limit.saturating_sub(idle)),
            kept_by: notes.kept_by.filter(|_| awake),
        })
    }
}
