//! The index of a sealed layer: one immutable, sorted, checksummed file that names everything in it.
//!
//! Layout, little-endian: header of 48 bytes (magic, version u32, crc32c u32 of all that follows
//! it, entries u32, whiteouts u32, runs u32, path bytes u32, 16 reserved), entries of 40
//! bytes sorted by path (path offset u32, path length u32, kind u32, sum u32, length u64, floor u64,
//! first run u32, runs u32), runs of 8 bytes (start u32, count u32), paths. A lookup is a binary search
//! in the mapped file; every read is bounds-checked, so damage shows as `EUCLEAN`, never as a crash.

use std::cmp::Ordering;

use crate::errno::{Errno, Result};
use crate::path::RelPath;
use crate::shm::Mapping;
use crate::sys::{self, Fd};

const MAGIC: &[u8; 8] = b"ANAINDX1";
const VERSION: u32 = 1;
const HEADER: usize = 48;
const ENTRY: usize = 40;

/// What a path is in this layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file that holds everything.
    Complete,
    /// A file that holds the blocks of its runs.
    Overlay,
    /// The path was removed here.
    Whiteout,
    /// A directory.
    Directory,
}

/// What the index says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Logical length in bytes.
    pub length: u64,
    /// Below this length in bytes absent blocks fall through; 0 for complete files.
    pub floor: u64,
    /// CRC-32C of the bytes that the layer holds of the file; 0 where none was recorded.
    pub sum: u32,
    runs_at: u32,
    runs: u32,
}

/// A mapped index.
#[derive(Debug)]
pub struct Index {
    mapping: Mapping,
    entries: usize,
    whiteouts: u32,
    runs_at: usize,
    paths_at: usize,
}

impl Index {
    /// Maps an index; with `verify`, checks the checksum over the whole file.
    ///
    /// # Errors
    /// `EUCLEAN` when it is damaged or of an unknown version.
    pub fn open(fd: Fd, verify: bool) -> Result<Index> {
        let size = sys::size(fd)? as usize;
        if size < HEADER {
            return Err(Errno::DAMAGED);
        }
        let mapping = Mapping::read_only(fd, size)?;
        let bytes = mapping.bytes();
        if &bytes[..8] != MAGIC || u32_at(bytes, 8)? != VERSION {
            return Err(Errno::DAMAGED);
        }
        if verify && crc32c::crc32c(&bytes[16..]) != u32_at(bytes, 12)? {
            return Err(Errno::DAMAGED);
        }
        let (entries, whiteouts) = (u32_at(bytes, 16)? as usize, u32_at(bytes, 20)?);
        let runs_at = HEADER + entries * ENTRY;
        let paths_at = runs_at + u32_at(bytes, 24)? as usize * 8;
        if paths_at + u32_at(bytes, 28)? as usize != size {
            return Err(Errno::DAMAGED);
        }
        Ok(Index { mapping, entries, whiteouts, runs_at, paths_at })
    }

    /// Whether any path was removed in this layer.
    pub fn has_whiteouts(&self) -> bool {
        self.whiteouts > 0
    }

    fn path_at(&self, entry: usize) -> Result<&[u8]> {
        let bytes = self.mapping.bytes();
        let at = HEADER + entry * ENTRY;
        let start = self.paths_at + u32_at(bytes, at)? as usize;
        let length = u32_at(bytes, at + 4)? as usize;
        bytes.get(start..start + length).ok_or(Errno::DAMAGED)
    }

    fn found_at(&self, entry: usize) -> Result<Found> {
        let bytes = self.mapping.bytes();
        let at = HEADER + entry * ENTRY;
        let kind = match u32_at(bytes, at + 8)? {
            1 => Kind::Complete,
            2 => Kind::Overlay,
            3 => Kind::Whiteout,
            4 => Kind::Directory,
            _ => return Err(Errno::DAMAGED),
        };
        Ok(Found {
            kind,
            length: u64_at(bytes, at + 16)?,
            floor: u64_at(bytes, at + 24)?,
            sum: u32_at(bytes, at + 12)?,
            runs_at: u32_at(bytes, at + 32)?,
            runs: u32_at(bytes, at + 36)?,
        })
    }

