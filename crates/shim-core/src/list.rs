//! Listing directories: one list of what all layers say.

use std::collections::BTreeSet;

use store::errno::{Errno, Result};
use store::path::RelPath;
use store::stack::add_listing;

use crate::Outcome;
use crate::resolve::Target;
use crate::tracker::Tracker;

/// A name in a directory and whether it is itself a directory.
pub type Listed = (Vec<u8>, bool);

impl Tracker {
    /// `opendir(3)`: the names, without `.` and `..`. Bypass for native directories.
    pub fn open_listing(&self, path: &[u8]) -> Outcome<Vec<Listed>> {
        match self.resolve(path) {
            Err(errno) => Some(Err(errno)),
            Ok(Target::Layered(path, _)) => Some(self.list_existing(&path)),
            Ok(Target::Scratch(path)) => Some(self.list_native(self.scratch(&path), &path)),
            Ok(Target::Root) => Some(self.list_root()),
            Ok(Target::Bypass) => self.list_offered(path),
        }
    }

    fn list_existing(&self, path: &RelPath) -> Result<Vec<Listed>> {
        // All of it once more where layers were merged meanwhile: also what was the top may be among them.
        self.look(|_| self.list_existing_once(path))
    }

    fn list_existing_once(&self, path: &RelPath) -> Result<Vec<Listed>> {
        let top = self.top_slot();
        if !self.directory_exists(path, top)? {
            let exists = self.at(path.as_bytes(), |_, _| Ok(())).is_some_and(|found| found.is_ok());
            return Err(if exists { Errno(libc::ENOTDIR) } else { Errno::NOENT });
        }
        self.list(path)
    }

    /// What is in a layered directory.
    pub(crate) fn list(&self, path: &RelPath) -> Result<Vec<Listed>> {
        self.look(|_| self.list_once(path))
    }

    fn list_once(&self, path: &RelPath) -> Result<Vec<Listed>> {
        let top = self.top_slot();
        let layer = self.layer(top)?;
        let (mut hidden, mut names) = (BTreeSet::new(), BTreeSet::new());
        let removed = add_listing(&layer, path, &hidden, &mut names)?;
        hidden.extend(removed);
        if path.is_root() || !layer.hides(path)? {
            names.append(&mut self.look(|stack| {
                let mut below = BTreeSet::new();
                stack.list_below(top, path, &mut hidden.clone(), &mut below).map(|()| below)
            })?);
        }
        let mut listed: Vec<Listed> = names.into_iter().collect();
        listed.dedup_by(|a, b| a.0 == b.0);
        Ok(listed)
    }

    fn list_native(&self, root: store::sys::Fd, path: &RelPath) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        store::layer::list_native(root, path, &mut |name, kind| {
            listed.push((name.to_vec(), kind == store::layer::Kind::Directory));
            Ok(())
        })?;
        Ok(listed)
    }

    /// The data directory: real files and layered names together.
    fn list_root(&self) -> Result<Vec<Listed>> {
        let mut listed = self.list(&RelPath::ROOT)?;
        let path =
            std::ffi::CString::new(&self.settings.data_directory[..]).map_err(|_| Errno(libc::EINVAL))?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let fd = store::sys::openat(store::sys::AT_FDCWD, &path, flags, 0)?;
        let native = self.list_native(fd, &RelPath::ROOT);
        store::sys::close(fd);
        listed.extend(native?);
        Ok(listed)
    }
}
