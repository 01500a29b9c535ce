//! Is a layer what it was when it was sealed? Reads everything, changes nothing.
//!
//! Works beside processes that write, seal and remove layers: what vanishes meanwhile is no damage. What
//! was not in memory before is not left there.

mod content;
mod open;

use std::ops::Range;

use content::verify_content;
use open::{verify_log, verify_open};

use crate::errno::{Errno, Result};
use crate::layer::arena::{Arena, BLOCK};
use crate::layer::entry::{self, Entry};
use crate::layer::index::{Found, Index};
use crate::layer::{Kind, LayerId, directory_name, held, list_native};
use crate::path::RelPath;
use crate::sys::{self, Fd, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, O_RDWR};

/// How files are opened that processes of a branch may have put there: no link, and no pipe to wait for.
const READING: i32 = O_RDONLY | O_NOFOLLOW | libc::O_NONBLOCK | O_CLOEXEC;
/// Ends a verification that the judge does not want any more.
const STOPPED: Errno = Errno(libc::ECANCELED);
/// What a format is that does not read back.
const UNREADABLE: &str = "is damaged or of another version";

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// Data is lost or may be wrong.
    Damage,
    /// Something is there that nobody needs.
    Leftover,
}

/// Something in a layer that should not be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// How bad it is.
    pub grade: Grade,
    /// The file: a path in the data directory where `of_data`, else one below the layer's directory.
    /// None where the layer as a whole is meant.
    pub file: Option<String>,
    /// Whether `file` is one of the data directory.
    pub of_data: bool,
    /// The block of the file, of 8,192 bytes.
    pub block: Option<u32>,
    /// What is wrong, to be read after the name of the file.
    pub what: String,
}

impl Defect {
    fn of_layer(what: impl Into<String>) -> Defect {
        Defect { grade: Grade::Damage, file: None, of_data: false, block: None, what: what.into() }
    }

    fn of_own(file: &str, what: impl Into<String>) -> Defect {
        Defect { file: Some(file.to_owned()), ..Defect::of_layer(what) }
    }

    fn of_data(path: &RelPath, what: impl Into<String>) -> Defect {
        let file = Some(String::from_utf8_lossy(path.as_bytes()).into_owned());
        Defect { file, of_data: true, ..Defect::of_layer(what) }
    }

    fn left_over(self) -> Defect {
        Defect { grade: Grade::Leftover, ..self }
    }
}

/// Who knows what the blocks mean, and hears what is wrong.
pub trait Judge {
    /// Whether the blocks of this file are to be judged one by one; those that are not, or that the
    /// index has a sum of as well, are held against that sum.
    fn judges(&mut self, path: &RelPath) -> bool;

    /// Judges a whole block.
    ///
    /// # Errors
    /// What is wrong with it.
    fn judge(
        &mut self,
        path: &RelPath,
        block: u32,
        bytes: &[u8; BLOCK as usize],
    ) -> core::result::Result<(), String>;

    /// Hears of a defect.
    fn found(&mut self, defect: Defect);

    /// Hears that so many bytes more were read; whether to go on.
    fn read(&mut self, bytes: u64) -> bool;
}

/// What a layer turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It has its index: all of it was verified.
    Sealed,
    /// It is written to, or has no index yet: its files were looked at, not their content.
    Open,
    /// It was removed meanwhile.
    Gone,
    /// The judge wanted no more.
    Stopped,
}

/// Looks whether a layer can be used at all: its parts are there and read back. Reads its index, but no
/// content.
///
/// # Errors
/// The first thing that is wrong.
pub fn usable(layers: Fd, id: LayerId) -> core::result::Result<(), Defect> {
    let dir = match open_layer(layers, id) {
        Ok(dir) => dir,
        Err(errno) => return Err(lost(errno)),
    };
    let usable = parts(dir).map(drop);
    sys::close(dir);
    usable
}

