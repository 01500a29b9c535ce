//! Making a backup while everything runs.
//!
//! The order decides what fits together. First the rows, then the keys, then a cut of each branch: a branch
//! that is made meanwhile is not in the backup; one that goes meanwhile is taken out of the copied rows; and a
//! key file read before the cut opens whatever the cut holds, since keys are dropped only after the data has
//! others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use compute::engine::{BranchKey, Engine, Held};
use serde::Serialize;

use super::copy::Copying;
use super::write::make_directory;
use super::{BRANCHES, LAYERS, LOCK, MANIFEST, Manifest, VERSION, lock};
use crate::app::{Control, key_of};
use crate::db::{branches, projects, settings, snapshot};
use crate::error::{Error, Refusal};
use crate::model::{Branch, Principal, State};

/// Action in the audit log.
const ACTION: &str = "backup.create";

/// A backup that may begin: its directory is locked.
pub struct BegunBackup {
    pub(super) dir: PathBuf,
    principal: Principal,
    pub(super) before: Option<Manifest>,
    _lock: Option<File>,
    _turn: BackupTurn,
}

/// What a backup came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupReport {
    /// Number of the backup.
    pub number: u64,
    /// Branches in it.
    pub branches: usize,
    /// Of these, how many had changed since the backup before.
    pub branches_copied: usize,
    /// Layers in it.
    pub layers: usize,
    /// Of these, how many were not in the directory yet.
    pub layers_copied: usize,
    /// Bytes of the whole backup.
    pub bytes: u64,
    /// Bytes that were written for it now.
    pub bytes_copied: u64,
}

/// A branch that stands still for the backup.
pub(super) struct Captured {
    pub row: Branch,
    pub key: BranchKey,
    pub held: Held,
}

/// Captured branches, let go of when dropped.
pub(super) struct Captures {
    engine: Arc<Engine>,
    pub all: Vec<Captured>,
    /// One whose making may have been cut short.
    begun: Vec<BranchKey>,
}

impl Drop for Captures {
    fn drop(&mut self) {
        for key in &self.begun {
            if let Err(error) = self.engine.delete(key) {
                tracing::warn!(branch = %key, %error, "what a backup held is removed by the next daemon");
            }
        }
    }
}

/// The right to back up: one backup of the home at a time, whatever directory it goes to.
struct BackupTurn(Arc<Control>);

impl Drop for BackupTurn {
    fn drop(&mut self) {
        self.0.backing_up.store(false, Ordering::Release);
    }
}

impl Control {
    fn backup_turn(self: &Arc<Self>) -> Result<BackupTurn, Error> {
        if self.backing_up.swap(true, Ordering::AcqRel) {
            return Err(Error::refused(Refusal::Busy, "the home is being backed up already")
                .with_hint("wait until that backup is done"));
        }
        Ok(BackupTurn(Arc::clone(self)))
    }

    /// Makes the directory ready for a backup of this home.
    ///
    /// # Errors
    /// The directory cannot be used, holds something else, or a backup into it is being made.
    pub async fn begin_backup(
        self: &Arc<Self>,
        principal: Principal,
        dir: PathBuf,
    ) -> Result<BegunBackup, Error> {
        self.blocking(move |control| {
            let target = dir.display().to_string();
            let outcome = control
                .backup_turn()
                .and_then(|turn| control.prepare_directory(&dir).map(|prepared| (turn, prepared)));
            let (turn, (before, held)) = control.note_refusal(&principal, ACTION, &target, outcome)?;
            Ok(BegunBackup { dir, principal, before, _lock: held, _turn: turn })
        })
        .await
    }

