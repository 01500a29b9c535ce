//! Descriptors: open, close, read, write, seek, truncate, sync.

use std::ffi::{c_char, c_int, c_long, c_void};

use libc::{iovec, mode_t, off_t, size_t, ssize_t};
use shim_core::Errno;
use store::sys;

use crate::edge::{decide, text};
use crate::raw;
use crate::start::{is_inside, tracker};

/// Exports one function under further names: glibc's 64-bit names are the same functions here.
macro_rules! also {
    ($($name:ident = $of:ident($($argument:ident: $kind:ty),*) -> $out:ty;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),*) -> $out {
            // SAFETY: the same contract as the function it stands for.
            unsafe { $of($($argument),*) }
        }
    )*};
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: see `text`.
    let name = unsafe { text(path) };
    decide(
        |tracker| {
            let ours = dir == libc::AT_FDCWD || name.first() == Some(&b'/');
            if ours { tracker.open(name, flags, mode) } else { None }
        },
        || raw!(libc::SYS_openat, dir, path, flags, mode).map(|fd| fd as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the same contract.
    unsafe { openat(libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn creat(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the same contract.
    unsafe { openat(libc::AT_FDCWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the same contract.
    unsafe { openat(libc::AT_FDCWD, path, flags, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the same contract.
    unsafe { openat(dir, path, flags, 0) }
}

also! {
    open64 = open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    openat64 = openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    creat64 = creat(path: *const c_char, mode: mode_t) -> c_int;
    __open64_2 = __open_2(path: *const c_char, flags: c_int) -> c_int;
    __openat64_2 = __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    if let Some(tracker) = tracker() {
        tracker.closed(fd);
    }
    let saved = sys::errno();
    crate::edge::answer(raw!(libc::SYS_close, fd).map(|n| n as c_int), saved)
}

fn duplicated(from: c_int, to: Result<i64, Errno>) -> Result<c_int, Errno> {
    let to = to? as c_int;
    if let Some(tracker) = tracker() {
        tracker.duplicated(from, to);
    }
    Ok(to)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup(fd: c_int) -> c_int {
    decide(|_| None, || duplicated(fd, raw!(libc::SYS_dup, fd)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup2(from: c_int, to: c_int) -> c_int {
    if from == to {
        return decide(|_| None, || raw!(libc::SYS_fcntl, from, libc::F_GETFD).map(|_| to));
    }
    // SAFETY: the same contract.
    unsafe { dup3(from, to, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int {
    decide(|_| None, || duplicated(from, raw!(libc::SYS_dup3, from, to, flags)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int {
    decide(
        |_| None,
        || {
            let value = raw!(libc::SYS_fcntl, fd, command, argument);
            match command {
                libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => duplicated(fd, value),
                _ => value.map(|n| n as c_int),
            }
        },
    )
}

also! { fcntl64 = fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int; }

#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, buffer: *mut c_void, count: size_t) -> ssize_t {
    decide(
        // SAFETY: the caller's buffer has `count` writable bytes.
        |tracker| done(tracker.read(fd, unsafe { bytes_mut(buffer, count) })),
        || raw!(libc::SYS_read, fd, buffer, count).map(|n| n as ssize_t),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread(fd: c_int, buffer: *mut c_void, count: size_t, offset: off_t) -> ssize_t {
    decide(
        // SAFETY: the caller's buffer has `count` writable bytes.
        |tracker| done(tracker.pread(fd, unsafe { bytes_mut(buffer, count) }, offset as u64)),
        || raw!(libc::SYS_pread64, fd, buffer, count, offset).map(|n| n as ssize_t),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __read_chk(fd: c_int, buffer: *mut c_void, count: size_t, _size: size_t) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { read(fd, buffer, count) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __pread_chk(
    fd: c_int,
    buffer: *mut c_void,
    count: size_t,
    offset: off_t,
    _size: size_t,
) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { pread(fd, buffer, count, offset) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn preadv(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    // SAFETY: the caller passes `count` valid vectors.
    let list = unsafe { vectors(parts, count) };
    decide(
        |tracker| {
            let length: u64 = list.iter().map(|part| part.iov_len as u64).sum();
            let source = match tracker.single_source(fd, offset as u64, length)? {
                Ok(source) => source,
                Err(errno) => return Some(Err(errno)),
            };
            if let Some(source) = source {
                let n = raw!(libc::SYS_preadv, source, parts, count, offset, 0);
                // A lower file may be shorter than the file is today.
                if source == fd || n == Ok(length as i64) {
                    return Some(n.map(|n| n as ssize_t));
                }
            }
            Some(scatter(list, |part, done| {
                // SAFETY: each vector is the caller's writable memory.
                let buffer = unsafe { bytes_mut(part.iov_base, part.iov_len) };
                tracker.pread(fd, buffer, offset as u64 + done)
            }))
        },
        || raw!(libc::SYS_preadv, fd, parts, count, offset, 0).map(|n| n as ssize_t),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller passes `count` valid vectors.
    let list = unsafe { vectors(parts, count) };
    decide(
        |tracker| {
            tracker.tracked(fd)?;
            Some(scatter(list, |part, _| {
                // SAFETY: each vector is the caller's writable memory.
                let buffer = unsafe { bytes_mut(part.iov_base, part.iov_len) };
                tracker.read(fd, buffer).or_else(|| Some(sys::read(fd, buffer)))
            }))
        },
        || raw!(libc::SYS_readv, fd, parts, count).map(|n| n as ssize_t),
    )
}

also! {
    pread64 = pread(fd: c_int, buffer: *mut c_void, count: size_t, offset: off_t) -> ssize_t;
    __pread64_chk = __pread_chk(fd: c_int, buffer: *mut c_void, count: size_t, offset: off_t, size: size_t) -> ssize_t;
    preadv64 = preadv(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t;
}

fn scatter(
    list: &[iovec],
    mut each: impl FnMut(&iovec, u64) -> Option<Result<usize, Errno>>,
) -> Result<ssize_t, Errno> {
    let mut done = 0u64;
    for part in list {
        match each(part, done) {
            Some(Ok(n)) => {
                done += n as u64;
                if n < part.iov_len {
                    break;
                }
            }
            Some(Err(errno)) if done == 0 => return Err(errno),
            Some(Err(_)) | None => break,
        }
    }
    Ok(done as ssize_t)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    decide(
        // SAFETY: the caller's buffer has `count` readable bytes.
        |tracker| done(tracker.write(fd, unsafe { bytes(buffer, count) })),
        || raw!(libc::SYS_write, fd, buffer, count).map(|n| n as ssize_t),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    decide(
        // SAFETY: the caller's buffer has `count` readable bytes.
        |tracker| done(tracker.pwrite(fd, unsafe { bytes(buffer, count) }, offset as u64)),
        || raw!(libc::SYS_pwrite64, fd, buffer, count, offset).map(|n| n as ssize_t),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    // SAFETY: the caller passes `count` valid vectors.
    let list = unsafe { vectors(parts, count) };
    decide(
        |tracker| {
            let length: u64 = list.iter().map(|part| part.iov_len as u64).sum();
            let call = |fd: c_int| raw!(libc::SYS_pwritev, fd, parts, count, offset, 0).map(|n| n as usize);
            done(tracker.write_by(fd, offset as u64, length, call))
        },
        || raw!(libc::SYS_pwritev, fd, parts, count, offset, 0).map(|n| n as ssize_t),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller passes `count` valid vectors.
    let list = unsafe { vectors(parts, count) };
    decide(
        |tracker| {
            tracker.tracked(fd)?;
            Some(scatter(list, |part, _| {
                // SAFETY: each vector is the caller's readable memory.
                tracker.write(fd, unsafe { bytes(part.iov_base, part.iov_len) })
            }))
        },
        || raw!(libc::SYS_writev, fd, parts, count).map(|n| n as ssize_t),
    )
}

also! {
    pwrite64 = pwrite(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t;
    pwritev64 = pwritev(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lseek(fd: c_int, offset: off_t, whence: c_int) -> off_t {
    decide(
        |tracker| {
            if whence == libc::SEEK_DATA || whence == libc::SEEK_HOLE {
                let found = tracker.seek_data(fd, offset, whence == libc::SEEK_HOLE)?;
                return Some(found.map(|position| position as off_t));
            }
            current(tracker, fd)
        },
        || raw!(libc::SYS_lseek, fd, offset, whence),
    )
}

/// Brings the descriptor up to date and lets the plain call go on.
fn current<T>(tracker: &shim_core::Tracker, fd: c_int) -> Option<Result<T, Errno>> {
    match tracker.make_current(fd) {
        Some(Err(errno)) => Some(Err(errno)),
        Some(Ok(())) | None => None,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fstat(fd: c_int, stat: *mut libc::stat) -> c_int {
    decide(|tracker| current(tracker, fd), || raw!(libc::SYS_fstat, fd, stat).map(|n| n as c_int))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __fxstat(_version: c_int, fd: c_int, stat: *mut libc::stat) -> c_int {
    // SAFETY: the same contract.
    unsafe { fstat(fd, stat) }
}

also! {
    lseek64 = lseek(fd: c_int, offset: off_t, whence: c_int) -> off_t;
    fstat64 = fstat(fd: c_int, stat: *mut libc::stat) -> c_int;
    __fxstat64 = __fxstat(version: c_int, fd: c_int, stat: *mut libc::stat) -> c_int;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(fd: c_int, length: off_t) -> c_int {
    decide(
        |tracker| nothing(tracker.ftruncate(fd, length as u64)),
        || raw!(libc::SYS_ftruncate, fd, length).map(|n| n as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn truncate(path: *const c_char, length: off_t) -> c_int {
    decide(
        // SAFETY: see `text`.
        |tracker| nothing(tracker.truncate(unsafe { text(path) }, length as u64)),
        || raw!(libc::SYS_truncate, path, length).map(|n| n as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    decide(
        |tracker| nothing(tracker.fallocate(fd, mode, offset as u64, length as u64)),
        || raw!(libc::SYS_fallocate, fd, mode, offset, length).map(|n| n as c_int),
    )
}

/// Returns the error and leaves `errno` alone, as POSIX has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_fallocate(fd: c_int, offset: off_t, length: off_t) -> c_int {
    let saved = sys::errno();
    let outcome = tracker().and_then(|tracker| tracker.fallocate(fd, 0, offset as u64, length as u64));
    let result = outcome.unwrap_or_else(|| raw!(libc::SYS_fallocate, fd, 0, offset, length).map(drop));
    sys::set_errno(saved);
    result.map_or_else(|errno| errno.0, |()| 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_fadvise(fd: c_int, offset: off_t, length: off_t, advice: c_int) -> c_int {
    let saved = sys::errno();
    let source = tracker().and_then(|tracker| tracker.single_source(fd, offset as u64, length as u64));
    let target = match source {
        Some(Ok(Some(source))) => source,
        _ => fd,
    };
    let result = raw!(libc::SYS_fadvise64, target, offset, length, advice);
    sys::set_errno(saved);
    result.map_or_else(|errno| errno.0, |_| 0)
}

also! {
    ftruncate64 = ftruncate(fd: c_int, length: off_t) -> c_int;
    truncate64 = truncate(path: *const c_char, length: off_t) -> c_int;
    fallocate64 = fallocate(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int;
    posix_fallocate64 = posix_fallocate(fd: c_int, offset: off_t, length: off_t) -> c_int;
    posix_fadvise64 = posix_fadvise(fd: c_int, offset: off_t, length: off_t, advice: c_int) -> c_int;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    decide(|tracker| nothing(tracker.fsync(fd, false)), || raw!(libc::SYS_fsync, fd).map(|n| n as c_int))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    decide(|tracker| nothing(tracker.fsync(fd, true)), || raw!(libc::SYS_fdatasync, fd).map(|n| n as c_int))
}

/// A start after a crash asks for this on the data directory and waits for all of the file system.
/// The first start of a child has nothing of its own to sync: its WAL and small files are durable,
/// and every block that is not is replayed from that WAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syncfs(fd: c_int) -> c_int {
    decide(
        |tracker| {
            if tracker.take_fresh() { Some(Ok(0)) } else { Some(tracker.sync_branch().map(|()| 0)) }
        },
        || raw!(libc::SYS_syncfs, fd).map(|n| n as c_int),
    )
}

/// Only a hint to begin writing; never a promise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(fd: c_int, offset: off_t, length: off_t, flags: u32) -> c_int {
    decide(|_| None, || raw!(libc::SYS_sync_file_range, fd, offset, length, flags).map(|n| n as c_int))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    let refused = fd >= 0
        && tracker().is_some_and(|tracker| {
            let writes = flags & libc::MAP_SHARED != 0 && protection & libc::PROT_WRITE != 0;
            tracker.tracked(fd).is_some() && (writes || !tracker.is_plain(fd))
        });
    if refused {
        if let Some(tracker) = tracker() {
            tracker.count(shim_core::tracker::Rare::Mapping);
        }
        sys::set_errno(libc::ENODEV);
        return libc::MAP_FAILED;
    }
    match raw!(libc::SYS_mmap, address, length, protection, flags, fd, offset) {
        Ok(address) => address as *mut c_void,
        Err(_) => libc::MAP_FAILED,
    }
}

also! {
    mmap64 = mmap(address: *mut c_void, length: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off_t) -> *mut c_void;
}

/// Never a copy of placeholders: tracked files are copied through us, in pieces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_file_range(
    from: c_int,
    from_offset: *mut off_t,
    to: c_int,
    to_offset: *mut off_t,
    length: size_t,
    flags: u32,
) -> ssize_t {
    decide(
        |tracker| {
            if tracker.tracked(from).is_none() && tracker.tracked(to).is_none() {
                return None;
            }
            Some(Err(Errno(libc::EXDEV)))
        },
        || {
            raw!(libc::SYS_copy_file_range, from, from_offset, to, to_offset, length, flags)
                .map(|n| n as ssize_t)
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
    decide(
        |tracker| {
            if tracker.tracked(from).is_none() && tracker.tracked(to).is_none() {
                return None;
            }
            Some(Err(Errno(libc::EINVAL)))
        },
        || raw!(libc::SYS_sendfile, to, from, offset, count).map(|n| n as ssize_t),
    )
}

also! { sendfile64 = sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t; }

#[unsafe(no_mangle)]
pub unsafe extern "C" fn chdir(path: *const c_char) -> c_int {
    decide(|_| None, || moved(raw!(libc::SYS_chdir, path)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fchdir(fd: c_int) -> c_int {
    decide(|_| None, || moved(raw!(libc::SYS_fchdir, fd)))
}

fn moved(result: Result<i64, Errno>) -> Result<c_int, Errno> {
    result?;
    if let Some(tracker) = tracker() {
        tracker.set_inside(is_inside(tracker));
    }
    Ok(0)
}

fn done(outcome: Option<Result<usize, Errno>>) -> Option<Result<ssize_t, Errno>> {
    outcome.map(|result| result.map(|n| n as ssize_t))
}

fn nothing(outcome: Option<Result<(), Errno>>) -> Option<Result<c_int, Errno>> {
    outcome.map(|result| result.map(|()| 0))
}

unsafe fn bytes<'a>(pointer: *const c_void, count: size_t) -> &'a [u8] {
    if pointer.is_null() || count > isize::MAX as usize {
        return &[];
    }
    // SAFETY: the caller promises `count` readable bytes.
    unsafe { std::slice::from_raw_parts(pointer.cast(), count) }
}

unsafe fn bytes_mut<'a>(pointer: *mut c_void, count: size_t) -> &'a mut [u8] {
    if pointer.is_null() || count > isize::MAX as usize {
        return &mut [];
    }
    // SAFETY: the caller promises `count` writable bytes, not used elsewhere during the call.
    unsafe { std::slice::from_raw_parts_mut(pointer.cast(), count) }
}

unsafe fn vectors<'a>(parts: *const iovec, count: c_int) -> &'a [iovec] {
    if parts.is_null() || count <= 0 {
        return &[];
    }
    // SAFETY: the caller promises `count` vectors.
    unsafe { std::slice::from_raw_parts(parts, count as usize) }
}
