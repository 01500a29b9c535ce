//! Control groups of version 1: one tree for each controller.
//!
//! Processors and disk only. Memory is left to the admission of computes: here its hard limit kills,
//! and its soft limit is a hint that the kernel may pass over.

use std::fs::File;
use std::io::Result;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use super::mounts::Hierarchy;
use super::{Limits, Load, PERIOD, counter, door, make, quota, write, write_if_there};
use crate::os::User;

/// The groups of one home, one in each tree.
#[derive(Clone)]
pub(super) struct Trees {
    cpu: PathBuf,
    /// In the tree of `cpu` or one of its own; none where it is not to be had.
    accounting: Option<PathBuf>,
    disk: Option<PathBuf>,
}

impl Trees {
    /// Makes the groups `name`; none where the processors cannot be limited. As root, they are given
    /// to `user`.
    pub fn prepare(hierarchies: &[Hierarchy], name: &str, user: Option<&User>) -> Option<Trees> {
        let group = |controller: &str| {
            let tree =
                hierarchies.iter().find(|tree| tree.controllers.iter().any(|own| own == controller))?;
            let dir = tree.is_ours(user).then(|| tree.own.join(name))?;
            prepare_group(&dir, user).ok().map(|()| dir)
        };
        let trees = Trees { cpu: group("cpu")?, accounting: group("cpuacct"), disk: group("blkio") };
        trees.cpu.join("cpu.cfs_quota_us").exists().then_some(trees)
    }

    fn dirs(&self) -> Vec<&PathBuf> {
        let mut dirs: Vec<&PathBuf> =
            std::iter::once(&self.cpu).chain(&self.accounting).chain(&self.disk).collect();
        dirs.dedup();
        dirs
    }

    pub fn make(&self, name: &str, limits: &Limits) -> Result<Vec<File>> {
        for dir in self.dirs() {
            make(&dir.join(name))?;
        }
        self.set(name, limits)?;
        self.dirs().into_iter().map(|dir| door(&dir.join(name))).collect()
    }

    pub fn set(&self, name: &str, limits: &Limits) -> Result<()> {
        let cpu = self.cpu.join(name);
        write(&cpu, "cpu.cfs_period_us", PERIOD)?;
        match quota(limits, PERIOD) {
            Some(quota) => write(&cpu, "cpu.cfs_quota_us", quota)?,
            None => write(&cpu, "cpu.cfs_quota_us", -1)?,
        }
        write(&cpu, "cpu.shares", u64::from(limits.weight) * 1024 / 100)?;
        match &self.disk {
            // Only some of the kernel's schedulers of the disk know weights.
            Some(disk) => {
                write_if_there(&disk.join(name), "blkio.bfq.weight", (limits.weight / 10).clamp(1, 1000))
            }
            None => Ok(()),
        }
    }

    pub fn load(&self, name: &str) -> Option<Load> {
        let used =
            std::fs::read_to_string(self.accounting.as_ref()?.join(name).join("cpuacct.usage")).ok()?;
        let stat = std::fs::read_to_string(self.cpu.join(name).join("cpu.stat")).ok()?;
        Some(Load {
            used_us: used.trim().parse::<u64>().ok()? / 1000,
            periods: counter(&stat, "nr_periods"),
            throttled: counter(&stat, "nr_throttled"),
        })
    }

    pub fn remove(&self, name: &str) {
        for dir in self.dirs() {
            // One with a process left in it stays.
            let _ = std::fs::remove_dir(dir.join(name));
        }
    }
}

fn prepare_group(dir: &Path, user: Option<&User>) -> Result<()> {
    make(dir)?;
    if let Some(user) = user {
        for path in [dir.to_owned(), dir.join("cgroup.procs"), dir.join("tasks")] {
            chown(path, Some(user.uid), Some(user.gid))?;
        }
    }
    // Groups of computes that ended while no daemon looked; one in use stays.
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    Ok(())
}
