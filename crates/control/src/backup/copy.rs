//! Copying what a backup lacks, and the last step that makes it the backup.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;

use compute::backup::{LayerName, Sum, Writer, sum_of_whole};
use compute::engine::Engine;
use jiff::Timestamp;

use super::make::{BegunBackup, Captured, Captures};
use super::write::{Writing, sync_directory, write_file};
use super::{
    BRANCHES, BackedUpBranch, BackupFile, LAYERS, LOCK, MANIFEST, Manifest, PACK_END, PART_END, layer_file,
    layer_of,
};
use crate::error::Error;

/// The copying of one backup.
pub(super) struct Copying<'a> {
    begun: &'a BegunBackup,
    number: u64,
    engine: &'a Engine,
    progress: &'a mut dyn FnMut(u64, u64),
    stopped: &'a dyn Fn() -> bool,
    /// Every file of the new backup, by name.
    pub files: BTreeMap<String, BackupFile>,
    /// Layers that are to be copied.
    pub missing: Vec<LayerName>,
    pub layers: usize,
    pub branches_copied: usize,
    pub done: u64,
    total: u64,
}

impl<'a> Copying<'a> {
    pub fn new(
        begun: &'a BegunBackup,
        number: u64,
        engine: &'a Engine,
        captures: &Captures,
        progress: &'a mut dyn FnMut(u64, u64),
        stopped: &'a dyn Fn() -> bool,
    ) -> Result<Copying<'a>, Error> {
        let names: BTreeSet<LayerName> =
            captures.all.iter().flat_map(|one| one.held.layers.iter().copied()).collect();
        let (mut files, mut missing) = (BTreeMap::new(), Vec::new());
        for name in &names {
            match present(begun, &layer_file(*name))? {
                Some(file) => {
                    files.insert(file.name.clone(), file);
                }
                None => missing.push(*name),
            }
        }
        let total = missing.iter().map(|name| engine.layer_bytes(*name)).sum();
        let (layers, done, branches_copied) = (names.len(), 0, 0);
        Ok(Copying {
            begun,
            number,
            engine,
            progress,
            stopped,
            files,
            missing,
            layers,
            branches_copied,
            done,
            total,
        })
    }

    fn write(
        &mut self,
        name: String,
        work: impl FnOnce(&mut Writing<'_>) -> Result<Sum, Error>,
    ) -> Result<(), Error> {
        let (done, total) = (&mut self.done, self.total);
        let (progress, stopped) = (&mut *self.progress, self.stopped);
        let mut passed = |bytes| {
            *done += bytes;
            progress(*done, total.max(*done));
            if stopped() { Err(std::io::Error::other("the daemon ends")) } else { Ok(()) }
        };
        let path = self.begun.dir.join(&name);
        let failed = |source| Error::io(format!("cannot write {}", path.display()), source);
        let sum = write_file(&self.begun.dir, &name, &mut passed, |out| work(out).map_err(Failed::Work))
            .map_err(|error| match error {
                Failed::Work(error) => error,
                Failed::Disk(source) => failed(source),
            })?;
        self.files.insert(name.clone(), BackupFile::new(name, sum));
        Ok(())
    }

    pub fn layer(&mut self, name: LayerName) -> Result<(), Error> {
        let engine = self.engine;
        self.write(layer_file(name), |out| Ok(engine.pack_layer(name, out)?))
    }

    /// Takes over what the backup before has of a branch that did not change, or copies it.
    pub fn branch(&mut self, one: &Captured, project: &str) -> Result<BackedUpBranch, Error> {
        let before = self.begun.before.as_ref().and_then(|before| {
            before
                .branches
                .iter()
                .find(|other| other.uid == one.row.uid && other.fingerprint == one.held.fingerprint)
        });
        let before = match before {
            Some(before) => present(self.begun, &before.pack)?.map(|file| (before, file)),
            None => None,
        };
        let info = &one.held.info;
        let mut branch = BackedUpBranch {
            uid: one.row.uid.clone(),
            project: project.to_owned(),
            branch: one.row.id.clone(),
            state: one.row.state.as_str().to_owned(),
            lsn: info.end_lsn.to_string(),
            time: Timestamp::from_microsecond(info.time_us).unwrap_or_default().to_string(),
            pack: format!("{BRANCHES}/{}-{}{PACK_END}", one.row.uid, self.number),
            layers: one.held.layers.iter().map(LayerName::to_string).collect(),
            fingerprint: one.held.fingerprint.clone(),
        };
        if let Some((before, file)) = before {
            branch.pack = before.pack.clone();
            self.files.insert(file.name.clone(), file);
            return Ok(branch);
        }
        let engine = self.engine;
        self.write(branch.pack.clone(), |out| Ok(engine.pack_branch(&one.key, out)?))?;
        self.branches_copied += 1;
        Ok(branch)
    }

    /// The rows and the keys.
    pub fn home(
        &mut self,
        rows: &Path,
        keys: &BTreeMap<String, Vec<u8>>,
        kept: &[&str],
    ) -> Result<String, Error> {
        let name = format!("home-{}{PACK_END}", self.number);
        let belongs = |path: &str| {
            let uid = path.strip_prefix("keys/").and_then(|name| name.strip_suffix(".json"));
            uid.is_none_or(|uid| kept.contains(&uid))
        };
        self.write(name.clone(), |out| {
            let failed = |source| Error::io("cannot copy the metadata", source);
            let pack = || {
                let mut writer = Writer::new(out)?;
                writer.directory(b"keys")?;
                writer.directory(b"keys/signing")?;
                for (path, bytes) in keys.iter().filter(|(path, _)| belongs(path)) {
                    writer.bytes(path.as_bytes(), 0o600, bytes)?;
                }
                let file = File::open(rows)?;
                let length = file.metadata()?.len();
                writer.file(b"meta.db", 0o600, length, &file, &[(0, length)])?;
                Ok(writer.finish()?.1)
            };
            pack().map_err(failed)
        })?;
        Ok(name)
    }

    /// Makes this the backup, and removes what only earlier ones needed.
    pub fn publish(&mut self, manifest: &Manifest) -> Result<(), Error> {
        let dir = &self.begun.dir;
        let failed = |source| Error::io(format!("cannot write {}", dir.join(MANIFEST).display()), source);
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| Error::Internal(error.to_string()))?;
        let written = || {
            for directory in [dir.join(LAYERS), dir.join(BRANCHES), dir.clone()] {
                sync_directory(&directory)?;
            }
            write_file(dir, MANIFEST, &mut |_| Ok(()), |out| {
                std::io::Write::write_all(out, &text)?;
                Ok::<(), std::io::Error>(())
            })?;
            sync_directory(dir)
        };
        written().map_err(failed)?;
        for place in ["", LAYERS, BRANCHES] {
            for entry in fs::read_dir(dir.join(place)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = if place.is_empty() { name } else { format!("{place}/{name}") };
                let keep = [MANIFEST, LOCK].contains(&path.as_str()) || self.files.contains_key(&path);
                let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
                // What cannot be removed takes space, and the next backup tries again.
                if is_file && !keep && is_ours(&path) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        Ok(())
    }
}

/// Whether a file in the directory of a backup was made by one.
fn is_ours(path: &str) -> bool {
    let path = path.strip_suffix(PART_END).unwrap_or(path);
    let packed = path.ends_with(PACK_END) && (path.starts_with(BRANCHES) || path.starts_with("home-"));
    packed || layer_of(path).is_some() || path == MANIFEST
}

/// A file of an earlier backup, or of one that was cut short, if it is whole. Its name says what is in it.
fn present(begun: &BegunBackup, name: &str) -> Result<Option<BackupFile>, Error> {
    let path = begun.dir.join(name);
    let failed = |source| Error::io(format!("cannot read {}", path.display()), source);
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let known = begun.before.as_ref().and_then(|before| before.file(name));
    let Some(sum) = sum_of_whole(&file).map_err(failed)? else { return Ok(None) };
    let found = BackupFile::new(name.to_owned(), sum);
    Ok(Some(found).filter(|found| known.is_none_or(|known| known == found)))
}

enum Failed {
    Work(Error),
    Disk(std::io::Error),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Failed {
        Failed::Disk(error)
    }
}
