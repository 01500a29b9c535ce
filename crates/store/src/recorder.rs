//! A record of everything that this process, and others with the same log, do to the disk.
//!
//! For tests of power failures: [`sys::call`](crate::sys::call) is the one place where system calls
//! are made, and passes them on to here while a log is attached. Each change of the log's own file
//! system (writes, sizes, attributes, names) is made and noted under one lock that all processes
//! share, so that the order in the log is the order in which the changes happened. A sync is noted
//! when it begins and when it ends, with the lock free in between: what was noted before the
//! beginning is durable from the end on, and whatever happens meanwhile is not.
//!
//! Files are named by inode number; a creation begins a new life of that number. Not seen: what
//! mapped memory changes, and what glibc does below its own stdio. Refused, so that the caller takes
//! another way: copies inside the kernel.
//!
//! The disk itself is not asked to sync: a pause stands for it. The log is what gets judged.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_long};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::errno::{Errno, Result};
use crate::owned_lock::{self, Held};
use crate::shared_struct;
use crate::shm::Mapping;
use crate::sys::{self, Fd};

/// Names the log, in the environment of a process that is to be recorded.
pub const VARIABLE: &str = "ANABRANCH_SHIM_RECORD";

const MAGIC: u64 = u64::from_le_bytes(*b"ANARECO1");
const HEADER: usize = 4096;
const HEAD: usize = 56;
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"REC1");
/// How long a sync takes. Long enough for others to do something meanwhile.
const PAUSE: Duration = Duration::from_millis(1);

shared_struct! {
    struct Header {
        magic: AtomicU64,
        /// Thread that is changing the disk; 0 for none.
        lock: AtomicU32,
        reserved: AtomicU32,
        /// Where the next record goes. What lies behind it was cut short and does not count.
        end: AtomicU64,
        /// Number of the next record.
        next: AtomicU64,
    }
}

struct Recorder {
    log: Fd,
    device: u64,
    inode: u64,
    mapping: Mapping,
}

static ATTACHED: AtomicBool = AtomicBool::new(false);
static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Inode number of the directory.
    pub directory: u64,
    /// The name.
    pub name: &'a [u8],
}

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A new file, without a name if made by `O_TMPFILE`.
    Create {
        /// The file.
        inode: u64,
        /// Its name.
        place: Option<Place<'a>>,
    },
    /// A new directory.
    MakeDirectory {
        /// The directory.
        inode: u64,
        /// Its name.
        place: Place<'a>,
    },
    /// A further name.
    Link {
        /// The file.
        inode: u64,
        /// The name.
        place: Place<'a>,
    },
    /// A new symbolic link.
    Symlink {
        /// The link.
        inode: u64,
        /// Its name.
        place: Place<'a>,
        /// Where it leads.
        target: &'a [u8],
    },
    /// A file's or a directory's name is gone.
    Remove {
        /// The name.
        place: Place<'a>,
    },
    /// A name changed.
    Rename {
        /// The file or directory.
        inode: u64,
        /// The old name.
        from: Place<'a>,
        /// The new one.
        to: Place<'a>,
    },
    /// Bytes were written.
    Write {
        /// The file.
        inode: u64,
        /// Where, in bytes.
        offset: u64,
        /// What.
        data: &'a [u8],
    },
    /// The file was cut or grown to a length.
    Truncate {
        /// The file.
        inode: u64,
        /// Its new length in bytes.
        length: u64,
    },
    /// Space was allocated: the file is at least so long.
    Allocate {
        /// The file.
        inode: u64,
        /// The least length in bytes.
        length: u64,
    },
    /// An extended attribute was set.
    Attribute {
        /// The file.
        inode: u64,
        /// Name of the attribute.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// A sync began.
    SyncBegin {
        /// The file or directory; `None` for everything.
        inode: Option<u64>,
        /// `fdatasync`: attributes are not covered.
        data_only: bool,
    },
    /// A sync ended well.
    SyncEnd {
        /// Number of the record of its beginning.
        begin: u64,
    },
    /// A note by the program itself.
    Mark {
        /// What it says.
        text: &'a [u8],
    },
}

