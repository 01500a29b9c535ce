//! The arena of a layer without index: a record for each of its files and a bitmap of the blocks
//! that an overlay holds, shared by all processes through a mapped file.
//!
//! The mapping is the truth while the machine runs (it survives every process); across a restart of
//! the machine only the map log counts. See `docs/formats.md`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::errno::{Errno, Result};
use crate::path::{MAX_PATH, RelPath};
use crate::shared_struct;
use crate::shm::Mapping;
use crate::sys::{self, Fd};

/// Block size of copy-on-write, bytes.
pub const BLOCK: u64 = 8192;
/// Most blocks a tracked file may have: a 1 GiB relation segment.
pub const MAX_BLOCKS: u32 = 131_072;

const MAGIC: u64 = u64::from_le_bytes(*b"ANAAREN1");
const VERSION: u32 = 1;
const HEADER: usize = 4096;
const RECORD: usize = 192;
const RECORDS: usize = 1 << 18;
const BITMAPS: usize = HEADER + RECORDS * RECORD;
/// A bitmap: 8 pages of 4 KiB, each with the *present* and the *logged* bits of 16,384 blocks.
const BITMAP: usize = 32 * 1024;
const PAGE: usize = 4096;
const BLOCKS_PER_PAGE: u32 = 16_384;
/// Records that may have their number and not their room, for as long as the arena exists: their makers
/// were killed in between.
const ROOMLESS: u32 = 4;
/// Whoever is just adding a record gets there in this many looks, a millisecond apart.
const LOOKS: u32 = 50;
const LENGTH: usize = BITMAPS + RECORDS * BITMAP;

/// The record belongs to a file.
pub const LIVE: u32 = 1;
/// The file is an overlay; otherwise complete.
pub const OVERLAY: u32 = 2;
/// The file has bytes that no sync has covered.
pub const DIRTY: u32 = 4;
/// The file's directory entry is durable.
pub const NAMED: u32 = 8;
/// The file is of class *whole*: never read by block.
pub const WHOLE: u32 = 16;
/// The file has its name.
pub const LINKED: u32 = 32;
/// The file's name is durable, perhaps by a sync of its directory for another file's sake.
pub const LISTED: u32 = 64;

shared_struct! {
    /// Head of the arena.
    pub struct Header {
        magic: AtomicU64,
        version: AtomicU32,
        records: AtomicU32,
        bitmaps: AtomicU32,
        /// Whiteouts made in this layer; 0 spares lookups the search for them.
        pub whiteouts: AtomicU32,
        /// See [`SyncState`].
        pub sync_state: AtomicU32,
        /// Errno of a failed sync.
        pub sync_errno: AtomicU32,
        /// Process that syncs, and its start time.
        pub syncer_pid: AtomicU32,
        /// Not 0 once a name of this layer's own was taken away.
        pub removals: AtomicU32,
        /// Start time of the syncer in ticks since boot.
        pub syncer_start: AtomicU64,
        boot: [AtomicU64; 5],
    }
}

shared_struct! {
    /// What is known of one file of the layer.
    pub struct Record {
        /// [`LIVE`] and its friends.
        pub flags: AtomicU32,
        /// Number of its bitmap plus one; 0 for none.
        bitmap: AtomicU32,
        /// At or above this length in bytes nothing falls through.
        pub floor: AtomicU64,
        /// Pages of the bitmap that have disk space.
        pages: AtomicU32,
        path_length: AtomicU32,
        /// Floor that the map log last recorded.
        logged_floor: AtomicU64,
        /// Syncs of the file that have begun; one whose process died counts for ever.
        pub syncing: AtomicU64,
        reserved: [AtomicU64; 3],
        path: [AtomicU64; 16],
    }
}

/// How far the bytes of a sealed layer are on their way to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncState {
    /// Nobody has begun.
    Dirty,
    /// The process named in the header is at it.
    Syncing,
    /// All of it is durable.
    Durable,
    /// A sync failed; sticky.
    Failed(Errno),
}

