//! Files and directories that processes of a branch may write, read by the daemon: a link may lie there, a
//! pipe, or something endless.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// More than any file that is read as a whole.
const LARGEST: u64 = 4 << 20;

/// The content of an ordinary file.
///
/// # Errors
/// It cannot be read, or is no file, or is too large to be what it should be.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidData, "this is no file"));
    }
    let mut bytes = Vec::new();
    if file.take(LARGEST + 1).read_to_end(&mut bytes)? as u64 > LARGEST {
        return Err(Error::new(ErrorKind::InvalidData, "this file is too large"));
    }
    Ok(bytes)
}

/// A directory held open, not through a link. Its [`Pinned::path`] stays the same directory whatever happens
/// to its name.
#[derive(Debug)]
pub struct Pinned(File);

impl Pinned {
    /// Opens one.
    ///
    /// # Errors
    /// It is not there, or is a link.
    pub fn open(path: &Path) -> Result<Pinned> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        File::options().read(true).custom_flags(flags).open(path).map(Pinned)
    }

    /// A path for as long as this value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Removes the files in it; what cannot be removed stays.
    pub fn empty(&self) {
        for file in fs::read_dir(self.path()).into_iter().flatten().flatten() {
            let _ = fs::remove_file(file.path());
        }
    }
}

/// Opens an ordinary file below a directory for reading; no link is followed on the way.
///
/// # Errors
/// It is not there, or is no file.
pub fn open_below(root: &Path, path: &Path) -> Result<File> {
    let mut at = Pinned::open(root)?;
    for directory in path.parent().into_iter().flat_map(Path::components) {
        at = Pinned::open(&at.path().join(directory))?;
    }
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(at.path().join(name))?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(Error::new(ErrorKind::InvalidData, "this is no file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;

    #[test]
    fn only_files_are_read_and_only_as_far_as_they_make_sense() {
        let scratch = Directory::new("guarded");
        let path = scratch.path().join("pid");
        fs::write(&path, "42").unwrap();
        assert_eq!(read(&path).unwrap(), b"42");
        assert_eq!(read(&scratch.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::InvalidData);
        fs::remove_file(&path).unwrap();
        // One that nobody writes to would be waited for.
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::InvalidData);
        File::create(scratch.path().join("large")).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(read(&scratch.path().join("large")).is_err());
    }

    #[test]
    fn no_link_is_followed_on_the_way_down() {
        let scratch = Directory::new("guarded");
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir_all(at("layer/base/5")).unwrap();
        fs::write(at("layer/base/5/1"), "block").unwrap();
        fs::write(at("secret"), "secret").unwrap();
        let open = |path: &str| open_below(&at("layer"), Path::new(path));
        assert_eq!(std::io::read_to_string(open("base/5/1").unwrap()).unwrap(), "block");
        std::os::unix::fs::symlink("../../../secret", at("layer/base/5/2")).unwrap();
        std::os::unix::fs::symlink(at("layer/base"), at("layer/other")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("layer/base/pipe")).status().unwrap().success());
        for path in ["base/5/2", "other/5/1", "base/pipe", "base/5", "none"] {
            assert!(open(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_link_to_a_directory_is_not_emptied() {
        let scratch = Directory::new("guarded");
        let (precious, trash) = (scratch.path().join("precious"), scratch.path().join("trash"));
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&precious, &trash).unwrap();
        assert!(Pinned::open(&trash).is_err());
        fs::remove_file(&trash).unwrap();
        fs::create_dir(&trash).unwrap();
        fs::write(trash.join("file"), "").unwrap();
        let pinned = Pinned::open(&trash).unwrap();
        // Swapped after it was opened.
        fs::rename(&trash, scratch.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&precious, &trash).unwrap();
        pinned.empty();
        assert!(precious.join("file").exists());
        assert!(!scratch.path().join("moved/file").exists());
    }
}