const CREATE: u32 = 1;
const CREATE_UNNAMED: u32 = 2;
const MAKE_DIRECTORY: u32 = 3;
const LINK: u32 = 4;
const REMOVE: u32 = 5;
const RENAME: u32 = 6;
const WRITE: u32 = 7;
const TRUNCATE: u32 = 8;
const ALLOCATE: u32 = 9;
const ATTRIBUTE: u32 = 10;
const SYNC_BEGIN: u32 = 11;
const DATA_SYNC_BEGIN: u32 = 12;
const ALL_SYNC_BEGIN: u32 = 13;
const SYNC_END: u32 = 14;
const MARK: u32 = 15;
const SYMLINK: u32 = 16;

/// Attaches the log that the environment names, if it does.
///
/// # Errors
/// When it cannot be opened or mapped.
pub fn attach_from_environment() -> Result<()> {
    match std::env::var_os(VARIABLE) {
        None => Ok(()),
        Some(path) => {
            let path = std::ffi::CString::new(path.into_encoded_bytes()).map_err(|_| Errno(libc::EINVAL))?;
            attach(&path)
        }
    }
}

/// Attaches a log, made where it is missing. Only what happens on its file system is recorded.
///
/// # Errors
/// When it cannot be opened or mapped, or is something else.
pub fn attach(path: &CStr) -> Result<()> {
    let log = sys::openat(sys::AT_FDCWD, path, sys::O_RDWR | sys::O_CREAT | sys::O_CLOEXEC, 0o600)?;
    let log = crate::layer::high(log);
    let stat = sys::fstat(log)?;
    if stat.st_size == 0 {
        sys::ftruncate(log, HEADER as u64)?;
    }
    let recorder =
        Recorder { log, device: stat.st_dev, inode: stat.st_ino, mapping: Mapping::file(log, HEADER)? };
    let header = recorder.header();
    let _ = header.magic.compare_exchange(0, MAGIC, Ordering::AcqRel, Ordering::Acquire);
    if header.magic.load(Ordering::Acquire) != MAGIC {
        return Err(Errno::DAMAGED);
    }
    let _ = header.end.compare_exchange(0, HEADER as u64, Ordering::AcqRel, Ordering::Acquire);
    if RECORDER.set(recorder).is_ok() {
        ATTACHED.store(true, Ordering::Release);
    }
    Ok(())
}

/// Whether calls are to be passed on to [`call`].
#[inline]
pub fn is_attached() -> bool {
    ATTACHED.load(Ordering::Relaxed)
}

/// Notes what the program has to say, in order with what it did.
///
/// # Errors
/// When the log cannot be written. Nothing happens without a log.
pub fn mark(text: &str) -> Result<()> {
    let Some(recorder) = RECORDER.get() else { return Ok(()) };
    let _lock = recorder.lock();
    recorder.append(&Head { kind: MARK, ..Head::default() }, &[text.as_bytes()]).map(drop)
}

/// Every whole record of a log. The number of a record is its place in the list.
///
/// # Errors
/// `EUCLEAN` when the bytes are no log.
pub fn read(bytes: &[u8]) -> Result<Vec<Event<'_>>> {
    let u64_at = |at: usize| {
        bytes
            .get(at..at + 8)
            .and_then(|word| word.try_into().ok())
            .map(u64::from_le_bytes)
            .ok_or(Errno::DAMAGED)
    };
    if u64_at(0)? != MAGIC {
        return Err(Errno::DAMAGED);
    }
    let end = u64_at(16)? as usize;
    let mut events = Vec::new();
    let mut at = HEADER;
    while at < end {
        let record = bytes.get(at..end).ok_or(Errno::DAMAGED)?;
        let (event, length) = read_one(record).ok_or(Errno::DAMAGED)?;
        events.push(event);
        at += length;
    }
    Ok(events)
}

