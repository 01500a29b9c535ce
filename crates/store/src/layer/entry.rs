//! The entry of a file in a layer: an extended attribute that says what the file is.
//!
//! It is set before the file gets its name, so a named file without an entry is one whose creation a
//! power cut interrupted.

use std::ffi::CStr;

use crate::errno::{Errno, Result};
use crate::sys::{self, Fd};

const NAME: &CStr = c"user.anabranch";
const VERSION: u8 = 1;
/// Bytes of an encoded entry: version, kind, 2 reserved, record u32, floor u64, crc32c u32 (all
/// little-endian). Short enough to live inside an ext4 inode.
pub const ENCODED: usize = 20;

/// What a file in a layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything: reads never fall through to lower layers.
    Complete,
    /// Only the blocks that its bitmap names; below the floor the others fall through.
    Overlay,
}

/// The entry of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What the file holds.
    pub kind: Kind,
    /// Its record in the layer's arena.
    pub record: u32,
    /// Length in bytes of what lies below when the file was made; at or above it nothing falls
    /// through. 0 for complete files.
    pub floor: u64,
}

impl Entry {
    /// The bytes as stored.
    pub fn encode(&self) -> [u8; ENCODED] {
        let mut bytes = [0; ENCODED];
        bytes[0] = VERSION;
        bytes[1] = match self.kind {
            Kind::Complete => 1,
            Kind::Overlay => 2,
        };
        bytes[4..8].copy_from_slice(&self.record.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.floor.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..16]);
        bytes[16..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads bytes back; `None` unless they are whole and known.
    pub fn decode(bytes: &[u8]) -> Option<Entry> {
        let bytes: &[u8; ENCODED] = bytes.try_into().ok()?;
        let u32_at = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        if bytes[0] != VERSION || crc32c::crc32c(&bytes[..16]) != u32_at(16)? {
            return None;
        }
        let kind = match bytes[1] {
            1 => Kind::Complete,
            2 => Kind::Overlay,
            _ => return None,
        };
        let floor = bytes[8..16].try_into().map(u64::from_le_bytes).ok()?;
        Some(Entry { kind, record: u32_at(4)?, floor })
    }

    /// Writes the entry to an open file.
    pub fn store(&self, fd: Fd) -> Result<()> {
        sys::fsetxattr(fd, NAME, &self.encode())
    }

    /// Reads the entry of an open file; `None` when it has none.
    ///
    /// # Errors
    /// `EUCLEAN` when there is one that is damaged or of an unknown version: nobody knows then what
    /// the file holds, so it must not pass for one whose creation was cut short.
    pub fn load(fd: Fd) -> Result<Option<Entry>> {
        let mut bytes = [0; ENCODED];
        match sys::fgetxattr(fd, NAME, &mut bytes) {
            Ok(n) => Entry::decode(&bytes[..n]).map(Some).ok_or(Errno::DAMAGED),
            Err(Errno(libc::ENODATA)) => Ok(None),
            Err(Errno(libc::ERANGE)) => Err(Errno::DAMAGED),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_encoding_and_refuses_damage() {
        let entry = Entry { kind: Kind::Overlay, record: 7, floor: 81920 };
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes), Some(entry));
        for at in 0..ENCODED {
            let mut damaged = bytes;
            damaged[at] ^= 0x40;
            assert_eq!(Entry::decode(&damaged), None, "byte {at}");
        }
        assert_eq!(Entry::decode(&bytes[..19]), None);
    }
}
