//! Opening: finding a file's versions, making a record of it, creating files.

use std::sync::atomic::Ordering;

use store::errno::{Errno, Result};
use store::files::{FileId, NONE};
use store::layer::arena;
use store::layer::entry::{self, Entry};
use store::layer::{Kind as Held, Layer, blocks};
use store::path::RelPath;
use store::stack::Located;
use store::sys::{self, Fd, O_CLOEXEC, O_DIRECTORY, O_RDONLY, O_RDWR};

use crate::Outcome;
use crate::descriptors::{Kind, Tracked};
use crate::resolve::Target;
use crate::tracker::{Rare, Tracker};

/// What a path turned out to be.
pub(crate) enum Discovered {
    File(FileId),
    Directory,
    Nothing,
}

impl Tracker {
    /// `open(2)` of any kind. Scratch files are opened for the caller.
    pub fn open(&self, path: &[u8], flags: i32, mode: u32) -> Outcome<Fd> {
        match self.resolve(path) {
            Err(errno) => Some(Err(errno)),
            Ok(Target::Layered(path, whole)) => Some(self.open_layered(&path, whole, flags, mode)),
            Ok(Target::Scratch(path)) => Some(self.open_scratch(&path, flags, mode)),
            Ok(Target::Root) => None,
            Ok(Target::Bypass) => {
                self.open_native(path, flags, mode).or_else(|| self.open_offered(path, flags))
            }
        }
    }

    /// WAL segments are real files, but their writes count for the cut.
    fn open_native(&self, path: &[u8], flags: i32, mode: u32) -> Outcome<Fd> {
        let name = path.strip_prefix(&self.settings.data_directory[..]).unwrap_or(path);
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let name = name.strip_prefix(b"./").unwrap_or(name);
        if !name.starts_with(b"pg_wal/") || !self.inside() && name.len() == path.len() {
            return None;
        }
        Some(self.open_stream(name, flags, mode))
    }

    fn open_stream(&self, name: &[u8], flags: i32, mode: u32) -> Result<Fd> {
        let path = std::ffi::CString::new([&self.settings.data_directory[..], b"/", name].concat())
            .map_err(|_| Errno(libc::EINVAL))?;
        let changes = flags & (libc::O_CREAT | libc::O_TRUNC) != 0;
        let inside = if changes { Some(self.enter()?) } else { None };
        let mut fd = sys::openat(sys::AT_FDCWD, &path, flags, mode)?;
        drop(inside);
        // Safety net: a segment that a child shares by a hard link is complete and never written
        // again. Should a server try, it gets its own copy first.
        if flags & libc::O_ACCMODE != O_RDONLY && sys::fstat(fd)?.st_nlink > 1 {
            fd = self.own_segment(fd, &path, flags)?;
        }
        if let Some(segment) = pgdata::class::wal_segment(name, self.settings.wal_segment_size) {
            self.descriptors.set(fd, Tracked { kind: Kind::Stream(segment), slot: 0, flags });
        }
        Ok(fd)
    }

    fn own_segment(&self, shared: Fd, path: &std::ffi::CStr, flags: i32) -> Result<Fd> {
        self.count(Rare::SharedSegment);
        let beside =
            std::ffi::CString::new([path.to_bytes(), b".own"].concat()).map_err(|_| Errno(libc::EINVAL))?;
        let reading = sys::openat(sys::AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0)?;
        sys::close(shared);
        let _inside = self.enter()?;
        let create = libc::O_CREAT | libc::O_TRUNC | O_RDWR | O_CLOEXEC;
        let copy = sys::openat(sys::AT_FDCWD, &beside, create, 0o600)?;
        let copied = copy_all(reading, copy).and_then(|()| sys::fsync(copy));
        sys::close(reading);
        sys::close(copy);
        copied?;
        sys::renameat(sys::AT_FDCWD, &beside, sys::AT_FDCWD, path)?;
        sys::openat(sys::AT_FDCWD, path, flags & !(libc::O_CREAT | libc::O_EXCL), 0)
    }

