//! Can a branch be used at all? Its manifest and the parts of its layers are there and read back.
//!
//! Asked before anything is started or cut, and in the background; content is [`super::scrub`]'s matter.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use store::Errno;
use store::layer::LayerId;
use store::manifest::Manifest;
use store::verify::{self, Defect};

use super::home::{Context, Engine};
use super::record::CutRecord;
use super::{BranchKey, Error};
use crate::fault::{Fault, planted};

/// What to do, at the end of each text.
const NEXT: &str = "put it back from a copy, or delete the branch";

/// So many branches are looked at in a round of maintenance: 10,000 within minutes, a few at once.
const CHECKED_AT_ONCE: usize = 32;

/// What is known of the state of branches and layers.
#[derive(Default)]
pub(super) struct Health {
    damaged: Mutex<HashMap<BranchKey, String>>,
    /// Branches that were looked at since the home was opened.
    seen: Mutex<HashSet<BranchKey>>,
    /// Those that have yet to be looked at in this turn.
    turn: Mutex<Vec<BranchKey>>,
    /// Indexes that were verified, as they were then: they never change.
    verified: Mutex<HashMap<LayerId, Stamp>>,
}

/// Inode, size and time of a file.
type Stamp = (u64, u64, i64, i64);

impl Engine {
    /// Looks whether everything that the branch stands on is there and reads back, content aside.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the branch and the file; it is remembered for [`Engine::damage`].
    pub fn check(&self, key: &BranchKey) -> Result<(), Error> {
        let mut checked = self.inspect(key);
        // Removed while we looked: what is missing then says nothing.
        if checked.is_err() && !self.directory(key).exists() {
            checked = Err(Error::NotFound(key.to_string()));
        }
        self.seen_by_check().insert(key.clone());
        let mut damaged = self.damaged();
        match &checked {
            Err(Error::Damaged(text)) => {
                if damaged.insert(key.clone(), text.clone()).as_ref() != Some(text) {
                    tracing::error!(branch = %key, error = text, "a branch is damaged");
                }
            }
            Ok(()) => {
                if damaged.remove(key).is_some() {
                    tracing::info!(branch = %key, "a branch that was damaged is whole again");
                }
            }
            Err(_) => {
                damaged.remove(key);
            }
        }
        checked
    }

    /// What was wrong with the branch when it was last looked at; none where it can be used.
    pub fn damage(&self, key: &BranchKey) -> Option<String> {
        let first = !self.seen_by_check().contains(key);
        if first {
            // Told below, and in the log.
            let _ = self.check(key);
        }
        self.damaged().get(key).cloned()
    }

    /// Looks at a few more branches, at rest or not; over time at all.
    pub(super) fn check_some(&self) {
        let next = {
            let mut turn = self.health.turn.lock().unwrap_or_else(PoisonError::into_inner);
            if turn.is_empty() {
                *turn = self.keys().unwrap_or_default();
            }
            let rest = turn.len().saturating_sub(CHECKED_AT_ONCE);
            turn.split_off(rest)
        };
        // What is wrong is remembered and told in the log.
        next.iter().for_each(|key| drop(self.check(key)));
    }

    fn seen_by_check(&self) -> MutexGuard<'_, HashSet<BranchKey>> {
        self.health.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget_damage(&self, key: &BranchKey) {
        self.seen_by_check().remove(key);
        self.damaged().remove(key);
    }

    fn damaged(&self) -> MutexGuard<'_, HashMap<BranchKey, String>> {
        self.health.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inspect(&self, key: &BranchKey) -> Result<(), Error> {
        if !self.directory(key).exists() {
            return Err(Error::NotFound(key.to_string()));
        }
        if planted(Fault::DamageOverlooked) {
            return Ok(());
        }
        loop {
            let manifest = self.manifest(key)?;
            CutRecord::decode(key.as_str(), &manifest.note)?;
            let checked = manifest.entries.iter().try_for_each(|entry| self.check_layer(key, entry.layer));
            // Layers that were merged meanwhile are gone.
            if checked.is_ok() || self.manifest(key)? == manifest {
                return checked;
            }
        }
    }

    /// The manifest of a branch that is there.
    pub(super) fn manifest(&self, key: &BranchKey) -> Result<Manifest, Error> {
        let path = self.directory(key).join("manifest");
        let wrong = |what: &str| {
            Err(Error::Damaged(format!("branch {key}: its manifest {} {what}; {NEXT}", path.display())))
        };
        match self.home.manifest(key.as_str()) {
            Err(Errno::DAMAGED) => wrong("is damaged or of another version"),
            Err(Errno::NOENT) if self.directory(key).exists() => wrong("is missing"),
            other => other.context(|| format!("could not read the manifest of branch {key}")),
        }
    }

    fn check_layer(&self, key: &BranchKey, layer: LayerId) -> Result<(), Error> {
        let stamp = self.index_stamp(layer);
        if let Some(stamp) = stamp
            && self.verified().get(&layer) == Some(&stamp)
            && self.home.layer_path(layer).join("f").is_dir()
        {
            return Ok(());
        }
        verify::usable(self.home.layers(), layer).map_err(|defect| {
            Error::Damaged(format!("branch {key}: {}; {NEXT}", self.told(layer, &defect)))
        })?;
        if let Some(stamp) = stamp {
            self.verified().insert(layer, stamp);
        }
        Ok(())
    }

    /// The defect of a layer with the path of its file.
    pub(super) fn told(&self, layer: LayerId, defect: &Defect) -> String {
        let path = self.defect_path(layer, defect);
        let block = defect.block.map(|block| format!(" block {block}")).unwrap_or_default();
        let noun = if defect.file.is_some() { "" } else { "its layer " };
        format!("{noun}{}{block} {}", path.display(), defect.what)
    }

    /// Where the file of a defect lies.
    pub(super) fn defect_path(&self, layer: LayerId, defect: &Defect) -> std::path::PathBuf {
        let directory = self.home.layer_path(layer);
        match &defect.file {
            Some(file) if defect.of_data => directory.join("f").join(file),
            Some(file) => directory.join(file),
            None => directory,
        }
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<LayerId, Stamp>> {
        self.health.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_stamp(&self, layer: LayerId) -> Option<Stamp> {
        let index = fs::symlink_metadata(self.home.layer_path(layer).join("index")).ok()?;
        Some((index.ino(), index.size(), index.mtime(), index.mtime_nsec()))
    }
}
