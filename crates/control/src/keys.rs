//! Secrets of branches: one 0600 file each, never in the database.
//!
//! A file holds candidates, the wanted one first. A branch that came with its parent's data still
//! answers to the parent's secrets, so those stand behind the wanted one until the change is
//! confirmed. Whenever a crash comes, one of the candidates opens the door.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use compute::moment::{Moment, reached};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What a branch is reached with. Has no `Debug`, so that it cannot slip into a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// Password of the bootstrap superuser; used by the daemon only.
    pub admin_password: String,
    /// Login role of the project's owner.
    pub owner_role: String,
    /// Its password.
    pub owner_password: String,
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    version: u32,
    candidates: Vec<Secrets>,
}

const VERSION: u32 = 1;

/// End of the name of a file that is not in place yet.
const BESIDE: &str = ".new";

/// The directory of key files.
pub(crate) struct KeyStore {
    dir: PathBuf,
}

impl KeyStore {
    /// Opens the directory, made where it is missing. Only one daemon at a time has it open.
    pub fn open(dir: PathBuf) -> Result<KeyStore, Error> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| Error::io(format!("cannot make {}", dir.display()), source))?;
        let store = KeyStore { dir };
        // Written by a daemon that died before it could put them in place.
        for name in store.names()? {
            if name.ends_with(BESIDE) {
                let path = store.dir.join(name);
                std::fs::remove_file(&path)
                    .map_err(|source| Error::io(format!("cannot remove {}", path.display()), source))?;
            }
        }
        Ok(store)
    }

    /// Candidates of a branch, the wanted one first; at least one.
    pub fn read(&self, branch: &str) -> Result<Vec<Secrets>, Error> {
        let path = self.path(branch);
        let bytes = std::fs::read(&path)
            .map_err(|source| Error::io(format!("cannot read the keys of branch {branch}"), source))?;
        let file: KeyFile = serde_json::from_slice(&bytes).map_err(|error| {
            Error::Internal(format!("{} is damaged at line {}", path.display(), error.line()))
        })?;
        if file.version != VERSION || file.candidates.is_empty() {
            return Err(Error::Internal(format!("{} was written by another version", path.display())));
        }
        Ok(file.candidates)
    }

    /// The wanted secrets of a branch.
    pub fn wanted(&self, branch: &str) -> Result<Secrets, Error> {
        Ok(self.read(branch)?.swap_remove(0))
    }

    /// Replaces the candidates of a branch; on disk for good when this returns.
    pub fn write(&self, branch: &str, candidates: &[Secrets]) -> Result<(), Error> {
        let file = KeyFile { version: VERSION, candidates: candidates.to_vec() };
        let bytes = serde_json::to_vec(&file).map_err(|error| Error::Internal(error.to_string()))?;
        replace_durably(&self.dir, &self.path(branch), &bytes)
            .map_err(|source| Error::io(format!("cannot write the keys of branch {branch}"), source))?;
        reached(Moment::KeysWritten);
        Ok(())
    }

    /// Forgets a branch; no error if there is nothing to forget.
    pub fn remove(&self, branch: &str) -> Result<(), Error> {
        match std::fs::remove_file(self.path(branch)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot remove the keys of branch {branch}"), source))
            }
            _ => Ok(()),
        }
    }

    /// Branches that have a key file.
    pub fn branches(&self) -> Result<Vec<String>, Error> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json")).map(str::to_owned).collect())
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let failed = |source| Error::io(format!("cannot list {}", self.dir.display()), source);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            // All of ours are plain text.
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn path(&self, branch: &str) -> PathBuf {
        self.dir.join(format!("{branch}.json"))
    }
}

fn replace_durably(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension(&BESIDE[1..]);
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    reached(Moment::KeysBeside);
    std::fs::rename(&beside, path)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secrets(word: &str) -> Secrets {
        Secrets { admin_password: word.into(), owner_role: "o".into(), owner_password: word.into() }
    }

    #[test]
    fn candidates_are_kept_in_order_and_private() {
        let dir = std::env::temp_dir().join(format!("ana-keys-{}", std::process::id()));
        let store = KeyStore::open(dir.clone()).unwrap();
        store.write("br-1", &[secrets("new"), secrets("old")]).unwrap();
        assert!(store.read("br-1").unwrap() == [secrets("new"), secrets("old")]);
        assert!(store.wanted("br-1").unwrap() == secrets("new"));
        let mode = std::fs::metadata(dir.join("br-1.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(store.branches().unwrap(), ["br-1"]);
        std::fs::write(dir.join("br-2.new"), "half of it").unwrap();
        let store = KeyStore::open(dir.clone()).unwrap();
        assert!(!dir.join("br-2.new").exists());
        assert_eq!(store.branches().unwrap(), ["br-1"]);
        store.remove("br-1").unwrap();
        store.remove("br-1").unwrap();
        assert!(store.read("br-1").is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