fn read_one(bytes: &[u8]) -> Option<(Event<'_>, usize)> {
    let u32_at = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let u64_at = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    if u32_at(0)? != RECORD_MAGIC {
        return None;
    }
    let (inode, directory, second, number) = (u64_at(16)?, u64_at(24)?, u64_at(32)?, u64_at(40)?);
    let (first_length, length) = (u32_at(48)? as usize, u32_at(52)? as usize);
    let payload = bytes.get(HEAD..HEAD + length)?;
    let (first, rest) = payload.split_at_checked(first_length)?;
    let place = Place { directory, name: first };
    let event = match u32_at(4)? {
        CREATE => Event::Create { inode, place: Some(place) },
        CREATE_UNNAMED => Event::Create { inode, place: None },
        MAKE_DIRECTORY => Event::MakeDirectory { inode, place },
        LINK => Event::Link { inode, place },
        SYMLINK => Event::Symlink { inode, place, target: rest },
        REMOVE => Event::Remove { place },
        RENAME => Event::Rename { inode, from: place, to: Place { directory: second, name: rest } },
        WRITE => Event::Write { inode, offset: number, data: rest },
        TRUNCATE => Event::Truncate { inode, length: number },
        ALLOCATE => Event::Allocate { inode, length: number },
        ATTRIBUTE => Event::Attribute { inode, name: first, value: rest },
        SYNC_BEGIN => Event::SyncBegin { inode: Some(inode), data_only: false },
        DATA_SYNC_BEGIN => Event::SyncBegin { inode: Some(inode), data_only: true },
        ALL_SYNC_BEGIN => Event::SyncBegin { inode: None, data_only: false },
        SYNC_END => Event::SyncEnd { begin: number },
        MARK => Event::Mark { text: rest },
        _ => return None,
    };
    Some((event, HEAD + length))
}

/// Fixed part of a record: magic u32, kind u32, number u64, inode u64, two directories u64 each,
/// offset or length u64, length of the first text u32, length of all that follows u32.
#[derive(Debug, Default)]
struct Head {
    kind: u32,
    inode: u64,
    directory: u64,
    second: u64,
    number: u64,
    first_length: usize,
}

impl Recorder {
    fn header(&self) -> &Header {
        self.mapping.at(0)
    }

    fn lock(&self) -> Held<'_> {
        owned_lock::lock(&self.header().lock)
    }

    /// Appends a record; its number. Counts only once it is whole. With the lock.
    fn append(&self, head: &Head, parts: &[&[u8]]) -> Result<u64> {
        let header = self.header();
        let number = header.next.load(Ordering::Relaxed);
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = [0u8; HEAD];
        for (at, value) in
            [(0, RECORD_MAGIC), (4, head.kind), (48, head.first_length as u32), (52, length as u32)]
        {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let words = [number, head.inode, head.directory, head.second, head.number];
        for (word, at) in words.iter().zip((8..).step_by(8)) {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let mut at = header.end.load(Ordering::Relaxed);
        for part in std::iter::once(&&bytes[..]).chain(parts) {
            // Seen by ourselves, but the log's own inode is left alone.
            sys::pwrite_full(self.log, part, at)?;
            at += part.len() as u64;
        }
        header.next.store(number + 1, Ordering::Relaxed);
        header.end.store(at, Ordering::Release);
        Ok(number)
    }

    /// What is recorded of a descriptor: regular files and directories of the log's file system.
    fn known(&self, fd: Fd) -> Option<libc::stat> {
        let stat = sys::fstat(fd).ok()?;
        let kind = stat.st_mode & libc::S_IFMT;
        let fits = kind == libc::S_IFREG || kind == libc::S_IFDIR;
        (fits && stat.st_dev == self.device && stat.st_ino != self.inode).then_some(stat)
    }

    fn known_at(&self, dir: Fd, path: &CStr, flags: i32) -> Option<libc::stat> {
        sys::fstatat(dir, path, flags).ok().filter(|stat| stat.st_dev == self.device)
    }

    /// Directory and last part of a path.
    fn place<'a>(&self, dir: Fd, path: &'a CStr) -> Option<Place<'a>> {
        let mut bytes = path.to_bytes();
        while let [rest @ .., b'/'] = bytes {
            bytes = rest;
        }
        let split = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let (above, name) = bytes.split_at(split);
        let stat = if above.is_empty() {
            self.known_at(dir, c".", 0)
        } else {
            let above = std::ffi::CString::new(above).ok()?;
            self.known_at(dir, &above, 0)
        };
        Some(Place { directory: stat?.st_ino, name })
    }
}