/// A mapped arena.
#[derive(Debug)]
pub struct Arena {
    mapping: Mapping,
    fd: Fd,
}

impl Arena {
    /// Initialises an empty file. The arena owns `fd`.
    pub fn create(fd: Fd) -> Result<Arena> {
        sys::fallocate(fd, 0, 0, HEADER as u64)?;
        let arena = Arena { mapping: Mapping::file(fd, LENGTH)?, fd };
        let header = arena.header();
        header.version.store(VERSION, Ordering::Relaxed);
        arena.store_boot(&sys::boot_id()?);
        header.magic.store(MAGIC, Ordering::Release);
        Ok(arena)
    }

    /// Maps an existing file. `Ok(None)` when it is from another boot or was never finished: what
    /// it says was not made durable and must not be believed. The arena owns `fd`.
    pub fn open(fd: Fd) -> Result<Option<Arena>> {
        if sys::size(fd)? < HEADER as u64 {
            sys::close(fd);
            return Ok(None);
        }
        let arena = Arena { mapping: Mapping::file(fd, LENGTH)?, fd };
        let header = arena.header();
        if header.magic.load(Ordering::Acquire) != MAGIC || arena.boot() != sys::boot_id()? {
            return Ok(None);
        }
        if header.version.load(Ordering::Relaxed) != VERSION {
            return Err(Errno::DAMAGED);
        }
        arena.check()?;
        Ok(Some(arena))
    }

    /// Whether everything that the records speak of lies inside the file: touching what lies beyond its
    /// end would kill the process. Others may add to the arena meanwhile: they make room first.
    fn check(&self) -> Result<()> {
        let roomless = || self.header().records.load(Ordering::Acquire).saturating_sub(self.records());
        let mut looks = 0;
        while roomless() > 0 && looks < LOOKS {
            sys::sleep(Duration::from_millis(1));
            looks += 1;
        }
        if roomless() > ROOMLESS {
            return Err(Errno::DAMAGED);
        }
        let there = self.records();
        let mut needed = 0;
        for id in 0..there {
            let record = self.record(id);
            let pages = record.pages.load(Ordering::Acquire);
            if pages == 0 {
                continue;
            }
            let bitmap = record.bitmap.load(Ordering::Acquire) as usize;
            if bitmap == 0 || bitmap > RECORDS || pages >= 1 << (BITMAP / PAGE) {
                return Err(Errno::DAMAGED);
            }
            let last = (u32::BITS - pages.leading_zeros()) as usize;
            needed = needed.max(BITMAPS + (bitmap - 1) * BITMAP + last * PAGE);
        }
        if needed as u64 > sys::size(self.fd)? { Err(Errno::DAMAGED) } else { Ok(()) }
    }

    fn boot(&self) -> [u8; 36] {
        let mut text = [0u8; 40];
        for (word, bytes) in self.header().boot.iter().zip(text.chunks_mut(8)) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        let mut id = [0u8; 36];
        id.copy_from_slice(&text[..36]);
        id
    }

    fn store_boot(&self, id: &[u8; 36]) {
        let mut text = [0u8; 40];
        text[..36].copy_from_slice(id);
        for (word, bytes) in self.header().boot.iter().zip(text.chunks(8)) {
            let mut value = [0u8; 8];
            value.copy_from_slice(bytes);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
        }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        self.mapping.at(0)
    }

    /// The record numbered `id`.
    pub fn record(&self, id: u32) -> &Record {
        self.mapping.at(HEADER + id as usize * RECORD)
    }

    /// Records handed out so far that have their room in the file.
    pub fn records(&self) -> u32 {
        let handed_out = self.header().records.load(Ordering::Acquire).min(RECORDS as u32);
        // The kernel maps whole pages.
        let room =
            sys::size(self.fd).unwrap_or(0).next_multiple_of(PAGE as u64).saturating_sub(HEADER as u64);
        handed_out.min((room / RECORD as u64).min(RECORDS as u64) as u32)
    }

