//! What a compute may take, and what it takes.

use std::sync::PoisonError;

use super::home::Engine;
use super::{BranchKey, Error};
use crate::limits::{Limiter, Limits, Load, Means, Placement};
use crate::process;

impl Engine {
    /// Says by what means computes are held to their limits. To be called once, before the first
    /// start; until then there are none.
    pub fn limit_with(&self, limiter: Limiter) {
        if self.limiter.set(limiter).is_err() {
            tracing::warn!("the means to limit computes were chosen already");
        }
    }

    /// By what means computes are held to their limits.
    pub fn means(&self) -> Means {
        self.limiter.get().map_or(Means::Priorities, Limiter::means)
    }

    /// Sets what the compute may take: at once where it runs, and at every later start.
    ///
    /// # Errors
    /// The system refuses the change.
    pub fn resize(&self, key: &BranchKey, limits: Limits) -> Result<(), Error> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), limits);
        let Some(limiter) = self.limiter.get() else { return Ok(()) };
        if self.postmaster(key)?.is_none() {
            return Ok(());
        }
        let processes = || {
            let all = process::processes_of(&self.data_directory(key)).unwrap_or_default();
            all.into_iter().map(|process| process.pid).collect()
        };
        limiter.change(key.as_str(), &limits, processes).map_err(|source| Error::Io {
            what: format!("could not resize the compute of branch {key}"),
            source,
        })
    }

    /// What the compute has used of the processors since its start; none where nobody counts.
    pub fn load(&self, key: &BranchKey) -> Option<Load> {
        self.limiter.get()?.load(key.as_str())
    }

    /// Memory that the compute takes, its share of what it has in common with others included, bytes;
    /// none where it does not run. Costs about as much as it has pages.
    ///
    /// # Errors
    /// The process table cannot be read.
    pub fn memory(&self, key: &BranchKey) -> Result<Option<u64>, Error> {
        Ok(self.postmaster(key)?.map(process::memory_of))
    }

    pub(super) fn placement(&self, key: &BranchKey) -> Placement {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied();
        match (self.limiter.get(), limits) {
            (Some(limiter), Some(limits)) => limiter.place(key.as_str(), &limits),
            _ => Placement::default(),
        }
    }

    pub(super) fn forget_limits(&self, key: &BranchKey) {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    pub(super) fn remove_placement(&self, key: &BranchKey) {
        if let Some(limiter) = self.limiter.get() {
            limiter.remove(key.as_str());
        }
    }
}
