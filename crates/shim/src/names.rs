//! Names: stat, access, unlink, rename, mkdir, links, attributes.

use std::ffi::{c_char, c_int, c_uint};

use libc::{mode_t, size_t, ssize_t};
use shim_core::Errno;

use crate::edge::{decide, text};
use crate::raw;

/// Whether a path relative to `dir` is ours to look at.
fn ours(dir: c_int, name: &[u8]) -> bool {
    dir == libc::AT_FDCWD || name.first() == Some(&b'/')
}

unsafe fn stat_at(dir: c_int, path: *const c_char, stat: *mut libc::stat, flags: c_int) -> c_int {
    // SAFETY: see `text`.
    let name = unsafe { text(path) };
    decide(
        |tracker| {
            if name.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
                return match tracker.make_current(dir) {
                    Some(Err(errno)) => Some(Err(errno)),
                    _ => None,
                };
            }
            if !ours(dir, name) {
                return None;
            }
            tracker.at(name, |root, path| {
                raw!(libc::SYS_newfstatat, root, path.as_cstr().as_ptr(), stat, flags).map(|n| n as c_int)
            })
        },
        || raw!(libc::SYS_newfstatat, dir, path, stat, flags).map(|n| n as c_int),
    )
}

macro_rules! stats {
    ($($name:ident($($argument:ident: $kind:ty),*) = ($dir:expr, $path:expr, $stat:expr, $flags:expr);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),*) -> c_int {
            // SAFETY: the same contract.
            unsafe { stat_at($dir, $path, $stat, $flags) }
        }
    )*};
}

type Path = *const c_char;
type Stat = *mut libc::stat;
const HERE: c_int = libc::AT_FDCWD;
const LINK: c_int = libc::AT_SYMLINK_NOFOLLOW;

