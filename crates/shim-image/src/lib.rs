//! The preload library as bytes, and putting it where a compute can load it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The shared library.
pub static BYTES: &[u8] = include_bytes!(env!("ANABRANCH_SHIM"));

/// First 16 hex digits of the SHA-256 of [`BYTES`]; part of the installed file's name, so that a
/// compute started by an older `ana` keeps its own.
pub fn hash() -> String {
    Sha256::digest(BYTES).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the library into `directory` unless it is there already, whole; returns its path.
///
/// # Errors
/// When the directory cannot be written.
pub fn install(directory: &Path) -> std::io::Result<PathBuf> {
    let path = directory.join(format!("shim-{}.so", hash()));
    if fs::read(&path).is_ok_and(|bytes| bytes == BYTES) {
        return Ok(path);
    }
    fs::create_dir_all(directory)?;
    let temporary = directory.join(format!("shim-{}.{}.new", hash(), std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(BYTES)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    Ok(path)
}
