//! Files that a server finds among its own, though they lie elsewhere: extensions of ours. The server's
//! directory may belong to somebody else, and need not be writable.

use std::ffi::CString;

use store::errno::{Errno, Result};
use store::layer::Kind;
use store::path::RelPath;
use store::sys::{self, Fd};

use crate::Outcome;
use crate::list::Listed;
use crate::tracker::Tracker;

/// Where PostgreSQL looks for extensions: this directory, in whatever place its share directory is.
const DIRECTORY: &[u8] = b"/extension";

/// A directory of offered files, and what is in it.
#[derive(Debug)]
pub(crate) struct Offered {
    directory: Fd,
    names: Vec<Vec<u8>>,
}

impl Offered {
    /// Opens the directory and notes its files; later ones are not offered.
    pub fn open(path: &[u8]) -> Result<Offered> {
        let directory = open_directory(path)?;
        let names = list(directory)?.into_iter().filter(|(_, is_directory)| !is_directory);
        Ok(Offered { directory: store::layer::high(directory), names: names.map(|(name, _)| name).collect() })
    }
}

impl Tracker {
    /// Where the file is that `path` means, if it is one that is offered.
    pub(crate) fn offered(&self, path: &[u8]) -> Option<(Fd, RelPath)> {
        let offered = self.offered.as_ref()?;
        let slash = path.iter().rposition(|byte| *byte == b'/')?;
        let (directory, name) = (&path[..slash], &path[slash + 1..]);
        if path.first() != Some(&b'/') || !directory.ends_with(DIRECTORY) {
            return None;
        }
        let name = offered.names.iter().find(|other| *other == name)?;
        Some((offered.directory, RelPath::new(name).ok()?))
    }

    /// `open(2)` of an offered file for reading.
    pub(crate) fn open_offered(&self, path: &[u8], flags: i32) -> Outcome<Fd> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return None;
        }
        let (directory, name) = self.offered(path)?;
        Some(sys::openat(directory, name.as_cstr(), flags, 0))
    }

    /// `opendir(3)` of a directory of extensions: its own files and the offered ones.
    pub(crate) fn list_offered(&self, path: &[u8]) -> Outcome<Vec<Listed>> {
        let offered = self.offered.as_ref()?;
        if path.first() != Some(&b'/') || !path.ends_with(DIRECTORY) {
            return None;
        }
        // What cannot be opened is the plain call's to complain about.
        let directory = open_directory(path).ok()?;
        let listed = list(directory);
        sys::close(directory);
        Some(listed.map(|mut listed| {
            listed.retain(|(name, _)| !offered.names.contains(name));
            listed.extend(offered.names.iter().map(|name| (name.clone(), false)));
            listed
        }))
    }
}

fn open_directory(path: &[u8]) -> Result<Fd> {
    let path = CString::new(path).map_err(|_| Errno(libc::EINVAL))?;
    sys::openat(sys::AT_FDCWD, &path, sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC, 0)
}

fn list(directory: Fd) -> Result<Vec<Listed>> {
    let mut listed = Vec::new();
    store::layer::list_native(directory, &RelPath::ROOT, &mut |name, kind| {
        listed.push((name.to_vec(), kind == Kind::Directory));
        Ok(())
    })?;
    Ok(listed)
}