stats! {
    stat(path: Path, out: Stat) = (HERE, path, out, 0);
    stat64(path: Path, out: Stat) = (HERE, path, out, 0);
    lstat(path: Path, out: Stat) = (HERE, path, out, LINK);
    lstat64(path: Path, out: Stat) = (HERE, path, out, LINK);
    fstatat(dir: c_int, path: Path, out: Stat, flags: c_int) = (dir, path, out, flags);
    fstatat64(dir: c_int, path: Path, out: Stat, flags: c_int) = (dir, path, out, flags);
    __xstat(_version: c_int, path: Path, out: Stat) = (HERE, path, out, 0);
    __xstat64(_version: c_int, path: Path, out: Stat) = (HERE, path, out, 0);
    __lxstat(_version: c_int, path: Path, out: Stat) = (HERE, path, out, LINK);
    __lxstat64(_version: c_int, path: Path, out: Stat) = (HERE, path, out, LINK);
    __fxstatat(_version: c_int, dir: c_int, path: Path, out: Stat, flags: c_int) = (dir, path, out, flags);
    __fxstatat64(_version: c_int, dir: c_int, path: Path, out: Stat, flags: c_int) = (dir, path, out, flags);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn statx(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    out: *mut libc::statx,
) -> c_int {
    // SAFETY: see `text`.
    let name = unsafe { text(path) };
    decide(
        |tracker| {
            if !ours(dir, name) {
                return None;
            }
            tracker.at(name, |root, path| {
                raw!(libc::SYS_statx, root, path.as_cstr().as_ptr(), flags, mask, out).map(|n| n as c_int)
            })
        },
        || raw!(libc::SYS_statx, dir, path, flags, mask, out).map(|n| n as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
    // SAFETY: see `text`.
    let name = unsafe { text(path) };
    decide(
        |tracker| {
            if !ours(dir, name) {
                return None;
            }
            // Sealed files are read-only on disk, yet writable for PostgreSQL.
            let mode = mode & !libc::W_OK;
            tracker.at(name, |root, path| {
                raw!(libc::SYS_faccessat, root, path.as_cstr().as_ptr(), mode, 0).map(|n| n as c_int)
            })
        },
        || raw!(libc::SYS_faccessat, dir, path, mode, flags).map(|n| n as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    // SAFETY: the same contract.
    unsafe { faccessat(libc::AT_FDCWD, path, mode, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn readlinkat(
    dir: c_int,
    path: *const c_char,
    buffer: *mut c_char,
    size: size_t,
) -> ssize_t {
    // SAFETY: see `text`.
    let name = unsafe { text(path) };
    decide(
        |tracker| {
            if !ours(dir, name) {
                return None;
            }
            tracker.at(name, |root, path| {
                raw!(libc::SYS_readlinkat, root, path.as_cstr().as_ptr(), buffer, size).map(|n| n as ssize_t)
            })
        },
        || raw!(libc::SYS_readlinkat, dir, path, buffer, size).map(|n| n as ssize_t),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn readlink(path: *const c_char, buffer: *mut c_char, size: size_t) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { readlinkat(libc::AT_FDCWD, path, buffer, size) }
}

fn done(outcome: Option<Result<(), Errno>>) -> Option<Result<c_int, Errno>> {
    outcome.map(|result| result.map(|()| 0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: see `text`.
    let name = unsafe { text(path) };
    decide(
        |tracker| {
            if !ours(dir, name) {
                return None;
            }
            done(if flags & libc::AT_REMOVEDIR != 0 { tracker.rmdir(name) } else { tracker.unlink(name) })
        },
        || raw!(libc::SYS_unlinkat, dir, path, flags).map(|n| n as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the same contract.
    unsafe { unlinkat(libc::AT_FDCWD, path, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: the same contract.
    unsafe { unlinkat(libc::AT_FDCWD, path, libc::AT_REMOVEDIR) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn remove(path: *const c_char) -> c_int {
    // SAFETY: the same contract.
    let done = unsafe { unlink(path) };
    if done == -1 && store::sys::errno() == libc::EISDIR {
        // SAFETY: the same contract.
        return unsafe { rmdir(path) };
    }
    done
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat2(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    // SAFETY: see `text`.
    let (old, new) = unsafe { (text(from), text(to)) };
    decide(
        |tracker| {
            if !ours(from_dir, old) || !ours(to_dir, new) {
                return None;
            }
            done(tracker.rename(old, new))
        },
        || raw!(libc::SYS_renameat2, from_dir, from, to_dir, to, flags).map(|n| n as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
) -> c_int {
    // SAFETY: the same contract.
    unsafe { renameat2(from_dir, from, to_dir, to, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the same contract.
    unsafe { renameat2(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn linkat(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: see `text`.
    let (old, new) = unsafe { (text(from), text(to)) };
    decide(
        |tracker| done(tracker.refuses_link(new)).or_else(|| done(tracker.refuses_link(old))),
        || raw!(libc::SYS_linkat, from_dir, from, to_dir, to, flags).map(|n| n as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the same contract.
    unsafe { linkat(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn symlinkat(target: *const c_char, dir: c_int, path: *const c_char) -> c_int {
    // SAFETY: see `text`.
    let name = unsafe { text(path) };
    decide(
        |tracker| done(tracker.refuses_link(name)),
        || raw!(libc::SYS_symlinkat, target, dir, path).map(|n| n as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn symlink(target: *const c_char, path: *const c_char) -> c_int {
    // SAFETY: the same contract.
    unsafe { symlinkat(target, libc::AT_FDCWD, path) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdirat(dir: c_int, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: see `text`.
    let name = unsafe { text(path) };
    decide(
        |tracker| if ours(dir, name) { done(tracker.mkdir(name, mode)) } else { None },
        || raw!(libc::SYS_mkdirat, dir, path, mode).map(|n| n as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the same contract.
    unsafe { mkdirat(libc::AT_FDCWD, path, mode) }
}

/// Calls that change attributes: made on the open layer's file, accepted without effect on sealed ones.
unsafe fn attribute(
    path: *const c_char,
    own: impl FnOnce(c_int, *const c_char) -> Result<i64, Errno>,
    plain: impl FnOnce() -> Result<i64, Errno>,
) -> c_int {
    // SAFETY: see `text`.
    let name = unsafe { text(path) };
    decide(
        |tracker| {
            Some(tracker.changes_attributes(name)?.and_then(|place| match place {
                Some((root, path)) => own(root, path.as_cstr().as_ptr()).map(|n| n as c_int),
                None => Ok(0),
            }))
        },
        || plain().map(|n| n as c_int),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn chmod(path: *const c_char, mode: mode_t) -> c_int {
    let at = |dir: c_int, path: *const c_char| raw!(libc::SYS_fchmodat, dir, path, mode);
    let plain = || raw!(libc::SYS_fchmodat, libc::AT_FDCWD, path, mode);
    // SAFETY: the same contract.
    unsafe { attribute(path, at, plain) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn utimensat(
    dir: c_int,
    path: *const c_char,
    times: *const libc::timespec,
    flags: c_int,
) -> c_int {
    // SAFETY: see `text`.
    if path.is_null() || unsafe { !ours(dir, text(path)) } {
        return decide(|_| None, || raw!(libc::SYS_utimensat, dir, path, times, flags).map(|n| n as c_int));
    }
    let at = |dir: c_int, path: *const c_char| raw!(libc::SYS_utimensat, dir, path, times, flags);
    let plain = || raw!(libc::SYS_utimensat, dir, path, times, flags);
    // SAFETY: the same contract.
    unsafe { attribute(path, at, plain) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn utime(path: *const c_char, times: *const libc::utimbuf) -> c_int {
    if times.is_null() {
        // SAFETY: the same contract.
        return unsafe { utimensat(libc::AT_FDCWD, path, std::ptr::null(), 0) };
    }
    // SAFETY: the caller passed a valid structure.
    let times = unsafe { &*times };
    let at = |seconds| libc::timespec { tv_sec: seconds, tv_nsec: 0 };
    let pair = [at(times.actime), at(times.modtime)];
    // SAFETY: the same contract; the array lives through the call.
    unsafe { utimensat(libc::AT_FDCWD, path, pair.as_ptr(), 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn utimes(path: *const c_char, times: *const libc::timeval) -> c_int {
    if times.is_null() {
        // SAFETY: the same contract.
        return unsafe { utimensat(libc::AT_FDCWD, path, std::ptr::null(), 0) };
    }
    // SAFETY: the caller passed an array of two.
    let times = unsafe { std::slice::from_raw_parts(times, 2) };
    let at = |time: &libc::timeval| libc::timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_usec * 1000 };
    let pair = [at(&times[0]), at(&times[1])];
    // SAFETY: the same contract; the array lives through the call.
    unsafe { utimensat(libc::AT_FDCWD, path, pair.as_ptr(), 0) }
}
