//! Which branches there is something to do for: those whose compute runs, and those that were changed since a
//! round of maintenance found them at rest. All others cost nothing, however many there are.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::BranchKey;
use super::home::Engine;
use super::maintain::Round;

/// Branches to look at, each with the number of the change that was told last.
#[derive(Default)]
pub(super) struct Attention {
    branches: Mutex<State>,
}

#[derive(Default)]
struct State {
    told: HashMap<BranchKey, u64>,
    changes: u64,
}

impl Attention {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.branches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changes in the branch, or has just changed.
    pub fn call(&self, key: &BranchKey) {
        let mut state = self.lock();
        state.changes += 1;
        let change = state.changes;
        match state.told.get_mut(key) {
            Some(told) => *told = change,
            None => {
                state.told.insert(key.clone(), change);
            }
        }
    }

    /// All branches to look at, each with its last change.
    pub fn list(&self) -> Vec<(BranchKey, u64)> {
        self.lock().told.iter().map(|(key, change)| (key.clone(), *change)).collect()
    }

    /// The branch is at rest, as seen after `change`: if that is the last one still, it is left alone now.
    pub fn rests(&self, key: &BranchKey, change: u64) {
        let mut state = self.lock();
        if state.told.get(key) == Some(&change) {
            state.told.remove(key);
            // What was reserved for a crowd that has gone is given back.
            if state.told.capacity() > 4 * state.told.len().max(64) {
                state.told.shrink_to_fit();
            }
        }
    }

    /// The last change of a branch; none where it is at rest.
    pub fn change_of(&self, key: &BranchKey) -> Option<u64> {
        self.lock().told.get(key).copied()
    }

    /// Forgets a branch that is gone.
    pub fn forget(&self, key: &BranchKey) {
        self.lock().told.remove(key);
    }
}

impl Engine {
    /// Whether nothing of the branch changes any more until somebody says so. For a branch for which all
    /// background work was done.
    pub(super) fn is_at_rest(&self, key: &BranchKey, round: &mut Round) -> bool {
        if !self.exists(key) {
            return true;
        }
        // A server that ended in order has removed it, after all its processes.
        if !self.has_pid_file(key) {
            return true;
        }
        let alive = round.alive.get_or_insert_with(|| self.with_processes());
        alive.as_ref().is_ok_and(|alive: &BTreeSet<BranchKey>| !alive.contains(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_looked_at_until_it_rests_and_no_change_is_missed() {
        let attention = Attention::default();
        let [a, b] = ["br-a", "br-b"].map(|name| BranchKey::new(name).unwrap());
        attention.call(&a);
        attention.call(&b);
        let seen: HashMap<_, _> = attention.list().into_iter().collect();
        assert_eq!(seen.len(), 2);
        attention.call(&a);
        attention.rests(&a, seen[&a]);
        attention.rests(&b, seen[&b]);
        let now = attention.list();
        assert_eq!(now.len(), 1, "{now:?}");
        assert_eq!(now[0].0, a, "changed while it was being looked at");
        assert_eq!((attention.change_of(&a), attention.change_of(&b)), (Some(now[0].1), None));
        attention.rests(&a, now[0].1);
        assert!(attention.list().is_empty());
        attention.rests(&a, 0);
    }
}
