//! What the disk below the measured directory was asked for.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::failure::{Context, Result};

/// Bytes in a sector of the kernel's block statistics, whatever the disk's own are.
const SECTOR: u64 = 512;

/// Bytes read and written since the machine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUse {
    pub read: u64,
    pub written: u64,
}

impl DiskUse {
    /// Of the device that holds `path`; none where the kernel does not say (no block device below).
    pub fn of(path: &Path) -> Result<Option<DiskUse>> {
        let device = path.metadata().context(format!("looking at {}", path.display()))?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let Ok(text) = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")) else {
            return Ok(None);
        };
        Ok(parse(&text))
    }

    /// What came since `before`.
    pub fn since(self, before: DiskUse) -> DiskUse {
        DiskUse {
            read: self.read.saturating_sub(before.read),
            written: self.written.saturating_sub(before.written),
        }
    }
}

/// Fields 3 and 7 of `/sys/block/*/stat` (Documentation/block/stat.rst).
fn parse(text: &str) -> Option<DiskUse> {
    let field = |at: usize| text.split_whitespace().nth(at)?.parse::<u64>().ok();
    Some(DiskUse { read: field(2)? * SECTOR, written: field(6)? * SECTOR })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_counted_in_bytes() {
        let text = "  10 0 7 3 20 0 9 4 0 5 6\n";
        assert_eq!(parse(text), Some(DiskUse { read: 7 * 512, written: 9 * 512 }));
        assert_eq!(parse(""), None);
    }
}
