//! Writing to the open layer.

use std::sync::atomic::Ordering;

use store::errno::{Errno, Result};
use store::fault::{Fault, planted};
use store::files::{FileId, FileRecord, NONE};
use store::layer::arena::{BLOCK, MAX_BLOCKS};
use store::layer::{Layer, arena, blocks};
use store::path::RelPath;
use store::sys::{self, Fd};

use crate::Outcome;
use crate::descriptors::{Kind, Tracked};
use crate::open::Discovered;
use crate::resolve::Target;
use crate::tracker::{Rare, Tracker};

impl Tracker {
    /// `pwrite(2)`.
    #[inline]
    pub fn pwrite(&self, fd: Fd, bytes: &[u8], offset: u64) -> Outcome<usize> {
        self.write_by(fd, offset, bytes.len() as u64, |fd| sys::pwrite(fd, bytes, offset))
    }

    /// Any write of `length` bytes at `offset`, made by `call` on the prepared descriptor: one
    /// system call, vectored or not, inside the gate.
    #[inline]
    pub fn write_by(
        &self,
        fd: Fd,
        offset: u64,
        length: u64,
        call: impl FnOnce(Fd) -> Result<usize>,
    ) -> Outcome<usize> {
        let tracked = self.descriptors.get(fd)?;
        Some(match tracked.kind {
            Kind::Stream(segment) => self.write_stream(fd, segment, offset, call),
            Kind::File(_) => self.write_file(fd, &tracked, offset, length, call),
            Kind::Directory => call(fd),
        })
    }

    /// `write(2)`: as `pwrite` at the descriptor's position, or at the end for `O_APPEND`.
    pub fn write(&self, fd: Fd, bytes: &[u8]) -> Outcome<usize> {
        let tracked = self.descriptors.get(fd)?;
        let write = || {
            let whence = if tracked.flags & libc::O_APPEND != 0 { libc::SEEK_END } else { libc::SEEK_CUR };
            if let Some(current) = self.make_current(fd) {
                current?;
            }
            let position = sys::lseek(fd, 0, whence)?;
            let n = match self.pwrite(fd, bytes, position) {
                Some(n) => n?,
                None => sys::pwrite(fd, bytes, position)?,
            };
            sys::lseek(fd, (position + n as u64) as i64, libc::SEEK_SET)?;
            Ok(n)
        };
        Some(write())
    }

    /// Writes to a WAL segment and notes how far the stream now reaches.
    fn write_stream(
        &self,
        fd: Fd,
        segment: u64,
        offset: u64,
        call: impl FnOnce(Fd) -> Result<usize>,
    ) -> Result<usize> {
        let _inside = self.enter()?;
        let n = call(fd)?;
        let end = segment * self.settings.wal_segment_size + offset + n as u64;
        self.gate.header().stream_mark.fetch_max(end, Ordering::AcqRel);
        Ok(n)
    }

    fn write_file(
        &self,
        fd: Fd,
        tracked: &Tracked,
        offset: u64,
        length: u64,
        call: impl FnOnce(Fd) -> Result<usize>,
    ) -> Result<usize> {
        let inside = self.enter()?;
        if planted(Fault::WriteBelow)
            && let Some((_, record)) = self.live_file(tracked)
            && record.version.load(Ordering::Acquire) != inside.top
        {
            return self.write_below(record, call);
        }
        let Some((tracked, id)) = self.writable(fd, tracked, inside.top)? else {
            return call(fd);
        };
        let record = self.files.record(id.number);
        let layer = &*self.layer(inside.top)?;
        if record.base.load(Ordering::Acquire) == NONE {
            let n = call(fd)?;
            self.mark_dirty(layer, record.record.load(Ordering::Acquire));
            return Ok(n);
        }
        if length == 0 {
            return Ok(0);
        }
        let range = offset..offset + length;
        self.write_overlay(fd, &tracked, id, layer, range, call)
    }

    /// What [`Fault::WriteBelow`] does.
    fn write_below(&self, record: &FileRecord, call: impl FnOnce(Fd) -> Result<usize>) -> Result<usize> {
        let (path, layer) = (record.path(), self.layer(record.version.load(Ordering::Acquire))?);
        // Files with an index are read-only for everybody.
        sys::chmodat(layer.files, path.as_cstr(), 0o600)?;
        let fd = layer.open_file(&path, sys::O_RDWR)?;
        let written = call(fd);
        sys::close(fd);
        written
    }

