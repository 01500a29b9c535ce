//! The disk and the process, by raw system calls.
//!
//! Why not `std::fs`: this code also runs inside a preload library that interposes libc's file
//! functions. A call by number cannot meet our own hooks. Everything the store does to a disk goes
//! through this module, so that a recorder or a failing disk has one place to stand.
#![allow(unsafe_code)]

use std::ffi::CStr;

use crate::errno::{Errno, Result};
use crate::{failing, recorder};

pub use libc::{
    AT_FDCWD, O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR, O_TMPFILE,
    O_TRUNC, O_WRONLY,
};

/// A file descriptor.
pub type Fd = i32;

fn check(value: i64) -> Result<i64> {
    if value == -1 { Err(Errno(errno())) } else { Ok(value) }
}

/// Makes a system call by number, from C's point of view: -1 and `errno` on failure. Every call of
/// the store and of the preload library goes through here, so that a recorder has one place to stand.
///
/// # Safety
/// As for the call itself: pointers among the arguments must be good for what the kernel does.
#[inline]
pub unsafe fn call(number: libc::c_long, arguments: [usize; 6]) -> libc::c_long {
    if let Some(errno) = failing::fails(number, &arguments) {
        set_errno(errno);
        return -1;
    }
    if recorder::is_attached() {
        // SAFETY: the caller's promise.
        return unsafe { recorder::call(number, arguments) };
    }
    // SAFETY: the caller's promise.
    unsafe { direct(number, arguments) }
}

/// As [`call`], but never recorded.
///
/// # Safety
/// As for [`call`].
#[inline]
pub unsafe fn direct(number: libc::c_long, arguments: [usize; 6]) -> libc::c_long {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller's promise; arguments that the call does not have are not looked at.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

/// Arguments of a system call, filled up to six.
#[inline]
pub fn six<const N: usize>(arguments: [usize; N]) -> [usize; 6] {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    all
}

macro_rules! syscall {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: pointers passed are derived from live references that outlive the call, with
        // their own lengths; integer arguments cannot break memory safety.
        check(unsafe { call($number, six([$($argument as usize),*])) })
    };
}

/// The calling thread's `errno`.
pub fn errno() -> i32 {
    // SAFETY: glibc returns a valid pointer to the thread's errno.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's `errno`.
pub fn set_errno(value: i32) {
    // SAFETY: as in `errno`.
    unsafe { *libc::__errno_location() = value }
}

/// `openat(2)`.
pub fn openat(dir: Fd, path: &CStr, flags: i32, mode: u32) -> Result<Fd> {
    syscall!(libc::SYS_openat, dir, path.as_ptr(), flags, mode).map(|fd| fd as Fd)
}

/// `close(2)`; errors are of no use to any caller here.
pub fn close(fd: Fd) {
    let _ = syscall!(libc::SYS_close, fd);
}

/// `read(2)`.
pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    syscall!(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len()).map(|n| n as usize)
}

/// `pread(2)`.
pub fn pread(fd: Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    syscall!(libc::SYS_pread64, fd, buffer.as_mut_ptr(), buffer.len(), offset).map(|n| n as usize)
}

