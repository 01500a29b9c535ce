//! The map log of an open layer: which blocks are durable.
//!
//! Appended only after the data it names was synced, and synced itself before the caller's fsync
//! returns; so a record that reads back names durable data only. Record, little-endian:
//! magic u32, length u32 (whole record), file record u32, runs u32, floor u64, then per run
//! start u32 and count u32, then crc32c u32 of all before it.

use crate::errno::{Errno, Result};
use crate::layer::arena::{MAX_BLOCKS, Runs};
use crate::sys::{self, Fd};

const MAGIC: u32 = u32::from_le_bytes(*b"ALG1");
const HEAD: usize = 24;

/// Appends a record. `fd` must be open with `O_APPEND`: one write, so records never interleave.
pub fn append(fd: Fd, file: u32, floor: u64, bits: &[u64; (MAX_BLOCKS / 64) as usize]) -> Result<()> {
    let mut record = Vec::with_capacity(256);
    record.extend_from_slice(&[0; HEAD]);
    let mut runs = Runs::default();
    let mut count = 0u32;
    let mut each = |start: u32, blocks: u32| {
        record.extend_from_slice(&start.to_le_bytes());
        record.extend_from_slice(&blocks.to_le_bytes());
        count += 1;
        Ok(())
    };
    for (index, &word) in bits.iter().enumerate() {
        runs.add(index as u32 * 64, word, MAX_BLOCKS, &mut each)?;
    }
    runs.finish(&mut each)?;
    let length = record.len() as u32 + 4;
    for (at, value) in [(0, MAGIC), (4, length), (8, file), (12, count)] {
        record[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    record[16..24].copy_from_slice(&floor.to_le_bytes());
    let crc = crc32c::crc32c(&record);
    record.extend_from_slice(&crc.to_le_bytes());
    if sys::write(fd, &record)? == record.len() { Ok(()) } else { Err(Errno(libc::ENOSPC)) }
}

/// One record read back.
#[derive(Debug, PartialEq, Eq)]
pub struct Logged {
    /// Record of the file in the arena.
    pub file: u32,
    /// Floor in bytes.
    pub floor: u64,
    /// Runs of blocks: start, count.
    pub runs: Vec<(u32, u32)>,
}

/// Reads every whole record. Torn ones are passed over: a full disk may have cut an append short
/// in the middle of the log, and what follows it is still good.
pub fn read(bytes: &[u8]) -> Vec<Logged> {
    read_counting(bytes).0
}

/// As [`read`], with how many bytes belong to no whole record.
pub fn read_counting(bytes: &[u8]) -> (Vec<Logged>, usize) {
    let mut records = Vec::new();
    let (mut at, mut passed_over) = (0, 0);
    while at < bytes.len() {
        match read_one(&bytes[at..]) {
            Some((record, length)) => {
                records.push(record);
                at += length;
            }
            None => {
                at += 1;
                passed_over += 1;
            }
        }
    }
    (records, passed_over)
}

fn read_one(bytes: &[u8]) -> Option<(Logged, usize)> {
    let u32_at = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    if u32_at(0)? != MAGIC {
        return None;
    }
    let (length, count) = (u32_at(4)? as usize, u32_at(12)? as usize);
    if length != HEAD + count.checked_mul(8)? + 4 || bytes.len() < length {
        return None;
    }
    if crc32c::crc32c(&bytes[..length - 4]) != u32_at(length - 4)? {
        return None;
    }
    let floor = bytes[16..24].try_into().ok().map(u64::from_le_bytes)?;
    let run = |i: usize| Some((u32_at(HEAD + i * 8)?, u32_at(HEAD + i * 8 + 4)?));
    let runs = (0..count).map(run).collect::<Option<Vec<_>>>()?;
    Some((Logged { file: u32_at(8)?, floor, runs }, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_passes_over_torn_records() {
        let dir = std::env::temp_dir().join(format!("ana-log-{}", std::process::id()));
        let name = std::ffi::CString::new(dir.to_str().unwrap()).unwrap();
        let flags = sys::O_RDWR | sys::O_CREAT | sys::O_APPEND | sys::O_TRUNC;
        let fd = sys::openat(sys::AT_FDCWD, &name, flags, 0o600).unwrap();
        let mut bits = Box::new([0u64; (MAX_BLOCKS / 64) as usize]);
        bits[0] = 0b110;
        bits[2047] = 1 << 63;
        append(fd, 7, 8192, &bits).unwrap();
        sys::write(fd, b"ALG1 torn").unwrap();
        append(fd, 8, 0, &bits).unwrap();
        let bytes = std::fs::read(&dir).unwrap();
        let runs = vec![(1, 2), (MAX_BLOCKS - 1, 1)];
        let expected =
            [Logged { file: 7, floor: 8192, runs: runs.clone() }, Logged { file: 8, floor: 0, runs }];
        assert_eq!(read(&bytes), expected);
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).len() < 2, "a cut record was believed");
        }
        sys::close(fd);
        std::fs::remove_file(&dir).unwrap();
    }
}
