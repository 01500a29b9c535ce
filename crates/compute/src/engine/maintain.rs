//! Background work and removal.

use std::collections::BTreeSet;
use std::fs;
use std::sync::PoisonError;

use store::moment::{Moment, reached};

use super::home::{Context, Engine, seal_layer};
use super::{BranchKey, Error, StopMode};
use crate::guarded::Pinned;

/// What is looked up at most once in a round of maintenance.
#[derive(Default)]
pub(super) struct Round {
    /// Branches that have processes.
    pub alive: Option<Result<BTreeSet<BranchKey>, Error>>,
}

impl Engine {
    /// Kills what runs, drops the branch's references, frees layers nothing references.
    /// Children keep their data. No error if the branch is gone already.
    ///
    /// # Errors
    /// When a process does not end or the disk says no; a repeated call goes on.
    pub fn delete(&self, key: &BranchKey) -> Result<(), Error> {
        let lock = self.lock(key);
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = || self.home.remove(key.as_str()).context(|| format!("could not remove branch {key}"));
        if !self.directory(key).exists() {
            self.forget(key);
            return removed();
        }
        self.stop_locked(key, StopMode::Kill)?;
        reached(Moment::ComputeEnded);
        // A segment that somebody still has attached is not ours to remove, and no reason to stop.
        let _ = crate::process::remove_left_shared_memory(&self.data_directory(key));
        self.remove_cache_directory(key);
        self.remove_placement(key);
        let _ = fs::remove_dir_all(self.socket_dir(key));
        self.forget_damage(key);
        reached(Moment::MemoryFreed);
        let parent = self.record(key).ok().and_then(|record| BranchKey::new(record.parent?).ok());
        removed()?;
        // What it shared with its parent may be the parent's alone now.
        parent.iter().for_each(|parent| self.may_compact(parent));
        self.forget(key);
        Ok(())
    }

    /// One round of background work: sync and index sealed layers, free what was dropped, remove
    /// WAL that nothing needs. Called by the daemon every few seconds; branches at rest cost nothing.
    ///
    /// # Errors
    /// The first failure; the other branches are served all the same.
    pub fn maintain(&self) -> Result<(), Error> {
        let (mut first, mut round) = (Ok(()), Round::default());
        self.check_some();
        for (key, change) in self.attention.list() {
            match self.maintain_branch(&key) {
                // Whoever has more to do for a branch at rest calls attention to it meanwhile.
                // What is damaged may be put right at any time.
                Ok(()) if self.damage(&key).is_none() && self.is_at_rest(&key, &mut round) => {
                    self.attention.rests(&key, change);
                }
                Ok(()) => {}
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    /// How many branches the next round looks at: those that run, and those that changed since a round left
    /// them at rest.
    pub fn branches_to_look_at(&self) -> usize {
        self.attention.list().len()
    }

    fn maintain_branch(&self, key: &BranchKey) -> Result<(), Error> {
        match self.check(key) {
            Ok(()) => {}
            // Told when it was found; the others go on.
            Err(Error::Damaged(_) | Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        let read = || format!("could not read the manifest of branch {key}");
        let running = self.postmaster(key)?.is_some();
        let manifest = match self.home.manifest(key.as_str()) {
            Ok(manifest) => manifest,
            // Removed since the list was made.
            Err(store::Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno).context(read),
        };
        // A cut that was given up may have left an empty layer above the one that is written to.
        let sealed = manifest.entries.len().saturating_sub(if running { 2 } else { 1 });
        for entry in &manifest.entries[..sealed] {
            match self.seal(key, entry.layer) {
                Ok(()) | Err(store::Errno::NOENT) => {}
                Err(errno) => {
                    let what = || format!("branch {key}: could not seal layer {:x}", entry.layer);
                    return Err(errno).context(what);
                }
            }
        }
        for entry in &manifest.entries {
            // The branch's own processes may write there: no links.
            let layer = Pinned::open(&self.home.layer_path(entry.layer));
            if let Ok(trash) = layer.and_then(|layer| Pinned::open(&layer.path().join("trash"))) {
                trash.empty();
            }
        }
        let lock = self.lock(key);
        // A cut or start in progress comes first; the next round finds this branch again.
        let Ok(_guard) = lock.try_lock() else { return Ok(()) };
        if !running || !self.exists(key) {
            return Ok(());
        }
        let mark = self.gate(key)?.header().stream_mark.load(std::sync::atomic::Ordering::Acquire);
        self.tend_wal(key, mark)
    }

    pub(super) fn seal(&self, key: &BranchKey, layer: u64) -> store::Result<()> {
        if self.home.layer_path(layer).join("index").exists() {
            return Ok(());
        }
        let _one = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        seal_layer(self.home.layers(), layer)?;
        self.may_compact(key);
        Ok(())
    }
}
