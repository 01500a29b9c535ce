//! Names: looking at them, removing, renaming, directories.

use std::sync::atomic::Ordering;

use store::errno::{Errno, Result};
use store::layer::entry::{self, Entry};
use store::layer::{Kind as Held, Layer, arena};
use store::path::RelPath;
use store::sys::{self, Fd};

use crate::Outcome;
use crate::open::{Discovered, make_directories};
use crate::resolve::Target;
use crate::tracker::{Rare, Tracker};

/// Files larger than this are not freed inside the gate: freeing 1 GB takes some 300 ms.
const LARGE: u64 = 64 << 20;

impl Tracker {
    /// A read-only call (`stat`, `access`, `readlink`) on a path: `call` gets a directory descriptor and a
    /// path below it.
    pub fn at<T>(&self, path: &[u8], mut call: impl FnMut(Fd, &RelPath) -> Result<T>) -> Outcome<T> {
        match self.resolve(path) {
            Err(errno) => Some(Err(errno)),
            Ok(Target::Layered(path, _)) => Some(self.look(|_| {
                let (root, path) = self.locate_layered(&path)?;
                call(root, &path)
            })),
            Ok(Target::Scratch(path)) => Some(call(self.scratch(&path), &path)),
            Ok(Target::Root) => None,
            Ok(Target::Bypass) => self.offered(path).map(|(root, path)| call(root, &path)),
        }
    }

    fn locate_layered(&self, path: &RelPath) -> Result<(Fd, RelPath)> {
        if let Some(id) = self.files.find(path) {
            let version = self.files.record(id.number).version.load(Ordering::Acquire);
            return Ok((self.look(|stack| stack.layer(version))?.files, *path));
        }
        let top = self.top_slot();
        let layer = &*self.layer(top)?;
        match layer.find(path)? {
            Some(found) if found.kind == Held::Whiteout => Err(Errno::NOENT),
            Some(_) => Ok((layer.files, *path)),
            None => {
                let below = self.look(|stack| stack.find_below(top, path))?.ok_or(Errno::NOENT)?;
                Ok((below.layer.files, *path))
            }
        }
    }

    pub(crate) fn directory_exists(&self, path: &RelPath, top: u32) -> Result<bool> {
        if path.is_root() {
            return Ok(true);
        }
        Ok(match self.layer(top)?.find(path)? {
            Some(found) => found.kind == Held::Directory,
            None => self
                .look(|stack| stack.find_below(top, path))?
                .is_some_and(|below| below.found.kind == Held::Directory),
        })
    }

    /// `unlink(2)`.
    pub fn unlink(&self, path: &[u8]) -> Outcome<()> {
        match self.resolve(path) {
            Err(errno) => Some(Err(errno)),
            Ok(Target::Layered(path, whole)) => Some(self.unlink_layered(&path, whole)),
            Ok(Target::Scratch(path)) => Some(sys::unlinkat(self.scratch(&path), path.as_cstr(), 0)),
            Ok(Target::Root) => Some(Err(Errno(libc::EISDIR))),
            Ok(Target::Bypass) => None,
        }
    }