/// Makes a system call and records it.
///
/// # Safety
/// As for the call itself.
pub unsafe fn call(number: c_long, arguments: [usize; 6]) -> c_long {
    // SAFETY: the caller's own call, unchanged.
    let plain = || unsafe { sys::direct(number, arguments) };
    let Some(recorder) = RECORDER.get() else { return plain() };
    let fd = |at: usize| arguments[at] as Fd;
    // SAFETY: for these calls the argument is a path or a buffer of the caller's.
    let path = |at: usize| unsafe { CStr::from_ptr(arguments[at] as *const libc::c_char) };
    // SAFETY: as above.
    let buffer = |at: usize, length: usize| unsafe { slice(arguments[at], length) };
    match number {
        libc::SYS_write => recorder.write(fd(0), None, &[buffer(1, arguments[2])], plain),
        libc::SYS_pwrite64 => {
            recorder.write(fd(0), Some(arguments[3] as u64), &[buffer(1, arguments[2])], plain)
        }
        libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
            // SAFETY: the caller passes this many vectors.
            let parts = unsafe { vectors(arguments[1], arguments[2]) };
            let offset = (number != libc::SYS_writev).then_some(arguments[3] as u64);
            recorder.write(fd(0), offset, &parts, plain)
        }
        libc::SYS_ftruncate => recorder.change(fd(0), plain, |inode| Head {
            kind: TRUNCATE,
            inode,
            number: arguments[1] as u64,
            ..Head::default()
        }),
        libc::SYS_truncate => recorder.truncate(path(0), arguments[1] as u64, plain),
        libc::SYS_fallocate if arguments[1] == 0 => recorder.change(fd(0), plain, |inode| Head {
            kind: ALLOCATE,
            inode,
            number: (arguments[2] + arguments[3]) as u64,
            ..Head::default()
        }),
        libc::SYS_fsetxattr => recorder.attribute(fd(0), path(1), buffer(2, arguments[3]), plain),
        libc::SYS_openat if fd_creates(arguments[2] as i32) => {
            recorder.open(fd(0), path(1), arguments[2] as i32, plain)
        }
        libc::SYS_linkat => recorder.link(fd(2), path(3), plain),
        libc::SYS_symlinkat => recorder.symlink(path(0), fd(1), path(2), plain),
        libc::SYS_renameat2 => recorder.rename((fd(0), path(1)), (fd(2), path(3)), arguments[4], plain),
        libc::SYS_unlinkat => recorder.remove(fd(0), path(1), plain),
        libc::SYS_mkdirat => recorder.make_directory(fd(0), path(1), plain),
        libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_syncfs => recorder.sync(number, fd(0), plain),
        libc::SYS_copy_file_range if recorder.known(fd(2)).is_some() => refuse(libc::EXDEV),
        libc::SYS_sendfile if recorder.known(fd(0)).is_some() => refuse(libc::EINVAL),
        _ => plain(),
    }
}

fn refuse(errno: i32) -> c_long {
    sys::set_errno(errno);
    -1
}

fn fd_creates(flags: i32) -> bool {
    flags & (libc::O_CREAT | libc::O_TRUNC) != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE
}