    fn prepare_directory(&self, dir: &Path) -> Result<(Option<Manifest>, Option<File>), Error> {
        let failed = |source: std::io::Error| {
            Error::refused(Refusal::BadRequest, format!("cannot use {}: {source}", dir.display()))
                .with_hint("name a directory that the daemon's user may write to")
        };
        if !dir.exists() {
            make_directory(dir).map_err(failed)?;
        }
        let place = dir.canonicalize().map_err(failed)?;
        let home = self.settings.home.canonicalize().map_err(failed)?;
        if place.starts_with(&home) {
            return Err(Error::refused(Refusal::BadRequest, format!("{} lies in the home", dir.display()))
                .with_hint("choose a directory on another disk"));
        }
        let names = fs::read_dir(dir).and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<BTreeSet<_>>>()
        });
        let names = names.map_err(failed)?;
        let foreign = |name: &&std::ffi::OsString| {
            let name = name.to_string_lossy();
            !([MANIFEST, LOCK, LAYERS, BRANCHES, "lost+found"].contains(&&*name)
                || name.starts_with("home-")
                || name.starts_with(MANIFEST))
        };
        let before = Manifest::find(dir)?;
        if let Some(name) = names.iter().find(foreign)
            && before.is_none()
        {
            return Err(Error::refused(
                Refusal::BadRequest,
                format!("{} is no backup and not empty: {}", dir.display(), name.to_string_lossy()),
            )
            .with_hint("choose another directory"));
        }
        let home_id = self.db.read(|c| settings::get(c, settings::HOME_ID))?.unwrap_or_default();
        if before.as_ref().is_some_and(|before| before.home_id != home_id) {
            return Err(Error::refused(
                Refusal::BadRequest,
                format!("{} holds a backup of another home", dir.display()),
            )
            .with_hint("choose another directory"));
        }
        make_private(dir)?;
        let held = lock(dir, true)?;
        // Whoever held the lock may have replaced it.
        let before = Manifest::find(dir)?;
        for name in [LAYERS, BRANCHES] {
            make_directory(&dir.join(name)).map_err(failed)?;
        }
        Ok((before, held))
    }

    /// Makes the backup. `progress` gets bytes done and bytes in all, about.
    ///
    /// # Errors
    /// A branch cannot be cut, or a disk said no. The backup before is as it was.
    pub async fn make_backup(
        self: &Arc<Self>,
        begun: BegunBackup,
        mut progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<BackupReport, Error> {
        self.blocking(move |control| {
            let target = begun.dir.display().to_string();
            let outcome = control.back_up(&begun, &mut progress);
            let report = control.note_refusal(&begun.principal, ACTION, &target, outcome)?;
            let detail = format!(
                "number {}: {} branches, {} of {} layers copied",
                report.number, report.branches, report.layers_copied, report.layers
            );
            control.db.write(|tx| control.note(tx, &begun.principal, ACTION, &target, "done", &detail))?;
            tracing::info!(dir = target, number = report.number, bytes = report.bytes_copied, "backup made");
            Ok(report)
        })
        .await
    }

    fn back_up(
        self: &Arc<Self>,
        begun: &BegunBackup,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<BackupReport, Error> {
        let begin = self.clock.now();
        let scratch = Scratch::new(&self.settings.home)?;
        let rows = scratch.path.join("meta.db");
        self.db.read(|c| snapshot::take(c, &rows))?;
        let (home_id, all, names) = snapshot::read(&rows, |c| {
            let home_id = settings::get(c, settings::HOME_ID)?.unwrap_or_default();
            let projects = projects::list(c, true)?;
            let mut all = Vec::new();
            for project in &projects {
                let rows = branches::list(c, &project.uid, true)?;
                all.extend(rows.into_iter().filter(|row| row.state != State::Creating));
            }
            Ok((home_id, all, projects))
        })?;
        let keys = self.key_files(&all)?;
        let mut captures = self.capture_all(all, &keys)?;
        // A project is whole or not there: its default branch goes last.
        let whole: BTreeSet<&str> = names
            .iter()
            .filter(|project| captures.all.iter().any(|one| one.row.uid == project.default_branch))
            .map(|project| project.uid.as_str())
            .collect();
        captures.all.retain(|one| whole.contains(one.row.project.as_str()));
        let kept: Vec<&str> = captures.all.iter().map(|one| one.row.uid.as_str()).collect();
        snapshot::keep(&rows, &kept, self.clock.now())?;

        let number = begun.before.as_ref().map_or(1, |before| before.number + 1);
        let stopped = || self.watch.is_stopped();
        let mut copy = Copying::new(begun, number, &self.engine, &captures, progress, &stopped)?;
        for name in copy.missing.clone() {
            copy.layer(name)?;
        }
        let mut branches = Vec::new();
        for one in &captures.all {
            let project = names.iter().find(|project| project.uid == one.row.project);
            branches.push(copy.branch(one, project.map_or("", |project| &project.id))?);
        }
        let home = copy.home(&rows, &keys, &kept)?;
        let manifest = Manifest {
            version: VERSION,
            ana: env!("CARGO_PKG_VERSION").to_owned(),
            number,
            home_id,
            begin_time: begin.to_string(),
            end_time: self.clock.now().to_string(),
            postgres: self.server.major,
            home,
            branches,
            files: copy.files.values().cloned().collect(),
        };
        copy.publish(&manifest)?;
        Ok(BackupReport {
            number,
            branches: manifest.branches.len(),
            branches_copied: copy.branches_copied,
            layers: copy.layers,
            layers_copied: copy.missing.len(),
            bytes: manifest.bytes(),
            bytes_copied: copy.done,
        })
    }

    /// Key files by their paths below the home: the home's own, and those of branches that are there.
    fn key_files(&self, rows: &[Branch]) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let keys = self.settings.home.join("keys");
        let mut files = BTreeMap::new();
        let mut wanted: Vec<String> = rows.iter().map(|row| format!("{}.json", row.uid)).collect();
        wanted.extend(["ca.key", "ca.pem"].map(str::to_owned));
        for entry in fs::read_dir(keys.join("signing")).into_iter().flatten().flatten() {
            wanted.push(format!("signing/{}", entry.file_name().to_string_lossy()));
        }
        for name in wanted {
            match fs::read(keys.join(&name)) {
                Ok(bytes) => {
                    files.insert(format!("keys/{name}"), bytes);
                }
                // Gone since it was listed, or never there.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(Error::io(format!("cannot read {}", keys.join(name).display()), source));
                }
            }
        }
        Ok(files)
    }

    fn capture_all(
        self: &Arc<Self>,
        rows: Vec<Branch>,
        keys: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Captures, Error> {
        let mut captures = Captures { engine: Arc::clone(&self.engine), all: Vec::new(), begun: Vec::new() };
        let mark = self.new_uid("backup")?;
        let mut cut = Vec::new();
        for (place, row) in rows.into_iter().enumerate() {
            // Without keys its data is on its way out.
            if !keys.contains_key(&format!("keys/{}.json", row.uid)) {
                continue;
            }
            if self.watch.is_stopped() {
                return Err(ending());
            }
            let held = key_of(&format!("{mark}-{place}"))?;
            self.size_before_cut(&row.uid)?;
            captures.begun.push(held.clone());
            match self.engine.capture(&key_of(&row.uid)?, &held) {
                Ok(_) => cut.push((row, held)),
                Err(compute::engine::Error::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for (row, key) in cut {
            let held = self.engine.held(&key)?;
            captures.all.push(Captured { row, key, held });
        }
        Ok(captures)
    }
}

/// A backup contains secrets, so nobody else may look into its directory.
fn make_private(dir: &Path) -> Result<(), Error> {
    let open = |mode: u32| mode & 0o077 != 0;
    let facts = fs::metadata(dir);
    let made = facts.and_then(|facts| {
        if open(facts.permissions().mode()) {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        }
        fs::metadata(dir)
    });
    let why = match made {
        Ok(facts) if !open(facts.permissions().mode()) => return Ok(()),
        Ok(_) => "its file system keeps no modes".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::refused(
        Refusal::BadRequest,
        format!("{} is open to others and cannot be made private: {why}", dir.display()),
    )
    .with_hint("choose another directory, or mount its file system for this user alone (umask=077)"))
}

/// Beginning of the names of such directories.
const SCRATCH: &str = "backup-";

/// A directory of the home for the copy of the rows.
struct Scratch {
    path: PathBuf,
}

/// Removes what a daemon that was killed had copied. For a daemon that begins.
pub(crate) fn sweep(home: &Path) {
    for entry in fs::read_dir(home.join("run")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Scratch {
    fn new(home: &Path) -> Result<Scratch, Error> {
        let path = home.join(format!("run/{SCRATCH}{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        make_directory(&path)
            .map_err(|source| Error::io(format!("cannot make {}", path.display()), source))?;
        Ok(Scratch { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn ending() -> Error {
    Error::refused(Refusal::BadRequest, "the daemon ends")
}