    fn unlink_layered(&self, path: &RelPath, whole: bool) -> Result<()> {
        let inside = self.enter()?;
        let _lock = self.files.lock(path);
        match self.discover(path, whole, inside.top)? {
            Discovered::Nothing => return Err(Errno::NOENT),
            Discovered::Directory => return Err(Errno(libc::EISDIR)),
            Discovered::File(_) => {}
        }
        let layer = &*self.layer(inside.top)?;
        if self.look(|stack| stack.find_below(inside.top, path))?.is_some() {
            self.white_out(layer, path)?;
        }
        if !self.put_in_trash(path, inside.top)? {
            match sys::unlinkat(layer.files, path.as_cstr(), 0) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.retire(layer, path);
        Ok(())
    }

    /// The file's record in the arena and in the table end with its name.
    fn retire(&self, layer: &Layer, path: &RelPath) {
        if let Some(id) = self.files.find(path) {
            let record = self.files.record(id.number);
            let number = record.record.load(Ordering::Acquire);
            let own = layer.arena().filter(|arena| number < arena.records());
            if let Some(arena) = own.filter(|_| record.version.load(Ordering::Acquire) == self.top_slot()) {
                arena.record(number).flags.store(0, Ordering::Release);
                arena.header().removals.store(1, Ordering::Release);
            }
        }
        self.files.forget(path);
    }

    /// Hides a path of lower layers. The whiteout comes before the removal: a crash in between
    /// leaves the file removed or there, never an older one.
    fn white_out(&self, layer: &Layer, path: &RelPath) -> Result<()> {
        let arena = layer.arena().ok_or(Errno::DAMAGED)?;
        let whiteout = path.whiteout()?;
        make_directories(layer.files, &path.parent())?;
        arena.header().whiteouts.fetch_add(1, Ordering::AcqRel);
        let flags = sys::O_WRONLY | sys::O_CREAT | sys::O_CLOEXEC;
        sys::openat(layer.files, whiteout.as_cstr(), flags, 0o600).map(sys::close)
    }

    /// Moves a large file of the open layer into the layer's trash, to be freed in the background.
    /// Whether it did.
    pub(crate) fn put_in_trash(&self, path: &RelPath, top: u32) -> Result<bool> {
        let layer = &*self.layer(top)?;
        let stat = match sys::fstatat(layer.files, path.as_cstr(), 0) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        if (stat.st_blocks as u64) * 512 <= LARGE {
            return Ok(false);
        }
        match sys::mkdirat(layer.dir, c"trash", 0o700) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let name = RelPath::new(format!("trash/{:x}", stat.st_ino).as_bytes())?;
        sys::renameat(layer.files, path.as_cstr(), layer.dir, name.as_cstr())?;
        Ok(true)
    }

    /// `rename(2)`.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Outcome<()> {
        if self.shares_segment(from) {
            // PostgreSQL then removes the segment instead of using it again.
            return Some(self.refuse_rename());
        }
        let (from, to) = match (self.resolve(from), self.resolve(to)) {
            (Err(errno), _) | (_, Err(errno)) => return Some(Err(errno)),
            (Ok(from), Ok(to)) => (from, to),
        };
        match (from, to) {
            (Target::Layered(from, whole_from), Target::Layered(to, whole_to)) => {
                Some(self.rename_layered(&from, whole_from, &to, whole_to))
            }
            (Target::Scratch(from), Target::Scratch(to)) => {
                Some(self.make_private_parents(&to).and_then(|()| {
                    sys::renameat(self.scratch(&from), from.as_cstr(), self.scratch(&to), to.as_cstr())
                }))
            }
            (Target::Bypass, Target::Bypass) => None,
            _ => Some(Err(Errno(libc::EXDEV))),
        }
    }

    fn rename_layered(&self, from: &RelPath, whole_from: bool, to: &RelPath, whole_to: bool) -> Result<()> {
        let inside = self.enter()?;
        // Two stripes, always in the same order, or two renames could wait for each other.
        let (first, second) = if from.as_bytes() <= to.as_bytes() { (from, to) } else { (to, from) };
        let _first = self.files.lock(first);
        let _second = self.files.lock(second);
        let layer = &*self.layer(inside.top)?;
        let id = match self.discover(from, whole_from, inside.top)? {
            Discovered::File(id) => id,
            Discovered::Nothing => return Err(Errno::NOENT),
            Discovered::Directory => return self.refuse_rename(),
        };
        let record = self.files.record(id.number);
        if record.whole.load(Ordering::Acquire) == 1 {
            self.ensure_top(id, inside.top)?;
        }
        let complete = record.base.load(Ordering::Acquire) == store::files::NONE;
        if record.version.load(Ordering::Acquire) != inside.top || !complete {
            return self.refuse_rename();
        }
        if !self.directory_exists(&to.parent(), inside.top)? {
            return Err(Errno::NOENT);
        }
        make_directories(layer.files, &to.parent())?;
        if self.look(|stack| stack.find_below(inside.top, from))?.is_some() {
            self.white_out(layer, from)?;
        }
        let arena = layer.arena().ok_or(Errno::DAMAGED)?;
        let class = if whole_to { arena::WHOLE } else { 0 };
        let number = arena.add(to, arena::DIRTY | class, 0)?;
        let entry = Entry { kind: entry::Kind::Complete, record: number, floor: 0 };
        let fd = layer.open_file(from, sys::O_RDONLY)?;
        let stored = entry.store(fd);
        sys::close(fd);
        stored?;
        sys::renameat(layer.files, from.as_cstr(), layer.files, to.as_cstr())?;
        // A sync in between may have taken the new name for durable.
        let flags = &arena.record(number).flags;
        flags.fetch_and(!(arena::NAMED | arena::LISTED), Ordering::AcqRel);
        flags.fetch_or(arena::LINKED, Ordering::AcqRel);
        self.retire(layer, to);
        self.retire(layer, from);
        self.add_record(to, whole_to, inside.top, number).map(drop)
    }

