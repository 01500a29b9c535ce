//! The content of a sealed file: by block and by sum.

use std::ops::Range;

use super::{Defect, Kept, OwnFd, STOPPED};
use crate::errno::{Errno, Result};
use crate::fault::{Fault, planted};
use crate::layer::arena::BLOCK;
use crate::layer::index::Found;
use crate::layer::seal;
use crate::path::RelPath;
use crate::sys::{self, Fd};

/// Damaged blocks of one file that are told one by one.
const TOLD: usize = 16;
/// Read at once, bytes.
const CHUNK: usize = 512 * 1024;

pub(super) fn verify_content(
    fd: &OwnFd,
    path: &RelPath,
    found: &Found,
    ranges: &[Range<u64>],
    kept: &mut Kept<'_>,
) -> Result<()> {
    let judged = kept.judge.judges(path) && !planted(Fault::PagesUnjudged);
    if !judged && found.sum == 0 {
        return Ok(());
    }
    let mut reader = Reader::new(fd.0);
    let (mut sum, mut bad) = (0, 0);
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let bytes = match reader.read(at, range.end) {
                Ok(bytes) => bytes,
                Err(errno) => {
                    let block = u32::try_from(at / BLOCK).ok();
                    let defect = Defect::of_data(path, format!("cannot be read: {errno}"));
                    kept.defects.push(Defect { block, ..defect });
                    return Ok(());
                }
            };
            let length = bytes.len() as u64;
            if found.sum != 0 {
                sum = crc32c::crc32c_append(sum, bytes);
            }
            // What does not fill a block at the end of a file is no page.
            for (number, block) in bytes.chunks_exact(BLOCK as usize).enumerate().filter(|_| judged) {
                let number = (at / BLOCK) as u32 + number as u32;
                let Ok(block) = block.try_into() else { continue };
                if let Err(what) = kept.judge.judge(path, number, block) {
                    bad += 1;
                    if bad <= TOLD {
                        kept.defects.push(Defect { block: Some(number), ..Defect::of_data(path, what) });
                    }
                }
            }
            if !kept.judge.read(length) {
                return Err(STOPPED);
            }
            at += length;
        }
    }
    if bad > TOLD {
        kept.defects.push(Defect::of_data(path, format!("has {} more damaged blocks", bad - TOLD)));
    }
    if found.sum != 0 && seal::recorded(sum) != found.sum {
        kept.defects.push(Defect::of_data(path, "does not have the content that its index has the sum of"));
    }
    Ok(())
}

/// Reads a file from its begin to its end and leaves the page cache as it was: what had to come from the
/// disk is dropped again, what was there for somebody's sake stays.
struct Reader {
    fd: Fd,
    buffer: Vec<u8>,
}

impl Reader {
    fn new(fd: Fd) -> Reader {
        // Read ahead, pages could not be told from those that somebody else has use for.
        sys::fadvise(fd, 0, 0, libc::POSIX_FADV_RANDOM);
        Reader { fd, buffer: vec![0; CHUNK] }
    }

    /// The next bytes from `at`, not beyond `end`.
    fn read(&mut self, at: u64, end: u64) -> Result<&[u8]> {
        let length = CHUNK.min((end - at) as usize);
        let part = &mut self.buffer[..length];
        if sys::pread_cached(self.fd, part, at).is_none() {
            if sys::pread_full(self.fd, part, at)? < length {
                return Err(Errno::DAMAGED);
            }
            sys::fadvise(self.fd, at, length as u64, libc::POSIX_FADV_DONTNEED);
        }
        Ok(part)
    }
}
