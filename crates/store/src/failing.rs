//! A disk that fails on demand: one system call on a file, or all from some call on, answers with an error.
//!
//! Only in debug builds and with the feature `plant`; elsewhere nothing ever fails this way. The control block
//! may be a file that several processes map, so that a test can let a server's disk fail while it runs.

/// Names the file with the control block, in the environment.
pub const VARIABLE: &str = "ANABRANCH_FAILING";

#[cfg(any(debug_assertions, feature = "plant"))]
pub use on_demand::*;

/// Nothing fails in this build.
#[cfg(not(any(debug_assertions, feature = "plant")))]
#[inline]
pub const fn fails(_: libc::c_long, _: &[usize; 6]) -> Option<i32> {
    None
}

/// There is nothing to attach in this build.
#[cfg(not(any(debug_assertions, feature = "plant")))]
pub fn attach_from_environment() -> crate::errno::Result<()> {
    Ok(())
}

#[cfg(any(debug_assertions, feature = "plant"))]
mod on_demand {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    use super::VARIABLE;
    use crate::errno::{Errno, Result};
    use crate::shared_struct;
    use crate::shm::Mapping;
    use crate::sys;

    const SIZE: usize = 4096;

    shared_struct! {
        /// Shared by all processes that map it.
        struct Block {
            /// 0 nothing fails, 1 one call, 2 all from one call on.
            state: AtomicU32,
            errno: AtomicU32,
            /// Which calls count, see [`Kind`].
            kinds: AtomicU32,
            /// Only this thread's calls count; 0 for all.
            thread: AtomicU32,
            /// Calls that failed.
            failed: AtomicU32,
            reserved: AtomicU32,
            /// Calls until one fails; wraps around once it is over.
            left: AtomicU64,
        }
    }

    /// What a call does.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(u32)]
    pub enum Kind {
        /// Opens a file.
        Open = 1,
        /// Reads content, names or attributes.
        Read = 2,
        /// Writes content.
        Write = 4,
        /// Reserves or frees space.
        Space = 8,
        /// Waits for the disk.
        Sync = 16,
        /// Makes, moves or removes names.
        Name = 32,
        /// Sets an attribute.
        Attribute = 64,
    }

    /// All of them.
    pub const EVERY_KIND: u32 = 127;

    static BLOCK: OnceLock<Mapping> = OnceLock::new();

    fn block() -> Option<&'static Block> {
        BLOCK.get().map(|mapping| mapping.at(0))
    }

    /// Maps the control block that the environment names, if it does.
    ///
    /// # Errors
    /// When it cannot be opened or mapped.
    pub fn attach_from_environment() -> Result<()> {
        let Some(path) = std::env::var_os(VARIABLE) else { return Ok(()) };
        attach(&std::ffi::CString::new(path.into_encoded_bytes()).map_err(|_| Errno(libc::EINVAL))?)
    }

    /// Maps a control block, made where it is missing.
    ///
    /// # Errors
    /// When it cannot be opened or mapped.
    pub fn attach(path: &std::ffi::CStr) -> Result<()> {
        let fd = sys::openat(sys::AT_FDCWD, path, sys::O_RDWR | sys::O_CREAT | sys::O_CLOEXEC, 0o600)?;
        let mapped = sys::ftruncate(fd, SIZE as u64).and_then(|()| Mapping::file(fd, SIZE));
        sys::close(fd);
        let _ = BLOCK.set(mapped?);
        Ok(())
    }

    /// A control block for this process alone.
    ///
    /// # Errors
    /// No memory.
    pub fn attach_here() -> Result<()> {
        let _ = BLOCK.set(Mapping::anonymous(SIZE)?);
        Ok(())
    }

    /// Lets the `nth` call from now on of these kinds fail with `errno`, and all that follow where `lasting`.
    /// With a thread, only its calls count.
    pub fn arm(nth: u64, kinds: u32, errno: i32, lasting: bool, thread: Option<u32>) {
        let Some(block) = block() else { return };
        block.state.store(0, Ordering::SeqCst);
        block.errno.store(errno as u32, Ordering::SeqCst);
        block.kinds.store(kinds, Ordering::SeqCst);
        block.thread.store(thread.unwrap_or(0), Ordering::SeqCst);
        block.failed.store(0, Ordering::SeqCst);
        block.left.store(nth, Ordering::SeqCst);
        block.state.store(if lasting { 2 } else { 1 }, Ordering::SeqCst);
    }

    /// Nothing fails any more.
    pub fn disarm() {
        block().into_iter().for_each(|block| block.state.store(0, Ordering::SeqCst));
    }

    /// Calls that failed since [`arm`].
    pub fn failed() -> u32 {
        block().map_or(0, |block| block.failed.load(Ordering::SeqCst))
    }

    /// What a call does; none where it has nothing to do with a disk or cannot fail.
    pub fn kind_of(number: libc::c_long) -> Option<Kind> {
        Some(match number {
            libc::SYS_openat => Kind::Open,
            libc::SYS_read
            | libc::SYS_pread64
            | libc::SYS_preadv
            | libc::SYS_getdents64
            | libc::SYS_readlinkat
            | libc::SYS_fgetxattr
            | libc::SYS_fstat
            | libc::SYS_newfstatat => Kind::Read,
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_pwritev | libc::SYS_writev => Kind::Write,
            libc::SYS_ftruncate | libc::SYS_fallocate => Kind::Space,
            libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_syncfs => Kind::Sync,
            libc::SYS_linkat
            | libc::SYS_symlinkat
            | libc::SYS_unlinkat
            | libc::SYS_renameat
            | libc::SYS_renameat2
            | libc::SYS_mkdirat => Kind::Name,
            libc::SYS_fsetxattr | libc::SYS_fchmodat => Kind::Attribute,
            _ => return None,
        })
    }

    /// The error that a call shall answer with instead of being made.
    #[inline]
    pub fn fails(number: libc::c_long, arguments: &[usize; 6]) -> Option<i32> {
        let block = block()?;
        match block.state.load(Ordering::Acquire) {
            0 => None,
            state => asked(block, state, number, arguments),
        }
    }

    #[cold]
    fn asked(block: &Block, state: u32, number: libc::c_long, arguments: &[usize; 6]) -> Option<i32> {
        let kind = kind_of(number)? as u32;
        let thread = block.thread.load(Ordering::Acquire);
        if block.kinds.load(Ordering::Acquire) & kind == 0 || thread != 0 && thread != sys::gettid() {
            return None;
        }
        // Pipes and terminals are no disks.
        let is_data = matches!(number, libc::SYS_read | libc::SYS_write | libc::SYS_writev);
        if is_data && !is_file(arguments[0]) {
            return None;
        }
        let left = block.left.fetch_sub(1, Ordering::AcqRel);
        // What has gone below 0 is a very large number.
        if left == 1 || state == 2 && (left == 0 || left > u64::MAX / 2) {
            block.failed.fetch_add(1, Ordering::AcqRel);
            return Some(block.errno.load(Ordering::Acquire) as i32);
        }
        None
    }

    fn is_file(fd: usize) -> bool {
        sys::stat_directly(fd as sys::Fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG)
    }
}