/// `pread(2)` until the buffer is full or the file ends.
pub fn pread_full(fd: Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// `pread(2)` of what is in memory already; `None` where some of it would have to come from the disk, or
/// the file system cannot tell.
pub fn pread_cached(fd: Fd, buffer: &mut [u8], offset: u64) -> Option<usize> {
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // On 64 bits the whole offset stands in its first half.
    let read = syscall!(libc::SYS_preadv2, fd, &raw const vector, 1, offset, 0, libc::RWF_NOWAIT);
    read.ok().map(|n| n as usize).filter(|n| *n == buffer.len())
}

/// `posix_fadvise(2)`: only advice, so an error is of no use to any caller.
pub fn fadvise(fd: Fd, offset: u64, length: u64, advice: i32) {
    let _ = syscall!(libc::SYS_fadvise64, fd, offset, length, advice);
}

/// `write(2)`.
pub fn write(fd: Fd, buffer: &[u8]) -> Result<usize> {
    syscall!(libc::SYS_write, fd, buffer.as_ptr(), buffer.len()).map(|n| n as usize)
}

/// `pwrite(2)`.
pub fn pwrite(fd: Fd, buffer: &[u8], offset: u64) -> Result<usize> {
    syscall!(libc::SYS_pwrite64, fd, buffer.as_ptr(), buffer.len(), offset).map(|n| n as usize)
}

/// `pwrite(2)` until everything is written.
pub fn pwrite_full(fd: Fd, buffer: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match pwrite(fd, &buffer[done..], offset + done as u64) {
            Ok(0) => return Err(Errno(libc::EIO)),
            Ok(n) => done += n,
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// `ftruncate(2)`.
pub fn ftruncate(fd: Fd, length: u64) -> Result<()> {
    syscall!(libc::SYS_ftruncate, fd, length).map(drop)
}

/// `fallocate(2)`.
pub fn fallocate(fd: Fd, mode: i32, offset: u64, length: u64) -> Result<()> {
    syscall!(libc::SYS_fallocate, fd, mode, offset, length).map(drop)
}

/// `fsync(2)`.
pub fn fsync(fd: Fd) -> Result<()> {
    syscall!(libc::SYS_fsync, fd).map(drop)
}

/// `fdatasync(2)`.
pub fn fdatasync(fd: Fd) -> Result<()> {
    syscall!(libc::SYS_fdatasync, fd).map(drop)
}

/// Starts to write back what is dirty of a file, without waiting (`sync_file_range(2)`): several files
/// can then be synced for the price of about one. Says nothing about durability.
pub fn start_writeback(fd: Fd) -> Result<()> {
    syscall!(libc::SYS_sync_file_range, fd, 0, 0, libc::SYNC_FILE_RANGE_WRITE).map(drop)
}

/// `syncfs(2)`.
pub fn syncfs(fd: Fd) -> Result<()> {
    syscall!(libc::SYS_syncfs, fd).map(drop)
}

/// `lseek(2)`.
pub fn lseek(fd: Fd, offset: i64, whence: i32) -> Result<u64> {
    syscall!(libc::SYS_lseek, fd, offset, whence).map(|n| n as u64)
}

/// `linkat(2)`.
pub fn linkat(from_dir: Fd, from: &CStr, to_dir: Fd, to: &CStr, flags: i32) -> Result<()> {
    syscall!(libc::SYS_linkat, from_dir, from.as_ptr(), to_dir, to.as_ptr(), flags).map(drop)
}

/// Gives an `O_TMPFILE` descriptor a name. Fails with `EEXIST` where the name is taken.
pub fn link_fd(fd: Fd, to_dir: Fd, to: &CStr) -> Result<()> {
    let mut text = [0u8; 40];
    let source = proc_fd_path(fd, &mut text);
    linkat(AT_FDCWD, source, to_dir, to, libc::AT_SYMLINK_FOLLOW)
}

/// `/proc/self/fd/N` as a C string in `buffer`.
pub fn proc_fd_path(fd: Fd, buffer: &mut [u8; 40]) -> &CStr {
    let prefix = b"/proc/self/fd/";
    buffer[..prefix.len()].copy_from_slice(prefix);
    let mut digits = [0u8; 10];
    let mut count = 0;
    let mut rest = fd.max(0) as u32;
    loop {
        digits[count] = b'0' + (rest % 10) as u8;
        count += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for i in 0..count {
        buffer[prefix.len() + i] = digits[count - 1 - i];
    }
    buffer[prefix.len() + count] = 0;
    CStr::from_bytes_until_nul(&buffer[..]).unwrap_or(c"/")
}

/// `unlinkat(2)`; `flags` may be `AT_REMOVEDIR`.
pub fn unlinkat(dir: Fd, path: &CStr, flags: i32) -> Result<()> {
    syscall!(libc::SYS_unlinkat, dir, path.as_ptr(), flags).map(drop)
}

/// `renameat2(2)` without flags.
pub fn renameat(from_dir: Fd, from: &CStr, to_dir: Fd, to: &CStr) -> Result<()> {
    syscall!(libc::SYS_renameat2, from_dir, from.as_ptr(), to_dir, to.as_ptr(), 0).map(drop)
}

/// `renameat2(2)` that fails with `EEXIST` where the new name is taken.
pub fn rename_new(from: &CStr, to: &CStr) -> Result<()> {
    let flags = libc::RENAME_NOREPLACE;
    syscall!(libc::SYS_renameat2, AT_FDCWD, from.as_ptr(), AT_FDCWD, to.as_ptr(), flags).map(drop)
}

/// `mkdirat(2)`.
pub fn mkdirat(dir: Fd, path: &CStr, mode: u32) -> Result<()> {
    syscall!(libc::SYS_mkdirat, dir, path.as_ptr(), mode).map(drop)
}

/// `fchmodat(2)`.
pub fn chmodat(dir: Fd, path: &CStr, mode: u32) -> Result<()> {
    syscall!(libc::SYS_fchmodat, dir, path.as_ptr(), mode).map(drop)
}

/// `readlinkat(2)` on a C string; the text is not NUL-terminated.
pub fn readlinkat<'a>(dir: Fd, path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    let n = syscall!(libc::SYS_readlinkat, dir, path.as_ptr(), buffer.as_mut_ptr(), buffer.len())?;
    Ok(&buffer[..n as usize])
}

/// `getdents64(2)` into `buffer`; returns the bytes filled, 0 at the end.
pub fn getdents(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    syscall!(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()).map(|n| n as usize)
}

/// `fsetxattr(2)`.
pub fn fsetxattr(fd: Fd, name: &CStr, value: &[u8]) -> Result<()> {
    syscall!(libc::SYS_fsetxattr, fd, name.as_ptr(), value.as_ptr(), value.len(), 0).map(drop)
}

/// `fgetxattr(2)`.
pub fn fgetxattr(fd: Fd, name: &CStr, value: &mut [u8]) -> Result<usize> {
    syscall!(libc::SYS_fgetxattr, fd, name.as_ptr(), value.as_mut_ptr(), value.len()).map(|n| n as usize)
}

/// `dup3(2)`.
pub fn dup3(from: Fd, to: Fd, flags: i32) -> Result<()> {
    syscall!(libc::SYS_dup3, from, to, flags).map(drop)
}

/// `fcntl(2)` with an integer argument.
pub fn fcntl(fd: Fd, command: i32, argument: i64) -> Result<i32> {
    syscall!(libc::SYS_fcntl, fd, command, argument).map(|n| n as i32)
}

/// `flock(2)`.
pub fn flock(fd: Fd, operation: i32) -> Result<()> {
    syscall!(libc::SYS_flock, fd, operation).map(drop)
}

/// `fstat(2)`.
pub fn fstat(fd: Fd) -> Result<libc::stat> {
    fstatat(fd, c"", libc::AT_EMPTY_PATH)
}

/// `fstatat(2)`.
pub fn fstatat(dir: Fd, path: &CStr, flags: i32) -> Result<libc::stat> {
    // SAFETY: all-zero is a valid `stat`; the kernel fills it.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    syscall!(libc::SYS_newfstatat, dir, path.as_ptr(), &raw mut stat, flags)?;
    Ok(stat)
}

/// As [`fstat`], past recorders and failing disks.
#[cfg(any(debug_assertions, feature = "plant"))]
pub(crate) fn stat_directly(fd: Fd) -> Result<libc::stat> {
    // SAFETY: all-zero is a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let arguments =
        six([fd as usize, c"".as_ptr() as usize, &raw mut stat as usize, libc::AT_EMPTY_PATH as usize]);
    // SAFETY: the pointers are to live values that outlive the call.
    check(unsafe { direct(libc::SYS_newfstatat, arguments) }).map(|_| stat)
}

/// Size in bytes of an open file.
pub fn size(fd: Fd) -> Result<u64> {
    fstat(fd).map(|stat| stat.st_size as u64)
}

/// This process's id, from the kernel (never cached: valid after fork).
pub fn getpid() -> u32 {
    syscall!(libc::SYS_getpid).unwrap_or(0) as u32
}

/// This thread's id.
pub fn gettid() -> u32 {
    syscall!(libc::SYS_gettid).unwrap_or(0) as u32
}

/// Waits while `*word == expected`, at most `timeout`.
pub fn futex_wait(word: &std::sync::atomic::AtomicU32, expected: u32, timeout: std::time::Duration) {
    let time =
        libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos() as _ };
    let _ = syscall!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &raw const time);
}

/// Wakes all that wait on `word`.
pub fn futex_wake_all(word: &std::sync::atomic::AtomicU32) {
    let _ = syscall!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
}

/// Monotonic time in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let _ = syscall!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut time);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps.
pub fn sleep(duration: std::time::Duration) {
    let time =
        libc::timespec { tv_sec: duration.as_secs() as libc::time_t, tv_nsec: duration.subsec_nanos() as _ };
    let _ = syscall!(libc::SYS_nanosleep, &raw const time, 0usize);
}

/// Start time of a process in clock ticks since boot (`/proc/PID/stat`, field 22), or `None` when it
/// is gone or a zombie. With the pid it names a process for the life of the machine.
pub fn process_start(pid: u32) -> Option<u64> {
    let mut path = [0u8; 32];
    let text = {
        use std::io::Write;
        let mut rest = &mut path[..31];
        write!(rest, "/proc/{pid}/stat").ok()?;
        CStr::from_bytes_until_nul(&path).ok()?
    };
    let fd = openat(AT_FDCWD, text, O_RDONLY | O_CLOEXEC, 0).ok()?;
    let mut buffer = [0u8; 1024];
    let n = read(fd, &mut buffer);
    close(fd);
    let line = &buffer[..n.ok()?];
    // The command name may hold anything, so fields are counted from its closing parenthesis.
    let after = line.iter().rposition(|&b| b == b')')? + 2;
    let mut fields = line.get(after..)?.split(|&b| b == b' ');
    let state = fields.next()?;
    if state == b"Z" || state == b"X" {
        return None;
    }
    let ticks = fields.nth(18)?;
    std::str::from_utf8(ticks).ok()?.parse().ok()
}

/// The kernel's identity for this boot, 36 bytes of text.
pub fn boot_id() -> Result<[u8; 36]> {
    let fd = openat(AT_FDCWD, c"/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC, 0)?;
    let mut id = [0u8; 36];
    let n = read(fd, &mut id);
    close(fd);
    if n? == 36 { Ok(id) } else { Err(Errno::DAMAGED) }
}
