//! Packs: a tree of files in one plain file, so that a backup may lie on any file system.
//!
//! Layout, little-endian: magic 8, version u32; entries; a closing entry; crc32c u32 of all before it. An
//! entry is kind u8 (0 closing, 1 directory, 2 file), 1 reserved, path length u16, mode u32, length u64,
//! path. A file's entry is followed by its extents: offset u64, count u64, bytes; a count of 0 ends them.
//! What no extent covers is zeros.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

const MAGIC: &[u8; 8] = b"ANAPACK1";
const VERSION: u32 = 1;
const CLOSING: u8 = 0;
const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
const HEAD: usize = 16;
/// Zeros are left out in pieces of this size, bytes.
const PIECE: usize = 8192;
/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// Size in bytes and CRC-32C of a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// Bytes.
    pub size: u64,
    /// CRC-32C of all of them.
    pub crc: u32,
}

/// Writes a pack.
pub struct Writer<W: Write> {
    out: W,
    sum: Sum,
}

impl<W: Write> Writer<W> {
    /// Begins a pack.
    ///
    /// # Errors
    /// `out` failed, as for every call.
    pub fn new(out: W) -> Result<Writer<W>> {
        let mut writer = Writer { out, sum: Sum { size: 0, crc: 0 } };
        writer.put(MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.sum.crc = crc32c::crc32c_append(self.sum.crc, bytes);
        self.sum.size += bytes.len() as u64;
        Ok(())
    }

    fn head(&mut self, kind: u8, path: &[u8], mode: u32, length: u64) -> Result<()> {
        let size = u16::try_from(path.len()).map_err(|_| Error::from(ErrorKind::InvalidFilename))?;
        let mut head = [0; HEAD];
        head[0] = kind;
        head[2..4].copy_from_slice(&size.to_le_bytes());
        head[4..8].copy_from_slice(&mode.to_le_bytes());
        head[8..].copy_from_slice(&length.to_le_bytes());
        self.put(&head)?;
        self.put(path)
    }

    /// Adds a directory, below one that was added before.
    ///
    /// # Errors
    /// As for every call.
    pub fn directory(&mut self, path: &[u8]) -> Result<()> {
        self.head(DIRECTORY, path, 0o700, 0)
    }

    /// Adds a small file.
    ///
    /// # Errors
    /// As for every call.
    pub fn bytes(&mut self, path: &[u8], mode: u32, bytes: &[u8]) -> Result<()> {
        self.head(FILE, path, mode, bytes.len() as u64)?;
        self.unless_empty(0, bytes)?;
        self.extent(0, b"")
    }

    /// Adds a file of `length` bytes of which only `ranges` (from, to) count; the rest is taken for zeros.
    ///
    /// # Errors
    /// As for every call; `UnexpectedEof` where a range ends behind the file.
    pub fn file(
        &mut self,
        path: &[u8],
        mode: u32,
        length: u64,
        from: &File,
        ranges: &[(u64, u64)],
    ) -> Result<()> {
        self.head(FILE, path, mode, length)?;
        let mut buffer = vec![0; CHUNK];
        for (begin, end) in ranges {
            let mut at = *begin;
            while at < *end {
                let want = buffer.len().min((end - at) as usize);
                from.read_exact_at(&mut buffer[..want], at)?;
                self.without_zeros(at, &buffer[..want])?;
                at += want as u64;
            }
        }
        self.extent(0, b"")
    }

    fn without_zeros(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut begin = 0;
        let mut at = 0;
        for piece in bytes.chunks(PIECE) {
            if piece.iter().all(|byte| *byte == 0) {
                self.unless_empty(offset + begin as u64, &bytes[begin..at])?;
                begin = at + piece.len();
            }
            at += piece.len();
        }
        self.unless_empty(offset + begin as u64, &bytes[begin..])
    }

    fn unless_empty(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() { Ok(()) } else { self.extent(offset, bytes) }
    }

    fn extent(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.put(&offset.to_le_bytes())?;
        self.put(&(bytes.len() as u64).to_le_bytes())?;
        self.put(bytes)
    }

    /// Ends the pack.
    ///
    /// # Errors
    /// As for every call.
    pub fn finish(mut self) -> Result<(W, Sum)> {
        self.head(CLOSING, b"", 0, 0)?;
        let crc = self.sum.crc;
        self.put(&crc.to_le_bytes())?;
        self.out.flush()?;
        Ok((self.out, self.sum))
    }
}

/// Writes out what is in a pack below `root`, which exists. Nothing is synced.
///
/// # Errors
/// `InvalidData` or `UnexpectedEof` where the pack is damaged; else what the disk said.
pub fn unpack(from: impl Read, root: &Path) -> Result<Sum> {
    let mut source = Source { from, sum: Sum { size: 0, crc: 0 } };
    if &source.take::<8>()? != MAGIC || u32::from_le_bytes(source.take()?) != VERSION {
        return Err(damaged("this is no pack of a version that this ana knows"));
    }
    loop {
        let head: [u8; HEAD] = source.take()?;
        if head[0] == CLOSING {
            break;
        }
        let mut path = vec![0; usize::from(u16::from_le_bytes([head[2], head[3]]))];
        source.fill(&mut path)?;
        let path = root.join(below(&path)?);
        match head[0] {
            DIRECTORY => fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?,
            FILE => {
                let mode = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) & 0o777;
                source.write_file(&path, mode, u64_of(&head[8..]))?;
            }
            _ => return Err(damaged("an entry of an unknown kind")),
        }
    }
    let crc = source.sum.crc;
    if u32::from_le_bytes(source.take()?) != crc {
        return Err(damaged("the checksum is wrong"));
    }
    if source.from.read(&mut [0])? != 0 {
        return Err(damaged("there is something behind its end"));
    }
    Ok(source.sum)
}

