//! From packs to a home's `layers` and `branches`. No daemon has the home open.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use store::layer::Layer;
use store::manifest::{Entry, Manifest, NAME};

use super::layer::{LayerName, directory};
use super::pack::{Sum, unpack};
use crate::engine::{BranchKey, make_branch_directories};

/// Makes a sealed layer below `home` from its pack. Not synced.
///
/// # Errors
/// `InvalidData` or `UnexpectedEof` where the pack is damaged; else what the disk said.
pub fn restore_layer(home: &Path, name: LayerName, pack: impl Read) -> Result<Sum> {
    let path = directory(&home.join("layers"), name.id);
    make(&path)?;
    let sum = unpack(pack, &path)?;
    // Its name stays what it was, so that the next backup knows the layer.
    File::options().write(true).open(path.join("index"))?.set_modified(name.time())?;
    Ok(sum)
}

/// Makes a branch below `home` from its pack. Its layers are there already. It gets an empty layer to write
/// to with the number `own`, which no other has. Not synced.
///
/// # Errors
/// As [`restore_layer`].
pub fn restore_branch(home: &Path, key: &BranchKey, own: u32, pack: impl Read) -> Result<Sum> {
    let path = home.join("branches").join(key.as_str());
    make_branch_directories(&path)?;
    let sum = unpack(pack, &path)?;
    let name = path.join(NAME.to_string_lossy().as_ref());
    let mut manifest = Manifest::decode(&fs::read(&name)?)
        .map_err(|_| Error::new(ErrorKind::InvalidData, "its manifest does not read back"))?;
    fs::remove_file(&name)?;
    let layers = home.join("layers");
    for entry in &manifest.entries[..manifest.entries.len() - 1] {
        if !directory(&layers, entry.layer).join("index").exists() {
            let text = format!("it needs layer {:x}, which is not in the backup", entry.layer);
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
    }
    let id = u64::from(own) << 32 | u64::from(own);
    Layer::create(File::open(&layers)?.as_raw_fd(), id)?;
    let slot = manifest.top().slot;
    manifest.entries.pop();
    manifest.entries.push(Entry { slot, layer: id });
    manifest.sequence = 1;
    manifest.write_first(File::open(&path)?.as_raw_fd())?;
    Ok(sum)
}

fn make(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
