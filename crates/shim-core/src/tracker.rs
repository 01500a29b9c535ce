//! The state that answers are made from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use store::errno::{Errno, Result};
use store::fault::{Fault, planted};
use store::files::{FileId, FileRecord, Files};
use store::gate::Gate;
use store::layer::Layer;
use store::path::RelPath;
use store::stack::Stack;
use store::sys::{self, Fd, O_CLOEXEC, O_DIRECTORY, O_RDONLY, O_RDWR};

use crate::descriptors::{Descriptors, Kind, LowerCache, Tracked};
use crate::offered::Offered;

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Absolute path of the data directory (`branches/<id>/pgdata`), without trailing slash or links.
    pub data_directory: Vec<u8>,
    /// Absolute path of the branch's directory.
    pub branch_directory: Vec<u8>,
    /// Absolute path of the home's `layers`.
    pub layers_directory: Vec<u8>,
    /// Absolute path of a directory in memory for caches that PostgreSQL rebuilds at will, if there is one.
    pub cache_directory: Option<Vec<u8>>,
    /// Absolute path of a directory of extension files that the server shall find among its own.
    pub extension_directory: Option<Vec<u8>>,
    /// Size of a WAL segment, bytes.
    pub wal_segment_size: u64,
}

/// Why a process could not be put on its branch: one line that names the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAttached(String);

impl std::fmt::Display for NotAttached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotAttached {}

impl NotAttached {
    fn by(path: &[u8], errno: Errno) -> NotAttached {
        let path = String::from_utf8_lossy(path);
        NotAttached(match errno {
            Errno::DAMAGED => format!("{path} is damaged or of another version"),
            errno => format!("cannot map {path}: {errno}"),
        })
    }
}

/// No slot in the gate yet.
const UNCLAIMED: u32 = u32::MAX;

/// What kinds of rare calls are counted in the gate's header, for diagnosis.
#[derive(Debug, Clone, Copy)]
pub enum Rare {
    /// A rename of a file that lies in a lower layer was refused with `EXDEV`.
    CrossRename = 0,
    /// A block was copied up because a write covered only a part of it.
    PartialWrite = 1,
    /// A symbolic link under a layered path was refused.
    Link = 2,
    /// A mapping of a tracked file was refused.
    Mapping = 3,
    /// A descriptor's file had been dropped when it was written to.
    DeadWrite = 4,
    /// A WAL segment shared with another branch was copied before a write to it.
    SharedSegment = 5,
}

/// Answers for one process (and, after a fork, for its children).
#[derive(Debug)]
pub struct Tracker {
    pub(crate) settings: Settings,
    pub(crate) gate: Gate,
    pub(crate) files: Files,
    pub(crate) stack: Stack,
    pub(crate) descriptors: Descriptors,
    pub(crate) lower: LowerCache,
    /// The branch's private directory for scratch files.
    pub(crate) private: Fd,
    /// Where caches among them go.
    caches: Fd,
    pub(crate) branch: Fd,
    layers: Fd,
    pub(crate) offered: Option<Offered>,
    /// Open since before this compute wrote anything; see [`store::layer::seal::sync_layer`].
    pub(crate) witness: Fd,
    /// Every layer below this slot is durable.
    pub(crate) durable_below: AtomicU32,
    slot: AtomicU32,
    inside: AtomicBool,
}

/// Inside the gate until dropped.
pub(crate) struct Inside<'a> {
    tracker: &'a Tracker,
    slot: u32,
    /// Slot of the open layer; fixed while inside.
    pub top: u32,
}