/// # Safety
/// `address` must be null or readable for `length` bytes.
unsafe fn slice<'a>(address: usize, length: usize) -> &'a [u8] {
    if address == 0 || length > isize::MAX as usize {
        return &[];
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(address as *const u8, length) }
}

/// # Safety
/// `address` must be null or point to `count` valid vectors.
unsafe fn vectors<'a>(address: usize, count: usize) -> Vec<&'a [u8]> {
    if address == 0 {
        return Vec::new();
    }
    // SAFETY: promised by the caller.
    let list = unsafe { std::slice::from_raw_parts(address as *const libc::iovec, count) };
    // SAFETY: each vector is the caller's readable memory.
    list.iter().map(|part| unsafe { slice(part.iov_base as usize, part.iov_len) }).collect()
}

impl Recorder {
    /// A change that was made but could not be noted would be judged as never made.
    fn note(&self, head: &Head, parts: &[&[u8]]) {
        if self.append(head, parts).is_err() {
            std::process::abort();
        }
    }

    fn write(&self, fd: Fd, offset: Option<u64>, parts: &[&[u8]], plain: impl Fn() -> c_long) -> c_long {
        if self.known(fd).is_none() {
            return plain();
        }
        let _lock = self.lock();
        let Some(before) = self.known(fd) else { return plain() };
        // Linux appends by `pwrite`, too, where the descriptor says so.
        let appends = sys::fcntl(fd, libc::F_GETFL, 0).is_ok_and(|flags| flags & libc::O_APPEND != 0);
        let offset = match offset {
            _ if appends => before.st_size as u64,
            Some(offset) => offset,
            None => sys::lseek(fd, 0, libc::SEEK_CUR).unwrap_or(0),
        };
        let written = plain();
        let mut left = written.max(0) as usize;
        let mut kept = Vec::with_capacity(parts.len());
        for part in parts {
            let length = left.min(part.len());
            kept.push(&part[..length]);
            left -= length;
        }
        if written > 0 {
            self.note(&Head { kind: WRITE, inode: before.st_ino, number: offset, ..Head::default() }, &kept);
        }
        written
    }

    fn change(&self, fd: Fd, plain: impl Fn() -> c_long, head: impl Fn(u64) -> Head) -> c_long {
        let Some(stat) = self.known(fd) else { return plain() };
        let _lock = self.lock();
        let done = plain();
        if done == 0 {
            self.note(&head(stat.st_ino), &[]);
        }
        done
    }

    fn truncate(&self, path: &CStr, length: u64, plain: impl Fn() -> c_long) -> c_long {
        let _lock = self.lock();
        let stat = self.known_at(sys::AT_FDCWD, path, 0);
        let done = plain();
        if let Some(stat) = stat.filter(|_| done == 0) {
            self.note(&Head { kind: TRUNCATE, inode: stat.st_ino, number: length, ..Head::default() }, &[]);
        }
        done
    }

    fn attribute(&self, fd: Fd, name: &CStr, value: &[u8], plain: impl Fn() -> c_long) -> c_long {
        let Some(stat) = self.known(fd) else { return plain() };
        let _lock = self.lock();
        let done = plain();
        if done == 0 {
            let name = name.to_bytes();
            let head =
                Head { kind: ATTRIBUTE, inode: stat.st_ino, first_length: name.len(), ..Head::default() };
            self.note(&head, &[name, value]);
        }
        done
    }

    fn open(&self, dir: Fd, path: &CStr, flags: i32, plain: impl Fn() -> c_long) -> c_long {
        let _lock = self.lock();
        let unnamed = flags & libc::O_TMPFILE == libc::O_TMPFILE;
        let existed = !unnamed && self.known_at(dir, path, 0).is_some();
        let fd = plain();
        if fd < 0 {
            return fd;
        }
        let Some(stat) = self.known(fd as Fd) else { return fd };
        let inode = stat.st_ino;
        if unnamed {
            self.note(&Head { kind: CREATE_UNNAMED, inode, ..Head::default() }, &[]);
        } else if !existed {
            self.name(CREATE, inode, dir, path);
        } else if flags & libc::O_TRUNC != 0 {
            self.note(&Head { kind: TRUNCATE, inode, ..Head::default() }, &[]);
        }
        fd
    }