/// Verifies one layer.
pub fn layer(layers: Fd, id: LayerId, judge: &mut dyn Judge) -> Seen {
    let mut kept = Kept { judge, defects: Vec::new() };
    let mut seen = Seen::Open;
    match open_layer(layers, id) {
        Err(errno) => kept.defects.push(lost(errno)),
        Ok(dir) => {
            match verify_in(dir, &mut kept) {
                Ok(sealed) => seen = if sealed { Seen::Sealed } else { Seen::Open },
                Err(STOPPED) => seen = Seen::Stopped,
                Err(errno) => kept.defects.push(Defect::of_layer(format!("cannot be read: {errno}"))),
            }
            sys::close(dir);
            // Removed while it was read: what was missing then says nothing.
            if matches!(open_layer(layers, id).map(sys::close), Err(Errno::NOENT)) {
                return Seen::Gone;
            }
        }
    }
    kept.defects.into_iter().for_each(|defect| judge.found(defect));
    seen
}

/// Bytes that the layer's files have in all: what verifying it reads, about.
pub fn size(layers: Fd, id: LayerId) -> u64 {
    let Ok(dir) = open_layer(layers, id) else { return 0 };
    let bytes = match parts(dir) {
        Ok(Parts { body: Body::Index(index), .. }) => {
            let mut bytes = 0;
            // A damaged index is told of when the layer's turn comes.
            let _ = index.for_each(&mut |_, found| {
                bytes += ranges(&index, found)?.iter().map(|range| range.end - range.start).sum::<u64>();
                Ok(())
            });
            bytes
        }
        _ => 0,
    };
    sys::close(dir);
    bytes
}

/// Defects wait until it is clear that the layer is still there.
struct Kept<'a> {
    judge: &'a mut dyn Judge,
    defects: Vec<Defect>,
}

/// The parts of a layer.
struct Parts {
    files: OwnFd,
    body: Body,
}

enum Body {
    Index(Index),
    /// An arena of this boot, if there is one.
    Open(Option<Arena>),
}

struct OwnFd(Fd);

impl Drop for OwnFd {
    fn drop(&mut self) {
        sys::close(self.0);
    }
}

