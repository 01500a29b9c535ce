//! Branches held still for a backup.
//!
//! A branch is captured by making a child of it that nobody hears of. The child holds what the backup copies:
//! references to sealed layers, so that none of them goes meanwhile, the WAL up to the cut, and the
//! configuration. A daemon that dies leaves children that belong to nobody; the next one removes them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use pgdata::Lsn;
use pgdata::control_file::State;
use pgdata::wal::segment_name;
use sha2::{Digest, Sha256};
use store::home::Prepared;
use store::manifest::NAME;

use super::assemble::{Source, assemble};
use super::create::make_skeleton;
use super::cut::copy_settings;
use super::durable::Batch;
use super::home::{Context, Engine};
use super::usage::disk_usage;
use super::{BranchKey, ComputeState, CutInfo, Error};
use crate::backup::{LayerName, Sum, Writer, write_layer};

/// How long a branch that cannot be cut at the moment (it is starting, say) is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// A captured branch.
#[derive(Debug, Clone)]
pub struct Held {
    /// Moment of the cut.
    pub info: CutInfo,
    /// Its sealed layers, lowest first.
    pub layers: Vec<LayerName>,
    /// The same for two captures of one branch between which nothing was written.
    pub fingerprint: String,
}

impl Engine {
    /// Cuts `key` and holds the cut as the branch `held`, until that is deleted. What a cut of a branch at
    /// rest needs is there already where nothing was written since the last one: its layers stay as they are.
    ///
    /// # Errors
    /// As [`Engine::create_child`].
    pub fn capture(&self, key: &BranchKey, held: &BranchKey) -> Result<CutInfo, Error> {
        let begin = Instant::now();
        loop {
            match self.try_capture(key, held) {
                Err(Error::Refused(..)) if begin.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                other => return other,
            }
        }
    }

    fn try_capture(&self, key: &BranchKey, held: &BranchKey) -> Result<CutInfo, Error> {
        let lock = self.lock(key);
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.check(key)?;
        self.hold_layers(held);
        let new = self.home.branch_path(&format!("{held}{}", store::home::NEW));
        let made = match self.untouched(key)? {
            Some(prepared) => self.copy_cut(key, held, &new, &prepared),
            None => {
                self.recover_first(key)?;
                let recorded = self.record(key)?.parent;
                self.cut_into(key, held, &new, recorded)
            }
        };
        if made.is_err() {
            // Best effort: the next start of the daemon sweeps what is left.
            let _ = fs::remove_dir_all(&new);
        }
        made
    }

    /// A branch that was never started is the cut that it was made from.
    fn untouched(&self, key: &BranchKey) -> Result<Option<Prepared>, Error> {
        let started = self.directory(key).join("gate").exists();
        if started || self.state(key)? != ComputeState::Stopped {
            return Ok(None);
        }
        self.rebuild_layers(key)?;
        if self.control_file(key)?.state == State::ShutDown {
            return Ok(None);
        }
        self.unused_top(key)
    }

    fn copy_cut(
        &self,
        key: &BranchKey,
        held: &BranchKey,
        new: &Path,
        prepared: &Prepared,
    ) -> Result<CutInfo, Error> {
        let record = self.record(key)?;
        make_skeleton(new)?;
        let source = Source {
            segments: &self.segments(key)?,
            timeline: record.timeline,
            segment_size: record.wal_segment_size,
            redo: Lsn(record.redo_lsn),
            tail: None,
        };
        let mut batch = Batch::default();
        assemble(&source, Lsn(record.end_lsn), new, &mut batch)?;
        copy_settings(&self.data_directory(key), &new.join("pgdata"), &mut batch)?;
        let manifest = self
            .home
            .child_manifest(prepared, record.encode()?)
            .context(|| format!("could not make the layer of branch {held}"))?;
        self.publish_child(held, new, &manifest, &self.recorded_server(key)?, batch)?;
        Ok(record.info())
    }

    /// What a captured branch consists of. Its layers are synced and indexed on return.
    ///
    /// # Errors
    /// It cannot be read, or the disk refused a sync.
    pub fn held(&self, held: &BranchKey) -> Result<Held, Error> {
        let manifest = self.manifest(held)?;
        let record = self.record(held)?;
        let mut layers = Vec::new();
        let mut said = Sha256::new();
        for entry in &manifest.entries[..manifest.entries.len() - 1] {
            let what = || format!("could not seal layer {:x}", entry.layer);
            self.seal(held, entry.layer).context(what)?;
            let name = LayerName::of(&self.home.layers_path(), entry.layer).context(what)?;
            said.update(format!("{} {name}\n", entry.slot));
            layers.push(name);
        }
        let lasting = super::record::CutRecord { time_us: 0, closed_us: 0, drain_us: 0, ..record.clone() };
        said.update(lasting.encode()?);
        for (name, bytes) in self.settings_of(held)? {
            said.update(format!("\n{name} {}\n", bytes.len()));
            said.update(&bytes);
        }
        let fingerprint = said.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Held { info: record.info(), layers, fingerprint })
    }

    /// Configuration files of a captured branch, by name.
    fn settings_of(&self, held: &BranchKey) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let data = self.data_directory(held);
        let what = || format!("could not read the configuration in {}", data.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&data).context(what)? {
            let name = entry.context(what)?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".conf") {
                let bytes = fs::read(data.join(&name)).context(what)?;
                files.push((name, bytes));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Disk space of a layer of a captured branch, bytes.
    pub fn layer_bytes(&self, name: LayerName) -> u64 {
        disk_usage(&self.home.layer_path(name.id))
    }

    /// Writes a layer of a captured branch as a pack.
    ///
    /// # Errors
    /// The layer is damaged, or cannot be read or written.
    pub fn pack_layer(&self, name: LayerName, out: impl Write) -> Result<Sum, Error> {
        write_layer(&self.home.layers_path(), name, out)
            .context(|| format!("could not copy layer {:x}", name.id))
    }

    /// Writes what a captured branch has beside its layers as a pack: WAL, configuration, records.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn pack_branch(&self, held: &BranchKey, out: impl Write) -> Result<Sum, Error> {
        let what = || format!("could not copy branch {held}");
        let record = self.record(held)?;
        let directory = self.directory(held);
        let mut writer = Writer::new(out).context(what)?;
        for name in ["server", NAME.to_str().unwrap_or_default()] {
            let bytes = fs::read(directory.join(name)).context(what)?;
            writer.bytes(name.as_bytes(), 0o600, &bytes).context(what)?;
        }
        for (name, bytes) in self.settings_of(held)? {
            writer.bytes(format!("pgdata/{name}").as_bytes(), 0o600, &bytes).context(what)?;
        }
        let (segments, size) = (self.segments(held)?, record.wal_segment_size);
        let last = record.end_lsn.saturating_sub(1).max(record.redo_lsn) / size;
        for number in record.redo_lsn / size..=last {
            let name = segment_name(record.timeline, number, size);
            let what = || format!("could not copy WAL segment {name}");
            let segment = segments.open(&name).context(what)?;
            let path = format!("pgdata/pg_wal/{name}");
            writer.file(path.as_bytes(), 0o600, size, &segment, &[(0, size)]).context(what)?;
        }
        Ok(writer.finish().context(what)?.1)
    }
}
