//! The table of tracked files of a running compute, and where each of their blocks lies.
//!
//! Anonymous memory made by the first process and inherited by fork: a cache that lives as long as
//! the compute, rebuilt from the layers when a file is first touched. No name, so nobody can remove
//! it, and no disk space.
//!
//! A file's *version* is the slot of the newest layer that has it. Where the version is an overlay,
//! `base` is the slot of the complete file at the bottom and the map says for each block which slot
//! holds it; 0 in the map means the base.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::errno::{Errno, Result};
use crate::layer::arena::MAX_BLOCKS;
use crate::owned_lock::{self, Held};
use crate::path::{MAX_PATH, RelPath};
use crate::shared_struct;
use crate::shm::Mapping;

/// No base: the version is complete.
pub const NONE: u32 = u32::MAX;

const BUCKETS: usize = 1 << 16;
const STRIPES: usize = 64;
const RECORD: usize = 256;
const MAP: usize = MAX_BLOCKS as usize * 4;
const BUCKETS_AT: usize = 4096;
const RECORDS_AT: usize = BUCKETS_AT + BUCKETS * 4;
/// Files that can be tracked at once; halved until the address space allows it.
const CAPACITY: usize = 1 << 18;

const FREE: u32 = 0;
const LIVE: u32 = 1;
const DEAD: u32 = 2;

shared_struct! {
    struct Header {
        next: AtomicU32,
        hand: AtomicU32,
        locks: [AtomicU32; STRIPES],
    }
}

shared_struct! {
    /// One tracked file. Never zero-sized in number: record 0 is not used.
    pub struct FileRecord {
        state: AtomicU32,
        /// Changes when the record passes to another file.
        pub generation: AtomicU32,
        /// Slot of the newest layer that has the file.
        pub version: AtomicU32,
        /// Its record in that layer's arena; [`NONE`] where the layer has an index.
        pub record: AtomicU32,
        /// Slot of the complete file at the bottom, or [`NONE`].
        pub base: AtomicU32,
        /// Blocks of the base file; at or above them an unmapped block reads from the version.
        pub base_blocks: AtomicU32,
        /// Whether any entry of the map is set.
        pub mapped: AtomicU32,
        /// 1 for files of class *whole*.
        pub whole: AtomicU32,
        next: AtomicU32,
        path_length: AtomicU32,
        hash: AtomicU64,
        path: [AtomicU64; 16],
        reserved: [AtomicU64; 10],
    }
}

/// Handle of a record: number and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// Number of the record, never 0.
    pub number: u32,
    /// Its generation when the handle was taken.
    pub generation: u32,
}

/// The shared table.
#[derive(Debug)]
pub struct Files {
    mapping: Mapping,
    capacity: usize,
    maps_at: usize,
}

