//! The way out: a plain data directory.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use pgdata::class::PRIVATE_DIRECTORIES;
use store::flatten;
use store::stack::Stack;
use store::sys;

use super::home::{Context, Engine};
use super::segments::SHARED;
use super::{BranchKey, Error};

impl Engine {
    /// Writes a plain data directory that stock PostgreSQL starts, from a cut made now.
    /// `dir` must not exist or be empty. `progress` gets (bytes done, bytes in all).
    ///
    /// # Errors
    /// [`Error::Refused`] when the directory is not empty; what was written is removed on failure.
    pub fn export(
        &self,
        key: &BranchKey,
        dir: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Error> {
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::Refused(
                key.to_string(),
                format!("the directory {} is not empty", dir.display()),
            ));
        }
        let temporary = BranchKey(format!("export-{}-{:x}", std::process::id(), super::create::now_us()));
        self.hold_layers(&temporary);
        self.create_child(key, &temporary)?;
        let written = self.flatten(&temporary, dir, progress);
        let removed = self.delete(&temporary);
        if written.is_err() {
            // Best effort: what is half-written is of no use to anyone.
            let _ = fs::remove_dir_all(dir);
        }
        written.and(removed)
    }

    fn flatten(&self, key: &BranchKey, dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
        let what = || format!("could not export to {}", dir.display());
        let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path).context(what);
        make(dir)?;
        // An empty directory that was there already may be open to others; PostgreSQL refuses it then.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).context(what)?;
        let branch = self.home.open_branch(key.as_str()).context(what)?;
        let copied = self.copy_layered(branch, dir, progress);
        sys::close(branch);
        copied?;
        self.copy_native(key, dir)?;
        let path = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes()).unwrap_or_default();
        let fd = sys::openat(sys::AT_FDCWD, &path, sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC, 0)
            .context(what)?;
        let synced = sys::syncfs(fd);
        sys::close(fd);
        synced.context(what)
    }

    /// What lies in layers.
    fn copy_layered(
        &self,
        branch: sys::Fd,
        dir: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Error> {
        let what = || format!("could not export to {}", dir.display());
        let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path).context(what);
        let stack = Stack::load(self.home.layers(), branch).context(what)?;
        let tree = flatten::tree(&stack, u32::MAX).context(what)?;
        for name in PRIVATE_DIRECTORIES {
            make(&dir.join(name))?;
        }
        for path in &tree.directories {
            make(&dir.join(String::from_utf8_lossy(path.as_bytes()).as_ref()))?;
        }
        let total: u64 = tree.files.iter().map(|(_, length)| length).sum();
        let mut done = 0;
        for (path, length) in &tree.files {
            let target = dir.join(String::from_utf8_lossy(path.as_bytes()).as_ref());
            flatten::copy(&stack, u32::MAX, path, &target)
                .context(|| format!("could not export {path:?}"))?;
            done += length;
            progress(done, total);
        }
        Ok(())
    }

    /// WAL and configuration.
    fn copy_native(&self, key: &BranchKey, dir: &Path) -> Result<(), Error> {
        let data = self.data_directory(key);
        let (own, shared, log) = (data.join("pg_wal"), self.directory(key).join(SHARED), dir.join("pg_wal"));
        for (from, to) in [(own, log.clone()), (shared, log), (data, dir.to_owned())] {
            let what = || format!("could not export {}", from.display());
            for entry in fs::read_dir(&from).context(what)? {
                let entry = entry.context(what)?;
                if entry.file_type().context(what)?.is_file() {
                    fs::copy(entry.path(), to.join(entry.file_name())).context(what)?;
                }
            }
        }
        Ok(())
    }
}