fn open_layer(layers: Fd, id: LayerId) -> Result<Fd> {
    sys::openat(layers, &directory_name(id), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
}

fn lost(errno: Errno) -> Defect {
    match errno {
        Errno::NOENT => Defect::of_layer("is missing"),
        errno => Defect::of_layer(format!("cannot be opened: {errno}")),
    }
}

fn parts(dir: Fd) -> core::result::Result<Parts, Defect> {
    let files = sys::openat(dir, c"f", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
        .map(OwnFd)
        .map_err(|errno| told("f", errno))?;
    match index(dir) {
        Ok(index) => return Ok(Parts { files, body: Body::Index(index) }),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(told("index", errno)),
    }
    // Missing or of another boot, it is made again from the rest at the next start.
    let arena = match sys::openat(dir, c"arena", O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0) {
        Ok(fd) => Arena::open(fd).map_err(|errno| told("arena", errno))?,
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(told("arena", errno)),
    };
    match sys::fstatat(dir, c"log", libc::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(Parts { files, body: Body::Open(arena) }),
        Err(Errno::NOENT) => {
            // It may have got its index since.
            index(dir).map(|index| Parts { files, body: Body::Index(index) }).map_err(|errno| match errno {
                Errno::NOENT => Defect::of_layer("has lost its index, or its log"),
                errno => told("index", errno),
            })
        }
        Err(errno) => Err(told("log", errno)),
    }
}

fn index(dir: Fd) -> Result<Index> {
    let fd = sys::openat(dir, c"index", READING, 0)?;
    let index = Index::open(fd, true);
    sys::close(fd);
    index
}

fn told(file: &str, errno: Errno) -> Defect {
    match errno {
        Errno::DAMAGED => Defect::of_own(file, UNREADABLE),
        Errno::NOENT => Defect::of_own(file, "is missing"),
        errno => Defect::of_own(file, format!("cannot be read: {errno}")),
    }
}

/// Whether the layer is sealed.
fn verify_in(dir: Fd, kept: &mut Kept<'_>) -> Result<bool> {
    let parts = match parts(dir) {
        Ok(parts) => parts,
        Err(defect) => {
            kept.defects.push(defect);
            return Ok(false);
        }
    };
    let sealed = matches!(parts.body, Body::Index(_));
    list_native(dir, &RelPath::ROOT, &mut |name, _| {
        let wanted: &[&[u8]] =
            if sealed { &[b"f", b"index"] } else { &[b"f", b"arena", b"log", b"arena.new", b"index.new"] };
        // What was dropped lies in `trash` until the next round of maintenance.
        if !wanted.contains(&name) && name != b"trash" {
            let name = String::from_utf8_lossy(name);
            kept.defects.push(Defect::of_own(&name, "belongs to nothing").left_over());
        }
        Ok(())
    })?;
    match &parts.body {
        Body::Index(index) => verify_sealed(parts.files.0, index, kept)?,
        Body::Open(arena) => {
            verify_log(dir, kept)?;
            verify_open(parts.files.0, arena.as_ref(), &RelPath::ROOT, kept)?;
        }
    }
    Ok(sealed)
}

fn verify_sealed(files: Fd, index: &Index, kept: &mut Kept<'_>) -> Result<()> {
    index.for_each(&mut |path, found| {
        let path = RelPath::new(path)?;
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        let mode = match sys::fstatat(files, path.as_cstr(), flags) {
            Ok(stat) => stat.st_mode & libc::S_IFMT,
            Err(Errno(libc::ENOENT | libc::ENOTDIR)) => {
                kept.defects.push(Defect::of_data(&path, "is missing"));
                return Ok(());
            }
            Err(errno) => {
                kept.defects.push(Defect::of_data(&path, format!("cannot be looked at: {errno}")));
                return Ok(());
            }
        };
        let wanted = if found.kind == Kind::Directory { libc::S_IFDIR } else { libc::S_IFREG };
        match found.kind {
            _ if mode != wanted => {
                let what = if wanted == libc::S_IFDIR { "is no directory" } else { "is no ordinary file" };
                kept.defects.push(Defect::of_data(&path, what));
                Ok(())
            }
            Kind::Directory | Kind::Whiteout => Ok(()),
            Kind::Complete | Kind::Overlay => verify_file(files, &path, index, found, kept),
        }
    })?;
    find_unnamed(files, index, &RelPath::ROOT, kept)
}

/// Files and directories that the index does not name.
fn find_unnamed(files: Fd, index: &Index, at: &RelPath, kept: &mut Kept<'_>) -> Result<()> {
    for (path, kind) in inside(files, at)? {
        if index.find(&path)?.is_none() {
            kept.defects.push(Defect::of_data(&path, "is not in the index").left_over());
        } else if kind == Kind::Directory {
            find_unnamed(files, index, &path, kept)?;
        }
    }
    Ok(())
}

fn inside(files: Fd, at: &RelPath) -> Result<Vec<(RelPath, Kind)>> {
    let mut names = Vec::new();
    let listed = list_native(files, at, &mut |name, kind| {
        names.push((at.join(name)?, kind));
        Ok(())
    });
    match listed {
        // Removed since its parent was listed.
        Err(Errno(libc::ENOENT | libc::ENOTDIR)) => Ok(Vec::new()),
        other => other.map(|()| names),
    }
}

fn ranges(index: &Index, found: &Found) -> Result<Vec<Range<u64>>> {
    let mut runs = Vec::new();
    index.runs(found, &mut |start, count| {
        runs.push((start, count));
        Ok(())
    })?;
    Ok(held(found.kind, found.length, found.floor, &runs))
}

fn verify_file(files: Fd, path: &RelPath, index: &Index, found: &Found, kept: &mut Kept<'_>) -> Result<()> {
    let fd = match sys::openat(files, path.as_cstr(), READING, 0) {
        Ok(fd) => OwnFd(fd),
        Err(errno) => {
            kept.defects.push(Defect::of_data(path, format!("cannot be opened: {errno}")));
            return Ok(());
        }
    };
    let length = sys::size(fd.0)?;
    if length != found.length {
        let what = format!("has {length} bytes, its index says {}", found.length);
        kept.defects.push(Defect::of_data(path, what));
        return Ok(());
    }
    let fits = match Entry::load(fd.0) {
        Ok(Some(entry)) => (entry.kind == entry::Kind::Overlay) == (found.kind == Kind::Overlay),
        // Files of a cluster that was taken in as it was, of merged layers and of restored ones have none: the
        // index says what they are.
        Ok(None) => true,
        Err(_) => false,
    };
    if !fits {
        kept.defects.push(Defect::of_data(path, "has an entry that does not fit its index"));
    }
    verify_content(&fd, path, found, &ranges(index, found)?, kept)
}
