//! Making many small files durable at once.
//!
//! Each `fsync` of a new file waits for a commit of the file system's journal. Where the writing of
//! all of them is started first, the first `fsync` commits them all and the others find nothing left
//! to do.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use store::sys;

use super::Error;
use super::home::Context;

/// Files and directories that are to become durable together.
#[derive(Default)]
pub(super) struct Batch {
    files: Vec<(PathBuf, File)>,
    directories: Vec<PathBuf>,
}

impl Batch {
    /// Writes a file of the branch's own: for the owner alone, whatever the process's mask.
    pub fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let opened = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        let written = opened.and_then(|mut file| file.write_all(bytes).map(|()| file));
        self.file(path, written.context(|| format!("could not write {}", path.display()))?);
        Ok(())
    }

    /// Adds an open file.
    pub fn file(&mut self, path: &Path, file: File) {
        self.files.push((path.to_owned(), file));
    }

    /// Adds a file by its name.
    pub fn file_at(&mut self, path: &Path) -> Result<(), Error> {
        let file = File::open(path).context(|| format!("could not open {}", path.display()))?;
        self.file(path, file);
        Ok(())
    }

    /// Adds a directory: the names in it, not what they name.
    pub fn directory(&mut self, path: &Path) {
        self.directories.push(path.to_owned());
    }

    /// Everything is durable on return: files first, then directories in the order given.
    pub fn sync(self) -> Result<(), Error> {
        for (_, file) in &self.files {
            // A file system that cannot is only slower; what counts is the sync below.
            let _ = sys::start_writeback(file.as_raw_fd());
        }
        for (path, file) in &self.files {
            file.sync_all().context(|| format!("could not sync {}", path.display()))?;
        }
        self.directories.iter().try_for_each(|path| sync(path))
    }
}

/// Makes one file or directory durable.
pub(super) fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).context(|| format!("could not sync {}", path.display()))
}