    fn open_scratch(&self, path: &RelPath, flags: i32, mode: u32) -> Result<Fd> {
        match sys::openat(self.scratch(path), path.as_cstr(), flags, mode) {
            Err(Errno::NOENT) if flags & libc::O_CREAT != 0 => {
                self.make_private_parents(path)?;
                sys::openat(self.scratch(path), path.as_cstr(), flags, mode)
            }
            other => other,
        }
    }

    pub(crate) fn make_private_parents(&self, path: &RelPath) -> Result<()> {
        make_directories(self.scratch(path), &path.parent())
    }

    fn open_layered(&self, path: &RelPath, whole: bool, flags: i32, mode: u32) -> Result<Fd> {
        let creates = flags & libc::O_CREAT != 0;
        let truncates = flags & libc::O_TRUNC != 0 && flags & libc::O_ACCMODE != O_RDONLY;
        if !creates
            && !truncates
            && let Some(id) = self.files.find(path)
        {
            return self.open_version(path, id, flags);
        }
        let inside = self.enter()?;
        let lock = self.files.lock(path);
        let id = match self.discover(path, whole, inside.top)? {
            Discovered::File(_) if creates && flags & libc::O_EXCL != 0 => return Err(Errno::EXIST),
            Discovered::File(id) => {
                if truncates {
                    self.truncate_version(id, 0, inside.top)?;
                }
                id
            }
            Discovered::Directory if creates => return Err(Errno(libc::EISDIR)),
            Discovered::Directory => {
                drop(lock);
                return self.open_directory(path, flags, inside.top);
            }
            Discovered::Nothing if creates => self.create(path, whole, mode, inside.top)?,
            Discovered::Nothing => return Err(Errno::NOENT),
        };
        self.open_version(path, id, flags)
    }

    /// A descriptor of a layered directory is the open layer's own, made if need be: callers sync it.
    fn open_directory(&self, path: &RelPath, flags: i32, top: u32) -> Result<Fd> {
        let layer = &*self.layer(top)?;
        make_directories(layer.files, path)?;
        let fd = sys::openat(layer.files, path.as_cstr(), flags | O_DIRECTORY, 0)?;
        self.descriptors.set(fd, Tracked { kind: Kind::Directory, slot: top, flags });
        Ok(fd)
    }

