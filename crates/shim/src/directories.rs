//! Directory streams: ours are one list of what all layers say, glibc's are passed on.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::sync::OnceLock;

use shim_core::Listed;
use store::sys;

use crate::edge::text;
use crate::start::tracker;

/// Marks a stream of ours. glibc's begins with a descriptor, a small number.
const MAGIC: u64 = u64::from_le_bytes(*b"ANA-DIR!");

#[repr(C)]
struct Stream {
    magic: u64,
    names: Vec<Listed>,
    next: usize,
    entry: libc::dirent64,
}

/// The function of this name that would have been called without us.
fn next<T: Copy>(cell: &OnceLock<usize>, name: &std::ffi::CStr) -> Option<T> {
    // SAFETY: looking a name up has no precondition.
    let address = *cell.get_or_init(|| unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) } as usize);
    if address == 0 || size_of::<T>() != size_of::<usize>() {
        return None;
    }
    // SAFETY: `T` is the function's pointer type, chosen beside the name by the macro below.
    Some(unsafe { std::mem::transmute_copy(&address) })
}

/// Calls libc's own function of this name.
macro_rules! libc_own {
    ($name:literal, fn($($kind:ty),*) -> $out:ty, $($argument:expr),* ; else $otherwise:expr) => {{
        static CELL: OnceLock<usize> = OnceLock::new();
        match $crate::directories::next_function::<unsafe extern "C" fn($($kind),*) -> $out>(&CELL, $name) {
            // SAFETY: the caller's own arguments to the function it called.
            Some(function) => unsafe { function($($argument),*) },
            None => $otherwise,
        }
    }};
}
pub(crate) use libc_own;

pub(crate) fn next_function<T: Copy>(cell: &OnceLock<usize>, name: &std::ffi::CStr) -> Option<T> {
    next(cell, name)
}

unsafe fn own<'a>(directory: *mut c_void) -> Option<&'a mut Stream> {
    if directory.is_null() {
        return None;
    }
    // SAFETY: a stream is at least 8 readable bytes, ours or glibc's; only ours has the mark.
    unsafe { (*directory.cast::<u64>() == MAGIC).then(|| &mut *directory.cast::<Stream>()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn opendir(path: *const c_char) -> *mut c_void {
    let saved = sys::errno();
    // SAFETY: see `text`.
    match tracker().and_then(|tracker| tracker.open_listing(unsafe { text(path) })) {
        None => {
            libc_own!(c"opendir", fn(*const c_char) -> *mut c_void, path; else std::ptr::null_mut())
        }
        Some(Err(errno)) => {
            sys::set_errno(errno.0);
            std::ptr::null_mut()
        }
        Some(Ok(mut names)) => {
            names.push((b".".to_vec(), true));
            names.push((b"..".to_vec(), true));
            // SAFETY: all-zero is a valid `dirent64`.
            let entry = unsafe { std::mem::zeroed() };
            sys::set_errno(saved);
            Box::into_raw(Box::new(Stream { magic: MAGIC, names, next: 0, entry })).cast()
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn readdir64(directory: *mut c_void) -> *mut libc::dirent64 {
    // SAFETY: the caller passes a stream.
    let Some(stream) = (unsafe { own(directory) }) else {
        return libc_own!(
            c"readdir64", fn(*mut c_void) -> *mut libc::dirent64, directory; else std::ptr::null_mut()
        );
    };
    let Some((name, is_directory)) = stream.names.get(stream.next) else { return std::ptr::null_mut() };
    stream.next += 1;
    let entry = &mut stream.entry;
    entry.d_ino = stream.next as u64;
    entry.d_off = stream.next as i64;
    entry.d_reclen = size_of::<libc::dirent64>() as u16;
    entry.d_type = if *is_directory { libc::DT_DIR } else { libc::DT_REG };
    let length = name.len().min(255);
    for (to, from) in entry.d_name.iter_mut().zip(&name[..length]) {
        *to = *from as c_char;
    }
    entry.d_name[length] = 0;
    entry
}

/// On 64-bit Linux both structures are the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn readdir(directory: *mut c_void) -> *mut libc::dirent64 {
    // SAFETY: the same contract.
    unsafe { readdir64(directory) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn closedir(directory: *mut c_void) -> c_int {
    // SAFETY: the caller passes a stream and gives it up.
    match unsafe { own(directory) } {
        Some(stream) => {
            stream.magic = 0;
            // SAFETY: made by `Box::into_raw` in `opendir`, closed once.
            drop(unsafe { Box::from_raw(stream) });
            0
        }
        None => libc_own!(c"closedir", fn(*mut c_void) -> c_int, directory; else -1),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rewinddir(directory: *mut c_void) {
    // SAFETY: the caller passes a stream.
    match unsafe { own(directory) } {
        Some(stream) => stream.next = 0,
        None => libc_own!(c"rewinddir", fn(*mut c_void) -> (), directory; else ()),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn telldir(directory: *mut c_void) -> c_long {
    // SAFETY: the caller passes a stream.
    match unsafe { own(directory) } {
        Some(stream) => stream.next as c_long,
        None => libc_own!(c"telldir", fn(*mut c_void) -> c_long, directory; else -1),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn seekdir(directory: *mut c_void, position: c_long) {
    // SAFETY: the caller passes a stream.
    match unsafe { own(directory) } {
        Some(stream) => stream.next = position.max(0) as usize,
        None => libc_own!(c"seekdir", fn(*mut c_void, c_long) -> (), directory, position; else ()),
    }
}

/// A list has no descriptor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dirfd(directory: *mut c_void) -> c_int {
    // SAFETY: the caller passes a stream.
    match unsafe { own(directory) } {
        Some(_) => {
            sys::set_errno(libc::ENOTSUP);
            -1
        }
        None => libc_own!(c"dirfd", fn(*mut c_void) -> c_int, directory; else -1),
    }
}
