//! Reading through the stack.

use std::sync::atomic::Ordering;

use store::errno::Result;
use store::fault::{Fault, planted};
use store::files::{FileId, FileRecord, NONE};
use store::layer::arena::{BLOCK, MAX_BLOCKS};
use store::sys::{self, Fd};

use crate::Outcome;
use crate::descriptors::Tracked;
use crate::tracker::Tracker;

impl Tracker {
    /// Brings a descriptor up to its file's newest version. `None` when it is not a layered file or
    /// its file was dropped: then the descriptor itself has all there is.
    #[inline]
    fn current(&self, fd: Fd) -> Option<Result<(Tracked, FileId, &FileRecord)>> {
        let tracked = self.descriptors.get(fd)?;
        let (id, record) = self.live_file(&tracked)?;
        if record.version.load(Ordering::Acquire) == tracked.slot {
            return Some(Ok((tracked, id, record)));
        }
        match self.refresh(fd, &tracked, id) {
            Ok(tracked) => Some(Ok((tracked, id, record))),
            // Dropped by somebody else at this moment: what the descriptor has is what there is.
            Err(store::Errno::NOENT) => None,
            Err(errno) => Some(Err(errno)),
        }
    }

    /// Makes `fd` stand for its file's newest version; for calls that then work natively
    /// (`fstat`, `lseek`).
    #[inline]
    pub fn make_current(&self, fd: Fd) -> Outcome<()> {
        self.current(fd).map(|current| current.map(drop))
    }

    /// `pread(2)`. Bypass when the descriptor itself holds everything.
    #[inline]
    pub fn pread(&self, fd: Fd, buffer: &mut [u8], offset: u64) -> Outcome<usize> {
        match self.current(fd)? {
            Err(errno) => Some(Err(errno)),
            Ok((_, _, record)) if record.base.load(Ordering::Acquire) == NONE => None,
            Ok((tracked, id, _)) => Some(self.read_through(fd, &tracked, id, buffer, offset)),
        }
    }

    /// The one descriptor that holds all of `length` bytes at `offset`, if there is one: lets a
    /// vectored read be a single call. `None` inside means: read piece by piece.
    pub fn single_source(&self, fd: Fd, offset: u64, length: u64) -> Outcome<Option<Fd>> {
        let (tracked, id, record) = match self.current(fd)? {
            Ok(current) => current,
            Err(errno) => return Some(Err(errno)),
        };
        if record.base.load(Ordering::Acquire) == NONE {
            return None;
        }
        let first = offset / BLOCK;
        let slot = self.source(record, id, first);
        let last = (offset + length.max(1) - 1) / BLOCK;
        let alike = (first + 1..=last).all(|block| self.source(record, id, block) == slot);
        Some(if !alike {
            Ok(None)
        } else if slot == tracked.slot {
            Ok(Some(fd))
        } else {
            self.lower_fd(id, slot).map(Some)
        })
    }

    /// Slot of the layer that holds a block.
    #[inline]
    pub(crate) fn source(&self, record: &FileRecord, id: FileId, block: u64) -> u32 {
        let version = record.version.load(Ordering::Acquire);
        if block >= u64::from(MAX_BLOCKS) {
            return version;
        }
        if record.mapped.load(Ordering::Acquire) != 0 && !planted(Fault::NewestUnread) {
            let slot = self.files.map(id.number)[block as usize].load(Ordering::Acquire);
            if slot != 0 {
                return slot;
            }
        }
        if block < u64::from(record.base_blocks.load(Ordering::Acquire)) {
            record.base.load(Ordering::Acquire)
        } else {
            version
        }
    }

    /// Reads from wherever each block lies, in runs.
    pub(crate) fn read_through(
        &self,
        fd: Fd,
        tracked: &Tracked,
        id: FileId,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        let record = self.files.record(id.number);
        let mut done = 0;
        while done < buffer.len() {
            let position = offset + done as u64;
            let slot = self.source(record, id, position / BLOCK);
            let mut end = (position / BLOCK + 1) * BLOCK;
            while end < offset + buffer.len() as u64 && self.source(record, id, end / BLOCK) == slot {
                end += BLOCK;
            }
            let length = (end - position).min((buffer.len() - done) as u64) as usize;
            let part = &mut buffer[done..done + length];
            let n = if slot == tracked.slot {
                sys::pread_full(fd, part, position)?
            } else {
                self.read_lower(fd, id, slot, part, position)?
            };
            done += n;
            if n < length {
                break;
            }
        }
        Ok(done)
    }

    /// Reads from a lower layer's file. Where that file is shorter than the file is today, the rest
    /// reads as zeros.
    fn read_lower(&self, fd: Fd, id: FileId, slot: u32, part: &mut [u8], position: u64) -> Result<usize> {
        let n = sys::pread_full(self.lower_fd(id, slot)?, part, position)?;
        if n == part.len() {
            return Ok(n);
        }
        let end = sys::size(fd)?.clamp(position, position + part.len() as u64);
        let length = (end - position) as usize;
        if length > n {
            part[n..length].fill(0);
        }
        Ok(length)
    }

    /// `read(2)`: as `pread` at the descriptor's position.
    pub fn read(&self, fd: Fd, buffer: &mut [u8]) -> Outcome<usize> {
        let (tracked, id, record) = match self.current(fd)? {
            Ok(current) => current,
            Err(errno) => return Some(Err(errno)),
        };
        if record.base.load(Ordering::Acquire) == NONE {
            return None;
        }
        let mut read = || {
            let position = sys::lseek(fd, 0, libc::SEEK_CUR)?;
            let n = self.read_through(fd, &tracked, id, buffer, position)?;
            sys::lseek(fd, (position + n as u64) as i64, libc::SEEK_SET)?;
            Ok(n)
        };
        Some(read())
    }

    /// `lseek(2)` for data and holes: our holes mean nothing, so all of a file is data.
    pub fn seek_data(&self, fd: Fd, offset: i64, hole: bool) -> Outcome<u64> {
        match self.current(fd)? {
            Err(errno) => Some(Err(errno)),
            Ok((_, _, record)) if record.base.load(Ordering::Acquire) == NONE => None,
            Ok(_) => Some(sys::size(fd).and_then(|size| {
                if offset < 0 || offset as u64 >= size {
                    return Err(store::Errno(libc::ENXIO));
                }
                sys::lseek(fd, if hole { size as i64 } else { offset }, libc::SEEK_SET)
            })),
        }
    }

    /// Whether plain system calls on the descriptor see the file's true content (so that it may be
    /// mapped privately or read by stdio).
    pub fn is_plain(&self, fd: Fd) -> bool {
        match self.current(fd) {
            None => true,
            Some(Err(_)) => false,
            Some(Ok((_, _, record))) => record.base.load(Ordering::Acquire) == NONE,
        }
    }

    /// An unnamed file with the content of a tracked one, for readers that bypass us (stdio).
    pub fn materialize(&self, fd: Fd) -> Result<Fd> {
        let copy = sys::openat(self.private, c".", libc::O_TMPFILE | sys::O_RDWR | sys::O_CLOEXEC, 0o600)?;
        let mut buffer = [0u8; BLOCK as usize];
        let mut offset = 0;
        loop {
            let n = match self.pread(fd, &mut buffer, offset) {
                Some(n) => n,
                None => sys::pread(fd, &mut buffer, offset),
            };
            match n {
                Ok(0) => return Ok(copy),
                Ok(n) => sys::pwrite_full(copy, &buffer[..n], offset)?,
                Err(errno) => {
                    sys::close(copy);
                    return Err(errno);
                }
            }
            offset += BLOCK;
        }
    }
}