    fn open_version(&self, path: &RelPath, id: FileId, flags: i32) -> Result<Fd> {
        if flags & O_DIRECTORY != 0 {
            return Err(Errno(libc::ENOTDIR));
        }
        let version = self.files.record(id.number).version.load(Ordering::Acquire);
        let fd = self.open_at(path, version, flags)?;
        let flags = flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC);
        if !self.descriptors.set(fd, Tracked { kind: Kind::File(id), slot: version, flags }) {
            sys::close(fd);
            return Err(Errno(libc::EMFILE));
        }
        Ok(fd)
    }

    /// What the path is; makes a record for a file. Inside the gate, with the path's lock.
    pub(crate) fn discover(&self, path: &RelPath, whole: bool, top: u32) -> Result<Discovered> {
        if let Some(id) = self.files.find(path) {
            return Ok(Discovered::File(id));
        }
        let layer = self.layer(top)?;
        let own = layer.find(path)?;
        let mut chain = Vec::new();
        match own {
            Some(found) if found.kind == Held::Whiteout => return Ok(Discovered::Nothing),
            Some(found) if found.kind == Held::Directory => return Ok(Discovered::Directory),
            Some(found) => {
                chain.push(Located { slot: top, layer, found });
                if found.kind == Held::Overlay {
                    chain.extend(self.look(|stack| stack.chain_below(top, path))?);
                }
            }
            None => chain = self.look(|stack| stack.chain_below(top, path))?,
        }
        match chain.first() {
            None => Ok(Discovered::Nothing),
            Some(newest) if newest.found.kind == Held::Directory => Ok(Discovered::Directory),
            Some(_) => self.record_chain(path, whole, &chain).map(Discovered::File),
        }
    }

    fn record_chain(&self, path: &RelPath, whole: bool, chain: &[Located]) -> Result<FileId> {
        let (Some(newest), Some(lowest)) = (chain.first(), chain.last()) else { return Err(Errno::DAMAGED) };
        if lowest.found.kind != Held::Complete {
            return Err(Errno::DAMAGED);
        }
        let id = self.files.allocate(path)?;
        let record = self.files.record(id.number);
        record.version.store(newest.slot, Ordering::Relaxed);
        record.record.store(newest.found.record().unwrap_or(NONE), Ordering::Relaxed);
        record.whole.store(u32::from(whole), Ordering::Relaxed);
        if chain.len() > 1 {
            record.base.store(lowest.slot, Ordering::Relaxed);
            record.base_blocks.store(blocks(lowest.found.length), Ordering::Relaxed);
            self.fill_map(id, &chain[..chain.len() - 1], blocks(lowest.found.length))?;
        }
        self.files.publish(id);
        Ok(id)
    }

    fn fill_map(&self, id: FileId, overlays: &[Located], base_blocks: u32) -> Result<()> {
        let map = self.files.map(id.number);
        let mut any = false;
        let mut longest = base_blocks;
        for located in overlays.iter().rev() {
            let mut set = |start: u32, count: u32| {
                let end = start.saturating_add(count) as usize;
                let range = map.get(start as usize..end).ok_or(Errno::DAMAGED)?;
                range.iter().for_each(|entry| entry.store(located.slot, Ordering::Relaxed));
                any |= count > 0;
                Ok(())
            };
            located.layer.runs(&located.found, &mut set)?;
            // Also what this layer cut off: it must not show should a higher one grow the file.
            longest = longest.max(blocks(located.found.length));
            let floor = blocks(located.found.floor);
            set(floor, longest.saturating_sub(floor))?;
        }
        self.files.record(id.number).mapped.store(u32::from(any), Ordering::Release);
        Ok(())
    }

    /// Makes an empty file in the open layer. Inside the gate, with the path's lock; nothing is
    /// there yet.
    pub(crate) fn create(&self, path: &RelPath, whole: bool, mode: u32, top: u32) -> Result<FileId> {
        if !self.directory_exists(&path.parent(), top)? {
            return Err(Errno::NOENT);
        }
        let layer = &*self.layer(top)?;
        make_directories(layer.files, &path.parent())?;
        let arena = layer.arena().ok_or(Errno::DAMAGED)?;
        let class = if whole { arena::WHOLE } else { 0 };
        let number = arena.add(path, arena::DIRTY | class, 0)?;
        let entry = Entry { kind: entry::Kind::Complete, record: number, floor: 0 };
        match named_file(layer, path, mode, |fd| entry.store(fd)) {
            Ok(()) => {
                arena.record(number).flags.fetch_or(arena::LINKED, Ordering::AcqRel);
            }
            Err(errno) => {
                arena.record(number).flags.store(0, Ordering::Release);
                return Err(errno);
            }
        }
        self.add_record(path, whole, top, number)
    }

    pub(crate) fn add_record(&self, path: &RelPath, whole: bool, top: u32, number: u32) -> Result<FileId> {
        let id = self.files.allocate(path)?;
        let record = self.files.record(id.number);
        record.version.store(top, Ordering::Relaxed);
        record.record.store(number, Ordering::Relaxed);
        record.whole.store(u32::from(whole), Ordering::Relaxed);
        self.files.publish(id);
        Ok(id)
    }

    /// Makes sure that the open layer has a version of the file that may be written to.
    pub(crate) fn ensure_top(&self, id: FileId, top: u32) -> Result<()> {
        let record = self.files.record(id.number);
        if record.version.load(Ordering::Acquire) == top {
            return Ok(());
        }
        let path = record.path();
        let _lock = self.files.lock(&path);
        if record.version.load(Ordering::Acquire) == top {
            return Ok(());
        }
        if !self.files.is_live(id) {
            return Err(Errno::NOENT);
        }
        let layer = &*self.layer(top)?;
        make_directories(layer.files, &path.parent())?;
        if record.whole.load(Ordering::Acquire) == 1 {
            self.copy_up(id, layer, top)
        } else {
            self.place(id, layer, top)
        }
    }

    /// A placeholder: the logical size, no data, everything falls through.
    fn place(&self, id: FileId, layer: &Layer, top: u32) -> Result<()> {
        let record = self.files.record(id.number);
        let (path, version) = (record.path(), record.version.load(Ordering::Acquire));
        let below = self.lower_fd(id, version)?;
        let length = sys::size(below)?;
        let arena = layer.arena().ok_or(Errno::DAMAGED)?;
        // Its size is news, too, even if no write follows.
        let number = arena.add(&path, arena::OVERLAY | arena::DIRTY, length)?;
        let entry = Entry { kind: entry::Kind::Overlay, record: number, floor: length };
        named_file(layer, &path, 0o600, |fd| {
            sys::ftruncate(fd, length)?;
            entry.store(fd)
        })?;
        arena.record(number).flags.fetch_or(arena::LINKED, Ordering::AcqRel);
        if record.base.load(Ordering::Acquire) == NONE {
            record.base_blocks.store(blocks(length), Ordering::Release);
            record.base.store(version, Ordering::Release);
        }
        record.record.store(number, Ordering::Release);
        record.version.store(top, Ordering::Release);
        Ok(())
    }

    /// Copies a small file whole; durable under its name before anyone writes to it, or a power cut
    /// could leave half of it over the good one below.
    fn copy_up(&self, id: FileId, layer: &Layer, top: u32) -> Result<()> {
        let record = self.files.record(id.number);
        let (path, version) = (record.path(), record.version.load(Ordering::Acquire));
        let below = self.lower_fd(id, version)?;
        let arena = layer.arena().ok_or(Errno::DAMAGED)?;
        let number = arena.add(&path, arena::WHOLE, 0)?;
        let entry = Entry { kind: entry::Kind::Complete, record: number, floor: 0 };
        named_file(layer, &path, 0o600, |fd| {
            copy_all(below, fd)?;
            entry.store(fd)?;
            sys::fsync(fd)
        })?;
        if let Err(errno) = store::layer::seal::sync_directories(layer, &path) {
            // Nobody knows of it yet; the next try finds its place free.
            arena.record(number).flags.store(0, Ordering::Release);
            let _ = sys::unlinkat(layer.files, path.as_cstr(), 0);
            return Err(errno);
        }
        arena.record(number).flags.fetch_or(arena::NAMED, Ordering::AcqRel);
        record.record.store(number, Ordering::Release);
        record.version.store(top, Ordering::Release);
        Ok(())
    }
}