impl Tracker {
    /// Maps everything for the first process of a compute.
    ///
    /// # Errors
    /// Names the file that cannot be opened or mapped, or that is damaged.
    pub fn attach(settings: Settings) -> core::result::Result<Tracker, NotAttached> {
        let directory = |path: &[u8]| {
            open_directory(path).map(store::layer::high).map_err(|errno| NotAttached::by(path, errno))
        };
        let below = |name: &[u8]| [&settings.branch_directory[..], name].concat();
        let branch = directory(&settings.branch_directory)?;
        let layers = place(&settings.layers_directory)?;
        let private = directory(&below(b"/private"))?;
        // Anybody may clear memory directories; the private one always works.
        let caches =
            settings.cache_directory.as_ref().and_then(|path| directory(path).ok()).unwrap_or(private);
        // Without them the server works all the same.
        let offered = settings.extension_directory.as_ref().and_then(|path| Offered::open(path).ok());
        let gate = sys::openat(branch, c"gate", O_RDWR | O_CLOEXEC, 0).and_then(|fd| {
            let gate = Gate::open(fd);
            sys::close(fd);
            gate
        });
        Ok(Tracker {
            gate: gate.map_err(|errno| NotAttached::by(&below(b"/gate"), errno))?,
            files: Files::create()
                .map_err(|errno| NotAttached::by(b"memory for the table of open files", errno))?,
            stack: Stack::load(layers, branch)
                .map_err(|errno| NotAttached::by(&below(b"/manifest"), errno))?,
            descriptors: Descriptors::default(),
            lower: LowerCache::default(),
            private,
            caches,
            branch,
            layers,
            offered,
            witness: directory(&settings.branch_directory)?,
            durable_below: AtomicU32::new(0),
            slot: AtomicU32::new(UNCLAIMED),
            inside: AtomicBool::new(false),
            settings,
        })
    }

    /// Another process of the same compute, which has opened nothing yet: for tests.
    ///
    /// # Errors
    /// As [`Tracker::attach`].
    #[cfg(debug_assertions)]
    pub fn sibling(&self) -> core::result::Result<Tracker, NotAttached> {
        let mut tracker = Tracker::attach(self.settings.clone())?;
        tracker.files = self.files.again().map_err(|errno| NotAttached::by(b"the table of files", errno))?;
        tracker.set_inside(self.inside());
        Ok(tracker)
    }

    /// To be called in a child after fork: it needs its own slot in the gate.
    pub fn after_fork(&self) {
        self.slot.store(UNCLAIMED, Ordering::Release);
    }

    /// To be called when the process exits.
    pub fn release(&self) {
        let slot = self.slot.swap(UNCLAIMED, Ordering::AcqRel);
        if slot != UNCLAIMED {
            self.gate.release(slot);
        }
    }

    /// To be called after a change of directory, with whether the process now is in the data
    /// directory.
    pub fn set_inside(&self, inside: bool) {
        self.inside.store(inside, Ordering::Release);
    }

    pub(crate) fn inside(&self) -> bool {
        self.inside.load(Ordering::Acquire)
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The gate, for the preload library's own needs (diagnosis).
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The directory that a scratch path is relative to. Relation caches go to memory while that
    /// directory is there.
    pub(crate) fn scratch(&self, path: &RelPath) -> Fd {
        let cache = path.name().starts_with(b"pg_internal.init");
        if cache && self.caches != self.private && sys::fstat(self.caches).is_ok_and(|stat| stat.st_nlink > 0)
        {
            self.caches
        } else {
            self.private
        }
    }

    pub(crate) fn enter(&self) -> Result<Inside<'_>> {
        let mut slot = self.slot.load(Ordering::Acquire);
        if slot == UNCLAIMED {
            slot = self.gate.claim()?;
            self.slot.store(slot, Ordering::Release);
        }
        let top = self.gate.enter(slot);
        let top = if planted(Fault::SwitchUnseen) { self.top_slot() } else { top };
        Ok(Inside { tracker: self, slot, top })
    }

    /// Slot of the open layer at this moment.
    #[inline]
    pub(crate) fn top_slot(&self) -> u32 {
        if planted(Fault::SwitchUnseen) { self.stack.highest_slot() } else { self.gate.top_slot() }
    }

