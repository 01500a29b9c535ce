//! Background work and removal.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::PoisonError;

use store::layer::directory_name;

use super::home::{Context, Engine, seal_layer};
use super::{BranchKey, ComputeState, Error, StopMode, Usage};

impl Engine {
    /// Kills what runs, drops the branch's references, frees layers nothing references.
    /// Children keep their data. No error if the branch is gone already.
    ///
    /// # Errors
    /// When a process does not end or the disk says no; a repeated call goes on.
    pub fn delete(&self, key: &BranchKey) -> Result<(), Error> {
        let lock = self.lock(key);
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.directory(key).exists() {
            return Ok(());
        }
        self.stop_locked(key, StopMode::Kill)?;
        // A segment that somebody still has attached is not ours to remove, and no reason to stop.
        let _ = crate::process::remove_stale_shared_memory(&self.data_directory(key));
        self.remove_cache_directory(key);
        let _ = fs::remove_dir_all(self.socket_dir(key));
        self.home.remove(key.as_str()).context(|| format!("could not remove branch {key}"))
    }

    /// Space used by the branch.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn usage(&self, key: &BranchKey) -> Result<Usage, Error> {
        self.must_exist(key)?;
        let manifest = self
            .home
            .manifest(key.as_str())
            .context(|| format!("could not read the manifest of branch {key}"))?;
        let references = self.home.reference_counts();
        let mut usage = Usage { own_bytes: disk_usage(&self.directory(key)), shared_bytes: 0 };
        for entry in &manifest.entries {
            let bytes = disk_usage(
                &self.home.layers_path().join(directory_name(entry.layer).to_string_lossy().as_ref()),
            );
            if references.get(&entry.layer).is_none_or(|count| *count <= 1) {
                usage.own_bytes += bytes;
            } else {
                usage.shared_bytes += bytes;
            }
        }
        Ok(usage)
    }

    /// One round of background work: sync and index sealed layers, free what was dropped, remove
    /// WAL that nothing needs. Called by the daemon every few seconds.
    ///
    /// # Errors
    /// The first failure; the other branches are served all the same.
    pub fn maintain(&self) -> Result<(), Error> {
        let mut first = Ok(());
        for key in self.keys()? {
            let done = self.maintain_branch(&key);
            if let (Ok(()), Err(error)) = (&first, done) {
                first = Err(error);
            }
        }
        first
    }

    fn maintain_branch(&self, key: &BranchKey) -> Result<(), Error> {
        let lock = self.lock(key);
        // A cut or start in progress comes first; the next round finds this branch again.
        let Ok(_guard) = lock.try_lock() else { return Ok(()) };
        if !self.exists(key) {
            return Ok(());
        }
        let running = matches!(self.state(key)?, ComputeState::Running { .. });
        let manifest = self
            .home
            .manifest(key.as_str())
            .context(|| format!("could not read the manifest of branch {key}"))?;
        let sealed = manifest.entries.len().saturating_sub(if running { 2 } else { 1 });
        for entry in &manifest.entries[..sealed] {
            self.seal(entry.layer)
                .context(|| format!("branch {key}: could not seal layer {:x}", entry.layer))?;
        }
        for entry in &manifest.entries {
            let trash = self
                .home
                .layers_path()
                .join(directory_name(entry.layer).to_string_lossy().as_ref())
                .join("trash");
            if trash.exists() {
                empty(&trash);
            }
        }
        if running { self.prune_wal(key) } else { Ok(()) }
    }

    fn seal(&self, layer: u64) -> store::Result<()> {
        let directory = self.home.layers_path().join(directory_name(layer).to_string_lossy().as_ref());
        if directory.join("index").exists() {
            return Ok(());
        }
        let _one = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        seal_layer(self.home.layers(), layer)
    }

    /// Removes WAL segments older than the last redo location and every slot's restart location.
    /// PostgreSQL itself keeps all (`wal_keep_size`): only we know what a cut still needs.
    fn prune_wal(&self, key: &BranchKey) -> Result<(), Error> {
        let size = self.record(key)?.wal_segment_size;
        let mut keep = self.control_file(key)?.redo_lsn.0;
        let data = self.data_directory(key);
        for lsn in slot_positions(&data.join("pg_replslot")) {
            keep = keep.min(lsn);
        }
        let pg_wal = data.join("pg_wal");
        let what = || format!("could not list {}", pg_wal.display());
        for entry in fs::read_dir(&pg_wal).context(what)? {
            let entry = entry.context(what)?;
            let name = [b"pg_wal/", entry.file_name().as_encoded_bytes()].concat();
            let old = pgdata::class::wal_segment(&name, size).is_some_and(|segment| segment < keep / size);
            if old {
                fs::remove_file(entry.path())
                    .context(|| format!("could not remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }
}

/// Restart locations of replication slots, from their state files (`ReplicationSlotOnDisk` in
/// PostgreSQL's `slot.c`: 16 bytes of head, name 64, database, persistency, xmin, catalog xmin 4
/// each, then the location).
fn slot_positions(directory: &Path) -> Vec<u64> {
    let Ok(slots) = fs::read_dir(directory) else { return Vec::new() };
    let position = |slot: fs::DirEntry| {
        let bytes = fs::read(slot.path().join("state")).ok()?;
        bytes.get(96..104)?.try_into().ok().map(u64::from_le_bytes)
    };
    // A slot that does not read back keeps everything; 0 is a slot that reserves nothing yet.
    slots.flatten().map(|slot| position(slot).unwrap_or(0)).collect()
}

fn empty(trash: &Path) {
    let Ok(files) = fs::read_dir(trash) else { return };
    for file in files.flatten() {
        let _ = fs::remove_file(file.path());
    }
}

/// Disk space of a tree, bytes.
fn disk_usage(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir()
        && let Ok(entries) = fs::read_dir(path)
    {
        bytes += entries.flatten().map(|entry| disk_usage(&entry.path())).sum::<u64>();
    }
    bytes
}
