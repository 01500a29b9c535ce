//! The preload library inside this binary, and on disk.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::failure::Failure;

static LIBRARY: &[u8] = include_bytes!(env!("ANA_SHIM"));

/// Writes the library beside the run directory under a name that tells its contents, unless it is
/// there already. Older ones stay: computes of an earlier version use them until their next start.
pub fn unpack(home: &Path) -> Result<PathBuf, Failure> {
    write_library(&home.join("run"), LIBRARY)
        .map_err(|error| Failure::io(format!("cannot write the preload library in {}", home.display()), &error))
}

fn write_library(dir: &Path, library: &[u8]) -> std::io::Result<PathBuf> {
    let hash: String = Sha256::digest(library).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = dir.join(format!("shim-{hash}.so"));
    if std::fs::read(&path).is_ok_and(|present| present == library) {
        return Ok(path);
    }
    std::fs::create_dir_all(dir)?;
    // Beside and then renamed: a process that maps the old file keeps it, and none maps half a one.
    let beside = dir.join(format!("shim-{hash}.{}.new", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&beside)?;
    file.write_all(library)?;
    file.sync_all()?;
    std::fs::rename(&beside, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_whole_and_mended() {
        let dir = std::env::temp_dir().join(format!("ana-shim-{}", std::process::id()));
        let path = write_library(&dir, LIBRARY).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), LIBRARY);
        assert_eq!(&LIBRARY[..4], b"\x7fELF");
        std::fs::write(&path, b"damaged").unwrap();
        assert_eq!(write_library(&dir, LIBRARY).unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap(), LIBRARY);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
