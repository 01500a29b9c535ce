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

use crate::app::First;
use crate::catalog::passwords::derive;
use crate::error::Error;
use crate::model::{Identity, IdentityType};

/// What a branch is reached with. Has no `Debug`, so that it cannot slip into a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// Password of the bootstrap superuser; used by the daemon only.
    pub admin_password: String,
    /// Login role of the project's owner.
    pub owner_role: String,
    /// Whose role that is.
    #[serde(default)]
    pub owner_kind: OwnerKind,
    /// Its password.
    pub owner_password: String,
}

/// What kind of principal owns a project. Older files do not say: there were only people then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OwnerKind {
    /// A person.
    #[default]
    User,
    /// A program with an identity of its own.
    ServicePrincipal,
}

impl Secrets {
    /// Secrets of a new branch whose owner is `owner`; `admin_password` is 256 random bits.
    pub fn new(admin_password: String, owner_role: String, owner_kind: OwnerKind) -> Secrets {
        let owner_password = derive(&admin_password, &owner_role);
        Secrets { admin_password, owner_role, owner_kind, owner_password }
    }

    /// The principal that the owner's role belongs to.
    pub fn owner(&self) -> Identity {
        let kind = match self.owner_kind {
            OwnerKind::User => IdentityType::User,
            OwnerKind::ServicePrincipal => IdentityType::ServicePrincipal,
        };
        Identity { name: self.owner_role.clone(), kind }
    }
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    version: u32,
    candidates: Vec<Secrets>,
    /// What a root is to begin with, until it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<First>,
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
        make_private_dir(&dir)?;
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
        Ok(self.file(branch)?.candidates)
    }

    /// What a root is to begin with; none once it has, and for children.
    pub fn first(&self, branch: &str) -> Result<Option<First>, Error> {
        Ok(self.file(branch)?.first)
    }

    fn file(&self, branch: &str) -> Result<KeyFile, Error> {
        let path = self.path(branch);
        let bytes = std::fs::read(&path)
            .map_err(|source| Error::io(format!("cannot read the keys of branch {branch}"), source))?;
        let file: KeyFile = serde_json::from_slice(&bytes).map_err(|error| {
            Error::Internal(format!("{} is damaged at line {}", path.display(), error.line()))
        })?;
        if file.version != VERSION || file.candidates.is_empty() {
            return Err(Error::Internal(format!("{} was written by another version", path.display())));
        }
        Ok(file)
    }

    /// The wanted secrets of a branch.
    pub fn wanted(&self, branch: &str) -> Result<Secrets, Error> {
        Ok(self.read(branch)?.swap_remove(0))
    }

    /// Replaces the candidates of a branch; on disk for good when this returns.
    pub fn write(&self, branch: &str, candidates: &[Secrets]) -> Result<(), Error> {
        self.write_with(branch, candidates, None)
    }

    /// As [`KeyStore::write`], with what a root is to begin with.
    pub fn write_with(
        &self,
        branch: &str,
        candidates: &[Secrets],
        first: Option<&First>,
    ) -> Result<(), Error> {
        let file = KeyFile { version: VERSION, candidates: candidates.to_vec(), first: first.cloned() };
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

/// Makes a directory that only this user may enter.
pub(crate) fn make_private_dir(dir: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| Error::io(format!("cannot make {}", dir.display()), source))
}

/// Writes a private file of `dir` whole or not at all; on disk for good when this returns.
pub(crate) fn replace_durably(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
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
        Secrets::new(word.to_owned(), "o".to_owned(), OwnerKind::ServicePrincipal)
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
        let older =
            r#"{"version":1,"candidates":[{"admin_password":"a","owner_role":"o","owner_password":"p"}]}"#;
        std::fs::write(dir.join("br-1.json"), older).unwrap();
        let read = store.wanted("br-1").unwrap();
        assert_eq!((read.owner_password.as_str(), read.owner().kind), ("p", IdentityType::User));
        assert_eq!(store.first("br-1").unwrap(), None);
        let first = First::usual(read.owner());
        store.write_with("br-1", &[read], Some(&first)).unwrap();
        assert_eq!(store.first("br-1").unwrap(), Some(first));
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
