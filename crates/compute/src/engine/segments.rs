//! Where the WAL of a branch lies.
//!
//! What a branch wrote is in its `pg_wal`. Complete segments that it has in common with its parent are hard
//! links in `branches/<uid>/wal`, where its processes only read, and `pg_wal` has symbolic links to them: a
//! program of the branch that writes to such a segment would otherwise write to its parent's. Branches made
//! before have the hard links in `pg_wal`.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::guarded::Pinned;

/// Directory of the shared segments, in that of the branch.
pub(super) const SHARED: &str = "wal";
/// The same, from `pg_wal`.
const FROM_PG_WAL: &str = "../../wal";

/// The segments of one branch, for reading.
pub(super) struct Segments {
    /// The branch's own processes may write there: no links.
    own: Pinned,
    shared: PathBuf,
}

impl Segments {
    /// Those of the branch in the directory `branch`.
    pub fn of(branch: &Path) -> Result<Segments> {
        Ok(Segments { own: Pinned::open(&branch.join("pgdata/pg_wal"))?, shared: branch.join(SHARED) })
    }

    /// Where a segment lies, if it is there.
    pub fn path(&self, name: &str) -> PathBuf {
        let (own, shared) = (self.own.path().join(name), self.shared.join(name));
        let is_own = fs::symlink_metadata(&own).is_ok_and(|facts| facts.is_file());
        if !is_own && shared.exists() { shared } else { own }
    }

    /// Opens a segment for reading.
    pub fn open(&self, name: &str) -> Result<File> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags).open(self.path(name))?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(not_a_segment(name)) }
    }
}

/// Gives the branch in the directory `branch` the segment at `from`, to read. False where the file has as
/// many names as the file system allows.
pub(super) fn share(from: &Path, name: &str, branch: &Path) -> Result<bool> {
    let to = branch.join(SHARED).join(name);
    match fs::hard_link(from, &to) {
        Err(error) if error.raw_os_error() == Some(libc::EMLINK) => return Ok(false),
        linked => linked?,
    }
    // A link is not followed, but linked.
    if !fs::symlink_metadata(&to)?.is_file() {
        fs::remove_file(&to)?;
        return Err(not_a_segment(name));
    }
    let way = Path::new(FROM_PG_WAL).join(name);
    std::os::unix::fs::symlink(way, branch.join("pgdata/pg_wal").join(name))?;
    Ok(true)
}

/// Makes the directory of shared segments.
pub(super) fn make_shared(branch: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(branch.join(SHARED))
}

fn not_a_segment(name: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{name} is no file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;

    const NAME: &str = "000000010000000000000001";

    fn branch(scratch: &Directory, name: &str) -> PathBuf {
        let branch = scratch.path().join(name);
        fs::create_dir_all(branch.join("pgdata/pg_wal")).unwrap();
        make_shared(&branch).unwrap();
        branch
    }

    #[test]
    fn a_segment_is_shared_down_the_generations() {
        let scratch = Directory::new("segments");
        let [parent, child, grandchild] =
            ["parent", "child", "grandchild"].map(|name| branch(&scratch, name));
        fs::write(parent.join("pgdata/pg_wal").join(NAME), "log").unwrap();
        for (from, to) in [(&parent, &child), (&child, &grandchild)] {
            let segments = Segments::of(from).unwrap();
            assert!(share(&segments.path(NAME), NAME, to).unwrap());
        }
        for branch in [&parent, &child, &grandchild] {
            assert_eq!(fs::read(branch.join("pgdata/pg_wal").join(NAME)).unwrap(), b"log");
            assert_eq!(
                std::io::read_to_string(Segments::of(branch).unwrap().open(NAME).unwrap()).unwrap(),
                "log"
            );
        }
    }

    #[test]
    fn links_that_a_program_left_lead_nowhere() {
        let scratch = Directory::new("segments");
        let (parent, child) = (branch(&scratch, "parent"), branch(&scratch, "child"));
        fs::write(scratch.path().join("secret"), "secret").unwrap();
        let place = parent.join("pgdata/pg_wal").join(NAME);
        std::os::unix::fs::symlink(scratch.path().join("secret"), &place).unwrap();
        let segments = Segments::of(&parent).unwrap();
        assert!(segments.open(NAME).is_err());
        assert!(share(&segments.path(NAME), NAME, &child).is_err());
        assert!(!child.join("wal").join(NAME).exists() && !child.join("pgdata/pg_wal").join(NAME).exists());
        fs::remove_dir_all(parent.join("pgdata/pg_wal")).unwrap();
        std::os::unix::fs::symlink(scratch.path(), parent.join("pgdata/pg_wal")).unwrap();
        assert!(Segments::of(&parent).is_err());
    }
}
