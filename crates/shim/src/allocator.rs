//! Memory straight from the kernel.
//!
//! Hooks may run where the host program is inside its own `malloc`, or in a signal handler; a
//! mapping per allocation is safe in both. Only cold paths allocate, so the cost does not matter.

use std::alloc::{GlobalAlloc, Layout};

pub struct Pages;

const PAGE: usize = 4096;

fn rounded(size: usize) -> usize {
    size.next_multiple_of(PAGE).max(PAGE)
}

// SAFETY: every allocation is its own page-aligned mapping of at least the size asked for.
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > PAGE {
            return std::ptr::null_mut();
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh private mapping touches no existing memory.
        let address = unsafe {
            libc::syscall(libc::SYS_mmap, 0usize, rounded(layout.size()), protection, flags, -1, 0usize)
        };
        if address == -1 { std::ptr::null_mut() } else { address as *mut u8 }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer is a mapping of exactly this rounded size, made by `alloc`.
        unsafe {
            libc::syscall(libc::SYS_munmap, pointer, rounded(layout.size()));
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (old, new) = (rounded(layout.size()), rounded(size));
        if old == new {
            return pointer;
        }
        // SAFETY: the pointer is a mapping of `old` bytes; the kernel may move it.
        let address = unsafe { libc::syscall(libc::SYS_mremap, pointer, old, new, libc::MREMAP_MAYMOVE) };
        if address == -1 { std::ptr::null_mut() } else { address as *mut u8 }
    }
}
