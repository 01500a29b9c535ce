//! Control groups of version 2, below a group that was delegated to us (systemd: `Delegate=yes`).
//!
//! A group with controllers for its children may hold no process itself, so the daemon moves to one
//! beside those of the computes: `daemon` and `computes/<name>`.

use std::fs::File;
use std::io::Result;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use super::mounts::Hierarchy;
use super::{Limits, Load, PERIOD, counter, door, make, quota, write, write_if_there};
use crate::os::User;

/// Name of the daemon's own group; systemd puts it there itself with `DelegateSubgroup=daemon`.
const DAEMON: &str = "daemon";
const COMPUTES: &str = "computes";

/// The group of all computes.
#[derive(Clone)]
pub(super) struct Tree {
    computes: PathBuf,
}

impl Tree {
    /// Sets the tree up; none where no group with processors was delegated, or other processes than
    /// this one live in it.
    pub fn prepare(hierarchies: &[Hierarchy], user: Option<&User>) -> Option<Tree> {
        let own = hierarchies.iter().find(|tree| tree.controllers.is_empty())?;
        let settled = own.own.ends_with(DAEMON);
        let base = if settled { own.own.parent()?.to_owned() } else { own.own.clone() };
        let delegated = Hierarchy { own: base.clone(), ..own.clone() };
        // The topmost group of a whole machine belongs to its service manager.
        if !delegated.is_ours(user) || (own.is_top && !settled && !is_container_root(&base)) {
            return None;
        }
        let offered = std::fs::read_to_string(base.join("cgroup.controllers")).ok()?;
        if !offered.split_whitespace().any(|controller| controller == "cpu") {
            return None;
        }
        set_up(&base, settled, &offered, user).ok().map(|computes| Tree { computes })
    }

    pub fn make(&self, name: &str, limits: &Limits) -> Result<File> {
        make(&self.computes.join(name))?;
        self.set(name, limits)?;
        door(&self.computes.join(name))
    }

    pub fn set(&self, name: &str, limits: &Limits) -> Result<()> {
        let dir = self.computes.join(name);
        match quota(limits, PERIOD) {
            Some(quota) => write(&dir, "cpu.max", format!("{quota} {PERIOD}"))?,
            None => write(&dir, "cpu.max", format!("max {PERIOD}"))?,
        }
        write(&dir, "cpu.weight", limits.weight.clamp(1, 10_000))?;
        // High and not max: a compute that grows is slowed, not killed.
        write_if_there(&dir, "memory.high", limits.memory)?;
        write_if_there(&dir, "io.weight", format!("default {}", limits.weight.clamp(1, 10_000)))
    }

    pub fn load(&self, name: &str) -> Option<Load> {
        let stat = std::fs::read_to_string(self.computes.join(name).join("cpu.stat")).ok()?;
        Some(Load {
            used_us: counter(&stat, "usage_usec"),
            periods: counter(&stat, "nr_periods"),
            throttled: counter(&stat, "nr_throttled"),
        })
    }

    pub fn remove(&self, name: &str) {
        // One with a process left in it stays.
        let _ = std::fs::remove_dir(self.computes.join(name));
    }
}

/// The topmost group that a container sees has a type; that of a whole machine has none.
fn is_container_root(base: &Path) -> bool {
    base.join("cgroup.type").exists()
}

fn set_up(base: &Path, settled: bool, offered: &str, user: Option<&User>) -> Result<PathBuf> {
    let computes = base.join(COMPUTES);
    make(&computes)?;
    if !settled {
        let daemon = base.join(DAEMON);
        make(&daemon)?;
        let inside = std::fs::read_to_string(base.join("cgroup.procs"))?;
        let me = std::process::id().to_string();
        if inside.split_whitespace().any(|pid| pid != me) {
            let _ = std::fs::remove_dir(&daemon);
            let _ = std::fs::remove_dir(&computes);
            return Err(std::io::Error::other("other processes live in this group"));
        }
        write(&daemon, "cgroup.procs", &me)?;
    }
    for dir in [base, &computes] {
        for controller in ["cpu", "memory", "io"] {
            if offered.split_whitespace().any(|name| name == controller) {
                let enabled = write(dir, "cgroup.subtree_control", format!("+{controller}"));
                // The processors are what we are here for; the others are welcome.
                if controller == "cpu" {
                    enabled?;
                }
            }
        }
    }
    if let Some(user) = user {
        // To move a process, one must write in the group that holds both its old and its new one.
        for path in [base.join("cgroup.procs"), computes.clone(), computes.join("cgroup.procs")] {
            chown(path, Some(user.uid), Some(user.gid))?;
        }
    }
    for entry in std::fs::read_dir(&computes)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    Ok(computes)
}
