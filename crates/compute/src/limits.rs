//! What a compute may take of the machine: processors, memory, disk.
//!
//! By control groups where the system gives us some ([`v2`] where they were delegated to us, [`v1`]
//! where that is what there is), so that a size is a size; otherwise by priorities ([`priority`]),
//! which only say who goes first. Both are changed while the compute runs.

mod mounts;
mod priority;
mod v1;
mod v2;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::os::{self, User};

/// What one compute may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Processors, e.g. 0.5 for half of one.
    pub cpus: f64,
    /// Memory above which the kernel takes back what it can, bytes.
    pub memory: u64,
    /// Share of processor and disk when there is not enough for all: 100 is that of an ordinary
    /// compute, from 1 to 10,000.
    pub weight: u32,
}

/// What holds computes to their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Control groups, version 2.
    GroupsV2,
    /// Control groups, version 1: processors and disk.
    GroupsV1,
    /// Priorities: no limit, only who goes first.
    Priorities,
}

impl Means {
    /// The word in a status.
    pub fn as_str(self) -> &'static str {
        match self {
            Means::GroupsV2 => "cgroup v2",
            Means::GroupsV1 => "cgroup v1",
            Means::Priorities => "advisory",
        }
    }

    /// Whether a limit is one, and not just advice.
    pub fn is_enforced(self) -> bool {
        self != Means::Priorities
    }
}

/// What a compute has used of the processors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Processor time, microseconds.
    pub used_us: u64,
    /// Periods in which it ran.
    pub periods: u64,
    /// Of these, periods in which it was held back.
    pub throttled: u64,
}

/// Where a process joins its groups, and with what priority it runs, from its first instruction on.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    groups: Arc<Vec<File>>,
    niceness: Option<i32>,
}

impl Placement {
    /// Places what the command starts. Where that fails the command starts all the same: a limit is
    /// not worth a compute.
    pub fn apply(&self, command: &mut Command) {
        if !self.groups.is_empty() || self.niceness.is_some() {
            os::place(command, Arc::clone(&self.groups), self.niceness);
        }
    }
}

#[derive(Clone)]
enum Groups {
    V2(v2::Tree),
    V1(v1::Trees),
    None,
}

/// Holds the computes of one home to their limits.
#[derive(Clone)]
pub struct Limiter {
    groups: Groups,
}

impl Limiter {
    /// Finds out what this process can use, and sets it up for the home. For root before it becomes
    /// `user`, and before any thread is started; an ordinary user passes none.
    pub fn prepare(home: &Path, user: Option<&User>) -> Limiter {
        Limiter::prepare_below(Path::new("/"), &group_name(home), user)
    }

    /// Priorities alone.
    pub fn priorities() -> Limiter {
        Limiter { groups: Groups::None }
    }

    fn prepare_below(root: &Path, name: &str, user: Option<&User>) -> Limiter {
        let Some(mounts) = mounts::read(root) else { return Limiter::priorities() };
        let groups = match v2::Tree::prepare(&mounts, user) {
            Some(tree) => Groups::V2(tree),
            None => v1::Trees::prepare(&mounts, name, user).map_or(Groups::None, Groups::V1),
        };
        Limiter { groups }
    }

    /// What holds computes to their limits here.
    pub fn means(&self) -> Means {
        match self.groups {
            Groups::V2(_) => Means::GroupsV2,
            Groups::V1(_) => Means::GroupsV1,
            Groups::None => Means::Priorities,
        }
    }

    /// Makes a place with these limits for the compute `name`.
    pub fn place(&self, name: &str, limits: &Limits) -> Placement {
        let made = match &self.groups {
            Groups::V2(tree) => tree.make(name, limits).map(|group| vec![group]),
            Groups::V1(trees) => trees.make(name, limits),
            Groups::None => Ok(Vec::new()),
        };
        let groups = made.unwrap_or_else(|error| {
            tracing::warn!(compute = name, %error, "no control group for a compute; it runs without limits");
            Vec::new()
        });
        let niceness = groups.is_empty().then(|| priority::niceness(limits.weight));
        Placement { groups: Arc::new(groups), niceness }
    }

    /// Changes the limits of a compute that runs. `processes` are its processes, asked for only
    /// where they are needed.
    ///
    /// # Errors
    /// The system said no.
    pub fn change(
        &self,
        name: &str,
        limits: &Limits,
        processes: impl FnOnce() -> Vec<i32>,
    ) -> std::io::Result<()> {
        match &self.groups {
            Groups::V2(tree) => tree.set(name, limits),
            Groups::V1(trees) => trees.set(name, limits),
            Groups::None => {
                processes().into_iter().for_each(|pid| priority::set(pid, limits.weight));
                Ok(())
            }
        }
    }

    /// What the compute has used since its start; none where nobody counts.
    pub fn load(&self, name: &str) -> Option<Load> {
        match &self.groups {
            Groups::V2(tree) => tree.load(name),
            Groups::V1(trees) => trees.load(name),
            Groups::None => None,
        }
    }

    /// Removes the place of a compute that has ended. One that is still held goes with the next call.
    pub fn remove(&self, name: &str) {
        match &self.groups {
            Groups::V2(tree) => tree.remove(name),
            Groups::V1(trees) => trees.remove(name),
            Groups::None => {}
        }
    }
}

/// Name of the control groups of a home.
pub fn group_name(home: &Path) -> String {
    // Links are resolved, so that two ways to write one home lead to one name.
    let home = home.canonicalize().unwrap_or_else(|_| home.to_owned());
    format!("anabranch-{:016x}", store::path::fnv1a(home.as_os_str().as_encoded_bytes()))
}

/// Removes the control groups of a home of which nothing runs any more, where this process may.
pub fn remove_groups(home: &Path) {
    remove_groups_below(Path::new("/"), &group_name(home));
}

fn remove_groups_below(root: &Path, name: &str) {
    for tree in mounts::read(root).into_iter().flatten() {
        // One with a process or group left in it stays.
        let _ = std::fs::remove_dir(tree.own.join(name));
    }
}

/// Writes a value into a file of a control group.
fn write(dir: &Path, file: &str, value: impl std::fmt::Display) -> std::io::Result<()> {
    let path = dir.join(file);
    let failed =
        |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    std::fs::write(&path, value.to_string()).map_err(failed)
}

/// As [`write`], where the kernel has such a file.
fn write_if_there(dir: &Path, file: &str, value: impl std::fmt::Display) -> std::io::Result<()> {
    if dir.join(file).exists() { write(dir, file, value) } else { Ok(()) }
}

/// Opens the file through which a process joins a group.
fn door(dir: &Path) -> std::io::Result<File> {
    File::options().write(true).open(dir.join("cgroup.procs"))
}

fn make(dir: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A number of a file such as `cpu.stat`: lines of a name and a value.
fn counter(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}

/// Processor time of a period that the limits allow, microseconds; none where they allow all that
/// the machine has.
fn quota(limits: &Limits, period: u64) -> Option<u64> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // The kernel takes no less than a millisecond.
    (limits.cpus < processors as f64).then(|| ((limits.cpus * period as f64) as u64).max(1000))
}

/// The period over which processor time is counted, microseconds.
const PERIOD: u64 = 100_000;

#[cfg(test)]
mod tests;
