//! stdio: glibc opens, reads and writes below its own functions, so whole calls are wrapped.
//!
//! Opening goes through us. Reading is plain: what is opened for reading is a file that a plain
//! read sees right, if need be an unnamed copy. Each call that may write runs inside the gate.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::sync::OnceLock;

use libc::{FILE, off_t, size_t};
use store::sys;

use crate::directories::libc_own;
use crate::edge::text;
use crate::start::tracker;

/// Flags of `open` for a mode of `fopen`; `None` for what is no mode.
fn flags(mode: &[u8]) -> Option<c_int> {
    let plus = mode.contains(&b'+');
    let cloexec = if mode.contains(&b'e') { libc::O_CLOEXEC } else { 0 };
    let access = if plus { libc::O_RDWR } else { libc::O_WRONLY };
    let base = match mode.first()? {
        b'r' if plus => libc::O_RDWR,
        b'r' => libc::O_RDONLY,
        b'w' => access | libc::O_CREAT | libc::O_TRUNC,
        b'a' => access | libc::O_CREAT | libc::O_APPEND,
        _ => return None,
    };
    Some(base | cloexec | if mode.contains(&b'x') { libc::O_EXCL } else { 0 })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE {
    let plain = || {
        libc_own!(
            c"fopen", fn(*const c_char, *const c_char) -> *mut FILE, path, mode; else std::ptr::null_mut()
        )
    };
    // SAFETY: see `text`.
    let (name, how) = unsafe { (text(path), text(mode)) };
    let (Some(tracker), Some(flags)) = (tracker(), flags(how)) else { return plain() };
    let opened = match tracker.open(name, flags, 0o600) {
        None => return plain(),
        Some(opened) => opened,
    };
    let readable = opened.and_then(|fd| {
        if flags & libc::O_ACCMODE != libc::O_RDONLY || tracker.is_plain(fd) {
            return Ok(fd);
        }
        let copy = tracker.materialize(fd);
        tracker.closed(fd);
        sys::close(fd);
        copy
    });
    match readable {
        // SAFETY: a descriptor of ours, handed over to the stream.
        Ok(fd) => unsafe { libc::fdopen(fd, mode) },
        Err(errno) => {
            sys::set_errno(errno.0);
            std::ptr::null_mut()
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: the same contract.
    unsafe { fopen(path, mode) }
}

/// Only for files that are not layered (log redirection).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn freopen(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE {
    // SAFETY: see `text`.
    let name = unsafe { text(path) };
    let layered = tracker().is_some_and(|tracker| {
        !path.is_null() && !matches!(tracker.resolve(name), Ok(shim_core::Target::Bypass))
    });
    if layered {
        sys::set_errno(libc::ENOTSUP);
        return std::ptr::null_mut();
    }
    libc_own!(
        c"freopen", fn(*const c_char, *const c_char, *mut FILE) -> *mut FILE, path, mode, stream;
        else std::ptr::null_mut()
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn freopen64(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE {
    // SAFETY: the same contract.
    unsafe { freopen(path, mode, stream) }
}

/// Runs a call that may write on the stream's descriptor, inside the gate if it is tracked.
unsafe fn gated<T>(stream: *mut FILE, failed: T, call: impl Fn() -> T) -> T {
    let (Some(tracker), false) = (tracker(), stream.is_null()) else { return call() };
    // SAFETY: the caller passed an open stream.
    let fd = unsafe { libc::fileno(stream) };
    match tracker.write_natively(fd, &call) {
        None => call(),
        Some(Ok(value)) => value,
        Some(Err(errno)) => {
            sys::set_errno(errno.0);
            failed
        }
    }
}

/// Wraps stdio functions whose last argument is the stream.
macro_rules! wrapped {
    ($($symbol:literal $name:ident($($argument:ident: $kind:ty),*; $stream:ident) -> $out:ty = $failed:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind,)* $stream: *mut FILE) -> $out {
            let call = || libc_own!(
                $symbol, fn($($kind,)* *mut FILE) -> $out, $($argument,)* $stream; else $failed
            );
            // SAFETY: the caller passed an open stream.
            unsafe { gated($stream, $failed, call) }
        }
    )*};
}

wrapped! {
    c"fwrite" fwrite(data: *const c_void, size: size_t, count: size_t; stream) -> size_t = 0;
    c"fputs" fputs(line: *const c_char; stream) -> c_int = libc::EOF;
    c"fputc" fputc(byte: c_int; stream) -> c_int = libc::EOF;
    c"putc" putc(byte: c_int; stream) -> c_int = libc::EOF;
    c"_IO_putc" _IO_putc(byte: c_int; stream) -> c_int = libc::EOF;
    c"fflush" fflush(; stream) -> c_int = libc::EOF;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fclose(stream: *mut FILE) -> c_int {
    let close = || libc_own!(c"fclose", fn(*mut FILE) -> c_int, stream; else libc::EOF);
    let (Some(tracker), false) = (tracker(), stream.is_null()) else { return close() };
    // SAFETY: the caller passed an open stream.
    let fd = unsafe { libc::fileno(stream) };
    if tracker.tracked(fd).is_none() {
        return close();
    }
    // Flushed inside the gate while the descriptor is still known; closing then writes nothing.
    // SAFETY: the caller passed an open stream.
    let flushed = unsafe { fflush(stream) };
    tracker.closed(fd);
    let closed = close();
    if flushed == 0 { closed } else { flushed }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fseek(stream: *mut FILE, offset: c_long, whence: c_int) -> c_int {
    let call = || libc_own!(c"fseek", fn(*mut FILE, c_long, c_int) -> c_int, stream, offset, whence; else -1);
    // SAFETY: the caller passed an open stream.
    unsafe { gated(stream, -1, call) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fseeko(stream: *mut FILE, offset: off_t, whence: c_int) -> c_int {
    let call = || libc_own!(c"fseeko", fn(*mut FILE, off_t, c_int) -> c_int, stream, offset, whence; else -1);
    // SAFETY: the caller passed an open stream.
    unsafe { gated(stream, -1, call) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fseeko64(stream: *mut FILE, offset: off_t, whence: c_int) -> c_int {
    // SAFETY: the same contract.
    unsafe { fseeko(stream, offset, whence) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn setvbuf(stream: *mut FILE, buffer: *mut c_char, mode: c_int, size: size_t) -> c_int {
    let call = || {
        libc_own!(
            c"setvbuf", fn(*mut FILE, *mut c_char, c_int, size_t) -> c_int, stream, buffer, mode, size; else -1
        )
    };
    // SAFETY: the caller passed an open stream.
    unsafe { gated(stream, -1, call) }
}
