//! The edge between C and Rust: arguments in, results and `errno` out.

use std::ffi::{CStr, c_char};

use shim_core::{Errno, Outcome, Tracker};
use store::sys;

/// What a hook returns for failure.
pub trait Failed {
    const FAILED: Self;
}

impl Failed for i32 {
    const FAILED: i32 = -1;
}

impl Failed for isize {
    const FAILED: isize = -1;
}

impl Failed for i64 {
    const FAILED: i64 = -1;
}

/// Turns a result into C's convention. `saved` is `errno` as the hook found it.
pub fn answer<T: Failed>(result: Result<T, Errno>, saved: i32) -> T {
    match result {
        Ok(value) => {
            sys::set_errno(saved);
            value
        }
        Err(errno) => {
            sys::set_errno(errno.0);
            T::FAILED
        }
    }
}

/// Runs `hook` where a tracker is attached; makes the plain call on bypass or without one.
pub fn decide<T: Failed>(
    hook: impl FnOnce(&'static Tracker) -> Outcome<T>,
    plain: impl FnOnce() -> Result<T, Errno>,
) -> T {
    let saved = sys::errno();
    let outcome = crate::start::tracker().and_then(hook);
    answer(outcome.unwrap_or_else(plain), saved)
}

/// Bytes of a C string; empty for null.
pub unsafe fn text<'a>(path: *const c_char) -> &'a [u8] {
    if path.is_null() {
        return b"";
    }
    // SAFETY: the caller of the hooked function passed a NUL-terminated string.
    unsafe { CStr::from_ptr(path) }.to_bytes()
}

/// A system call's value as a result.
pub fn checked(value: libc::c_long) -> Result<i64, Errno> {
    if value == -1 { Err(Errno(sys::errno())) } else { Ok(value) }
}

/// Makes a system call by number.
#[macro_export]
macro_rules! raw {
    ($number:expr $(, $argument:expr)*) => {{
        let (number, arguments) = ($number, store::sys::six([$($argument as usize),*]));
        // SAFETY: arguments are the caller's own, passed on unchanged.
        $crate::edge::checked(unsafe { store::sys::call(number, arguments) })
    }};
}