impl Files {
    /// Makes the table. Only in the first process of a compute, before it forks.
    pub fn create() -> Result<Files> {
        let mut capacity = CAPACITY;
        loop {
            let maps_at = RECORDS_AT + capacity * RECORD;
            match Mapping::anonymous(maps_at + capacity * MAP) {
                Ok(mapping) => {
                    let files = Files { mapping, capacity, maps_at };
                    files.header().next.store(1, Ordering::Relaxed);
                    return Ok(files);
                }
                Err(_) if capacity > 4096 => capacity /= 2,
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The same table, as a process that was forked has it: for tests.
    #[cfg(debug_assertions)]
    pub fn again(&self) -> Result<Files> {
        Ok(Files { mapping: self.mapping.again()?, ..*self })
    }

    fn header(&self) -> &Header {
        self.mapping.at(0)
    }

    fn bucket(&self, hash: u64) -> &AtomicU32 {
        self.mapping.at(BUCKETS_AT + (hash as usize % BUCKETS) * 4)
    }

    /// The record numbered `number`.
    #[inline]
    pub fn record(&self, number: u32) -> &FileRecord {
        self.mapping.at(RECORDS_AT + number as usize % self.capacity * RECORD)
    }

    /// The block map of a record: slot per block, 0 for the base.
    #[inline]
    pub fn map(&self, number: u32) -> &[AtomicU32] {
        let offset = self.maps_at + number as usize % self.capacity * MAP;
        self.mapping.slice(offset, MAX_BLOCKS as usize)
    }

    /// Takes the lock of `path`'s stripe.
    pub fn lock(&self, path: &RelPath) -> Held<'_> {
        owned_lock::lock(&self.header().locks[path.hash() as usize % BUCKETS % STRIPES])
    }

    /// The live record of `path`.
    pub fn find(&self, path: &RelPath) -> Option<FileId> {
        let hash = path.hash();
        let mut number = self.bucket(hash).load(Ordering::Acquire);
        let mut steps = 0;
        while number != 0 && steps < self.capacity {
            let record = self.record(number);
            let generation = record.generation.load(Ordering::Acquire);
            if record.hash.load(Ordering::Acquire) == hash
                && record.state.load(Ordering::Acquire) == LIVE
                && record.is(path)
            {
                return Some(FileId { number, generation });
            }
            number = record.next.load(Ordering::Acquire);
            steps += 1;
        }
        None
    }

    /// A record for `path`, not yet to be found: fill it and its map, then [`Files::publish`].
    ///
    /// # Errors
    /// `ENFILE` when every record is in use.
    pub fn allocate(&self, path: &RelPath) -> Result<FileId> {
        let header = self.header();
        let fresh = header.next.load(Ordering::Relaxed) as usize;
        if fresh < self.capacity {
            let number = header.next.fetch_add(1, Ordering::AcqRel);
            if (number as usize) < self.capacity {
                return Ok(self.prepare(number, path));
            }
            header.next.store(self.capacity as u32, Ordering::Release);
        }
        for _ in 0..self.capacity {
            let number = header.hand.fetch_add(1, Ordering::AcqRel) % self.capacity as u32;
            let state = &self.record(number).state;
            if number != 0 && state.compare_exchange(DEAD, FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                return Ok(self.prepare(number, path));
            }
        }
        Err(Errno(libc::ENFILE))
    }

    fn prepare(&self, number: u32, path: &RelPath) -> FileId {
        let record = self.record(number);
        let generation = record.generation.fetch_add(1, Ordering::AcqRel) + 1;
        if record.mapped.load(Ordering::Relaxed) != 0 {
            self.map(number).iter().for_each(|entry| entry.store(0, Ordering::Relaxed));
        }
        record.mapped.store(0, Ordering::Relaxed);
        record.base.store(NONE, Ordering::Relaxed);
        record.base_blocks.store(0, Ordering::Relaxed);
        record.record.store(NONE, Ordering::Relaxed);
        record.whole.store(0, Ordering::Relaxed);
        for (word, bytes) in record.path.iter().zip(path.as_bytes().chunks(8)) {
            let mut value = [0u8; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
        }
        record.path_length.store(path.as_bytes().len() as u32, Ordering::Relaxed);
        record.hash.store(path.hash(), Ordering::Release);
        FileId { number, generation }
    }

    /// Lets others find the record. The path's lock must be held.
    pub fn publish(&self, id: FileId) {
        let record = self.record(id.number);
        let bucket = self.bucket(record.hash.load(Ordering::Relaxed));
        record.state.store(LIVE, Ordering::Release);
        loop {
            let head = bucket.load(Ordering::Acquire);
            record.next.store(head, Ordering::Release);
            if bucket.compare_exchange(head, id.number, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Takes the record of `path` out of the table: the name no longer means this file. The path's
    /// lock must be held. Descriptors that have it see a dead record.
    pub fn forget(&self, path: &RelPath) {
        let hash = path.hash();
        let mut link = self.bucket(hash);
        loop {
            let number = link.load(Ordering::Acquire);
            if number == 0 {
                return;
            }
            let record = self.record(number);
            if record.hash.load(Ordering::Relaxed) == hash && record.is(path) {
                let next = record.next.load(Ordering::Acquire);
                if link.compare_exchange(number, next, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                    link = self.bucket(hash);
                    continue;
                }
                record.state.store(DEAD, Ordering::Release);
                return;
            }
            link = &record.next;
        }
    }

    /// Whether the handle still means the file it was taken for.
    #[inline]
    pub fn is_live(&self, id: FileId) -> bool {
        let record = self.record(id.number);
        record.state.load(Ordering::Acquire) == LIVE
            && record.generation.load(Ordering::Acquire) == id.generation
    }
}

impl FileRecord {
    /// The file's path.
    pub fn path(&self) -> RelPath {
        let length = (self.path_length.load(Ordering::Relaxed) as usize).min(MAX_PATH);
        let mut text = [0u8; 128];
        for (word, bytes) in self.path.iter().zip(text.chunks_mut(8)) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        RelPath::new(&text[..length]).unwrap_or(RelPath::ROOT)
    }

    fn is(&self, path: &RelPath) -> bool {
        self.path() == *path
    }
}