/// Makes an unnamed file beside its place, lets `fill` finish it, then gives it its name.
fn named_file(layer: &Layer, path: &RelPath, mode: u32, fill: impl FnOnce(Fd) -> Result<()>) -> Result<()> {
    let parent = path.parent();
    let flags = libc::O_TMPFILE | O_RDWR | O_CLOEXEC;
    let fd = sys::openat(layer.files, parent.as_cstr(), flags, mode & 0o700 | 0o600)?;
    let named = fill(fd).and_then(|()| sys::link_fd(fd, layer.files, path.as_cstr()));
    sys::close(fd);
    named
}

fn copy_all(from: Fd, to: Fd) -> Result<()> {
    let mut buffer = [0u8; 8192];
    let mut offset = 0;
    loop {
        let n = sys::pread(from, &mut buffer, offset)?;
        if n == 0 {
            return Ok(());
        }
        sys::pwrite_full(to, &buffer[..n], offset)?;
        offset += n as u64;
    }
}

/// `mkdir -p` below a directory.
pub(crate) fn make_directories(root: Fd, path: &RelPath) -> Result<()> {
    if path.is_root() {
        return Ok(());
    }
    match sys::mkdirat(root, path.as_cstr(), 0o700) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::NOENT) => {
            make_directories(root, &path.parent())?;
            match sys::mkdirat(root, path.as_cstr(), 0o700) {
                Err(Errno::EXIST) => Ok(()),
                other => other,
            }
        }
        Err(errno) => Err(errno),
    }
}