    /// Makes a record for `path`.
    ///
    /// # Errors
    /// `ENOSPC` when the layer has its 262,144 files or the disk is full.
    pub fn add(&self, path: &RelPath, flags: u32, floor: u64) -> Result<u32> {
        let id = self.header().records.fetch_add(1, Ordering::AcqRel);
        if id as usize >= RECORDS {
            self.header().records.store(RECORDS as u32, Ordering::Release);
            return Err(Errno(libc::ENOSPC));
        }
        sys::fallocate(self.fd, 0, (HEADER + id as usize * RECORD) as u64, RECORD as u64)?;
        self.fill(id, path, flags, floor);
        Ok(id)
    }

    fn fill(&self, id: u32, path: &RelPath, flags: u32, floor: u64) {
        let record = self.record(id);
        for (word, bytes) in record.path.iter().zip(path.as_bytes().chunks(8)) {
            let mut value = [0u8; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
        }
        record.path_length.store(path.as_bytes().len() as u32, Ordering::Relaxed);
        record.floor.store(floor, Ordering::Relaxed);
        record.logged_floor.store(floor, Ordering::Relaxed);
        record.flags.store(flags | LIVE, Ordering::Release);
    }

    /// Puts a record back at its number, after a restart of the machine.
    pub fn restore(&self, id: u32, path: &RelPath, flags: u32, floor: u64) -> Result<()> {
        if id as usize >= RECORDS {
            return Err(Errno::DAMAGED);
        }
        self.header().records.fetch_max(id + 1, Ordering::AcqRel);
        sys::fallocate(self.fd, 0, (HEADER + id as usize * RECORD) as u64, RECORD as u64)?;
        self.fill(id, path, flags, floor);
        Ok(())
    }

    /// Leaves out the record numbers below `next`: the map log speaks of files that had them.
    pub fn skip_to(&self, next: u32) -> Result<()> {
        if next as usize > RECORDS {
            return Err(Errno::DAMAGED);
        }
        sys::fallocate(self.fd, 0, HEADER as u64, next as u64 * RECORD as u64)?;
        self.header().records.fetch_max(next, Ordering::AcqRel);
        Ok(())
    }

    /// Whether the file has bytes, or a floor, that no finished sync has covered.
    pub fn is_unsynced(&self, id: u32) -> bool {
        let record = self.record(id);
        record.flags.load(Ordering::Acquire) & DIRTY != 0
            || record.syncing.load(Ordering::Acquire) != 0
            || self.floor_unlogged(id)
    }

    /// The path of a record.
    pub fn path(&self, id: u32) -> Result<RelPath> {
        let record = self.record(id);
        let length = record.path_length.load(Ordering::Relaxed) as usize;
        if length > MAX_PATH {
            return Err(Errno::DAMAGED);
        }
        let mut text = [0u8; 128];
        for (word, bytes) in record.path.iter().zip(text.chunks_mut(8)) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        RelPath::new(&text[..length])
    }

    fn words(&self, bitmap: u32, page: u32) -> &[AtomicU64] {
        let offset = BITMAPS + bitmap as usize * BITMAP + page as usize * PAGE;
        self.mapping.slice(offset, PAGE / 8)
    }

    /// Allocates what the bitmap needs for `blocks`, so that setting a bit cannot fail.
    pub fn reserve(&self, id: u32, blocks: std::ops::Range<u32>) -> Result<()> {
        if blocks.end > MAX_BLOCKS {
            return Err(Errno(libc::EFBIG));
        }
        let record = self.record(id);
        let pages = record.pages.load(Ordering::Acquire);
        for page in blocks.start / BLOCKS_PER_PAGE..=(blocks.end.max(1) - 1) / BLOCKS_PER_PAGE {
            if pages & 1 << page == 0 {
                self.reserve_page(record, page)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn reserve_page(&self, record: &Record, page: u32) -> Result<()> {
        if record.bitmap.load(Ordering::Acquire) == 0 {
            let next = self.header().bitmaps.fetch_add(1, Ordering::AcqRel);
            if next as usize >= RECORDS {
                return Err(Errno(libc::ENOSPC));
            }
            // Two first writers race: the loser's number stays unused.
            let _ = record.bitmap.compare_exchange(0, next + 1, Ordering::AcqRel, Ordering::Acquire);
        }
        let bitmap = record.bitmap.load(Ordering::Acquire).saturating_sub(1);
        if bitmap as usize >= RECORDS {
            return Err(Errno::DAMAGED);
        }
        let offset = BITMAPS + bitmap as usize * BITMAP + page as usize * PAGE;
        sys::fallocate(self.fd, 0, offset as u64, PAGE as u64)?;
        record.pages.fetch_or(1 << page, Ordering::AcqRel);
        Ok(())
    }

    fn page_of(&self, record: &Record, page: u32) -> Option<&[AtomicU64]> {
        if record.pages.load(Ordering::Acquire) & 1 << page == 0 {
            return None;
        }
        // What is damaged after it was opened must not be followed out of the mapping.
        let bitmap = record.bitmap.load(Ordering::Acquire).checked_sub(1)?;
        ((bitmap as usize) < RECORDS).then(|| self.words(bitmap, page))
    }

    /// Marks a block as held by this layer. Its page must have been reserved.
    pub fn set_present(&self, id: u32, block: u32) {
        let (page, word, bit) = position(block);
        if let Some(words) = self.page_of(self.record(id), page)
            && words[word].load(Ordering::Relaxed) & bit == 0
        {
            words[word].fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// Whether this layer holds the block.
    pub fn is_present(&self, id: u32, block: u32) -> bool {
        let (page, word, bit) = position(block);
        self.page_of(self.record(id), page)
            .is_some_and(|words| words[word].load(Ordering::Acquire) & bit != 0)
    }

    /// Calls `each` with every run of present blocks below `limit`, in order.
    pub fn present_runs(
        &self,
        id: u32,
        limit: u32,
        each: &mut dyn FnMut(u32, u32) -> Result<()>,
    ) -> Result<()> {
        let record = self.record(id);
        let mut runs = Runs::default();
        for page in 0..MAX_BLOCKS / BLOCKS_PER_PAGE {
            let Some(words) = self.page_of(record, page) else { continue };
            for (index, word) in words[..256].iter().enumerate() {
                let first = page * BLOCKS_PER_PAGE + index as u32 * 64;
                runs.add(first, word.load(Ordering::Acquire), limit, each)?;
            }
        }
        runs.finish(each)
    }

    /// Copies the bits that are present but not logged into `snapshot` (one word for 64 blocks) and
    /// tells whether there are any.
    pub fn unlogged(&self, id: u32, snapshot: &mut [u64; (MAX_BLOCKS / 64) as usize]) -> bool {
        let record = self.record(id);
        let mut any = false;
        for page in 0..MAX_BLOCKS / BLOCKS_PER_PAGE {
            let out = &mut snapshot[page as usize * 256..(page as usize + 1) * 256];
            let Some(words) = self.page_of(record, page) else {
                out.fill(0);
                continue;
            };
            for (index, slot) in out.iter_mut().enumerate() {
                let present = words[index].load(Ordering::Acquire);
                *slot = present & !words[256 + index].load(Ordering::Acquire);
                any |= *slot != 0;
            }
        }
        any
    }

    /// Records that the bits of `snapshot` are in the durable log.
    pub fn set_logged(&self, id: u32, snapshot: &[u64; (MAX_BLOCKS / 64) as usize]) {
        let record = self.record(id);
        for page in 0..MAX_BLOCKS / BLOCKS_PER_PAGE {
            let Some(words) = self.page_of(record, page) else { continue };
            for index in 0..256 {
                let bits = snapshot[page as usize * 256 + index];
                if bits != 0 {
                    words[256 + index].fetch_or(bits, Ordering::AcqRel);
                }
            }
        }
    }

    /// Marks restored blocks as present and logged.
    pub fn restore_run(&self, id: u32, start: u32, count: u32) -> Result<()> {
        self.reserve(id, start..start.checked_add(count).ok_or(Errno::DAMAGED)?)?;
        for block in start..start + count {
            self.set_present(id, block);
            let (page, word, bit) = position(block);
            if let Some(words) = self.page_of(self.record(id), page) {
                words[256 + word].fetch_or(bit, Ordering::AcqRel);
            }
        }
        Ok(())
    }

    /// Whether the floor was lowered since the log last recorded it.
    pub fn floor_unlogged(&self, id: u32) -> bool {
        let record = self.record(id);
        record.floor.load(Ordering::Acquire) != record.logged_floor.load(Ordering::Acquire)
    }

    /// Records that the log has this floor.
    pub fn set_logged_floor(&self, id: u32, floor: u64) {
        self.record(id).logged_floor.store(floor, Ordering::Release);
    }

    /// Notes that a sync of a file failed: its bytes may be lost, and a later sync of the same file
    /// would not say so. Whoever seals the layer must know.
    pub fn poison(&self, errno: Errno) {
        self.header().sync_errno.store(errno.0 as u32, Ordering::Release);
    }

    /// Errno of a sync of the open layer that failed since the compute started.
    pub fn poisoned(&self) -> Option<Errno> {
        let errno = self.header().sync_errno.load(Ordering::Acquire) as i32;
        (errno != 0).then_some(Errno(errno))
    }

    /// A new compute replays what the failed sync may have lost.
    pub fn clear_poison(&self) {
        self.header().sync_errno.store(0, Ordering::Release);
    }

    /// State of the layer's sync.
    pub fn sync_state(&self) -> SyncState {
        let header = self.header();
        match header.sync_state.load(Ordering::Acquire) {
            0 => SyncState::Dirty,
            1 => SyncState::Syncing,
            2 => SyncState::Durable,
            _ => SyncState::Failed(Errno(header.sync_errno.load(Ordering::Acquire) as i32)),
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        sys::close(self.fd);
    }
}

fn position(block: u32) -> (u32, usize, u64) {
    let within = block % BLOCKS_PER_PAGE;
    (block / BLOCKS_PER_PAGE, (within / 64) as usize, 1 << (within % 64))
}

/// Turns words of bits into runs.
#[derive(Debug, Default)]
pub struct Runs {
    start: u32,
    count: u32,
}

impl Runs {
    /// Adds the 64 blocks from `first`; blocks at or above `limit` are ignored.
    pub fn add(
        &mut self,
        first: u32,
        mut bits: u64,
        limit: u32,
        each: &mut dyn FnMut(u32, u32) -> Result<()>,
    ) -> Result<()> {
        while bits != 0 {
            let skip = bits.trailing_zeros();
            let ones = (bits >> skip).trailing_ones();
            let start = first + skip;
            if start >= limit {
                return Ok(());
            }
            let count = ones.min(limit - start);
            if self.count > 0 && self.start + self.count == start {
                self.count += count;
            } else {
                self.emit(each)?;
                (self.start, self.count) = (start, count);
            }
            let used = skip + ones;
            bits = if used == 64 { 0 } else { bits >> used << used };
        }
        Ok(())
    }

    fn emit(&mut self, each: &mut dyn FnMut(u32, u32) -> Result<()>) -> Result<()> {
        if self.count > 0 { each(self.start, self.count) } else { Ok(()) }
    }

    /// Emits the last run.
    pub fn finish(mut self, each: &mut dyn FnMut(u32, u32) -> Result<()>) -> Result<()> {
        self.emit(each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_across_words_and_stop_at_the_limit() {
        let mut seen = Vec::new();
        let mut each = |start, count| {
            seen.push((start, count));
            Ok(())
        };
        let mut runs = Runs::default();
        runs.add(0, 0b1011 | 1 << 63, 1000, &mut each).unwrap();
        runs.add(64, u64::MAX, 1000, &mut each).unwrap();
        runs.add(128, 0b1, 1000, &mut each).unwrap();
        runs.add(192, u64::MAX, 200, &mut each).unwrap();
        runs.finish(&mut each).unwrap();
        assert_eq!(seen, [(0, 2), (3, 1), (63, 66), (192, 8)]);
    }
}
