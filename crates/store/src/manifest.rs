//! The manifest: the small record that names a branch's layers, replaced atomically.
//!
//! Layout, little-endian: magic 8, version u32, crc32c u32 of all that follows, sequence u64,
//! entries u32, note length u32, then per entry slot u32, 4 reserved, layer u64, then the note
//! (bytes that the store keeps for its caller).

use std::ffi::CStr;

use crate::errno::{Errno, Result};
use crate::layer::LayerId;
use crate::moment::{Moment, reached};
use crate::sys::{self, Fd, O_CLOEXEC, O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_TRUNC, O_WRONLY};

const MAGIC: &[u8; 8] = b"ANAMANI1";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const ENTRY: usize = 16;
/// Name of the manifest inside a branch's directory.
pub const NAME: &CStr = c"manifest";

/// One layer in a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its place: rises from the bottom to the top, unique in this stack for ever.
    pub slot: u32,
    /// The layer.
    pub layer: LayerId,
}

/// A branch's stack, lowest layer first; the last is the open one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// Rises by one with each replacement.
    pub sequence: u64,
    /// The layers.
    pub entries: Vec<Entry>,
    /// What the caller wants kept with the stack.
    pub note: Vec<u8>,
}

impl Manifest {
    /// The bytes as stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0u8; 16];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.note.len() as u32).to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.slot.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&entry.layer.to_le_bytes());
        }
        out.extend_from_slice(&self.note);
        let crc = crc32c::crc32c(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads bytes back.
    ///
    /// # Errors
    /// `EUCLEAN` when they are damaged or of an unknown version.
    pub fn decode(bytes: &[u8]) -> Result<Manifest> {
        Manifest::try_decode(bytes).ok_or(Errno::DAMAGED)
    }

    fn try_decode(bytes: &[u8]) -> Option<Manifest> {
        let u32_at = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let u64_at = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        if bytes.get(..8)? != MAGIC
            || u32_at(8)? != VERSION
            || crc32c::crc32c(bytes.get(16..)?) != u32_at(12)?
        {
            return None;
        }
        let (count, note) = (u32_at(24)? as usize, u32_at(28)? as usize);
        let note_at = HEADER + count.checked_mul(ENTRY)?;
        if note_at.checked_add(note)? != bytes.len() {
            return None;
        }
        let entry = |i: usize| {
            let at = HEADER + i * ENTRY;
            Some(Entry { slot: u32_at(at)?, layer: u64_at(at + 8)? })
        };
        let entries = (0..count).map(entry).collect::<Option<Vec<_>>>()?;
        let rising = entries.windows(2).all(|pair| pair[0].slot < pair[1].slot);
        let manifest = Manifest { sequence: u64_at(16)?, entries, note: bytes[note_at..].to_vec() };
        (rising && !manifest.entries.is_empty()).then_some(manifest)
    }

    /// Reads the manifest of the branch directory `dir`.
    pub fn load(dir: Fd) -> Result<Manifest> {
        let fd = sys::openat(dir, NAME, O_RDONLY | O_CLOEXEC, 0)?;
        let bytes = sys::size(fd).and_then(|size| {
            let mut bytes = vec![0; size as usize];
            let n = sys::pread_full(fd, &mut bytes, 0)?;
            bytes.truncate(n);
            Ok(bytes)
        });
        sys::close(fd);
        Manifest::decode(&bytes?)
    }

    /// Replaces the manifest of the branch directory `dir`; durable on return. Every write of a
    /// manifest goes through here.
    pub fn store(&self, dir: Fd) -> Result<()> {
        self.store_after(dir, || Ok(()))
    }

    /// As [`Manifest::store`]; `before` makes durable what the manifest names, once its own bytes are:
    /// most file systems have then done the better part of it.
    pub fn store_after(&self, dir: Fd, before: impl FnOnce() -> Result<()>) -> Result<()> {
        replace_file_after(dir, NAME, c"manifest.new", &self.encode(), before)
    }

    /// Writes the first manifest of a directory that is not published yet. Not durable: whoever
    /// publishes the directory syncs the file and the directory first.
    pub fn write_first(&self, dir: Fd) -> Result<()> {
        let fd = sys::openat(dir, NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)?;
        let written = sys::pwrite_full(fd, &self.encode(), 0);
        sys::close(fd);
        written
    }

    /// What [`Fault::ManifestLate`](crate::fault::Fault::ManifestLate) does instead.
    pub(crate) fn store_unsynced(&self, dir: Fd) -> Result<()> {
        let temporary = c"manifest.new";
        let fd = sys::openat(dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)?;
        let written = sys::pwrite_full(fd, &self.encode(), 0);
        sys::close(fd);
        written?;
        sys::renameat(dir, temporary, dir, NAME)
    }

    /// The open layer's entry.
    pub fn top(&self) -> Entry {
        // A decoded or stored manifest is never empty.
        self.entries.last().copied().unwrap_or(Entry { slot: 0, layer: 0 })
    }
}

/// Writes a file under a temporary name, syncs it, renames it over `name`, syncs the directory.
pub fn replace_file(dir: Fd, name: &CStr, temporary: &CStr, bytes: &[u8]) -> Result<()> {
    replace_file_after(dir, name, temporary, bytes, || Ok(()))
}

fn replace_file_after(
    dir: Fd,
    name: &CStr,
    temporary: &CStr,
    bytes: &[u8],
    before: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let fd = create_beside(dir, temporary, O_WRONLY)?;
    let written = sys::pwrite_full(fd, bytes, 0).and_then(|()| sys::fdatasync(fd));
    sys::close(fd);
    written?;
    before()?;
    reached(Moment::RecordBeside);
    sys::renameat(dir, temporary, dir, name)?;
    sys::fsync(dir)
}

/// Makes a file that is to be given its name later, in place of one that an earlier try left. Processes of a
/// branch may write in some of these directories: a link that lies there is removed, not followed.
pub(crate) fn create_beside(dir: Fd, temporary: &CStr, access: i32) -> Result<Fd> {
    match sys::unlinkat(dir, temporary, 0) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    sys::openat(dir, temporary, access | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_encoding_and_refuses_damage() {
        let entries = vec![Entry { slot: 0, layer: 9 }, Entry { slot: 4, layer: 10 }];
        let manifest = Manifest { sequence: 3, entries, note: b"cut".to_vec() };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Manifest::decode(&damaged), Err(Errno::DAMAGED), "byte {at}");
            assert_eq!(Manifest::decode(&bytes[..at]), Err(Errno::DAMAGED), "length {at}");
        }
    }
}
