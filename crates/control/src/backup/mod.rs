//! Backups of a home: a directory of ordinary files and a manifest that names them.
//!
//! Sealed layers never change, so each is copied once, under a name that no other layer has. Everything
//! else is small and lies in packs with the number of the backup in their names. The manifest is replaced
//! last: until then the backup before is whole, and what a killed one left is used or removed by the next.

mod copy;
mod make;
mod restore;
mod write;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use compute::backup::{LayerName, Sum};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Refusal};

pub(crate) use make::sweep;
pub use make::{BackupReport, BegunBackup};
pub use restore::{restore, verify};

/// Name of the manifest.
const MANIFEST: &str = "backup.json";
/// Locked by whoever writes or reads the directory.
const LOCK: &str = "backup.lock";
const LAYERS: &str = "layers";
const BRANCHES: &str = "branches";
const LAYER_END: &str = ".layer";
const PACK_END: &str = ".pack";
/// End of the name of a file that is not whole yet.
const PART_END: &str = ".part";

const VERSION: u32 = 1;

/// What a backup is and consists of; the content of `backup.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this description.
    pub version: u32,
    /// Version of the program that made the backup.
    pub ana: String,
    /// Rises by one with each backup into the directory.
    pub number: u64,
    /// Identity of the home.
    pub home_id: String,
    /// When the backup began, and when its last byte was on disk (RFC 3339).
    pub begin_time: String,
    /// See `begin_time`.
    pub end_time: String,
    /// Major version of PostgreSQL that all branches need.
    pub postgres: u32,
    /// Name of the pack with the metadata and the keys.
    pub home: String,
    /// Branches, parents before children.
    pub branches: Vec<BackedUpBranch>,
    /// Every file of the backup but this one.
    pub files: Vec<BackupFile>,
}

/// A branch in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpBranch {
    /// Identity of the branch.
    pub uid: String,
    /// Identifier of its project.
    pub project: String,
    /// Its identifier.
    pub branch: String,
    /// `ready`, or `deleted` while its data was kept.
    pub state: String,
    /// End of the WAL in the backup.
    pub lsn: String,
    /// Moment that the data is of (RFC 3339).
    pub time: String,
    /// Name of its pack.
    pub pack: String,
    /// Its layers, lowest first.
    pub layers: Vec<String>,
    /// The same for two backups between which nothing was written.
    pub fingerprint: String,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Its path from the directory.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// CRC-32C, 8 hexadecimal digits.
    pub crc32c: String,
}

impl BackupFile {
    fn new(name: String, sum: Sum) -> BackupFile {
        BackupFile { name, size: sum.size, crc32c: format!("{:08x}", sum.crc) }
    }

    fn is(&self, sum: Sum) -> bool {
        self.size == sum.size && self.crc32c == format!("{:08x}", sum.crc)
    }
}

impl Manifest {
    /// Reads the manifest of the backup in `dir`.
    ///
    /// # Errors
    /// There is no backup, it is damaged, or a newer version made it.
    pub fn read(dir: &Path) -> Result<Manifest, Error> {
        Manifest::find(dir)?.ok_or_else(|| {
            Error::refused(Refusal::NotFound, format!("there is no backup in {}", dir.display()))
                .with_hint("name the directory that was given to: ana backup DIR")
        })
    }

    fn find(dir: &Path) -> Result<Option<Manifest>, Error> {
        let path = dir.join(MANIFEST);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| Error::io(format!("cannot read {}", path.display()), source))?,
        };
        #[derive(Deserialize)]
        struct Any {
            version: u32,
        }
        let damaged = |error: serde_json::Error| {
            Error::refused(Refusal::BadRequest, format!("{} is damaged: {error}", path.display()))
                .with_hint("use another backup, or make a new one in an empty directory")
        };
        let any: Any = serde_json::from_slice(&text).map_err(damaged)?;
        if any.version != VERSION {
            return Err(Error::refused(
                Refusal::BadRequest,
                format!(
                    "the backup in {} has format {}, this ana knows {VERSION}",
                    dir.display(),
                    any.version
                ),
            )
            .with_hint("use the version of ana that made it, or a newer one"));
        }
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    fn file(&self, name: &str) -> Option<&BackupFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Path of a layer's pack from the directory.
fn layer_file(name: LayerName) -> String {
    format!("{LAYERS}/{name}{LAYER_END}")
}

/// The layer whose pack has this path.
fn layer_of(file: &str) -> Option<LayerName> {
    LayerName::parse(file.strip_prefix(LAYERS)?.strip_prefix('/')?.strip_suffix(LAYER_END)?)
}

/// Keeps others out of the directory, or only those that write, while the file is open. None where the
/// directory can only be read and was never locked.
fn lock(dir: &Path, to_write: bool) -> Result<Option<File>, Error> {
    let path: PathBuf = dir.join(LOCK);
    let failed = |source| Error::io(format!("cannot lock {}", path.display()), source);
    let file = if to_write {
        File::options().write(true).create(true).truncate(false).open(&path).map_err(failed)?
    } else {
        match File::open(&path) {
            Ok(file) => file,
            Err(_) => return Ok(None),
        }
    };
    match if to_write { file.try_lock() } else { file.try_lock_shared() } {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Err(Error::refused(
            Refusal::Busy,
            format!("another command is at work on the backup in {}", dir.display()),
        )
        .with_hint("wait until it has ended")),
        Err(fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_layers_are_taken_for_layers() {
        let name = LayerName { id: 7 << 32 | 9, crc: 5, written: 6 };
        assert_eq!(layer_of(&layer_file(name)), Some(name));
        for other in ["branches/br-1-1.pack", "layers/7.layer", "layers/x", "home-1.pack"] {
            assert_eq!(layer_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_newer_backup_is_refused() {
        let dir = std::env::temp_dir().join(format!("ana-backup-version-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let said = |text: &str| {
            fs::write(dir.join(MANIFEST), text).unwrap();
            Manifest::read(&dir).unwrap_err().to_string()
        };
        assert!(said(r#"{"version": 99, "shape": "unknown"}"#).contains("format 99"));
        assert!(said("{").contains("damaged"));
        fs::remove_dir_all(&dir).unwrap();
        assert!(Manifest::read(&dir).unwrap_err().to_string().contains("no backup"));
    }
}