    /// Counts a rare call.
    pub fn count(&self, what: Rare) {
        self.gate.header().counters[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether `fd` is tracked.
    #[inline]
    pub fn tracked(&self, fd: Fd) -> Option<Tracked> {
        self.descriptors.get(fd)
    }

    /// To be called before `fd` is closed.
    #[inline]
    pub fn closed(&self, fd: Fd) {
        self.descriptors.clear(fd);
    }

    /// To be called after `to` was made from `from`.
    pub fn duplicated(&self, from: Fd, to: Fd) {
        self.descriptors.copy(from, to);
    }

    /// The file behind a tracked descriptor, if it is one whose record still means it.
    #[inline]
    pub(crate) fn live_file(&self, tracked: &Tracked) -> Option<(FileId, &FileRecord)> {
        match tracked.kind {
            Kind::File(id) if self.files.is_live(id) => Some((id, self.files.record(id.number))),
            _ => None,
        }
    }

    /// The layer at a slot that is or was the top of the stack a moment ago.
    #[inline]
    pub(crate) fn layer(&self, slot: u32) -> Result<Arc<Layer>> {
        self.stack.layer(slot)
    }

    /// Looks something up in the layers: by a list that is not older than what other processes have found,
    /// and again where layers were merged meanwhile, since those that were replaced are then removed.
    pub(crate) fn look<T>(&self, mut look: impl FnMut(&Stack) -> Result<T>) -> Result<T> {
        loop {
            let merges = self.gate.merges();
            self.stack.follow(merges)?;
            let seen = look(&self.stack);
            if self.gate.merges() == merges {
                return seen;
            }
        }
    }

    /// Opens a file of the layer at `slot`, wherever that was found.
    pub(crate) fn open_file(&self, slot: u32, path: &RelPath, flags: i32) -> Result<Fd> {
        loop {
            let merges = self.gate.merges();
            self.stack.follow(merges)?;
            let opened = self.stack.layer(slot).and_then(|layer| layer.open_file(path, flags));
            // What is open stays right, whatever becomes of its name.
            if opened.is_ok() || self.gate.merges() == merges {
                return opened;
            }
        }
    }

    /// Descriptor of the file of `id` in the layer at `slot`, for reading.
    pub(crate) fn lower_fd(&self, id: FileId, slot: u32) -> Result<Fd> {
        if let Some(fd) = self.lower.get(id, slot) {
            return Ok(fd);
        }
        let path = self.files.record(id.number).path();
        let fd = store::layer::high(self.open_file(slot, &path, O_RDONLY)?);
        if let Some(displaced) = self.lower.put(id, slot, fd) {
            sys::close(displaced);
        }
        Ok(fd)
    }

    /// Points `fd` at the newest version of its file, keeping number, flags and position.
    pub(crate) fn refresh(&self, fd: Fd, tracked: &Tracked, id: FileId) -> Result<Tracked> {
        let record = self.files.record(id.number);
        let version = record.version.load(Ordering::Acquire);
        let position = sys::lseek(fd, 0, libc::SEEK_CUR)?;
        let new = self.open_at(&record.path(), version, tracked.flags)?;
        let cloexec = sys::fcntl(fd, libc::F_GETFD, 0)? & libc::FD_CLOEXEC != 0;
        let moved = sys::dup3(new, fd, if cloexec { O_CLOEXEC } else { 0 });
        sys::close(new);
        moved?;
        sys::lseek(fd, position as i64, libc::SEEK_SET)?;
        let refreshed = Tracked { slot: version, ..*tracked };
        self.descriptors.set(fd, refreshed);
        Ok(refreshed)
    }

    /// Opens a version: with the caller's flags in the open layer, read-only below.
    pub(crate) fn open_at(&self, path: &RelPath, slot: u32, flags: i32) -> Result<Fd> {
        let flags = flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC);
        if slot == self.top_slot() {
            self.open_file(slot, path, flags)
        } else {
            self.open_file(slot, path, flags & !libc::O_ACCMODE & !libc::O_APPEND | O_RDONLY)
        }
    }
}

fn open_directory(path: &[u8]) -> Result<Fd> {
    let path = std::ffi::CString::new(path).map_err(|_| Errno(libc::EINVAL))?;
    sys::openat(sys::AT_FDCWD, &path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
}

/// A directory to begin paths at: a process that is confined to its branch may not list it.
fn place(path: &[u8]) -> core::result::Result<Fd, NotAttached> {
    let name = std::ffi::CString::new(path).map_err(|_| NotAttached::by(path, Errno(libc::EINVAL)))?;
    let opened = sys::openat(sys::AT_FDCWD, &name, libc::O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    opened.map(store::layer::high).map_err(|errno| NotAttached::by(path, errno))
}

impl Drop for Tracker {
    fn drop(&mut self) {
        for fd in [self.private, self.branch, self.witness, self.layers] {
            sys::close(fd);
        }
        if self.caches != self.private {
            sys::close(self.caches);
        }
        self.lower.open().for_each(sys::close);
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.tracker.gate.leave(self.slot);
    }
}
