//! Memory shared between processes: mappings of files, and anonymous ones inherited by fork.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::errno::{Errno, Result};
use crate::sys::{self, Fd};

/// A mapping that lives until it is dropped.
#[derive(Debug)]
pub struct Mapping {
    address: usize,
    length: usize,
}

/// Types that any bytes are valid for and that tolerate concurrent change: built of atomics only.
///
/// # Safety
/// Every field must be an atomic integer or an array of them; `repr(C)`, no padding that is read.
pub unsafe trait Shared: Sized {}

// SAFETY: atomics themselves.
unsafe impl Shared for AtomicU32 {}
// SAFETY: atomics themselves.
unsafe impl Shared for AtomicU64 {}
// SAFETY: arrays of shareable things.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// Declares a `repr(C)` struct of atomics that may be placed in a [`Mapping`].
#[macro_export]
macro_rules! shared_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$field_meta:meta])* $field_vis:vis $field:ident : $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug)]
        $vis struct $name { $($(#[$field_meta])* $field_vis $field : $kind),* }
        const _: fn() = || {
            fn all_shared<T: $crate::shm::Shared>() {}
            $(all_shared::<$kind>();)*
        };
        #[allow(unsafe_code)]
        // SAFETY: the function above proves that every field is itself shareable.
        unsafe impl $crate::shm::Shared for $name {}
    };
}

impl Mapping {
    fn map(fd: Fd, length: usize, protection: i32, flags: i32) -> Result<Mapping> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe { libc::syscall(libc::SYS_mmap, 0usize, length, protection, flags, fd, 0usize) };
        if address == -1 {
            Err(Errno(sys::errno()))
        } else {
            Ok(Mapping { address: address as usize, length })
        }
    }

    /// Maps `length` bytes of a file, shared and writable. Pages beyond the file's end or in holes
    /// that cannot be filled raise SIGBUS when touched: allocate before use.
    pub fn file(fd: Fd, length: usize) -> Result<Mapping> {
        Mapping::map(fd, length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)
    }

    /// Maps a file read-only.
    pub fn read_only(fd: Fd, length: usize) -> Result<Mapping> {
        Mapping::map(fd, length, libc::PROT_READ, libc::MAP_SHARED)
    }

    /// Zeroed memory shared with processes forked later; costs only what is touched.
    pub fn anonymous(length: usize) -> Result<Mapping> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let mapping = Mapping::map(-1, length, libc::PROT_READ | libc::PROT_WRITE, flags)?;
        // SAFETY: the range is ours; the advice only keeps it out of core dumps.
        unsafe {
            libc::syscall(libc::SYS_madvise, mapping.address, length, libc::MADV_DONTDUMP);
        }
        Ok(mapping)
    }

    /// The same memory mapped once more, as a process that was forked would see it: for tests.
    ///
    /// # Errors
    /// The kernel has no room, or the mapping is not of shared memory.
    #[cfg(debug_assertions)]
    pub fn again(&self) -> Result<Mapping> {
        // SAFETY: an old size of 0 maps shared memory a second time and leaves the first mapping alone.
        let address = unsafe {
            libc::syscall(libc::SYS_mremap, self.address, 0usize, self.length, libc::MREMAP_MAYMOVE)
        };
        if address == -1 {
            Err(Errno(sys::errno()))
        } else {
            Ok(Mapping { address: address as usize, length: self.length })
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The `T` at byte `offset`.
    ///
    /// # Panics
    /// Outside the mapping or unaligned: the layout constants are wrong.
    pub fn at<T: Shared>(&self, offset: usize) -> &T {
        assert!(offset + size_of::<T>() <= self.length && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: in range and aligned (checked above; mappings are page aligned); any bytes are a
        // valid `T` and concurrent change is allowed by `Shared`; lives as long as the mapping.
        unsafe { &*((self.address + offset) as *const T) }
    }

    /// A slice of `count` `T`s from byte `offset`.
    ///
    /// # Panics
    /// As [`Mapping::at`].
    pub fn slice<T: Shared>(&self, offset: usize, count: usize) -> &[T] {
        assert!(offset + count * size_of::<T>() <= self.length && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: as in `at`.
        unsafe { std::slice::from_raw_parts((self.address + offset) as *const T, count) }
    }

    /// The bytes of a mapping of an immutable file.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: only used on read-only mappings of sealed files, which never change.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us and no reference outlives `self`.
        unsafe {
            libc::syscall(libc::SYS_munmap, self.address, self.length);
        }
    }
}
