//! Who may start next, and who has to go for it. Pure: no clock, no process, no lock.
//!
//! Strictly first come, first served: nobody overtakes the head of the queue, so nobody starves. The
//! price is that a large compute at the head holds back small ones behind it for a while.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// What this host can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Memory for all computes together, bytes.
    pub memory: u64,
    /// Computes that start (or stop for others) at once.
    pub starts: usize,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start this one; [`Queue::started`] or [`Queue::gone`] follows.
    Start(String),
    /// Suspend this one if it is still idle; [`Queue::gone`] or [`Queue::kept`] follows.
    Suspend(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Awake,
    Stopping,
}

#[derive(Debug)]
struct Compute {
    phase: Phase,
    cost: u64,
    /// Not asked to go before this moment: it was found in use.
    not_before: Duration,
}

/// The computes that take room, and those that wait for some.
#[derive(Debug)]
pub struct Queue {
    bounds: Bounds,
    computes: BTreeMap<String, Compute>,
    tickets: VecDeque<String>,
    wanted: HashMap<String, u64>,
}

impl Queue {
    /// Nothing runs, nobody waits.
    pub fn new(bounds: Bounds) -> Queue {
        Queue { bounds, computes: BTreeMap::new(), tickets: VecDeque::new(), wanted: HashMap::new() }
    }

    /// The host carries more or less from now on. What runs stays until it is idle.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// What the host carries.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Puts a compute that takes `cost` bytes at the end of the queue; it keeps an earlier place.
    pub fn request(&mut self, id: &str, cost: u64) {
        self.computes.remove(id);
        if self.wanted.insert(id.to_owned(), cost).is_none() {
            self.tickets.push_back(id.to_owned());
        }
    }

    /// Nobody waits for it any more.
    pub fn withdraw(&mut self, id: &str) {
        if self.wanted.remove(id).is_some() {
            self.tickets.retain(|other| other != id);
        }
    }

    /// A compute that runs without having asked, e.g. since before the daemon.
    pub fn adopt(&mut self, id: &str, cost: u64) {
        self.withdraw(id);
        let compute = Compute { phase: Phase::Awake, cost, not_before: Duration::ZERO };
        self.computes.insert(id.to_owned(), compute);
    }

    /// It runs now.
    pub fn started(&mut self, id: &str) {
        if let Some(compute) = self.computes.get_mut(id) {
            compute.phase = Phase::Awake;
        }
    }

    /// It does not run (any more).
    pub fn gone(&mut self, id: &str) {
        self.computes.remove(id);
    }

    /// It is in use after all, and is not asked to go again before `until`.
    pub fn kept(&mut self, id: &str, until: Duration) {
        if let Some(compute) = self.computes.get_mut(id) {
            compute.phase = Phase::Awake;
            compute.not_before = until;
        }
    }

    /// What it takes was measured anew.
    pub fn set_cost(&mut self, id: &str, cost: u64) {
        if let Some(compute) = self.computes.get_mut(id) {
            compute.cost = cost;
        }
    }

    /// Bytes taken by all that run, start or stop.
    pub fn used(&self) -> u64 {
        self.computes.values().map(|compute| compute.cost).sum()
    }

    /// Computes that take room.
    pub fn len(&self) -> usize {
        self.computes.len()
    }

    /// Computes that wait.
    pub fn waiting(&self) -> usize {
        self.tickets.len()
    }

    /// What to do now. `idle` says how long a compute has been idle, or nothing where it may not be
    /// suspended.
    pub fn plan(&mut self, now: Duration, idle: impl Fn(&str) -> Option<Duration>) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(id) = self.startable() {
            self.tickets.pop_front();
            let cost = self.wanted.remove(&id).unwrap_or_default();
            let compute = Compute { phase: Phase::Starting, cost, not_before: Duration::ZERO };
            self.computes.insert(id.clone(), compute);
            actions.push(Action::Start(id));
        }
        let mut missing = self.missing();
        while missing > 0 && self.count(Phase::Stopping) < self.bounds.starts {
            let Some(victim) = self.longest_idle(now, &idle) else { break };
            if let Some(compute) = self.computes.get_mut(&victim) {
                compute.phase = Phase::Stopping;
                missing = missing.saturating_sub(compute.cost.max(1));
            }
            actions.push(Action::Suspend(victim));
        }
        actions
    }

    /// The head of the queue, where there is room for it.
    fn startable(&self) -> Option<String> {
        let head = self.tickets.front()?;
        let fits = self.used() + self.cost_of(head) <= self.bounds.memory || self.computes.is_empty();
        (fits && self.count(Phase::Starting) < self.bounds.starts).then(|| head.clone())
    }

    /// What a waiting compute takes. One that alone is too large for the host waits for all of it.
    fn cost_of(&self, id: &str) -> u64 {
        self.wanted.get(id).copied().unwrap_or_default().min(self.bounds.memory)
    }

    /// Bytes that must become free, beside those that are on their way, for as many of those that
    /// wait as may start at once; or because the host carries less than it did.
    fn missing(&self) -> u64 {
        let staying: u64 = self
            .computes
            .values()
            .filter(|other| other.phase != Phase::Stopping)
            .map(|other| other.cost)
            .sum();
        let wanted: u64 = self.tickets.iter().take(self.bounds.starts).map(|id| self.cost_of(id)).sum();
        (staying + wanted.min(self.bounds.memory)).saturating_sub(self.bounds.memory)
    }

    fn longest_idle(&self, now: Duration, idle: &impl Fn(&str) -> Option<Duration>) -> Option<String> {
        let candidates = self
            .computes
            .iter()
            .filter(|(_, compute)| compute.phase == Phase::Awake && compute.not_before <= now);
        let longest = candidates.filter_map(|(id, _)| Some((idle(id)?, id))).max_by_key(|(idle, _)| *idle);
        longest.map(|(_, id)| id.clone())
    }

    fn count(&self, phase: Phase) -> usize {
        self.computes.values().filter(|compute| compute.phase == phase).count()
    }
}

#[cfg(test)]
mod tests;
