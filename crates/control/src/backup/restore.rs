//! Reading a backup: checking it, and making a home of it. No daemon is needed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use compute::backup::{LayerName, Sum, restore_branch, restore_layer, sum_of, unpack};
use compute::platform;
use jiff::Timestamp;
use rusqlite::Connection;

use super::write::{make_directory, sync_directory};
use super::{BackupFile, Manifest, layer_of, lock};
use crate::app::key_of;
use crate::db::audit;
use crate::error::{Error, Refusal};
use crate::model::{AuditEntry, Principal};

/// Where a home is put together, inside it, before it becomes one.
const BESIDE: &str = ".restoring";
/// What a fresh disk may have in its topmost directory.
const USUAL: &str = "lost+found";
const BUFFER: usize = 1 << 20;

/// Checks every file of the backup in `dir`. `progress` gets bytes done and bytes in all.
///
/// # Errors
/// There is no backup, or files are missing or damaged: they are named.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Manifest, Error> {
    // What is no backup is not locked.
    Manifest::read(dir)?;
    let _lock = lock(dir, false)?;
    let manifest = Manifest::read(dir)?;
    let mut reading = Reading { dir, done: 0, total: manifest.bytes(), progress };
    let mut bad = Vec::new();
    for file in &manifest.files {
        match reading.open(file).and_then(|from| {
            sum_of(from).map_err(|source| Error::io(format!("cannot read {}", file.name), source))
        }) {
            Ok(sum) if file.is(sum) => {}
            Ok(_) => bad.push(file.name.clone()),
            Err(error) => bad.push(error.to_string()),
        }
    }
    if bad.is_empty() {
        return Ok(manifest);
    }
    let text = format!("{} of {} files are damaged or missing: ", bad.len(), manifest.files.len());
    Err(Error::refused(Refusal::BadRequest, text + &bad.join(", "))
        .with_hint("remove the damaged files and back up again: what the home still has is copied anew"))
}

