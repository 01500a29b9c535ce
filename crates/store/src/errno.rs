//! Operating-system error numbers as values.

/// An `errno` value, e.g. `Errno(libc::ENOSPC)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// Result of a system call.
pub type Result<T> = core::result::Result<T, Errno>;

impl Errno {
    /// No such file or directory.
    pub const NOENT: Errno = Errno(libc::ENOENT);
    /// Already there.
    pub const EXIST: Errno = Errno(libc::EEXIST);
    /// A format we wrote ourselves does not read back: damaged.
    pub const DAMAGED: Errno = Errno(libc::EUCLEAN);
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> std::io::Error {
        std::io::Error::from_raw_os_error(errno.0)
    }
}
