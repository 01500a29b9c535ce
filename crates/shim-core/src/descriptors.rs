//! What this process knows of its descriptors. Plain memory: a fork copies it with the descriptors.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use store::files::FileId;
use store::sys::Fd;

/// Descriptors we keep track of. PostgreSQL's own limit is far below.
const LIMIT: usize = 65_536;

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A layered file.
    File(FileId),
    /// A WAL segment, by number.
    Stream(u64),
    /// A layered directory.
    Directory,
}

/// A tracked descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// What it is.
    pub kind: Kind,
    /// Slot of the layer whose file it now is.
    pub slot: u32,
    /// Flags it was opened with.
    pub flags: i32,
}

#[derive(Debug)]
struct Cell {
    /// 0 untracked, 1 file, 2 stream, 3 directory.
    kind: AtomicU32,
    slot: AtomicU32,
    flags: AtomicI32,
    generation: AtomicU32,
    number: AtomicU64,
}

/// The table.
#[derive(Debug)]
pub struct Descriptors {
    cells: Box<[Cell]>,
}

impl Default for Descriptors {
    fn default() -> Descriptors {
        let cell = |_| Cell {
            kind: AtomicU32::new(0),
            slot: AtomicU32::new(0),
            flags: AtomicI32::new(0),
            generation: AtomicU32::new(0),
            number: AtomicU64::new(0),
        };
        Descriptors { cells: (0..LIMIT).map(cell).collect() }
    }
}

impl Descriptors {
    #[inline]
    fn cell(&self, fd: Fd) -> Option<&Cell> {
        self.cells.get(usize::try_from(fd).ok()?)
    }

    /// What `fd` is; `None` when it is not ours.
    #[inline]
    pub fn get(&self, fd: Fd) -> Option<Tracked> {
        let cell = self.cell(fd)?;
        let number = || cell.number.load(Ordering::Relaxed);
        let kind = match cell.kind.load(Ordering::Acquire) {
            0 => return None,
            1 => Kind::File(FileId {
                number: number() as u32,
                generation: cell.generation.load(Ordering::Relaxed),
            }),
            2 => Kind::Stream(number()),
            _ => Kind::Directory,
        };
        Some(Tracked {
            kind,
            slot: cell.slot.load(Ordering::Relaxed),
            flags: cell.flags.load(Ordering::Relaxed),
        })
    }

    /// Tracks `fd`; false when its number is beyond the table.
    pub fn set(&self, fd: Fd, tracked: Tracked) -> bool {
        let Some(cell) = self.cell(fd) else { return false };
        cell.slot.store(tracked.slot, Ordering::Relaxed);
        cell.flags.store(tracked.flags, Ordering::Relaxed);
        let kind = match tracked.kind {
            Kind::File(id) => {
                cell.number.store(u64::from(id.number), Ordering::Relaxed);
                cell.generation.store(id.generation, Ordering::Relaxed);
                1
            }
            Kind::Stream(segment) => {
                cell.number.store(segment, Ordering::Relaxed);
                2
            }
            Kind::Directory => 3,
        };
        cell.kind.store(kind, Ordering::Release);
        true
    }

    /// Stops tracking `fd`.
    #[inline]
    pub fn clear(&self, fd: Fd) {
        if let Some(cell) = self.cell(fd)
            && cell.kind.load(Ordering::Relaxed) != 0
        {
            cell.kind.store(0, Ordering::Release);
        }
    }

    /// After a `dup`: `to` is what `from` is.
    pub fn copy(&self, from: Fd, to: Fd) {
        match self.get(from) {
            Some(tracked) => {
                self.set(to, tracked);
            }
            None => self.clear(to),
        }
    }
}

/// Descriptors of sealed files that reads fall through to: a direct-mapped cache. PostgreSQL does
/// not count them, so they are few and live at high numbers.
#[derive(Debug)]
pub struct LowerCache {
    cells: Box<[LowerCell]>,
}

const LOWER: usize = 1024;

#[derive(Debug)]
struct LowerCell {
    file: AtomicU64,
    place: AtomicU64,
}

impl Default for LowerCache {
    fn default() -> LowerCache {
        let cell = |_| LowerCell { file: AtomicU64::new(0), place: AtomicU64::new(0) };
        LowerCache { cells: (0..LOWER).map(cell).collect() }
    }
}

impl LowerCache {
    fn cell(&self, id: FileId, slot: u32) -> &LowerCell {
        let mixed = u64::from(id.number).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ u64::from(slot).wrapping_mul(0xC2B2_AE3D);
        &self.cells[(mixed >> 20) as usize % LOWER]
    }

    /// The open descriptor of `id`'s file in the layer at `slot`.
    #[inline]
    pub fn get(&self, id: FileId, slot: u32) -> Option<Fd> {
        let cell = self.cell(id, slot);
        let file = u64::from(id.number) << 32 | u64::from(id.generation);
        let place = cell.place.load(Ordering::Acquire);
        let hit =
            cell.file.load(Ordering::Acquire) == file && (place >> 32) as u32 == slot && place as u32 != 0;
        hit.then(|| (place as u32 - 1) as Fd)
    }

    /// All descriptors that are kept.
    pub fn open(&self) -> impl Iterator<Item = Fd> {
        let places = self.cells.iter().map(|cell| cell.place.load(Ordering::Acquire) as u32);
        places.filter(|place| *place != 0).map(|place| (place - 1) as Fd)
    }

    /// Keeps a descriptor; returns the one it displaces, for the caller to close.
    pub fn put(&self, id: FileId, slot: u32, fd: Fd) -> Option<Fd> {
        let cell = self.cell(id, slot);
        let old = cell.place.swap(0, Ordering::AcqRel);
        cell.file.store(u64::from(id.number) << 32 | u64::from(id.generation), Ordering::Release);
        cell.place.store(u64::from(slot) << 32 | (fd as u64 + 1), Ordering::Release);
        (old as u32 != 0).then(|| (old as u32 - 1) as Fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_copies_and_forgets() {
        let table = Descriptors::default();
        let id = FileId { number: 7, generation: 3 };
        let tracked = Tracked { kind: Kind::File(id), slot: 2, flags: 1 };
        assert!(table.set(5, tracked));
        table.copy(5, 6);
        assert_eq!(table.get(6), Some(tracked));
        table.clear(5);
        assert_eq!((table.get(5), table.get(6)), (None, Some(tracked)));
        table.copy(5, 6);
        assert_eq!(table.get(6), None);
        assert!(!table.set(LIMIT as Fd, tracked));
        assert_eq!(table.get(-1), None);
    }

    #[test]
    fn lower_cache_tells_files_slots_and_generations_apart() {
        let cache = LowerCache::default();
        let id = FileId { number: 7, generation: 3 };
        assert_eq!(cache.put(id, 0, 100), None);
        assert_eq!(cache.get(id, 0), Some(100));
        assert_eq!(cache.get(FileId { generation: 4, ..id }, 0), None);
        assert_eq!(cache.put(FileId { generation: 4, ..id }, 0, 101), Some(100));
        assert_eq!(cache.get(id, 0), None);
    }
}