    fn write_overlay(
        &self,
        fd: Fd,
        tracked: &Tracked,
        id: FileId,
        layer: &Layer,
        range: std::ops::Range<u64>,
        call: impl FnOnce(Fd) -> Result<usize>,
    ) -> Result<usize> {
        let (offset, end) = (range.start, range.end);
        if end.div_ceil(BLOCK) > u64::from(MAX_BLOCKS) {
            return Err(Errno(libc::EFBIG));
        }
        let arena = layer.arena().ok_or(Errno::DAMAGED)?;
        let number = self.files.record(id.number).record.load(Ordering::Acquire);
        let (first, last) = ((offset / BLOCK) as u32, ((end - 1) / BLOCK) as u32);
        arena.reserve(number, first..last + 1)?;
        if !offset.is_multiple_of(BLOCK) {
            self.copy_up_block(fd, tracked, id, layer, first)?;
        }
        if !end.is_multiple_of(BLOCK) && (last != first || offset.is_multiple_of(BLOCK)) {
            self.copy_up_block(fd, tracked, id, layer, last)?;
        }
        let n = call(fd)?;
        // A short write leaves its last block to what was copied up or not at all.
        let whole_end =
            if n as u64 == end - offset { last + 1 } else { ((offset + n as u64) / BLOCK) as u32 };
        for block in first..whole_end {
            self.hold_block(id, layer, number, block, tracked.slot);
        }
        self.mark_dirty(layer, number);
        Ok(n)
    }

    /// Data first, then the bit, then the map: a process killed in between leaves the old block.
    fn hold_block(&self, id: FileId, layer: &Layer, number: u32, block: u32, top: u32) {
        if let Some(arena) = layer.arena() {
            arena.set_present(number, block);
        }
        let entry = &self.files.map(id.number)[block as usize];
        if entry.load(Ordering::Relaxed) != top {
            entry.store(top, Ordering::Release);
            self.files.record(id.number).mapped.store(1, Ordering::Release);
        }
    }

    /// Before a write that covers a block in part: brings the rest of it into the open layer.
    fn copy_up_block(&self, fd: Fd, tracked: &Tracked, id: FileId, layer: &Layer, block: u32) -> Result<()> {
        let record = self.files.record(id.number);
        if self.source(record, id, u64::from(block)) == tracked.slot {
            return Ok(());
        }
        self.count(Rare::PartialWrite);
        let mut buffer = [0u8; BLOCK as usize];
        let offset = u64::from(block) * BLOCK;
        let n = self.read_through(fd, tracked, id, &mut buffer, offset)?;
        sys::pwrite_full(fd, &buffer[..n], offset)?;
        self.hold_block(id, layer, record.record.load(Ordering::Acquire), block, tracked.slot);
        Ok(())
    }

    pub(crate) fn mark_dirty(&self, layer: &Layer, number: u32) {
        if number == NONE {
            return;
        }
        if let Some(arena) = layer.arena() {
            let flags = &arena.record(number).flags;
            if flags.load(Ordering::Relaxed) & arena::DIRTY == 0 {
                flags.fetch_or(arena::DIRTY, Ordering::AcqRel);
            }
        }
    }

    /// Makes the descriptor stand for a version of its file in the open layer. `None` when the file
    /// was dropped and the descriptor's unnamed inode may take the write. Inside the gate.
    pub(crate) fn writable(&self, fd: Fd, tracked: &Tracked, top: u32) -> Result<Option<(Tracked, FileId)>> {
        let Some((id, record)) = self.live_file(tracked) else {
            return self.writable_again(fd, tracked, top);
        };
        self.ensure_top(id, top)?;
        if tracked.slot == record.version.load(Ordering::Acquire) {
            return Ok(Some((*tracked, id)));
        }
        self.refresh(fd, tracked, id).map(|tracked| Some((tracked, id)))
    }

    /// The record no longer means the descriptor's file: it was dropped or renamed. The kernel
    /// knows its name of today.
    #[cold]
    fn writable_again(&self, fd: Fd, tracked: &Tracked, top: u32) -> Result<Option<(Tracked, FileId)>> {
        self.count(Rare::DeadWrite);
        let mut buffer = [0u8; 40];
        let mut text = [0u8; 512];
        let name = sys::readlinkat(sys::AT_FDCWD, sys::proc_fd_path(fd, &mut buffer), &mut text)?;
        if name.ends_with(b" (deleted)") {
            return Ok(None);
        }
        let below = name.strip_prefix(&self.settings.layers_directory[..]);
        let rest = below.and_then(|rest| rest.strip_prefix(b"/")).and_then(store::layer::path_within);
        let Some(path) = rest.and_then(|rest| RelPath::new(rest).ok()) else { return Ok(None) };
        let whole = pgdata::class::classify(path.as_bytes()) == pgdata::class::Class::Whole;
        let lock = self.files.lock(&path);
        let Discovered::File(id) = self.discover(&path, whole, top)? else { return Ok(None) };
        drop(lock);
        self.ensure_top(id, top)?;
        let tracked = Tracked { kind: Kind::File(id), ..*tracked };
        self.refresh(fd, &tracked, id).map(|tracked| Some((tracked, id)))
    }

