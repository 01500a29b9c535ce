//! Giving running computes the size they should have.

use std::sync::Arc;
use std::time::Duration;

use compute::engine::ComputeState;
use compute::limits::Limits;

use super::pace::Pace;
use super::size::limits_of;
use super::slot::Phase;
use crate::app::{Control, key_of};
use crate::db::{branches, endpoints, projects};
use crate::error::Error;
use crate::model::{Branch, ComputeSettings, Endpoint, Project};

/// Memory is measured for so many computes a round: looking at all pages of all would be work.
const MEASURED_AT_ONCE: usize = 8;

/// How long a measurement holds.
const MEASURED_FOR: Duration = Duration::from_secs(30);

/// Beside what was measured, a compute may grow by this until the next look, bytes.
const HEADROOM: u64 = 16 << 20;

/// A branch that others are made from goes before them.
fn is_favoured(project: &Project, branch: &Branch) -> bool {
    branch.is_protected || project.default_branch == branch.uid
}

impl Control {
    /// The size of a compute that is about to start: the smallest of its range.
    pub(super) fn size_for_start(
        &self,
        project: &Project,
        branch: &Branch,
        compute: &ComputeSettings,
    ) -> Result<(), Error> {
        let pace = Pace::new(compute.min_cu);
        let limits = limits_of(pace.cu(), compute, is_favoured(project, branch));
        let slot = self.computes.slot(&branch.uid);
        let mut notes = slot.notes();
        (notes.pace, notes.limits) = (Some(pace), Some(limits));
        drop(notes);
        self.give(&branch.uid, limits)
    }

    /// To recover a branch before it is cut, the engine may have to start it: then with its size, too.
    pub(crate) fn size_before_cut(&self, branch: &str) -> Result<(), Error> {
        if self.engine.glance(&key_of(branch)?)? != ComputeState::Stopped {
            return Ok(());
        }
        match self.sized(branch)? {
            Some((project, row, endpoint)) => self.size_for_start(&project, &row, &endpoint.compute),
            None => Ok(()),
        }
    }

    /// What decides on the size of a compute; none where the branch is gone.
    fn sized(&self, branch: &str) -> Result<Option<(Project, Branch, Endpoint)>, Error> {
        self.db.read(|c| {
            let Some(row) = branches::by_uid(c, branch)? else { return Ok(None) };
            let endpoint = endpoints::list(c, branch)?.into_iter().next();
            Ok(projects::by_uid(c, &row.project)?
                .zip(endpoint)
                .map(|(project, endpoint)| (project, row, endpoint)))
        })
    }

    fn give(&self, branch: &str, limits: Limits) -> Result<(), Error> {
        Ok(self.engine.resize(&key_of(branch)?, limits)?)
    }

    /// Looks at what running computes use, and gives them the size that fits; a new range counts at
    /// once.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) async fn resize_computes(self: &Arc<Self>) -> Result<(), Error> {
        self.blocking(|control| {
            for (branch, slot) in control.computes.awake() {
                let outcome = control.resize_compute(&branch);
                let failed_before = std::mem::replace(&mut slot.notes().resize_failed, outcome.is_err());
                // Tried again in every round, told once: one that an earlier daemon started elsewhere
                // than in our groups stays there.
                if let (Err(error), false) = (outcome, failed_before) {
                    tracing::warn!(branch, %error, "a compute keeps its size");
                }
            }
            control.measure_memory()
        })
        .await
    }

    /// As [`Control::resize_computes`], for one.
    pub(crate) fn resize_compute(&self, branch: &str) -> Result<(), Error> {
        let Some((project, row, endpoint)) = self.sized(branch)? else { return Ok(()) };
        let (min, max) = (endpoint.compute.min_cu, endpoint.compute.max_cu);
        let load = self.engine.load(&key_of(branch)?);
        let slot = self.computes.slot(branch);
        let (pace, given) = {
            let notes = slot.notes();
            (notes.pace, notes.limits)
        };
        // One from before this daemon has some size; the smallest is given to it now.
        let mut pace = pace.unwrap_or_else(|| Pace::new(min));
        pace.fit(min, max);
        if let Some(load) = load {
            pace.look(self.clock.steady(), load, min, max);
        }
        let limits = limits_of(pace.cu(), &endpoint.compute, is_favoured(&project, &row));
        // Noted after it was given: a status shows what is, and what failed is tried again.
        if given != Some(limits) {
            self.give(branch, limits)?;
            tracing::info!(branch, cu = pace.cu(), "compute resized");
        }
        let mut notes = slot.notes();
        if notes.phase == Phase::Awake {
            (notes.pace, notes.limits) = (Some(pace), Some(limits));
        }
        Ok(())
    }

    /// Replaces guesses of what computes take by measurements, a few at a time.
    fn measure_memory(&self) -> Result<(), Error> {
        let now = self.clock.steady();
        let mut due = self.computes.awake();
        due.retain(|(_, slot)| {
            slot.notes().measured.is_none_or(|when| now.saturating_sub(when) >= MEASURED_FOR)
        });
        due.sort_by_key(|(_, slot)| slot.notes().measured);
        for (branch, slot) in due.into_iter().take(MEASURED_AT_ONCE) {
            let Some(bytes) = self.engine.memory(&key_of(&branch)?)? else { continue };
            let mut notes = slot.notes();
            (notes.measured, notes.memory) = (Some(now), Some(bytes));
            drop(notes);
            self.admission.set_cost(&branch, bytes + HEADROOM);
        }
        Ok(())
    }
}