    /// Whether this is a WAL segment that a child has a hard link to.
    fn shares_segment(&self, path: &[u8]) -> bool {
        let name = path.strip_prefix(&self.settings.data_directory[..]).unwrap_or(path);
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let segment = pgdata::class::wal_segment(name, self.settings.wal_segment_size);
        let Some(Ok(path)) = segment.and_then(|_| RelPath::normalize(path)) else { return false };
        self.inside() && sys::fstatat(sys::AT_FDCWD, path.as_cstr(), 0).is_ok_and(|stat| stat.st_nlink > 1)
    }

    fn refuse_rename(&self) -> Result<()> {
        self.count(Rare::CrossRename);
        Err(Errno(libc::EXDEV))
    }

    /// `link(2)`, `symlink(2)`: nothing in a layered directory may lead out of it, or parent and
    /// child would write the same file.
    pub fn refuses_link(&self, to: &[u8]) -> Outcome<()> {
        match self.resolve(to) {
            Err(errno) => Some(Err(errno)),
            Ok(Target::Bypass) => None,
            Ok(_) => {
                self.count(Rare::Link);
                Some(Err(Errno(libc::EPERM)))
            }
        }
    }

    /// `mkdir(2)`.
    pub fn mkdir(&self, path: &[u8], mode: u32) -> Outcome<()> {
        let path = match self.resolve(path) {
            Err(errno) => return Some(Err(errno)),
            Ok(Target::Layered(path, _)) => path,
            Ok(Target::Scratch(path)) => {
                let made = self
                    .make_private_parents(&path)
                    .and_then(|()| sys::mkdirat(self.scratch(&path), path.as_cstr(), mode));
                return Some(made);
            }
            Ok(Target::Root) => return Some(Err(Errno::EXIST)),
            Ok(Target::Bypass) => return None,
        };
        let make = || {
            let inside = self.enter()?;
            let _lock = self.files.lock(&path);
            let layer = &*self.layer(inside.top)?;
            let there = match layer.find(&path)? {
                Some(found) => found.kind != Held::Whiteout,
                None => self.look(|stack| stack.find_below(inside.top, &path))?.is_some(),
            };
            if there {
                return Err(Errno::EXIST);
            }
            if !self.directory_exists(&path.parent(), inside.top)? {
                return Err(Errno::NOENT);
            }
            make_directories(layer.files, &path.parent())?;
            sys::mkdirat(layer.files, path.as_cstr(), 0o700)
        };
        Some(make())
    }

    /// `rmdir(2)`.
    pub fn rmdir(&self, path: &[u8]) -> Outcome<()> {
        let path = match self.resolve(path) {
            Err(errno) => return Some(Err(errno)),
            Ok(Target::Layered(path, _)) => path,
            Ok(Target::Scratch(path)) => {
                return Some(sys::unlinkat(self.scratch(&path), path.as_cstr(), libc::AT_REMOVEDIR));
            }
            Ok(Target::Root) => return Some(Err(Errno(libc::EBUSY))),
            Ok(Target::Bypass) => return None,
        };
        let remove = || {
            let inside = self.enter()?;
            let _lock = self.files.lock(&path);
            if !self.directory_exists(&path, inside.top)? {
                return Err(Errno::NOENT);
            }
            if !self.list(&path)?.is_empty() {
                return Err(Errno(libc::ENOTEMPTY));
            }
            let layer = &*self.layer(inside.top)?;
            if self.look(|stack| stack.find_below(inside.top, &path))?.is_some() {
                self.white_out(layer, &path)?;
            }
            self.remove_own_directory(layer, &path)
        };
        Some(remove())
    }

    /// Removes what the open layer has of a directory that is empty but for whiteouts.
    fn remove_own_directory(&self, layer: &Layer, path: &RelPath) -> Result<()> {
        let mut whiteouts = Vec::new();
        let listed = store::layer::list_native(layer.files, path, &mut |name, _| {
            whiteouts.push(path.join(name)?);
            Ok(())
        });
        match listed {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        }
        for whiteout in &whiteouts {
            sys::unlinkat(layer.files, whiteout.as_cstr(), 0)?;
        }
        sys::unlinkat(layer.files, path.as_cstr(), libc::AT_REMOVEDIR)
    }

    /// `chmod(2)`, `utime(2)` and the like: where to make the call; sealed files stay as they are.
    pub fn changes_attributes(&self, path: &[u8]) -> Outcome<Option<(Fd, RelPath)>> {
        match self.resolve(path) {
            Err(errno) => Some(Err(errno)),
            Ok(Target::Scratch(path)) => Some(Ok(Some((self.scratch(&path), path)))),
            Ok(Target::Layered(path, _)) => Some(self.locate_layered(&path).and_then(|(fd, path)| {
                let own = self.layer(self.top_slot())?.files == fd;
                Ok(own.then_some((fd, path)))
            })),
            Ok(Target::Root | Target::Bypass) => None,
        }
    }
}
