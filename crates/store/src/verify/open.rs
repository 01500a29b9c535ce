//! A layer without index: its log, and the entries of its files.

use super::{Defect, Kept, OwnFd, READING, STOPPED, inside, told};
use crate::errno::{Errno, Result};
use crate::layer::arena::{Arena, BLOCK, MAX_BLOCKS};
use crate::layer::entry::Entry;
use crate::layer::{Kind, log};
use crate::path::RelPath;
use crate::sys::{self, Fd};

/// Logs up to this size in bytes are read at once; processes of a branch could make larger ones at will.
const LARGEST_LOG: u64 = 1 << 30;

pub(super) fn verify_log(dir: Fd, kept: &mut Kept<'_>) -> Result<()> {
    let fd = match sys::openat(dir, c"log", READING, 0) {
        Ok(fd) => OwnFd(fd),
        // Sealed at this moment.
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => {
            kept.defects.push(told("log", errno));
            return Ok(());
        }
    };
    let size = sys::size(fd.0)?;
    if size > LARGEST_LOG {
        let what = format!("has {size} bytes and was not verified");
        kept.defects.push(Defect::of_own("log", what).left_over());
        return Ok(());
    }
    let mut bytes = vec![0; size as usize];
    let filled = sys::pread_full(fd.0, &mut bytes, 0)?;
    let (_, passed_over) = log::read_counting(&bytes[..filled]);
    if passed_over > 0 {
        let what =
            format!("has {passed_over} bytes that are no whole record: a crash leaves such, or damage");
        kept.defects.push(Defect::of_own("log", what).left_over());
    }
    Ok(())
}

pub(super) fn verify_open(files: Fd, arena: Option<&Arena>, at: &RelPath, kept: &mut Kept<'_>) -> Result<()> {
    for (path, kind) in inside(files, at)? {
        match kind {
            Kind::Directory => verify_open(files, arena, &path, kept)?,
            Kind::Whiteout => {}
            Kind::Complete | Kind::Overlay => verify_open_file(files, arena, &path, kept)?,
        }
    }
    if kept.judge.read(0) { Ok(()) } else { Err(STOPPED) }
}

fn verify_open_file(files: Fd, arena: Option<&Arena>, path: &RelPath, kept: &mut Kept<'_>) -> Result<()> {
    let fd = match sys::openat(files, path.as_cstr(), READING, 0) {
        Ok(fd) => OwnFd(fd),
        Err(Errno(libc::ENOENT | libc::ENOTDIR)) => return Ok(()),
        Err(errno) => {
            kept.defects.push(Defect::of_data(path, format!("cannot be opened: {errno}")));
            return Ok(());
        }
    };
    let what = match Entry::load(fd.0) {
        Ok(Some(entry)) if arena.is_some_and(|arena| entry.record >= arena.records()) => {
            "has an entry that the arena does not know"
        }
        Ok(Some(_)) if sys::size(fd.0)? > u64::from(MAX_BLOCKS) * BLOCK => "is larger than a file may be",
        Ok(Some(_)) => return Ok(()),
        Ok(None) => "has no entry",
        Err(Errno::DAMAGED) => "has a damaged entry, or one of another version",
        Err(errno) => return Err(errno),
    };
    kept.defects.push(Defect::of_data(path, what));
    Ok(())
}
