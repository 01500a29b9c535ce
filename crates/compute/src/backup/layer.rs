//! Sealed layers as packs.

use std::ffi::OsStr;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use store::layer::arena::BLOCK;
use store::layer::index::{Found, Index};
use store::layer::{Kind, LayerId, directory_name};

use super::pack::{Sum, Writer};
use crate::guarded::open_below;

/// What tells a sealed layer from all others: its number may be given again once the layer is gone, and a
/// restored home gives numbers of its own. The index is written once, at the sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerName {
    /// Its number.
    pub id: LayerId,
    /// Checksum in its index.
    pub crc: u32,
    /// When the index was written, nanoseconds since 1970.
    pub written: u64,
}

impl LayerName {
    /// That of a sealed layer.
    ///
    /// # Errors
    /// It has no index, or cannot be read.
    pub(crate) fn of(layers: &Path, id: LayerId) -> Result<LayerName> {
        let index = open_below(&directory(layers, id), Path::new("index"))?;
        let mut crc = [0; 4];
        index.read_exact_at(&mut crc, 12)?;
        let since = index.metadata()?.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(LayerName { id, crc: u32::from_le_bytes(crc), written: since.as_nanos() as u64 })
    }

    /// As the name of a file reads.
    pub fn parse(text: &str) -> Option<LayerName> {
        let mut parts = text.split('-');
        let name = LayerName {
            id: u64::from_str_radix(parts.next()?, 16).ok()?,
            crc: u32::from_str_radix(parts.next()?, 16).ok()?,
            written: u64::from_str_radix(parts.next()?, 16).ok()?,
        };
        (parts.next().is_none() && name.to_string() == text).then_some(name)
    }

    pub(crate) fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.written)
    }
}

impl std::fmt::Display for LayerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:08x}-{:016x}", self.id, self.crc, self.written)
    }
}

pub(crate) fn directory(layers: &Path, id: LayerId) -> std::path::PathBuf {
    layers.join(OsStr::from_bytes(directory_name(id).as_bytes()))
}

/// Writes a sealed layer as a pack: its index, and of its files what the index says that the layer holds.
/// Holes are no guide: an overlay has the logical size of the whole file, and where the file system
/// allocated more than was written, zeros would be taken for blocks.
pub(crate) fn write_layer(layers: &Path, name: LayerName, out: impl Write) -> Result<Sum> {
    let layer = directory(layers, name.id);
    let mut index_file = open_below(&layer, Path::new("index"))?;
    let index = Index::open(index_file.as_raw_fd(), true)?;
    let mut writer = Writer::new(out)?;
    let mut bytes = Vec::new();
    index_file.read_to_end(&mut bytes)?;
    writer.bytes(b"index", 0o600, &bytes)?;
    writer.directory(b"f")?;
    let mut failure = None;
    let walked = index.for_each(&mut |path, found| {
        let written = write_entry(&layer, &index, path, found, &mut writer);
        written.map_err(|error| {
            let text = format!("{} in layer {:x}: {error}", String::from_utf8_lossy(path), name.id);
            let kind = error.kind();
            failure = Some(Error::new(kind, text));
            store::Errno(error.raw_os_error().unwrap_or(libc::EIO))
        })
    });
    match failure {
        Some(error) => return Err(error),
        None => walked?,
    }
    Ok(writer.finish()?.1)
}

fn write_entry(
    layer: &Path,
    index: &Index,
    path: &[u8],
    found: &Found,
    writer: &mut Writer<impl Write>,
) -> Result<()> {
    let inside = [b"f/", path].concat();
    match found.kind {
        Kind::Directory => return writer.directory(&inside),
        Kind::Whiteout => return writer.bytes(&inside, 0o400, b""),
        Kind::Complete | Kind::Overlay => {}
    }
    // Programs of the branch that wrote the layer may still reach it: no links.
    let file = open_below(layer, Path::new(OsStr::from_bytes(&inside)))?;
    if file.metadata()?.len() != found.length {
        let text = format!("it should have {} bytes", found.length);
        return Err(Error::new(ErrorKind::InvalidData, text));
    }
    let mut ranges = Vec::new();
    if found.kind == Kind::Overlay {
        index.runs(found, &mut |start, count| {
            let begin = u64::from(start) * BLOCK;
            ranges.push((begin, (begin + u64::from(count) * BLOCK).min(found.length)));
            Ok(())
        })?;
    }
    // At and above the floor everything is this layer's own; the block in which it lies is in a run.
    ranges.push((
        if found.kind == Kind::Complete { 0 } else { found.floor.next_multiple_of(BLOCK) },
        found.length,
    ));
    writer.file(&inside, 0o400, found.length, &file, &ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let name = LayerName { id: 0x0000_0007_0000_002a, crc: 0x1f, written: 1_800_000_000_123_456_789 };
        assert_eq!(LayerName::parse(&name.to_string()), Some(name));
        for other in ["", "7", "0000000700000021-0000001f", "x-y-z", "7-1f-1"] {
            assert_eq!(LayerName::parse(other), None, "{other}");
        }
    }
}
