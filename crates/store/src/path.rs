//! Paths inside a layer: relative, short, NUL-terminated, without allocation.

use std::ffi::CStr;
use std::fmt;

use crate::errno::{Errno, Result};

/// Longest relative path of a tracked file, in bytes. PostgreSQL's own longest is under 100.
pub const MAX_PATH: usize = 127;

/// A relative path such as `base/5/16384`: no leading, trailing or doubled slash, no `.` or `..`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RelPath {
    length: u8,
    bytes: [u8; MAX_PATH + 1],
}

impl RelPath {
    /// The root of the tree.
    pub const ROOT: RelPath = RelPath { length: 0, bytes: [0; MAX_PATH + 1] };

    /// Takes text that is already normal; `ENAMETOOLONG` beyond [`MAX_PATH`].
    pub fn new(text: &[u8]) -> Result<RelPath> {
        let mut path = RelPath::ROOT;
        path.append(text)?;
        Ok(path)
    }

    /// Normalises `text` (which must be relative): drops `.` and empty parts, resolves `..`.
    /// `None` when it leaves the tree.
    pub fn normalize(text: &[u8]) -> Option<Result<RelPath>> {
        let mut path = RelPath::ROOT;
        for part in text.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." if path.is_root() => return None,
                b".." => path = path.parent(),
                name => {
                    if let Err(errno) = path.push(name) {
                        return Some(Err(errno));
                    }
                }
            }
        }
        Some(Ok(path))
    }

    fn append(&mut self, text: &[u8]) -> Result<()> {
        let start = self.length as usize;
        let end = start + text.len();
        if end > MAX_PATH {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        self.bytes[start..end].copy_from_slice(text);
        self.bytes[end] = 0;
        self.length = end as u8;
        Ok(())
    }

    fn push(&mut self, name: &[u8]) -> Result<()> {
        if !self.is_root() {
            self.append(b"/")?;
        }
        self.append(name)
    }

    /// `self/name`.
    pub fn join(&self, name: &[u8]) -> Result<RelPath> {
        let mut path = *self;
        path.push(name)?;
        Ok(path)
    }

    /// Everything before the last slash; the root for a top name.
    pub fn parent(&self) -> RelPath {
        let cut = self.as_bytes().iter().rposition(|&b| b == b'/').unwrap_or(0);
        let mut path = RelPath::ROOT;
        path.bytes[..cut].copy_from_slice(&self.bytes[..cut]);
        path.length = cut as u8;
        path
    }

    /// The last part.
    pub fn name(&self) -> &[u8] {
        let start = self.as_bytes().iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        &self.as_bytes()[start..]
    }

    /// The whiteout's path for this path: `.wh.` before the last part.
    pub fn whiteout(&self) -> Result<RelPath> {
        let mut path = self.parent();
        if !path.is_root() {
            path.append(b"/")?;
        }
        path.append(WHITEOUT_PREFIX)?;
        path.append(self.name())?;
        Ok(path)
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.length == 0
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length as usize]
    }

    /// For system calls; the root is `.`.
    pub fn as_cstr(&self) -> &CStr {
        if self.is_root() {
            return c".";
        }
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c".")
    }

    /// FNV-1a of the text.
    pub fn hash(&self) -> u64 {
        fnv1a(self.as_bytes())
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv).
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Prefix of a whiteout's name.
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_and_refuses_to_leave_the_tree() {
        let normal = |text: &str| RelPath::normalize(text.as_bytes()).map(|p| format!("{:?}", p.unwrap()));
        assert_eq!(normal("./base//5/./16384").as_deref(), Some("base/5/16384"));
        assert_eq!(normal("base/../global/pg_control").as_deref(), Some("global/pg_control"));
        assert_eq!(normal(".").as_deref(), Some(""));
        assert_eq!(normal("../x"), None);
        assert!(RelPath::normalize(&[b'a'; 128]).unwrap().is_err());
    }

    #[test]
    fn takes_paths_apart() {
        let path = RelPath::new(b"base/5/16384").unwrap();
        assert_eq!(path.name(), b"16384");
        assert_eq!(path.parent().as_bytes(), b"base/5");
        assert_eq!(path.whiteout().unwrap().as_bytes(), b"base/5/.wh.16384");
        assert_eq!(RelPath::new(b"base").unwrap().whiteout().unwrap().as_bytes(), b".wh.base");
        assert!(path.parent().parent().parent().is_root());
    }
}
