//! Layers: directories that hold what was changed while they were open.
//!
//! `layers/<id>/f` mirrors the paths of a data directory. Beside it lie `arena` and `log` while the
//! layer has no index, and `index` after that. A layer with an index is sealed and durable.

use std::ffi::CString;
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::errno::{Errno, Result};
use crate::fault::{Fault, planted};
use crate::path::{RelPath, WHITEOUT_PREFIX};
use crate::sys::{self, Fd, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, O_RDWR};

pub mod arena;
pub mod entry;
pub mod index;
pub mod log;
pub mod seal;

use arena::{Arena, MAX_BLOCKS};
use entry::Entry;
use index::Index;
pub use index::Kind;

/// Number of a layer within its home.
pub type LayerId = u64;

/// A layer as one process sees it.
#[derive(Debug)]
pub struct Layer {
    /// Its number.
    pub id: LayerId,
    /// `layers/<id>`.
    pub dir: Fd,
    /// `layers/<id>/f`.
    pub files: Fd,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Arena(Arena),
    Index(Index),
}

/// What a layer holds under a path.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// What it is; a whiteout here also stands for one of a directory above.
    pub kind: Kind,
    /// Logical length in bytes.
    pub length: u64,
    /// Floor in bytes.
    pub floor: u64,
    source: Source,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Record(u32),
    Index(index::Found),
    None,
}

impl Found {
    /// The file's record in the layer's arena, where it has one.
    pub fn record(&self) -> Option<u32> {
        match self.source {
            Source::Record(record) => Some(record),
            Source::Index(_) | Source::None => None,
        }
    }
}

/// Number of the group that a layer belongs to: those that one branch has written share a directory, so
/// that its processes can be confined to it. 0 for layers of the first format, which had no groups.
pub fn group_of(id: LayerId) -> u32 {
    (id >> 32) as u32
}

/// Directory name of a group.
pub fn group_name(group: u32) -> CString {
    CString::new(format!("{group:08x}")).unwrap_or_default()
}

/// Path of a layer's directory, from the directory of layers.
pub fn directory_name(id: LayerId) -> CString {
    let name = match group_of(id) {
        0 => format!("{id:016x}"),
        group => format!("{group:08x}/{id:016x}"),
    };
    CString::new(name).unwrap_or_default()
}

/// What lies in a layer below `f/`, from a path that begins at the directory of layers.
pub fn path_within(path: &[u8]) -> Option<&[u8]> {
    let digits = |part: &[u8], count| part.len() == count && part.iter().all(u8::is_ascii_hexdigit);
    let split = |path: &'_ [u8]| path.iter().position(|byte| *byte == b'/');
    let mut rest = path;
    loop {
        let (part, after) = rest.split_at(split(rest)?);
        rest = &after[1..];
        if digits(part, 16) {
            return rest.strip_prefix(b"f/");
        }
        if !digits(part, 8) {
            return None;
        }
    }
}