    /// For writes that stdio makes natively on `fd`: enters the gate, prepares the descriptor, runs
    /// `write`, leaves. Only for files without blocks below (class *whole*, or new).
    pub fn write_natively<T>(&self, fd: Fd, write: impl FnOnce() -> T) -> Outcome<T> {
        let tracked = self.descriptors.get(fd)?;
        if tracked.flags & libc::O_ACCMODE == libc::O_RDONLY {
            return None;
        }
        let run = || {
            let inside = self.enter()?;
            let prepared = match tracked.kind {
                Kind::File(_) => self.writable(fd, &tracked, inside.top)?,
                Kind::Stream(_) | Kind::Directory => None,
            };
            let value = write();
            if let Some((_, id)) = prepared {
                let layer = &*self.layer(inside.top)?;
                self.mark_dirty(layer, self.files.record(id.number).record.load(Ordering::Acquire));
            }
            Ok(value)
        };
        Some(run())
    }

    /// `ftruncate(2)`.
    pub fn ftruncate(&self, fd: Fd, length: u64) -> Outcome<()> {
        let tracked = self.descriptors.get(fd)?;
        let truncate = || {
            let inside = self.enter()?;
            match tracked.kind {
                Kind::Stream(_) | Kind::Directory => sys::ftruncate(fd, length),
                Kind::File(_) => match self.writable(fd, &tracked, inside.top)? {
                    None => sys::ftruncate(fd, length),
                    Some((tracked, id)) => self.truncate_open(fd, &tracked, id, length, inside.top),
                },
            }
        };
        Some(truncate())
    }

    /// `truncate(2)`.
    pub fn truncate(&self, path: &[u8], length: u64) -> Outcome<()> {
        let (path, whole) = match self.resolve(path) {
            Ok(Target::Layered(path, whole)) => (path, whole),
            Ok(_) => return None,
            Err(errno) => return Some(Err(errno)),
        };
        let truncate = || {
            let inside = self.enter()?;
            let _lock = self.files.lock(&path);
            match self.discover(&path, whole, inside.top)? {
                Discovered::Nothing => Err(Errno::NOENT),
                Discovered::Directory => Err(Errno(libc::EISDIR)),
                Discovered::File(id) => {
                    if length == 0 && self.put_in_trash(&path, inside.top)? {
                        self.files.forget(&path);
                        return self.create(&path, whole, 0o600, inside.top).map(drop);
                    }
                    self.truncate_version(id, length, inside.top)
                }
            }
        };
        Some(truncate())
    }

    /// Cuts the file of a record. Inside the gate.
    pub(crate) fn truncate_version(&self, id: FileId, length: u64, top: u32) -> Result<()> {
        self.ensure_top(id, top)?;
        let path = self.files.record(id.number).path();
        let fd = self.layer(top)?.open_file(&path, sys::O_RDWR)?;
        let tracked = Tracked { kind: Kind::File(id), slot: top, flags: sys::O_RDWR };
        let done = self.truncate_open(fd, &tracked, id, length, top);
        sys::close(fd);
        done
    }

    fn truncate_open(&self, fd: Fd, tracked: &Tracked, id: FileId, length: u64, top: u32) -> Result<()> {
        let record = self.files.record(id.number);
        let layer = &*self.layer(top)?;
        let number = record.record.load(Ordering::Acquire);
        if record.base.load(Ordering::Acquire) != NONE {
            let old = sys::size(fd)?;
            let arena = layer.arena().ok_or(Errno::DAMAGED)?;
            if length < old && !planted(Fault::FloorForgotten) {
                if !length.is_multiple_of(BLOCK) {
                    let block = (length / BLOCK) as u32;
                    arena.reserve(number, block..block + 1)?;
                    self.copy_up_block(fd, tracked, id, layer, block)?;
                    // Also one that was never written: the block of a lower layer reaches beyond the new end.
                    self.hold_block(id, layer, number, block, tracked.slot);
                }
                // What is cut off must never show again, should the file grow back.
                arena.record(number).floor.fetch_min(length, Ordering::AcqRel);
                for entry in &self.files.map(id.number)[blocks(length) as usize..blocks(old) as usize] {
                    entry.store(top, Ordering::Release);
                }
                record.mapped.store(1, Ordering::Release);
            }
        }
        sys::ftruncate(fd, length)?;
        self.mark_dirty(layer, number);
        Ok(())
    }

    /// `fallocate(2)` and `posix_fallocate(3)`.
    pub fn fallocate(&self, fd: Fd, mode: i32, offset: u64, length: u64) -> Outcome<()> {
        let tracked = self.descriptors.get(fd)?;
        let allocate = || {
            if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
                return Err(Errno(libc::EOPNOTSUPP));
            }
            let inside = self.enter()?;
            let prepared = match tracked.kind {
                Kind::Stream(_) | Kind::Directory => None,
                Kind::File(_) => self.writable(fd, &tracked, inside.top)?,
            };
            sys::fallocate(fd, mode, offset, length)?;
            if let Some((_, id)) = prepared {
                let layer = &*self.layer(inside.top)?;
                self.mark_dirty(layer, self.files.record(id.number).record.load(Ordering::Acquire));
            }
            Ok(())
        };
        Some(allocate())
    }
}