    fn name(&self, kind: u32, inode: u64, dir: Fd, path: &CStr) {
        if let Some(Place { directory, name }) = self.place(dir, path) {
            self.note(&Head { kind, inode, directory, first_length: name.len(), ..Head::default() }, &[name]);
        }
    }

    fn link(&self, dir: Fd, path: &CStr, plain: impl Fn() -> c_long) -> c_long {
        let _lock = self.lock();
        let done = plain();
        if done == 0
            && let Some(stat) = self.known_at(dir, path, libc::AT_SYMLINK_NOFOLLOW)
        {
            self.name(LINK, stat.st_ino, dir, path);
        }
        done
    }

    fn symlink(&self, target: &CStr, dir: Fd, path: &CStr, plain: impl Fn() -> c_long) -> c_long {
        let _lock = self.lock();
        let done = plain();
        if done == 0
            && let Some(stat) = self.known_at(dir, path, libc::AT_SYMLINK_NOFOLLOW)
            && let Some(Place { directory, name }) = self.place(dir, path)
        {
            let head = Head {
                kind: SYMLINK,
                inode: stat.st_ino,
                directory,
                first_length: name.len(),
                ..Head::default()
            };
            self.note(&head, &[name, target.to_bytes()]);
        }
        done
    }

    fn rename(&self, from: (Fd, &CStr), to: (Fd, &CStr), flags: usize, plain: impl Fn() -> c_long) -> c_long {
        if flags & libc::RENAME_EXCHANGE as usize != 0 {
            return refuse(libc::EINVAL);
        }
        let _lock = self.lock();
        let stat = self.known_at(from.0, from.1, libc::AT_SYMLINK_NOFOLLOW);
        let places = self.place(from.0, from.1).zip(self.place(to.0, to.1));
        let done = plain();
        if done == 0
            && let (Some(stat), Some((from, to))) = (stat, places)
        {
            let head = Head {
                kind: RENAME,
                inode: stat.st_ino,
                directory: from.directory,
                second: to.directory,
                first_length: from.name.len(),
                ..Head::default()
            };
            self.note(&head, &[from.name, to.name]);
        }
        done
    }

    fn remove(&self, dir: Fd, path: &CStr, plain: impl Fn() -> c_long) -> c_long {
        let _lock = self.lock();
        let place = self.place(dir, path);
        let done = plain();
        if let Some(Place { directory, name }) = place.filter(|_| done == 0) {
            let head = Head { kind: REMOVE, directory, first_length: name.len(), ..Head::default() };
            self.note(&head, &[name]);
        }
        done
    }

    fn make_directory(&self, dir: Fd, path: &CStr, plain: impl Fn() -> c_long) -> c_long {
        let _lock = self.lock();
        let done = plain();
        if done == 0
            && let Some(stat) = self.known_at(dir, path, libc::AT_SYMLINK_NOFOLLOW)
        {
            self.name(MAKE_DIRECTORY, stat.st_ino, dir, path);
        }
        done
    }

    fn sync(&self, number: c_long, fd: Fd, plain: impl Fn() -> c_long) -> c_long {
        let Some(stat) = self.known(fd) else { return plain() };
        let kind = match number {
            libc::SYS_fsync => SYNC_BEGIN,
            libc::SYS_fdatasync => DATA_SYNC_BEGIN,
            _ => ALL_SYNC_BEGIN,
        };
        let locked = |head: Head| {
            let _lock = self.lock();
            self.append(&head, &[])
        };
        let done = locked(Head { kind, inode: stat.st_ino, ..Head::default() }).and_then(|begin| {
            sys::sleep(PAUSE);
            locked(Head { kind: SYNC_END, number: begin, ..Head::default() })
        });
        if done.is_err() {
            std::process::abort();
        }
        0
    }
}