/// Makes a layer's own directory, and its group's where that is missing.
pub fn make_directory(layers: Fd, id: LayerId) -> Result<()> {
    let name = directory_name(id);
    loop {
        match sys::mkdirat(layers, &name, 0o700) {
            Err(Errno::NOENT) if group_of(id) != 0 => {}
            other => return other,
        }
        // The last layer of the group may be removed at this moment, and the group with it.
        match sys::mkdirat(layers, &group_name(group_of(id)), 0o700) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Makes the name of a layer durable, and its group's.
pub fn sync_names(layers: Fd, id: LayerId) -> Result<()> {
    if group_of(id) != 0 {
        let group = sys::openat(layers, &group_name(group_of(id)), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)?;
        let synced = sys::fsync(group);
        sys::close(group);
        synced?;
    }
    sys::fsync(layers)
}

impl Layer {
    /// Makes a new, empty layer under the directory `layers`, and its group's where that is missing. Not
    /// yet durable: see [`sync_names`].
    pub fn create(layers: Fd, id: LayerId) -> Result<Layer> {
        let name = directory_name(id);
        make_directory(layers, id)?;
        let dir = sys::openat(layers, &name, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)?;
        sys::mkdirat(dir, c"f", 0o700)?;
        let files = sys::openat(dir, c"f", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)?;
        let fresh = O_RDWR | sys::O_CREAT | sys::O_EXCL | O_CLOEXEC;
        // Here already, so that its name is durable with the layer's.
        sys::openat(dir, c"log", fresh, 0o600).map(sys::close)?;
        let arena = sys::openat(dir, c"arena", fresh, 0o600)?;
        Ok(Layer { id, dir, files, body: Body::Arena(Arena::create(arena)?) })
    }

    /// Opens a layer.
    ///
    /// # Errors
    /// `EUCLEAN` when it has neither an index nor an arena of this boot: it must be rebuilt first
    /// ([`seal::rebuild`]).
    pub fn open(layers: Fd, id: LayerId) -> Result<Layer> {
        let dir =
            sys::openat(layers, &directory_name(id), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)?;
        let files = match sys::openat(dir, c"f", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0) {
            Ok(files) => files,
            Err(errno) => {
                sys::close(dir);
                return Err(errno);
            }
        };
        match open_body(dir) {
            Ok(body) => Ok(Layer { id, dir: high(dir), files: high(files), body }),
            Err(errno) => {
                sys::close(dir);
                sys::close(files);
                Err(errno)
            }
        }
    }

    /// The arena, while the layer has no index.
    pub fn arena(&self) -> Option<&Arena> {
        match &self.body {
            Body::Arena(arena) => Some(arena),
            Body::Index(_) => None,
        }
    }

    /// The index, once it has one.
    pub fn index(&self) -> Option<&Index> {
        match &self.body {
            Body::Arena(_) => None,
            Body::Index(index) => Some(index),
        }
    }

    /// Whether nothing was ever written to it.
    pub fn is_unused(&self) -> Result<bool> {
        let mut unused = true;
        self.list(&RelPath::ROOT, &mut |_, _| {
            unused = false;
            Ok(())
        })?;
        Ok(unused)
    }

    /// What this layer holds under `path`; `None` when it says nothing about it.
    pub fn find(&self, path: &RelPath) -> Result<Option<Found>> {
        let found = match &self.body {
            Body::Index(index) => index.find(path)?.map(|found| Found {
                kind: found.kind,
                length: found.length,
                floor: found.floor,
                source: Source::Index(found),
            }),
            Body::Arena(arena) => self.find_native(arena, path)?,
        };
        if found.is_some() || !self.hides(path)? {
            return Ok(found);
        }
        Ok(Some(Found { kind: Kind::Whiteout, length: 0, floor: 0, source: Source::None }))
    }

    fn find_native(&self, arena: &Arena, path: &RelPath) -> Result<Option<Found>> {
        let fd = match sys::openat(self.files, path.as_cstr(), O_RDONLY | O_CLOEXEC, 0) {
            Ok(fd) => fd,
            Err(Errno(libc::ENOENT | libc::ENOTDIR)) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let described = sys::fstat(fd).and_then(|stat| Ok((stat, Entry::load(fd)?)));
        sys::close(fd);
        let (stat, entry) = described?;
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            return Ok(Some(Found { kind: Kind::Directory, length: 0, floor: 0, source: Source::None }));
        }
        let length = stat.st_size as u64;
        if entry.is_some_and(|entry| entry.record >= arena.records()) {
            return Err(Errno::DAMAGED);
        }
        Ok(Some(match entry {
            Some(Entry { kind: entry::Kind::Overlay, record, .. }) => Found {
                kind: Kind::Overlay,
                length,
                floor: arena.record(record).floor.load(Ordering::Acquire),
                source: Source::Record(record),
            },
            Some(Entry { record, .. }) => {
                Found { kind: Kind::Complete, length, floor: 0, source: Source::Record(record) }
            }
            None => Found { kind: Kind::Complete, length, floor: 0, source: Source::None },
        }))
    }

    /// Whether `path` or a directory above it was removed in this layer.
    pub fn hides(&self, path: &RelPath) -> Result<bool> {
        let any = match &self.body {
            Body::Index(index) => index.has_whiteouts(),
            Body::Arena(arena) => arena.header().whiteouts.load(Ordering::Acquire) > 0,
        };
        let any = any && !planted(Fault::WhiteoutIgnored);
        let mut at = *path;
        while any && !at.is_root() {
            let whiteout = at.whiteout()?;
            let there = match &self.body {
                Body::Index(index) => index.find(&whiteout)?.is_some(),
                Body::Arena(_) => sys::fstatat(self.files, whiteout.as_cstr(), 0).is_ok(),
            };
            if there {
                return Ok(true);
            }
            at = at.parent();
        }
        Ok(false)
    }

    /// Calls `each` with every run of blocks that this layer holds of an overlay below its floor.
    pub fn runs(&self, found: &Found, each: &mut dyn FnMut(u32, u32) -> Result<()>) -> Result<()> {
        match (&self.body, found.source) {
            (Body::Arena(arena), Source::Record(record)) => {
                arena.present_runs(record, blocks(found.floor), each)
            }
            (Body::Index(index), Source::Index(found)) => index.runs(&found, each),
            _ => Ok(()),
        }
    }

    /// The bytes of a file that this layer itself holds, as ranges in rising order that begin at block
    /// borders.
    pub fn held(&self, found: &Found) -> Result<Vec<Range<u64>>> {
        let mut runs = Vec::new();
        self.runs(found, &mut |start, count| {
            runs.push((start, count));
            Ok(())
        })?;
        Ok(held(found.kind, found.length, found.floor, &runs))
    }

    /// Calls `each` with every name directly inside `directory`, whiteouts under their own names.
    pub fn list(&self, directory: &RelPath, each: &mut dyn FnMut(&[u8], Kind) -> Result<()>) -> Result<()> {
        match &self.body {
            Body::Index(index) => index.list(directory, each),
            Body::Arena(_) => match list_native(self.files, directory, each) {
                Err(Errno(libc::ENOENT | libc::ENOTDIR)) => Ok(()),
                other => other,
            },
        }
    }

    /// Opens a file of the layer.
    pub fn open_file(&self, path: &RelPath, flags: i32) -> Result<Fd> {
        sys::openat(self.files, path.as_cstr(), flags | O_CLOEXEC, 0)
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        sys::close(self.dir);
        sys::close(self.files);
    }
}

fn open_body(dir: Fd) -> Result<Body> {
    match sys::openat(dir, c"index", O_RDONLY | O_CLOEXEC, 0) {
        Ok(fd) => {
            let index = Index::open(fd, false);
            sys::close(fd);
            return index.map(Body::Index);
        }
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let fd = match sys::openat(dir, c"arena", O_RDWR | O_CLOEXEC, 0) {
        // Between the two looks the layer may have got its index and lost its arena.
        Err(Errno::NOENT) => {
            let fd = sys::openat(dir, c"index", O_RDONLY | O_CLOEXEC, 0)?;
            let index = Index::open(fd, false);
            sys::close(fd);
            return index.map(Body::Index);
        }
        other => high(other?),
    };
    Arena::open(fd)?.map(Body::Arena).ok_or(Errno::DAMAGED)
}

/// Moves a descriptor of ours out of the low numbers, which belong to PostgreSQL.
pub fn high(fd: Fd) -> Fd {
    match sys::fcntl(fd, libc::F_DUPFD_CLOEXEC, 2048) {
        Ok(moved) => {
            sys::close(fd);
            moved
        }
        Err(_) => fd,
    }
}

/// See [`Layer::held`].
pub fn held(kind: Kind, length: u64, floor: u64, runs: &[(u32, u32)]) -> Vec<Range<u64>> {
    let whole = |start: u64, end: u64| (start < end.min(length)).then(|| start..end.min(length));
    match kind {
        Kind::Complete => whole(0, length).into_iter().collect(),
        Kind::Overlay => {
            let block = |number: u64| number * arena::BLOCK;
            let runs = runs.iter().filter_map(|&(start, count)| {
                whole(block(start.into()), block(u64::from(start) + u64::from(count)))
            });
            // From the block that the floor lies in upwards nothing falls through.
            let tail = floor.div_ceil(arena::BLOCK).saturating_mul(arena::BLOCK);
            runs.chain(whole(tail, length)).collect()
        }
        Kind::Whiteout | Kind::Directory => Vec::new(),
    }
}

/// Blocks needed for `length` bytes.
pub fn blocks(length: u64) -> u32 {
    length.div_ceil(arena::BLOCK).min(u64::from(MAX_BLOCKS)) as u32
}

/// The path that a whiteout's name hides, or `None` for an ordinary name.
pub fn hidden_name(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(WHITEOUT_PREFIX)
}

/// Lists a real directory below `root`.
pub fn list_native(
    root: Fd,
    directory: &RelPath,
    each: &mut dyn FnMut(&[u8], Kind) -> Result<()>,
) -> Result<()> {
    let fd = sys::openat(root, directory.as_cstr(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)?;
    let result = list_open(fd, each);
    sys::close(fd);
    result
}

fn list_open(fd: Fd, each: &mut dyn FnMut(&[u8], Kind) -> Result<()>) -> Result<()> {
    let mut buffer = [0u8; 8192];
    loop {
        let filled = sys::getdents(fd, &mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
        let mut at = 0;
        // struct linux_dirent64: inode u64, offset i64, length u16, type u8, name.
        while at + 19 <= filled {
            let length = u16::from_le_bytes([buffer[at + 16], buffer[at + 17]]) as usize;
            let (kind, name) = (buffer[at + 18], &buffer[at + 19..at + length]);
            let name = &name[..name.iter().position(|&b| b == 0).unwrap_or(name.len())];
            at += length;
            match name {
                b"." | b".." => {}
                name if kind == libc::DT_DIR => each(name, Kind::Directory)?,
                name if hidden_name(name).is_some() => each(name, Kind::Whiteout)?,
                name => each(name, Kind::Complete)?,
            }
        }
    }
}