    /// First entry whose path is at or after `path`.
    fn lower_bound(&self, path: &[u8]) -> Result<usize> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = (low + high) / 2;
            match self.path_at(middle)?.cmp(path) {
                Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// What `path` is here; `None` when this layer has nothing of it.
    pub fn find(&self, path: &RelPath) -> Result<Option<Found>> {
        let at = self.lower_bound(path.as_bytes())?;
        if at < self.entries && self.path_at(at)? == path.as_bytes() {
            return self.found_at(at).map(Some);
        }
        Ok(None)
    }

    /// Calls `each` with start and count of every run of blocks of an overlay.
    pub fn runs(&self, found: &Found, each: &mut dyn FnMut(u32, u32) -> Result<()>) -> Result<()> {
        let bytes = self.mapping.bytes();
        for run in found.runs_at as usize..found.runs_at as usize + found.runs as usize {
            let at = self.runs_at + run * 8;
            each(u32_at(bytes, at)?, u32_at(bytes, at + 4)?)?;
        }
        Ok(())
    }

    /// Calls `each` with name and kind of everything directly inside `directory`.
    pub fn list(&self, directory: &RelPath, each: &mut dyn FnMut(&[u8], Kind) -> Result<()>) -> Result<()> {
        let mut prefix = directory.as_bytes().to_vec();
        if !directory.is_root() {
            prefix.push(b'/');
        }
        let mut at = self.lower_bound(&prefix)?;
        while at < self.entries {
            let Some(rest) = self.path_at(at)?.strip_prefix(&prefix[..]) else { break };
            match rest.iter().position(|&b| b == b'/') {
                None => {
                    each(rest, self.found_at(at)?.kind)?;
                    at += 1;
                }
                // Past the whole subtree: '0' follows '/' in ASCII.
                Some(slash) => {
                    let after = [&prefix[..], &rest[..slash], b"0"].concat();
                    // Only damage leads backwards; it must not lead in circles.
                    at = self.lower_bound(&after)?.max(at + 1);
                }
            }
        }
        Ok(())
    }

    /// Calls `each` with path and finding of every entry.
    pub fn for_each(&self, each: &mut dyn FnMut(&[u8], &Found) -> Result<()>) -> Result<()> {
        (0..self.entries).try_for_each(|at| each(self.path_at(at)?, &self.found_at(at)?))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let slice = bytes.get(at..at + 4).ok_or(Errno::DAMAGED)?;
    slice.try_into().map(u32::from_le_bytes).map_err(|_| Errno::DAMAGED)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    let slice = bytes.get(at..at + 8).ok_or(Errno::DAMAGED)?;
    slice.try_into().map(u64::from_le_bytes).map_err(|_| Errno::DAMAGED)
}

/// Collects entries and writes them as an index.
#[derive(Debug, Default)]
pub struct Builder {
    entries: Vec<Item>,
    runs: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Item {
    path: Vec<u8>,
    kind: Kind,
    length: u64,
    floor: u64,
    sum: u32,
    runs_at: u32,
    runs: u32,
}

impl Builder {
    /// Adds a path that has no content: a directory or a whiteout.
    pub fn add_name(&mut self, path: &[u8], kind: Kind) {
        self.add(path, kind, 0, 0, &[], 0);
    }

    /// Adds a path. `runs` are the blocks that an overlay holds below its floor; `sum` is that of
    /// [`Found::sum`].
    pub fn add(&mut self, path: &[u8], kind: Kind, length: u64, floor: u64, runs: &[(u32, u32)], sum: u32) {
        let runs_at = self.runs.len() as u32;
        self.runs.extend_from_slice(runs);
        let runs = runs.len() as u32;
        self.entries.push(Item { path: path.to_vec(), kind, length, floor, sum, runs_at, runs });
    }

    /// The bytes of the index.
    pub fn encode(mut self) -> Vec<u8> {
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
        let whiteouts = self.entries.iter().filter(|item| item.kind == Kind::Whiteout).count() as u32;
        let path_bytes: usize = self.entries.iter().map(|item| item.path.len()).sum();
        let mut out = vec![0u8; HEADER];
        let mut path_at = 0u32;
        for item in &self.entries {
            let kind = match item.kind {
                Kind::Complete => 1u32,
                Kind::Overlay => 2,
                Kind::Whiteout => 3,
                Kind::Directory => 4,
            };
            for value in [path_at, item.path.len() as u32, kind, item.sum] {
                out.extend_from_slice(&value.to_le_bytes());
            }
            out.extend_from_slice(&item.length.to_le_bytes());
            out.extend_from_slice(&item.floor.to_le_bytes());
            out.extend_from_slice(&item.runs_at.to_le_bytes());
            out.extend_from_slice(&item.runs.to_le_bytes());
            path_at += item.path.len() as u32;
        }
        for (start, count) in &self.runs {
            out.extend_from_slice(&start.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
        }
        for item in &self.entries {
            out.extend_from_slice(&item.path);
        }
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let counts = [self.entries.len() as u32, whiteouts, self.runs.len() as u32, path_bytes as u32];
        for (i, value) in counts.into_iter().enumerate() {
            out[16 + i * 4..20 + i * 4].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(name: &str, bytes: &[u8], verify: bool) -> Result<Index> {
        let path = std::env::temp_dir().join(format!("ana-index-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let fd = sys::openat(sys::AT_FDCWD, &text, sys::O_RDONLY, 0).unwrap();
        std::fs::remove_file(&path).unwrap();
        let index = Index::open(fd, verify);
        sys::close(fd);
        index
    }

    fn sample() -> Vec<u8> {
        let mut builder = Builder::default();
        builder.add(b"base/5/2", Kind::Overlay, 16384, 8192, &[(0, 1)], 0);
        builder.add_name(b"base", Kind::Directory);
        builder.add_name(b"base/5", Kind::Directory);
        builder.add(b"base/5/1", Kind::Complete, 10, 0, &[], 0x1234_5678);
        builder.add_name(b"base/51", Kind::Directory);
        builder.add_name(b"base/.wh.9", Kind::Whiteout);
        builder.encode()
    }

    #[test]
    fn finds_and_lists() {
        let index = index("finds", &sample(), true).unwrap();
        let find = |path: &str| index.find(&RelPath::new(path.as_bytes()).unwrap()).unwrap();
        let overlay = find("base/5/2").unwrap();
        assert_eq!((overlay.kind, overlay.length, overlay.floor), (Kind::Overlay, 16384, 8192));
        let mut runs = Vec::new();
        index
            .runs(&overlay, &mut |start, count| {
                runs.push((start, count));
                Ok(())
            })
            .unwrap();
        assert_eq!(runs, [(0, 1)]);
        assert_eq!((overlay.sum, find("base/5/1").unwrap().sum), (0, 0x1234_5678));
        assert_eq!(find("base/5/3"), None);
        let list = |path: &str| {
            let mut names = Vec::new();
            let path = RelPath::new(path.as_bytes()).unwrap();
            index
                .list(&path, &mut |name, _| {
                    names.push(String::from_utf8_lossy(name).into_owned());
                    Ok(())
                })
                .unwrap();
            names
        };
        assert_eq!(list(""), ["base"]);
        assert_eq!(list("base"), [".wh.9", "5", "51"]);
        assert_eq!(list("base/5"), ["1", "2"]);
    }

    #[test]
    fn refuses_every_damaged_byte() {
        let good = sample();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x11;
            assert!(index("damage", &bad, true).is_err(), "byte {at} of {}", good.len());
        }
        for length in 0..good.len() {
            assert!(index("short", &good[..length], false).is_err(), "length {length}");
        }
    }
}