/// Size and checksum of a pack that was written to its end, from its last bytes; none where it was not.
///
/// # Errors
/// The file cannot be read.
pub fn sum_of_whole(mut file: &File) -> Result<Option<Sum>> {
    let size = file.metadata()?.len();
    let end = (HEAD + 4) as u64;
    if size < end {
        return Ok(None);
    }
    let mut last = [0; HEAD + 4];
    file.seek(SeekFrom::Start(size - end))?;
    file.read_exact(&mut last)?;
    let (head, crc) = last.split_at(HEAD);
    let before = u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]);
    let closed = head.iter().all(|byte| *byte == 0);
    Ok(closed.then(|| Sum { size, crc: crc32c::crc32c_append(before, crc) }))
}

/// Size and checksum of all that can be read.
///
/// # Errors
/// The reader's.
pub fn sum_of(mut from: impl Read) -> Result<Sum> {
    let mut sum = Sum { size: 0, crc: 0 };
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(sum),
            Ok(n) => {
                sum.crc = crc32c::crc32c_append(sum.crc, &buffer[..n]);
                sum.size += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

struct Source<R> {
    from: R,
    sum: Sum,
}

impl<R: Read> Source<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.from.read_exact(buffer)?;
        self.sum.crc = crc32c::crc32c_append(self.sum.crc, buffer);
        self.sum.size += buffer.len() as u64;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn write_file(&mut self, path: &Path, mode: u32, length: u64) -> Result<()> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.set_len(length)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let head: [u8; 16] = self.take()?;
            let (mut at, mut left) = (u64_of(&head), u64_of(&head[8..]));
            if left == 0 {
                return file.set_permissions(fs::Permissions::from_mode(mode));
            }
            if at.checked_add(left).is_none_or(|end| end > length) {
                return Err(damaged("an extent ends behind its file"));
            }
            while left > 0 {
                let part = &mut buffer[..CHUNK.min(left as usize)];
                self.fill(part)?;
                file.write_all_at(part, at)?;
                at += part.len() as u64;
                left -= part.len() as u64;
            }
        }
    }
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A path that stays where it is unpacked.
fn below(path: &[u8]) -> Result<PathBuf> {
    let path = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path));
    let stays = path.components().all(|part| matches!(part, Component::Normal(_)));
    if stays && path.components().next().is_some() {
        Ok(path)
    } else {
        Err(damaged("a path leads elsewhere"))
    }
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::scratch::Directory;

    /// A pack with a file of 1 MiB whose beginning and end count, and what the file holds there.
    fn sample(scratch: &Directory) -> Vec<u8> {
        let sparse = File::create_new(scratch.path().join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        sparse.write_all_at(b"first", 8192).unwrap();
        sparse.write_all_at(b"not this", 65_536).unwrap();
        sparse.write_all_at(b"last", (1 << 20) - 4).unwrap();
        let sparse = File::open(scratch.path().join("sparse")).unwrap();
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.directory(b"f").unwrap();
        writer.bytes(b"f/empty", 0o600, b"").unwrap();
        writer.bytes(b"f/small", 0o600, b"small").unwrap();
        writer.file(b"f/sparse", 0o400, 1 << 20, &sparse, &[(0, 16_384), (1_040_384, 1 << 20)]).unwrap();
        writer.finish().unwrap().0
    }

    #[test]
    fn files_come_back_as_sparse_as_they_were() {
        let scratch = Directory::new("pack");
        let pack = sample(&scratch);
        assert!(pack.len() < 20_000, "{} bytes", pack.len());
        let root = scratch.path().join("out");
        fs::create_dir(&root).unwrap();
        let sum = unpack(&pack[..], &root).unwrap();
        assert_eq!(sum, sum_of(&pack[..]).unwrap());
        assert_eq!(fs::read(root.join("f/small")).unwrap(), b"small");
        assert_eq!(fs::read(root.join("f/empty")).unwrap(), b"");
        let sparse = fs::read(root.join("f/sparse")).unwrap();
        let mut expected = vec![0; 1 << 20];
        expected[8192..8197].copy_from_slice(b"first");
        expected[(1 << 20) - 4..].copy_from_slice(b"last");
        assert!(sparse == expected);
        let facts = fs::metadata(root.join("f/sparse")).unwrap();
        assert!(facts.blocks() * 512 < 100_000, "{} blocks", facts.blocks());
        assert_eq!(facts.mode() & 0o777, 0o400);
        fs::write(scratch.path().join("pack"), &pack).unwrap();
        let file = File::open(scratch.path().join("pack")).unwrap();
        assert_eq!(sum_of_whole(&file).unwrap(), Some(sum));
    }

    #[test]
    fn a_flipped_byte_or_a_missing_end_is_noticed() {
        let scratch = Directory::new("pack");
        let pack = sample(&scratch);
        let root = scratch.path().join("out");
        for at in (0..pack.len()).step_by(97).chain(pack.len() - 24..pack.len()) {
            let mut bad = pack.clone();
            bad[at] ^= 0x10;
            fs::create_dir(&root).unwrap();
            assert!(unpack(&bad[..], &root).is_err(), "byte {at} of {}", pack.len());
            fs::remove_dir_all(&root).unwrap();
            fs::create_dir(&root).unwrap();
            assert!(unpack(&pack[..at], &root).is_err(), "length {at}");
            fs::remove_dir_all(&root).unwrap();
        }
    }

    #[test]
    fn nothing_is_written_elsewhere() {
        let scratch = Directory::new("pack");
        for path in ["../out", "/tmp/out", "a/../../out", "", "."] {
            let mut writer = Writer::new(Vec::new()).unwrap();
            writer.bytes(path.as_bytes(), 0o600, b"x").unwrap();
            let pack = writer.finish().unwrap().0;
            assert!(unpack(&pack[..], scratch.path()).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
