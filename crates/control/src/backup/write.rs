//! Files of a backup, written whole or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::PART_END;

const BUFFER: usize = 1 << 20;

/// A file that gets its name once it is whole and on disk. `passed` hears of bytes as they go, and may end
/// the writing.
pub(super) struct Writing<'a> {
    file: BufWriter<File>,
    passed: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let written = self.file.write(bytes)?;
        (self.passed)(written as u64)?;
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}

/// Writes `dir/name` with what `work` puts into it. The name is durable once the directory is synced.
pub(super) fn write_file<T, E: From<Error>>(
    dir: &Path,
    name: &str,
    passed: &mut dyn FnMut(u64) -> Result<()>,
    work: impl FnOnce(&mut Writing<'_>) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let part = dir.join(format!("{name}{PART_END}"));
    // What an earlier try left.
    let _ = fs::remove_file(&part);
    let file = File::options().write(true).create_new(true).mode(0o600).open(&part)?;
    let mut writing = Writing { file: BufWriter::with_capacity(BUFFER, file), passed };
    let value = work(&mut writing)?;
    let file = writing.file.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()?;
    fs::rename(&part, dir.join(name))?;
    Ok(value)
}

/// Makes a directory that only this user may enter, if it is not there.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the names in a directory durable, as far as its file system knows how.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    match File::open(path)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}