/// Makes a home of the backup in `dir`. The home must not be there yet, or be empty. Everything is checked;
/// where something is damaged there is no home afterwards. `progress` as for [`verify`].
///
/// # Errors
/// The backup is damaged, the home is not empty or lies on a file system that does not do, or a disk said no.
pub fn restore(
    dir: &Path,
    home: &Path,
    now: Timestamp,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, Error> {
    Manifest::read(dir)?;
    let _lock = lock(dir, false)?;
    let manifest = Manifest::read(dir)?;
    for file in &manifest.files {
        let size = fs::metadata(dir.join(&file.name)).map(|facts| facts.len());
        if size.as_ref().ok() != Some(&file.size) {
            return Err(damaged(dir, &file.name));
        }
    }
    let failed = |source| Error::io(format!("cannot use {}", home.display()), source);
    let was_there = home.exists();
    if was_there && !is_empty(home).map_err(failed)? {
        return Err(Error::refused(Refusal::BadRequest, format!("{} is not empty", home.display()))
            .with_hint("a backup is restored into a new home: choose another directory with --home"));
    }
    make_directory(home).map_err(failed)?;
    let made = restore_checked(dir, home, &manifest, now, progress);
    if made.is_err() {
        // Best effort: the next restore removes what is left.
        let _ = fs::remove_dir_all(home.join(BESIDE));
        if !was_there {
            let _ = fs::remove_dir(home);
        }
    }
    made.map(|()| manifest)
}

fn restore_checked(
    dir: &Path,
    home: &Path,
    manifest: &Manifest,
    now: Timestamp,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let failed = |source| Error::io(format!("cannot write in {}", home.display()), source);
    let held = File::open(home).map_err(failed)?;
    if held.try_lock().is_err() {
        return Err(Error::refused(
            Refusal::Busy,
            format!("another command restores into {}", home.display()),
        ));
    }
    platform::check(home).map_err(|unsupported| {
        Error::refused(Refusal::BadRequest, unsupported.to_string()).with_hint(unsupported.hint())
    })?;
    let beside = home.join(BESIDE);
    if beside.exists() {
        fs::remove_dir_all(&beside).map_err(failed)?;
    }
    for name in ["layers", "branches"] {
        make_directory(&beside.join(name)).map_err(failed)?;
    }
    let mut reading = Reading { dir, done: 0, total: manifest.bytes(), progress };
    let mut layers = BTreeSet::new();
    for file in &manifest.files {
        if let Some(name) = layer_of(&file.name) {
            reading.unpack(file, &beside, |from| restore_layer(&beside, name, from))?;
            layers.insert(name);
        }
    }
    // Numbers of layers and of groups of layers that nothing has yet.
    let highest = layers.iter().map(|name| (name.id >> 32).max(name.id & u64::from(u32::MAX))).max();
    let free = highest.unwrap_or(0) as u32 + 1;
    for (own, branch) in (free..).zip(&manifest.branches) {
        let file = manifest.file(&branch.pack).ok_or_else(|| damaged(dir, &branch.pack))?;
        let missing = branch
            .layers
            .iter()
            .find(|text| LayerName::parse(text).is_none_or(|name| !layers.contains(&name)));
        if let Some(missing) = missing {
            return Err(damaged(dir, missing));
        }
        let key = key_of(&branch.uid)?;
        reading.unpack(file, &beside, |from| restore_branch(&beside, &key, own, from))?;
    }
    let file = manifest.file(&manifest.home).ok_or_else(|| damaged(dir, &manifest.home))?;
    reading.unpack(file, &beside, |from| unpack(from, &beside))?;
    note(&beside.join("meta.db"), dir, manifest, now)?;
    let whole = File::open(&beside).map_err(failed)?;
    // Everything at once: there may be thousands of files.
    compute::os::sync_file_system(&whole).map_err(failed)?;
    // The rows last: without them a daemon takes no branch for one that it knows.
    for name in ["layers", "branches", "keys", "meta.db"] {
        fs::rename(beside.join(name), home.join(name)).map_err(failed)?;
        sync_directory(home).map_err(failed)?;
    }
    fs::remove_dir(&beside).map_err(failed)?;
    if let Some(parent) = home.parent() {
        sync_directory(parent).map_err(failed)?;
    }
    Ok(())
}

fn note(rows: &Path, dir: &Path, manifest: &Manifest, now: Timestamp) -> Result<(), Error> {
    let connection = Connection::open(rows)?;
    let entry = AuditEntry {
        time: now,
        principal: Principal::daemon(),
        action: "backup.restore".to_owned(),
        target: dir.display().to_string(),
        result: "done".to_owned(),
        detail: format!("number {} of {}", manifest.number, manifest.end_time),
    };
    audit::append(&connection, &entry)?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

fn is_empty(home: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(home)? {
        let name = entry?.file_name();
        if name != BESIDE && name != USUAL {
            return Ok(false);
        }
    }
    Ok(true)
}

fn damaged(dir: &Path, name: &str) -> Error {
    Error::refused(Refusal::BadRequest, format!("{} is damaged or missing", dir.join(name).display()))
        .with_hint("see what else is with: ana backup verify DIR; restore from another backup")
}

/// Files of a backup as they are read.
struct Reading<'a> {
    dir: &'a Path,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Reading<'_> {
    fn path(&self, file: &BackupFile) -> PathBuf {
        self.dir.join(&file.name)
    }

    fn open(&mut self, file: &BackupFile) -> Result<impl Read, Error> {
        let path = self.path(file);
        let opened = File::open(&path)
            .map_err(|source| Error::io(format!("cannot read {}", path.display()), source))?;
        Ok(Counted { from: BufReader::with_capacity(BUFFER, opened), reading: self })
    }

    /// Unpacks a file by `work`, which says what it read.
    fn unpack(
        &mut self,
        file: &BackupFile,
        home: &Path,
        work: impl FnOnce(&mut dyn Read) -> std::io::Result<Sum>,
    ) -> Result<(), Error> {
        let (dir, path) = (self.dir, self.path(file));
        let unpacked = work(&mut self.open(file)?);
        let source = match unpacked {
            Ok(sum) if file.is(sum) => return Ok(()),
            Ok(_) => return Err(damaged(dir, &file.name)),
            Err(source) => source,
        };
        // A damaged pack may ask for anything: what the disk said to that is not the cause.
        let sum = File::open(&path).and_then(|from| sum_of(BufReader::with_capacity(BUFFER, from)));
        if sum.is_ok_and(|sum| file.is(sum)) {
            Err(Error::io(format!("cannot restore {} in {}", file.name, home.display()), source))
        } else {
            Err(damaged(dir, &file.name))
        }
    }
}

/// Tells how far reading has come.
struct Counted<'a, 'b> {
    from: BufReader<File>,
    reading: &'a mut Reading<'b>,
}

impl Read for Counted<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        let before = self.reading.done / BUFFER as u64;
        self.reading.done += n as u64;
        if self.reading.done / BUFFER as u64 != before {
            (self.reading.progress)(self.reading.done, self.reading.total);
        }
        Ok(n)
    }
}
